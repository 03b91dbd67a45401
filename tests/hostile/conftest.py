"""What the attacks share: a balancer to attack, and the recorded host of the exporter's own tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from exporter.conftest import recorded
from hostile.attacked import Attacked, attacked

__all__ = ["recorded"]


@pytest.fixture
def attack(tmp_path: Path) -> Iterator[Callable[..., Attacked]]:
    """Starts a balancer with these keys of ``web``."""
    with ExitStack() as ending:
        yield lambda **options: ending.enter_context(attacked(tmp_path, **options))
