"""The clock of a balancer's machine, which can be stepped."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from virtpoise_lab import artefacts

_NUMBER = struct.Struct("=q")
_NANOSECONDS = 1_000_000_000


class Clock:
    """A clock that can be stepped.

    ``file``: read by the processes that have ``environment``. They start with the machine's own time.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._file.write_bytes(_NUMBER.pack(0))
        # Unix seconds, and how many seconds the clock has been ahead from then on
        self._steps: list[tuple[float, float]] = [(0.0, 0.0)]

    @property
    def environment(self) -> Mapping[str, str]:
        """The variables for processes whose clock it is to be."""
        return {"LD_PRELOAD": str(artefacts.clock_library()), "VIRTPOISE_CLOCK": str(self._file)}

    @contextmanager
    def stepped(self, seconds: float) -> Iterator[None]:
        """Set the clock ahead by ``seconds`` within the block; negative seconds set it back."""
        self._step(seconds)
        try:
            yield
        finally:
            self._step(0.0)

    def _step(self, ahead: float) -> None:
        with self._file.open("r+b", buffering=0) as file:
            file.write(_NUMBER.pack(round(ahead * _NANOSECONDS)))  # in one call: readers see all of it
        self._steps.append((time.time(), ahead))

    def true(self, shown: float) -> float:
        """The Unix time at which the clock showed this; of several such times, the latest."""
        until = float("inf")
        for since, ahead in reversed(self._steps):
            if since <= shown - ahead < until:
                return shown - ahead
            until = since
        return shown
