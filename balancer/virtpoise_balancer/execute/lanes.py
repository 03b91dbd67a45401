"""Work on many hosts by few threads, which end when no work is left."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import structlog

from virtpoise_balancer.threads import Event, Threads

log = structlog.get_logger()

Work = Callable[[], object]


@dataclass(slots=True)
class Lanes:
    """At most ``most`` threads that each do one piece of work after the other.

    ``take`` returns the next piece, or None when none may begin now. It may use locks of its owner, so the owner calls
    ``begin`` without holding them. A thread that the system does not start is not counted: the next call tries again.
    """

    take: Callable[[], Work | None]
    most: int
    name: str
    threads: Threads
    _running: list[Event] = field(default_factory=list)  # each is set at the end of its thread
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, waiting: int) -> bool:
        """Start the threads for ``waiting`` pieces of work. Returns whether any works on them."""
        with self._lock:
            # Those that run may all hang: none of them counts as free.
            lanes = [self.threads.event() for _ in range(min(waiting, self.most - len(self._running)))]
            self._running += lanes
        for number, ended in enumerate(lanes):
            try:
                self.threads.start(partial(self._drain, ended), self.name)
            except RuntimeError as error:
                log.warning("hosts cannot be asked now", what=self.name, error=str(error))
                with self._lock:
                    for lost in lanes[number:]:
                        self._running.remove(lost)
                        lost.set()
                return number > 0 or bool(self._running)
        return True

    def running(self) -> tuple[Event, ...]:
        """For each thread that works now what is set at its end."""
        with self._lock:
            return tuple(self._running)

    def _drain(self, ended: Event) -> None:
        while (work := self._next(ended)) is not None:
            try:
                work()
            except Exception:  # the next piece is of another host
                log.exception("a host could not be asked", what=self.name)
        ended.set()

    def _next(self, ended: Event) -> Work | None:
        with self._lock:  # work that begins to wait from here on finds one thread less
            work = self.take()
            if work is None:
                self._running.remove(ended)
            return work
