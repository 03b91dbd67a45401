"""Refused orders of strangers, counted by address and minute: what anybody can have written down is bounded."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from virtpoise_balancer.clock import SYSTEM, Clock

_MINUTE_SECONDS = 60.0
_MOST_ADDRESSES = 8
OTHERS = "other addresses"


@dataclass(slots=True)
class _Refused:
    action: str
    target: str
    why: str
    further: int = 0


@dataclass(slots=True)
class Strangers:
    """Journals refused orders of clients without a valid token, at most a few a minute for each address.

    ``write(action, target, origin, answer)`` journals; ``count(action)`` counts every one.

    The first of an address is journalled at once; how many followed in that minute, with the next order that is refused
    or when ``settle`` is called.
    """

    write: Callable[[str, str, str, str], None]
    count: Callable[[str], None] = lambda _action: None
    clock: Clock = SYSTEM
    _minute: float = 0.0
    _seen: dict[str, _Refused] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def refused(self, action: str, target: str, origin: str, why: str) -> None:
        self.count(action)
        with self._lock:
            self._settle()
            if origin not in self._seen and len(self._seen) >= _MOST_ADDRESSES:
                origin = OTHERS
            if origin in self._seen:
                self._seen[origin].further += 1
                return
            self._seen[origin] = _Refused(action, target, why)
            self.write(action, target, origin, why)

    def settle(self) -> None:
        """Journal what the minutes before have left."""
        with self._lock:
            self._settle()

    def _settle(self) -> None:
        minute = self.clock.now() // _MINUTE_SECONDS
        if minute == self._minute:
            return
        for origin, one in self._seen.items():
            if one.further:
                more = f"{one.further} more refused orders in that minute; the first: {one.why}"
                self.write(one.action, one.target, origin, more)
        self._seen.clear()
        self._minute = minute
