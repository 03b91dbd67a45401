"""One live migration: looked at again before, watched while it runs, bounded in time, and its end read from both hosts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from virtpoise_balancer.errors import LibvirtError
from virtpoise_balancer.execute.facts import Presence
from virtpoise_balancer.execute.hosts import Completed, Hosts
from virtpoise_balancer.model import Move, Outcome, Progress, Result

_WATCH_SECONDS = 0.5
# What libvirt may take to end an aborted migration.
_ABORT_SECONDS = 60.0
# For how long a domain may be between its hosts when its job has ended; one that stays paused for longer was paused by somebody.
_HANDOVER_SECONDS = 20.0

Watch = Callable[[Progress], None]


@dataclass(slots=True)
class _Seen:
    """Passes on how a migration gets on, and keeps of it what is gone when its job has ended."""

    watch: Watch
    dirty_bytes_per_second: float | None = None

    def __call__(self, progress: Progress) -> None:
        # QEMU knows no rate, and says 0, until it has been through the memory once.
        self.dirty_bytes_per_second = progress.dirty_bytes_per_second or self.dirty_bytes_per_second
        self.watch(progress)

    def told(self, outcome: Outcome) -> Outcome:
        return replace(outcome, dirty_bytes_per_second=self.dirty_bytes_per_second)


@dataclass(frozen=True, slots=True, kw_only=True)
class Migrator:
    """Migrates domains."""

    hosts: Hosts
    timeout_seconds: float
    stop_grace_seconds: float
    bandwidth_mib_per_second: int | None = None

    def migrate(self, move: Move, watch: Watch, stop: threading.Event) -> Outcome | None:
        """Carry out one move. Never raises for what libvirt says or does not say: the outcome tells.

        None when it was begun and its end cannot be told now: ``settle`` will tell it.
        """
        try:
            why = self._obstacle(move)
        except LibvirtError as error:
            why = str(error)
        if why:
            return Outcome(result=Result.SKIPPED, why=why)
        seen = _Seen(watch)
        began = time.monotonic()
        try:
            wrong = self._run(move, seen, stop, began)
            if wrong and self.hosts.progress(move.source, move.uuid) is not None:
                return None  # the request was lost, and the migration goes on
            return seen.told(self._verified(move, time.monotonic() - began, wrong))
        except LibvirtError:
            return None

    def settle(self, move: Move, watch: Watch, stop: threading.Event) -> Outcome | None:
        """The outcome of a move whose end was not seen, waiting while its job runs; None while it cannot be told."""
        seen = _Seen(watch)
        try:
            while not stop.is_set() and (progress := self.hosts.progress(move.source, move.uuid)) is not None:
                seen(progress)
                stop.wait(_WATCH_SECONDS)
            if stop.is_set():
                return None
            return seen.told(self._verified(move, None, "the end of the migration was not seen"))
        except LibvirtError:
            return None

    def _obstacle(self, move: Move) -> str | None:
        """Why the move is not to be made now, as both hosts tell it (law 5). LibvirtError when one of them does not."""
        here = self.hosts.presence(move.source, move.uuid)
        there = self.hosts.presence(move.destination, move.uuid)
        if here is not Presence.RUNNING:
            return f"{move.domain} is {here.value} on {move.source}, no longer running there"
        if there in (Presence.RUNNING, Presence.PAUSED):
            return f"{move.domain} is already {there.value} on {move.destination}"
        if self.hosts.progress(move.source, move.uuid) is not None:
            return f"{move.domain} is being worked on by another job"
        return None

    def _run(self, move: Move, watch: Watch, stop: threading.Event, began: float) -> str | None:
        """Start the migration and wait for its end; what went wrong, or None. LibvirtError when it does not end."""
        why: str | None = None
        limit = self.timeout_seconds
        bandwidth = self.bandwidth_mib_per_second
        with self.hosts.migration(move.uuid, move.source, move.destination, bandwidth) as migration:
            while not migration.ended(_WATCH_SECONDS):
                if stop.is_set():
                    limit = min(limit, time.monotonic() - began + self.stop_grace_seconds)
                    stop = threading.Event()  # heard once
                    why = "told to stop"
                if time.monotonic() - began >= limit:
                    why = f"aborted: {why or f'longer than {self.timeout_seconds:g} s'}"
                    self._abort(move)
                    break
                self._look(move, watch)
            else:
                return migration.error
            if not migration.ended(_ABORT_SECONDS):
                raise LibvirtError(f"{why}, and libvirt has not ended it after {_ABORT_SECONDS:g} s more")
            return why if migration.error else None

    def _look(self, move: Move, watch: Watch) -> None:
        try:
            progress = self.hosts.progress(move.source, move.uuid)
        except LibvirtError:
            return  # the next look may see it
        if progress is not None:
            watch(progress)

    def _abort(self, move: Move) -> None:
        try:
            self.hosts.abort(move.source, move.uuid)
        except LibvirtError:
            return  # it ended by itself, or the wait that follows tells

    def _verified(self, move: Move, seconds: float | None, wrong: str | None) -> Outcome:
        """The outcome as both hosts tell it, whatever the call said: a failed call may have moved the domain after all.

        LibvirtError while one of them does not tell.
        """
        patience = time.monotonic() + _HANDOVER_SECONDS
        while True:
            here = self.hosts.presence(move.source, move.uuid)
            there = self.hosts.presence(move.destination, move.uuid)
            if not _in_handover(here, there) or time.monotonic() >= patience:
                break
            time.sleep(_WATCH_SECONDS)
        places = f"{here.value} on {move.source}, {there.value} on {move.destination}"
        if there is Presence.RUNNING and here is Presence.ABSENT:
            return self._done(move, seconds)
        if there is Presence.RUNNING and here is Presence.DEFINED:
            # The domain moved, but its old definition stayed; left behind it could be started a second time.
            try:
                self.hosts.undefine(move.source, move.uuid)
            except LibvirtError as error:
                return Outcome(result=Result.FAILED, why=f"{places}; {error}", seconds=seconds)
            return self._done(move, seconds)
        return Outcome(
            result=Result.FAILED,
            why=f"{wrong or 'the migration ended'}: {places}",
            seconds=seconds,
            lost=Presence.RUNNING not in (here, there),
        )

    def _done(self, move: Move, seconds: float | None) -> Outcome:
        """A done outcome with libvirt's own figures, which the destination keeps of the completed job."""
        try:
            figures = self.hosts.completed(move.destination, move.uuid)
        except LibvirtError:
            figures = Completed()
        return Outcome(
            result=Result.DONE,
            seconds=figures.seconds if seconds is None else seconds,
            downtime_seconds=figures.downtime_seconds,
            transferred_bytes=figures.transferred_bytes,
        )


def _in_handover(here: Presence, there: Presence) -> bool:
    """Whether the two may be seen so in the midst of a hand-over: one host has not resumed or ended its side yet."""
    return Presence.PAUSED in (here, there) or here is there is Presence.RUNNING
