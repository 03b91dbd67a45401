"""Real groups for the tests in this folder."""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from virtpoise_lab import requirements
from virtpoise_lab.model import Kind

sys.path.insert(0, str(Path(__file__).parent))  # so that these tests can `import pool`

from pool import Loads, Pool


@pytest.fixture
def pool() -> Iterator[Callable[..., Pool]]:
    """Makes a pool that ends with the test."""
    missing = requirements.missing()
    if missing:
        pytest.skip(missing)
    with ExitStack() as ending:

        def make(loads: Loads, kind: Kind = "work", **more: float) -> Pool:
            made = Pool(loads, kind, **more)
            ending.callback(made.close)
            return made

        yield make
