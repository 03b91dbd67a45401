"""The time as a part that is handed in, so that tests can set it.

It dates what is kept and judges its age. How long a question may take, and how long one took, is measured with
``time.monotonic()`` itself.
"""

import time
from typing import Protocol


class Clock(Protocol):
    def now(self) -> float:
        """Unix seconds. The time can jump when the machine's clock is set."""
        ...

    def monotonic(self) -> float:
        """Seconds since some moment. Never goes back, so it measures ages."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()


SYSTEM = SystemClock()
