"""How fast one address may ask: requests beyond the rate wait, and beyond what can wait they are refused."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

RATE_PER_SECOND = 100.0
BURST = 200.0
LONGEST_WAIT_SECONDS = 2.0
_MOST_ADDRESSES = 4096


@dataclass(slots=True)
class Pace:
    """A bucket for each address. Used in the server's thread alone."""

    rate: float = RATE_PER_SECOND
    burst: float = BURST
    clock: Callable[[], float] = time.monotonic
    _empty_at: dict[str, float] = field(default_factory=dict)  # by address: when its bucket would be empty again

    def wait_seconds(self, address: str) -> float | None:
        """How long a request of this address waits; None when it is refused."""
        now = self.clock()
        empty_at = max(self._empty_at.pop(address, now), now)
        wait = empty_at - now - self.burst / self.rate
        if wait <= LONGEST_WAIT_SECONDS:
            empty_at += 1 / self.rate
        if empty_at > now:
            self._empty_at[address] = empty_at  # the newest last
        if len(self._empty_at) > _MOST_ADDRESSES:
            del self._empty_at[next(iter(self._empty_at))]
        return max(wait, 0.0) if wait <= LONGEST_WAIT_SECONDS else None
