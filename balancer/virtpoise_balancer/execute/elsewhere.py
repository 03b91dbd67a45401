"""Asks many hosts at once for a domain, within a bounded time."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import partial

from virtpoise_balancer.clock import Clock
from virtpoise_balancer.execute.hosts import Hosts
from virtpoise_balancer.execute.lanes import Lanes, Work
from virtpoise_balancer.execute.questions import confirmed, presence
from virtpoise_balancer.execute.verdict import SETTLED, Answer, Silent
from virtpoise_balancer.threads import Event, Threads

# How many hosts are asked side by side, for all domains together, and how long their answers are waited for.
_LANES = 32
_MOST_WAIT_SECONDS = 30.0


@dataclass(slots=True)
class Elsewhere:
    """Asks many hosts for a domain that its own do not have. ``hosts``: as configured now.

    A rack that is dark must not keep the others' answers back: hosts that did not answer are asked last the next time,
    and whoever does not answer in time counts as silent.
    """

    hosts: Callable[[], Hosts]
    clock: Clock
    threads: Threads
    _waiting: deque[Work] = field(default_factory=deque)
    _silent: set[str] = field(default_factory=set)
    _lanes: Lanes = field(init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._lanes = Lanes(self._next, _LANES, "ask where a domain is", self.threads)

    def presences(self, places: Collection[str], uuid: str) -> dict[str, Answer]:
        """The answer of each of these hosts."""
        answers: dict[str, Answer] = {}
        until = self.clock.monotonic() + _MOST_WAIT_SECONDS
        events = {}
        with self._lock:
            for place in sorted(places, key=lambda place: (place in self._silent, place)):
                events[place] = self.threads.event()
                self._waiting.append(partial(self._ask, place, uuid, answers, events[place], until))
            waiting = len(self._waiting)
        if self._lanes.begin(waiting):
            for answered in events.values():
                answered.wait(max(until - self.clock.monotonic(), 0.0))
        with self._lock:
            for place in events.keys() - answers.keys():
                answers[place] = Silent(f"no answer within {_MOST_WAIT_SECONDS:g} s")
            silent = {place for place in events if isinstance(answers[place], Silent)}
            self._silent = self._silent - events.keys() | silent
            found = {place: answers[place] for place in sorted(events)}
        active = [place for place, answer in found.items() if answer in SETTLED]
        if len(active) > 1:  # they answered in no order: the domain may have gone from one to another
            found |= {place: presence(self.hosts(), place, uuid) for place in active}
            found = confirmed(self.hosts(), found, uuid)
        return found

    def _next(self) -> Work | None:
        with self._lock:
            return self._waiting.popleft() if self._waiting else None

    def _ask(self, place: str, uuid: str, answers: dict[str, Answer], answered: Event, until: float) -> None:
        try:
            if self.clock.monotonic() < until:
                answer = presence(self.hosts(), place, uuid)
                with self._lock:
                    answers.setdefault(place, answer)
        finally:
            answered.set()
