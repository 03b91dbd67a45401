"""Waits for the moment of a run's fault, by the journal and by the QEMUs themselves."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from virtpoise_lab.chaos.plan import Moment
from virtpoise_lab.chaos.run import Run
from virtpoise_lab.floors import Entry

# Whatever the moment, the fault comes: so long after the start, or after the first migration has begun.
_LATEST_SECONDS = 40.0
_LOOK_SECONDS = 0.01
# How long a migration copies memory here, about.
_COPY_SECONDS = 4.0


@dataclass(frozen=True)
class Met:
    """Whom a fault meets. ``reached``: whether its moment came; otherwise it came late, and met what there was."""

    domain: str
    source: str
    destination: str
    bystander: str
    reached: bool = True


class Moments:
    """The moments of the first migration of a run."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._until = time.monotonic() + _LATEST_SECONDS

    def wait(self) -> Met:
        """Whom the fault meets, at its moment."""
        run, moment, chance = self._run, self._run.plan.moment, self._run.plan.chance
        met = self._first()
        self._until = time.monotonic() + _LATEST_SECONDS
        if not met.reached or moment is Moment.JOURNAL_BEGIN:
            return met
        uuid, reached = run.uuids[met.domain], True
        if moment is Moment.BEGIN:
            time.sleep(0.3 * chance)
        elif moment in (Moment.JOURNAL_END, Moment.NEXT_CYCLE):
            reached = self._wait(lambda: self._newest(uuid).result is not None)
            if moment is Moment.NEXT_CYCLE and reached:
                before = run.store.cycle_at()
                reached = self._wait(lambda: run.store.cycle_at() != before)
        else:
            there = met.domain, met.destination
            reached = self._wait(lambda: there in run.watch.now)
            if moment in (Moment.PERFORM, Moment.TAKE_OVER) and reached:
                time.sleep(0.3 + chance * _COPY_SECONDS)
            if moment is Moment.FINISH:
                reached = self._wait(lambda: run.watch.state(met.domain, met.source) != "running")
            elif moment is Moment.CONFIRM:
                reached = self._wait(lambda: run.watch.state(*there) in ("paused", "running"))
            elif moment is Moment.TAKE_OVER:
                before_term = run.store.term()
                run.kill_balancer()
                run.balancer.launch()
                reached = self._wait(lambda: run.store.term() != before_term)
        return Met(met.domain, met.source, met.destination, met.bystander, reached)

    def _first(self) -> Met:
        """The ends of the first migration that has begun, or else of one that could be."""
        run = self._run
        names = {uuid: name for name, uuid in run.uuids.items()}
        if self._wait(lambda: any(entry.began is not None for entry in run.store.entries())):
            entry = next(entry for entry in run.store.entries() if entry.began is not None)
            (bystander,) = {host.name for host in run.warm.lab.hosts} - {entry.source, entry.destination}
            return Met(names[entry.uuid], entry.source, entry.destination, bystander)
        return Met("vm1", "h1", "h2", "h3", reached=False)

    def _newest(self, uuid: str) -> Entry:
        return next(entry for entry in self._run.store.entries()[::-1] if entry.uuid == uuid and entry.began)

    def _wait(self, reached: Callable[[], bool]) -> bool:
        while not reached():
            if time.monotonic() > self._until:
                return False
            time.sleep(_LOOK_SECONDS)
        return True
