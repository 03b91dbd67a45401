"""One request for a live migration: a last look at both hosts, the request itself, watched while it runs and bounded in
time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from virtpoise_balancer.clock import SYSTEM, Clock
from virtpoise_balancer.errors import LibvirtError
from virtpoise_balancer.execute.facts import Presence
from virtpoise_balancer.execute.hosts import Hosts
from virtpoise_balancer.execute.reconciler import Requested
from virtpoise_balancer.model import Cause, Move, Progress

log = structlog.get_logger()

_WATCH_SECONDS = 0.5
# What libvirt may take to end an aborted migration.
_ABORT_SECONDS = 60.0

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Migrator:
    """Asks for migrations. What becomes of them is for the reconciler to find out."""

    hosts: Hosts
    timeout_seconds: float
    stop_grace_seconds: float
    bandwidth_mib_per_second: int | None = None
    clock: Clock = SYSTEM

    def obstacle(self, move: Move) -> str | None:
        """Why the move is not to be made now, as both hosts report it (law 5), or None."""
        try:
            here = self.hosts.presence(move.source, move.uuid)
            there = self.hosts.presence(move.destination, move.uuid)
            job = self.hosts.progress(move.source, move.uuid)
        except LibvirtError as error:
            return str(error)
        if here is not Presence.RUNNING:
            return f"{move.domain} is {here.value} on {move.source}, no longer running there"
        if there in (Presence.RUNNING, Presence.PAUSED, Presence.MIGRATING):
            return f"{move.domain} is already {there.value} on {move.destination}"
        if job is not None:
            return f"{move.domain} is being worked on by another job"
        return None

    def request(self, move: Move, watch: Watch, stop: threading.Event) -> Requested:
        """Ask for the migration, and wait until that was answered or given up.

        Never raises for what libvirt says or does not say.
        """
        seen = _Seen(watch)
        began = self.clock.monotonic()
        why, answered, waited = self._run(move, seen, stop, began)
        return Requested(
            why=why,
            cause=self._cause(why, stop, self.clock.monotonic() - began),
            answered=answered,
            waited_seconds=waited,
            seconds=self.clock.monotonic() - began,
            dirty_bytes_per_second=seen.dirty_bytes_per_second,
        )

    def _run(
        self, move: Move, watch: Watch, stop: threading.Event, began: float
    ) -> tuple[str | None, bool, float | None]:
        """What went wrong, or None; whether libvirt has answered the request; how long the domain waited to start."""
        why: str | None = None
        limit = self.timeout_seconds
        bandwidth = self.bandwidth_mib_per_second
        try:
            with self.hosts.migration(move.uuid, move.source, move.destination, bandwidth) as migration:
                while not migration.ended(_WATCH_SECONDS):
                    if stop.is_set():
                        limit = min(limit, self.clock.monotonic() - began + self.stop_grace_seconds)
                        stop = threading.Event()  # heard once
                        why = "told to stop"
                    if self.clock.monotonic() - began >= limit:
                        why = why or f"longer than {self.timeout_seconds:g} s"
                        refused = self._abort(move)
                        break
                    self._look(move, watch)
                else:
                    return migration.error, True, migration.waited_seconds
                if not migration.ended(_ABORT_SECONDS):
                    if refused:
                        return f"{why}, and it could not be aborted ({refused}): it goes on", False, None
                    return f"aborted: {why}, and libvirt has not ended it after {_ABORT_SECONDS:g} s more", False, None
                error = migration.error
                if error is not None:
                    why = f"{why}, and then: {error}" if refused else f"aborted: {why}"
                return (why if error is not None else None), True, migration.waited_seconds
        except LibvirtError as error:  # no process could be started to ask
            return str(error), False, None

    def _cause(self, why: str | None, stop: threading.Event, seconds: float) -> Cause | None:
        """What a request teaches that came to nothing after this time."""
        if why is None:
            return None
        if stop.is_set():
            return Cause.STOPPED
        return Cause.SLOW if seconds >= self.timeout_seconds else Cause.ERROR

    def _look(self, move: Move, watch: Watch) -> None:
        try:
            progress = self.hosts.progress(move.source, move.uuid)
        except LibvirtError:
            return  # the next look may see it
        if progress is not None:
            watch(progress)

    def _abort(self, move: Move) -> str | None:
        """Why it was not aborted, or None: it has ended by itself, as the wait that follows shows, or may not be."""
        try:
            self.hosts.abort(move.source, move.uuid)
        except LibvirtError as error:
            log.warning("a migration could not be aborted", domain=move.domain, source=move.source, why=str(error))
            return str(error)
        return None
