"""One request for a live migration: a last look at both hosts, the request itself, watched while it runs and bounded in
time.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import structlog

from virtpoise_balancer.analyse.convergence import Convergence, Feasibility, feasibility
from virtpoise_balancer.clock import SYSTEM, Clock
from virtpoise_balancer.errors import LibvirtError, NoRoom, Refused, StoreError
from virtpoise_balancer.execute.facts import Presence
from virtpoise_balancer.execute.hosts import Hosts, RunningMigration
from virtpoise_balancer.execute.questions import running_job
from virtpoise_balancer.execute.reconciler import Requested
from virtpoise_balancer.execute.verdict import ACTIVE, Silent
from virtpoise_balancer.model import ASSUMED_BYTES_PER_SECOND, Cause, JournalEntry, Move, Progress
from virtpoise_balancer.visible import visible

log = structlog.get_logger()

_WATCH_SECONDS = 0.5
# What libvirt may take to end an aborted migration.
ABORT_SECONDS = 60.0

# A domain whose memory is copied faster than this is tried without a look at how fast it writes; it is aborted soon.
_LEAST_SECONDS = 10.0
# Disks that are copied more slowly than this are given up, or than half of the bandwidth limit if that is less.
_SLOWEST_COPY_MIB_PER_SECOND = 16.0
_MIB = 1 << 20
_MOST_SHOWN = 100  # characters of a name

# When a migration's job may begin, from when the journal has it. The last looks lie between, and hosts may be slow to
# answer these. libvirt's clock is not this machine's.
_JOB_LATE_SECONDS = 120.0

Watch = Callable[[Progress], None]
# For how many seconds a migration has been under way, and its job; None where the source does not answer or has none.
_Look = tuple[float, Progress | None]


class NoteVolumes(Protocol):
    """Writes down the volumes that were created for a migration, or are about to be."""

    def __call__(self, volumes: Sequence[str], *, created: bool) -> None: ...


def _unnoted(volumes: Sequence[str], *, created: bool) -> None:
    """Nothing is written down."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteRate:
    """How fast a domain writes to its memory; None where that was not measured. ``why``: it cannot be migrated so."""

    dirty_bytes_per_second: float | None = None
    why: str | None = None


@dataclass(slots=True)
class _Seen:
    """Passes on how a migration gets on, and keeps of it what is gone when its job has ended."""

    watch: Watch
    dirty_bytes_per_second: float | None = None
    copied: bool = False

    def __call__(self, progress: Progress) -> None:
        # QEMU knows no rate, and says 0, until it has been through the memory once.
        self.dirty_bytes_per_second = progress.dirty_bytes_per_second or self.dirty_bytes_per_second
        self.copied = self.copied or (progress.processed_bytes or 0) > 0
        self.watch(progress)


@dataclass(frozen=True, slots=True, kw_only=True)
class Migrator:
    """Asks for migrations. What becomes of them is for the reconciler to find out.

    ``throttles``: QEMU may throttle a guest that writes to its memory too fast. ``bandwidth``: the limit in MiB/s at a
    time in Unix seconds, or None.
    """

    hosts: Hosts
    timeout_seconds: float
    stop_grace_seconds: float
    throttles: bool = False
    bandwidth: Callable[[float], int | None] = lambda _at: None
    clock: Clock = SYSTEM

    def obstacle(self, move: Move, ours: Collection[str] = ()) -> str | None:
        """Why the move is not to be made now, as both hosts report it (law 5), or None.

        ``ours``: the uuids of domains that the balancer migrates now.
        """
        try:
            here = self.hosts.presence(move.source, move.uuid)
            there = self.hosts.presence(move.destination, move.uuid)
            is_worked_on = self.hosts.is_worked_on(move.source, move.uuid)
            between = {host: self.hosts.between_hosts(host) for host in (move.source, move.destination)}
        except LibvirtError as error:
            return str(error)
        if here is not Presence.RUNNING:
            return f"{move.domain} is {here.value} on {move.source}, no longer running there"
        if there in ACTIVE:
            return f"{move.domain} is already {there.value} on {move.destination}"
        if is_worked_on:
            return f"{move.domain} is being worked on by another job"
        for host, found in between.items():
            for uuid, name in found:
                if uuid not in ours:
                    return f"{host} takes part in a migration of {visible(name[:_MOST_SHOWN])} that this balancer did not begin"
        return None

    def measure(self, move: Move, beside: int) -> WriteRate:
        """How fast the domain writes to its memory, where that may decide, and what it means for this move.

        ``beside``: how many migrations share the uplinks of its hosts. Never raises for what libvirt does not say.
        """
        limit = self.bandwidth(self.clock.now())
        link = None if move.link_bytes_per_second is None else move.link_bytes_per_second / (beside + 1)
        known = [speed for speed in (link, limit and limit * _MIB) if speed]
        least = min(known, default=ASSUMED_BYTES_PER_SECOND) * _LEAST_SECONDS
        try:
            written = self.hosts.dirty_rate(move.source, move.uuid, int(least))
        except LibvirtError:
            return WriteRate()  # it may still migrate
        if written is None or not known:
            return WriteRate(dirty_bytes_per_second=written)
        found = feasibility(written, min(known), throttles=self.throttles)
        figures = (
            f"it writes {written / _MIB:.0f} MiB/s to its memory, and at most {min(known) / _MIB:.0f} MiB/s are copied"
        )
        log.info(
            "measured how fast a domain writes to its memory", domain=move.domain, found=found.value, figures=figures
        )
        why = f"it would not converge: {figures}" if found is Feasibility.NOT else None
        return WriteRate(dirty_bytes_per_second=written, why=why)

    def request(
        self,
        move: Move,
        watch: Watch,
        stop: threading.Event,
        check: Callable[[], None] = lambda: None,
        note: NoteVolumes = _unnoted,
    ) -> Requested:
        """Ask for the migration, and wait until that was answered or given up.

        Never raises for what libvirt says or does not say. ``check``: raises when nothing further may be done to it.
        ``note``: takes the volumes for copies of its disks, before and after they are created, and raises StoreError or
        Refused when they cannot be written down; then no migration is requested.
        """
        seen = _Seen(watch)
        began = self.clock.monotonic()
        made_room = self._make_room(move, note) if move.copies else ()
        if isinstance(made_room, Requested):
            return made_room
        why, cause, answered, waited = self._run(move, seen, stop, began, check)
        if cause is Cause.ERROR and answered and not seen.copied:
            cause = Cause.REFUSED
        return Requested(
            why=why,
            cause=cause,
            answered=answered,
            waited_seconds=waited,
            seconds=self.clock.monotonic() - began,
            dirty_bytes_per_second=seen.dirty_bytes_per_second,
            made_room=made_room,
        )

    def _make_room(self, move: Move, note: NoteVolumes) -> tuple[str, ...] | Requested:
        """The volumes that were created for copies of the move's disks, or what the request has come to without."""
        made_room: tuple[str, ...] = ()
        try:
            note([one.path for one in move.copies], created=False)
            made_room = self.hosts.make_room(move.destination, move.copies)
            note(made_room, created=True)
        except LibvirtError as error:
            if isinstance(error, NoRoom):
                with contextlib.suppress(Refused, StoreError):  # or it is found out later that there are none
                    note((), created=True)
            return Requested(why=f"no room for a copy of its disks: {error}", cause=Cause.REFUSED, seconds=0.0)
        except (Refused, StoreError) as error:
            text = f"the volumes for a copy of its disks cannot be written down: {error}"
            return Requested(why=text, cause=Cause.ERROR, seconds=0.0, made_room=made_room)
        return made_room

    def _run(
        self, move: Move, watch: Watch, stop: threading.Event, began: float, check: Callable[[], None]
    ) -> tuple[str | None, Cause | None, bool, float | None]:
        """What went wrong and what that teaches, or None; whether libvirt has answered the request; how long the domain
        waited to start.
        """
        bandwidth = self.bandwidth(self.clock.now())
        try:
            with self.hosts.migration(
                move.uuid, move.source, move.destination, bandwidth, move.copies, post_copy=move.post_copy
            ) as migration:
                beyond = self._beyond_bounds(
                    move, self._until_answered(move, migration, began), watch, stop, bandwidth, check
                )
                if beyond is None:
                    cause = Cause.STOPPED if stop.is_set() else Cause.ERROR
                    return (
                        migration.error,
                        cause if migration.error else None,
                        not migration.lost,
                        migration.waited_seconds,
                    )
                why, cause = beyond
                refused = self._abort(move, check)
                if not migration.ended(ABORT_SECONDS):
                    after = f"and libvirt has not ended it after {ABORT_SECONDS:g} s more"
                    return _refused(why, refused) if refused else f"aborted: {why}, {after}", cause, False, None
                if migration.error is None:
                    return None, None, True, migration.waited_seconds
                why = f"{why}, and then: {migration.error}" if refused else f"aborted: {why}"
                return why, cause, not migration.lost, migration.waited_seconds
        except LibvirtError as error:  # no process could be started to ask
            return str(error), Cause.STOPPED if stop.is_set() else Cause.ERROR, False, None

    def watch_over(
        self,
        entry: JournalEntry,
        goes_on: Callable[[], bool],
        note: Callable[[Requested], None],
        stop: threading.Event,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """Watch a migration that no request of this process waits for, with the bounds that ``request`` has.

        Returns when its job has ended or is another's, when ``goes_on`` is False, or when it was to be aborted and does
        not end. ``note``: takes why it is aborted, before it is. ``check``: as in ``request``.
        """
        move, began = entry.move, entry.began or self.clock.now()
        seen = _Seen(lambda _progress: None)
        looks = self._until_job_ends(move, began, goes_on)
        beyond = self._beyond_bounds(move, looks, seen, stop, self.bandwidth(began), check)
        if beyond is None:
            return
        why, cause = beyond
        requested = Requested(
            why=f"aborted: {why}", cause=cause, answered=False, dirty_bytes_per_second=seen.dirty_bytes_per_second
        )
        note(requested)
        if refused := self._abort(move, check):
            note(replace(requested, why=_refused(why, refused)))
            return
        until = self.clock.monotonic() + ABORT_SECONDS
        for _ in looks:
            if self.clock.monotonic() >= until:
                return
        if goes_on():
            note(replace(requested, over=True))

    def _beyond_bounds(
        self,
        move: Move,
        looks: Iterable[_Look],
        watch: Watch,
        stop: threading.Event,
        bandwidth: int | None,
        check: Callable[[], None],
    ) -> tuple[str, Cause] | None:
        """Why the migration is to be aborted, and what that teaches; None when it has ended before, with its ``looks``.

        Once it is switched to post-copy nothing but an order to stop ends the watch: it cannot be aborted.

        ``bandwidth``: its limit so far. It follows its windows.
        """
        convergence = Convergence(throttles=self.throttles)
        stop_at: float | None = None
        switches, switched = move.post_copy, False
        copied = sum(one.stored_bytes for one in move.copies)
        for seconds, progress in looks:
            if progress is not None:
                watch(progress)
                switched = switched or progress.switched
                if not switched and (why := convergence.hopeless(progress)):
                    return why, Cause.SLOW
                if switches and (progress.passes or 0) > 1 and not stop.is_set():
                    switches = False
                    self._switch(move, check)
            copied = max(copied, progress.disk_bytes or 0) if progress else copied
            longest = self.timeout_seconds + _seconds_to_copy(copied, bandwidth)
            if seconds >= longest and not switched:
                return f"longer than {longest:g} s", Cause.SLOW
            now = self.clock.monotonic()
            if stop_at is None and stop.is_set():
                stop_at = now + self.stop_grace_seconds
            if stop_at is not None and now >= stop_at:
                return "the balancer was stopping", Cause.STOPPED
            bandwidth = self._limited(move, bandwidth, check)
        return None

    def _until_answered(self, move: Move, migration: RunningMigration, began: float) -> Iterator[_Look]:
        """Looks until the request is answered. ``began``: on the monotonic clock."""
        while not migration.ended(_WATCH_SECONDS):
            progress = running_job(self.hosts, move.source, move.uuid)
            yield self.clock.monotonic() - began, None if isinstance(progress, Silent) else progress

    def _until_job_ends(self, move: Move, began: float, goes_on: Callable[[], bool]) -> Iterator[_Look]:
        """Looks until the job has ended, or is not that of the migration that began at ``began``, in Unix seconds."""
        seconds = 0.0
        while goes_on():
            progress = running_job(self.hosts, move.source, move.uuid)
            if isinstance(progress, Silent):
                yield seconds, None
            elif progress is None or not self._is_of(began, progress):
                return
            else:
                seconds = progress.elapsed_seconds
                yield seconds, progress
            self.clock.sleep(_WATCH_SECONDS)

    def _is_of(self, began: float, progress: Progress) -> bool:
        """Whether the job is that of a migration that was journalled as begun at ``began`` (Unix seconds): a person's
        job is not to be aborted.

        One that seems older is the same: the domain had no job when it was asked for, so the clock has been set
        back since.
        """
        return self.clock.now() - progress.elapsed_seconds <= began + _JOB_LATE_SECONDS

    def _limited(self, move: Move, bandwidth: int | None, check: Callable[[], None]) -> int | None:
        """The bandwidth limit from now on. ``bandwidth``: the one so far."""
        wanted = self.bandwidth(self.clock.now())
        if wanted != bandwidth:
            try:
                check()
                self.hosts.set_bandwidth(move.source, move.uuid, wanted)
            except (LibvirtError, Refused, StoreError):
                return bandwidth  # the next look tries again
        return wanted

    def _switch(self, move: Move, check: Callable[[], None]) -> None:
        """Switch the migration to post-copy. One that is not switched has the bounds of any other."""
        try:
            check()
            self.hosts.switch(move.source, move.uuid)
        except (LibvirtError, Refused, StoreError) as error:
            log.warning("a migration could not be switched to post-copy", domain=move.domain, why=str(error))
        else:
            log.warning(
                "a migration is switched to post-copy: until the rest of the memory has arrived, the domain is lost "
                "with either host, with either QEMU and with the network between them",
                domain=move.domain,
                source=move.source,
                destination=move.destination,
            )

    def _abort(self, move: Move, check: Callable[[], None]) -> str | None:
        """Why it could not be aborted, or None where libvirt was asked to; the wait that follows shows its end."""
        try:
            check()
            self.hosts.abort(move.source, move.uuid)
        except (LibvirtError, Refused, StoreError) as error:
            log.warning("a migration could not be aborted", domain=move.domain, source=move.source, why=str(error))
            return str(error)
        return None


def _seconds_to_copy(disk_bytes: int, bandwidth: int | None) -> float:
    """How much longer a migration may take that copies so much of its disks. ``bandwidth``: its limit in MiB/s."""
    slowest = _SLOWEST_COPY_MIB_PER_SECOND if bandwidth is None else min(_SLOWEST_COPY_MIB_PER_SECOND, bandwidth / 2)
    return round(disk_bytes / (slowest * _MIB))


def _refused(why: str, refused: str) -> str:
    return f"{why}, and it could not be aborted ({refused}): it goes on"
