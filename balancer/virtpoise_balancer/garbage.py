"""The cyclic garbage collector, kept away from what makes many objects and no cycles."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_collections() -> Iterator[None]:
    """A context in which the cyclic garbage collector does not run: each of its runs would look at all objects alive.

    Several may overlap: the first to end lets it run again.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
