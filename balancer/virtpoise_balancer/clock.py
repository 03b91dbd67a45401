"""The time as a part that is handed in, so that tests can set it."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """What judges ages gets the time from one of these, so that a test can set it."""

    def now(self) -> float:
        """Unix seconds. The time can jump when the machine's clock is set."""
        ...

    def monotonic(self) -> float:
        """Seconds since some moment. Never goes back, so it measures durations."""
        ...

    def sleep(self, seconds: float) -> None:
        """Return after this long."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


SYSTEM = SystemClock()
