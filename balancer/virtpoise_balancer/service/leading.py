"""Whether this balancer acts: takes the lock when it is free, and stops acting, in words, once it has lost it."""

from __future__ import annotations

import os
import socket

import structlog

from virtpoise_balancer.clock import Clock
from virtpoise_balancer.errors import BadInput, StoreError
from virtpoise_balancer.knowledge.leader import LeaderLock, Mistrust
from virtpoise_balancer.knowledge.store import Store
from virtpoise_balancer.threads import THREADS, Thread

log = structlog.get_logger()

_SILENT_INTERVALS = 3


class Leadership:
    """Whether this balancer is the active one, and what follows from it. ``leads``: as of the newest ``why_not``."""

    def __init__(self, lock: LeaderLock, interval_seconds: float, clock: Clock) -> None:
        self.leads = False
        self._lock = lock
        self._silence_seconds = _SILENT_INTERVALS * interval_seconds
        self._clock = clock
        self._mistrust: Mistrust | None = None
        self._keeping: Thread | None = None

    def take_lock(self) -> bool:
        """Whether the lock is this balancer's, at the start. BadInput when nothing can be said."""
        try:
            return self._lock.take()
        except StoreError as error:
            raise BadInput(str(error)) from None

    def keep(self) -> None:
        """Ask for the lock between cycles, so that a slow cycle does not lose it by its silence.

        Beside the caller, which must not wait: the answer takes a while where the database hangs.
        """
        if self._keeping is None or not self._keeping.is_alive():
            self._keeping = THREADS.start(self._lock.lost, "keep the lock")

    def why_not(self, store: Store) -> str | None:
        """Why this balancer does not act now; None if it does.

        When it begins to, it takes over what an earlier one left unfinished.
        """
        if self.leads:
            why = store.lost()
            return None if why is None else self.step_down(why)
        if self._mistrust is not None:
            if why := self._mistrust.why_wait(store.leader(), self._clock.monotonic()):
                return why
            self._mistrust = None
        if not self._lock.take():
            leader = store.leader()
            who = f" ({leader.holder})" if leader else ""
            return f"another balancer acts{who} and holds {self._lock.place}; waiting for it to end"
        store.lead(self._lock, f"{socket.gethostname()}, process {os.getpid()}")
        self.leads = True
        log.info("this balancer acts now", lock=self._lock.place)
        if begun := [entry.move.domain for entry in store.watched(in_all_groups=True) if entry.is_open]:
            log.warning("taking over migrations that an earlier balancer began", domains=begun)
        return None

    def step_down(self, why: str) -> str:
        """Stop acting. Returns a sentence about it.

        What runs already goes on, and whoever acts next finds it in the journal.
        """
        log.error("this balancer no longer acts: it starts nothing further", why=why)
        self.leads = False
        if self._lock.lost() is None:
            self._mistrust = Mistrust(self._silence_seconds)
        self._lock.release()
        return f"this balancer no longer acts: {why}"

    def release(self) -> None:
        self._lock.release()
