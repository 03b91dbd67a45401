"""What the attacks share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from hostile.attacked import Attacked, attacked


@pytest.fixture
def attack(tmp_path: Path) -> Iterator[Callable[..., Attacked]]:
    """Starts a balancer with these keys of ``web``."""
    with ExitStack() as ending:
        yield lambda **options: ending.enter_context(attacked(tmp_path, **options))
