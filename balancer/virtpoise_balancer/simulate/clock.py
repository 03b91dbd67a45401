"""The time of a simulation."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class VirtualClock:
    """``at``: Unix seconds, set by the loop."""

    at: float

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at

    def sleep(self, _seconds: float) -> None:
        raise AssertionError("nothing waits in a simulation")
