"""The time of a simulation."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class VirtualClock:
    """A clock that stands until the loop sets it. ``at``: Unix seconds."""

    at: float

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at

    def sleep(self, _seconds: float) -> None:
        raise AssertionError("nothing waits in a simulation")
