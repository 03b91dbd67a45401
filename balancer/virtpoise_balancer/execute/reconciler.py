"""Reconciles the journal with the world: asks for the end of every entry that has none, and writes it down.

One way to an end for all entries: of a plan under way, an earlier process, a silent host, an error that no one foresaw.
Everything here may be repeated: an end that could not be written is kept and written later, and a verdict that the
world contradicts is corrected.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

import structlog

from virtpoise_balancer.clock import Clock
from virtpoise_balancer.errors import LibvirtError, Refused, StoreError
from virtpoise_balancer.execute.elsewhere import Elsewhere
from virtpoise_balancer.execute.facts import Presence
from virtpoise_balancer.execute.hosts import Completed, Hosts
from virtpoise_balancer.execute.questions import confirmed, presence, running_job
from virtpoise_balancer.execute.stale import StaleCopies
from virtpoise_balancer.execute.verdict import (
    LATE_SECONDS,
    SETTLED,
    Answer,
    Arrived,
    StillOpen,
    Verdict,
    may_be_elsewhere,
    reconcile,
)
from virtpoise_balancer.execute.volumes import CreatedVolumes, VolumeJournal
from virtpoise_balancer.model import (
    Cause,
    JournalEntry,
    MigrationOutcome,
    Move,
    Progress,
    Result,
    Unsettled,
    UnsettledKind,
    Written,
)
from virtpoise_balancer.threads import THREADS, Thread, Threads

log = structlog.get_logger()

NOT_BEGUN = MigrationOutcome(result=Result.SKIPPED, why="the balancer ended before the migration began")


class Journal(VolumeJournal, Protocol):
    """Where migrations are written down (knowledge keeps it). Any of it may fail."""

    def begin(self, migration_id: int) -> float:
        """When it begins: now, in Unix seconds. Refused when it has an end already."""
        ...

    def check_open(self, migration_id: int) -> None:
        """Refused when it has an end, or when another balancer acts."""
        ...

    def check_newest(self, migration_id: int) -> None:
        """Refused when a later migration of its domain has begun, or when another balancer acts: before each act."""
        ...

    def end(self, migration_id: int, outcome: MigrationOutcome) -> Written:
        """Write an end. One that contradicts an earlier end corrects it, where the world may have gone on since."""
        ...

    def reopen(self, migration_id: int, why: str, *, doubled: bool) -> None:
        """Take an end back, if there is one. ``doubled``: the domain is active on two hosts."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Requested:
    """What was seen of a request. It is no end. ``why``: what went wrong; ``answered``: libvirt has answered it.

    ``over``: its job has ended, and no one waits for the answer. ``waited_seconds``: of the domain where it arrived.
    """

    why: str | None = None
    cause: Cause | None = None
    answered: bool = True
    over: bool = False
    seconds: float | None = None
    waited_seconds: float | None = None
    dirty_bytes_per_second: float | None = None
    made_room: tuple[str, ...] = ()  # volumes created for copies of its disks


_NOT_SEEN = Requested(why="the end of the migration was not seen", answered=False)


@dataclass(slots=True)
class Reconciler:
    """Finds out how migrations ended, from the hosts alone, and writes it. ``on_end``: called after that."""

    hosts: Callable[[], Hosts]
    journal: Journal
    on_end: Callable[[Move, MigrationOutcome], None]
    clock: Clock
    threads: Threads = THREADS
    _stop: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _held: set[int] = field(default_factory=set)  # entries that the executor works on
    _asking: dict[int, Thread] = field(default_factory=dict)
    _requested: dict[int, Requested] = field(default_factory=dict)
    _started: set[int] = field(default_factory=set)  # entries whose domain was started on its destination by `_start`
    _doubled: set[int] = field(default_factory=set)  # entries whose domain was active on two hosts
    _unwritten: dict[int, tuple[Move, MigrationOutcome]] = field(default_factory=dict)
    _asked_since: dict[int, float] = field(default_factory=dict)  # on the monotonic clock, by the id in the journal
    _found: dict[int, StillOpen] = field(default_factory=dict)
    _open: dict[int, JournalEntry] = field(default_factory=dict)  # of the newest cycle
    _group: tuple[str, ...] = ()  # all hosts that the newest cycle knew
    _stale: StaleCopies = field(init=False)
    _elsewhere: Elsewhere = field(init=False)
    volumes: CreatedVolumes = field(init=False)

    def __post_init__(self) -> None:
        self._stale = StaleCopies(lambda migration_id: self.journal.check_newest(migration_id))
        self._elsewhere = Elsewhere(self.hosts, self.clock, self.threads)
        self.volumes = CreatedVolumes(self.hosts, self.journal, self.clock)

    # --- for the executor ---------------------------------------------------------------------------------------------

    def hold(self, migration_ids: Iterable[int]) -> None:
        """Leave these entries to the caller until it releases them."""
        with self._lock:
            self._held.update(migration_ids)

    def release(self, migration_id: int) -> None:
        with self._lock:
            self._held.discard(migration_id)

    @property
    def can_write(self) -> bool:
        """Whether all ends that are known could be written. While not, nothing may begin."""
        return not self._unwritten

    def requested(self, entry: JournalEntry, requested: Requested) -> None:
        """What the request for a migration has come to, for the words and figures of its end."""
        self._requested[entry.id] = requested

    def settle(self, entry: JournalEntry) -> MigrationOutcome | StillOpen:
        """Ask the world once; write the end if there is one."""
        found = self._ask(entry)
        if isinstance(found, Arrived):
            found = self._start(entry)
        if isinstance(found, StillOpen):
            return self._keep_open(entry, found)
        outcome = self._outcome(entry, found)
        self.end(entry.id, entry.move, outcome)
        if entry.volumes and outcome.result is Result.DONE:
            self.volumes.keep(entry)
        elif entry.volumes:
            self.volumes.discard_left(entry, runs_elsewhere=found.elsewhere)
        return outcome

    def end(self, migration_id: int, move: Move, outcome: MigrationOutcome) -> None:
        """Write an end, at once or, when that fails, in a later cycle."""
        try:
            written = self.journal.end(migration_id, outcome)
        except Exception as error:  # whatever the store has, the end must not be forgotten
            log.warning("the end of a migration cannot be written yet", domain=move.domain, error=_line(error))
            self._unwritten[migration_id] = (move, outcome)
            return
        self._unwritten.pop(migration_id, None)
        if not outcome.lost:  # what libvirt has answered still counts when the domain is found again
            self._requested.pop(migration_id, None)
        self._started.discard(migration_id)
        self._doubled.discard(migration_id)
        self._stale.forget(migration_id)
        self._found.pop(migration_id, None)
        self._open.pop(migration_id, None)
        if written is Written.CORRECTED:
            log.warning("the end of a migration was corrected", domain=move.domain, result=outcome.result.value)
        if written is not Written.NOTHING:
            self.on_end(move, outcome)

    # --- in each cycle ------------------------------------------------------------------------------------------------

    def keep_up(self, entries: Sequence[JournalEntry], group: Collection[str]) -> None:
        """Ask for the ends of these entries beside the cycle, each by one thread at a time, but for those under way.
        Returns soon.

        ``group``: all hosts that are known.
        """
        with self._lock:
            loose = {entry.id: entry for entry in entries if entry.id not in self._held}
            self._open = {id_: entry for id_, entry in loose.items() if entry.is_open}
            self._group = tuple(group)
            self._asked_since = {id_: at for id_, at in self._asked_since.items() if id_ in loose or id_ in self._held}
            self._found = {id_: found for id_, found in self._found.items() if id_ in loose}
            # What is dropped is of lost domains that a person has accounted for.
            for id_ in set(self._requested) - set(loose) - self._held:
                self._requested.pop(id_, None)
        for migration_id, (move, outcome) in list(self._unwritten.items()):
            self.end(migration_id, move, outcome)
            loose.pop(migration_id, None)
        if not self.can_write:
            return
        for entry in loose.values():
            if entry.began is None:
                self.end(entry.id, entry.move, NOT_BEGUN)
            elif not entry.volumes or self.volumes.is_due(entry):
                self._begin_to_ask(entry)

    def ask_now(self, entry: JournalEntry) -> StillOpen | None:
        """Ask for the end of this entry of the newest cycle before the next one does. What keeps it open, or None."""
        self._await_answer(entry.id)  # of a question that was asked before, which is outdated
        if entry.id in self._open and self.can_write:
            self._begin_to_ask(entry)
            self._await_answer(entry.id)
        return self._found.get(entry.id)

    def unsettled(self, entries: Sequence[JournalEntry]) -> tuple[Unsettled, ...]:
        """The domains of these entries that keep action off their hosts, by what is known now.

        Not those that are under way.
        """
        return tuple(
            _unsettled(entry, self._found.get(entry.id))
            for entry in entries
            if entry.id not in self._held and (entry.is_open or entry.lost)
        )

    def under_way(self) -> tuple[tuple[JournalEntry, Progress | None], ...]:
        """The entries of the newest cycle that may still migrate, with how far libvirt has got."""
        found = self._found.copy()
        return tuple(
            (entry, one.progress if one else None)
            for entry in self._open.copy().values()
            if (one := found.get(entry.id)) is None or one.kind is not UnsettledKind.TWICE
        )

    def wait(self, seconds: float) -> None:
        """Wait until all that is being asked has been answered, for ``seconds`` at most each."""
        for thread in list(self._asking.values()):
            thread.join(seconds)

    def close(self) -> None:
        """Write nothing more. What is open is for the next process."""
        self._stop.set()

    # ------------------------------------------------------------------------------------------------------------------

    def _begin_to_ask(self, entry: JournalEntry) -> None:
        with self._lock:
            if entry.id in self._asking or self._stop.is_set():
                return
            work = partial(self._ask_beside, entry)
            try:
                self._asking[entry.id] = self.threads.start(work, f"reconcile {entry.move.domain}")
            except RuntimeError as error:  # the system has no thread left: the next cycle tries again
                log.warning("a migration cannot be reconciled now", domain=entry.move.domain, error=str(error))

    def _await_answer(self, migration_id: int) -> None:
        if thread := self._asking.get(migration_id):
            thread.join()

    def _ask_beside(self, entry: JournalEntry) -> None:
        try:
            self.settle(entry)
        except Exception:  # the next cycle asks again
            log.exception("a migration could not be reconciled", domain=entry.move.domain)
        finally:
            with self._lock:
                self._asking.pop(entry.id, None)

    def _start(self, entry: JournalEntry) -> Verdict | StillOpen:
        """Start the domain on its destination. What is known then."""
        move = entry.move
        text = f"{move.domain} waits on {move.destination} to be started"
        try:
            self.journal.check_newest(entry.id)
            self.hosts().resume(move.destination, move.uuid)
        except (LibvirtError, Refused, StoreError) as error:
            text = f"{text}: {error}"
        else:
            log.info("a domain was started on its destination", domain=move.domain, host=move.destination)
            self._started.add(entry.id)
            found = self._ask(entry)
            if not isinstance(found, Arrived):
                return found
        return StillOpen(kind=UnsettledKind.WAITING, hosts=(move.source, move.destination), text=text)

    def _ask(self, entry: JournalEntry) -> Verdict | StillOpen | Arrived:
        hosts, move = self.hosts(), entry.move
        job = running_job(hosts, move.source, move.uuid)
        here = presence(hosts, move.source, move.uuid)
        there = presence(hosts, move.destination, move.uuid)
        if here in SETTLED and there in SETTLED:
            answers = confirmed(hosts, {move.source: here, move.destination: there}, move.uuid)
            here, there = answers[move.source], answers[move.destination]
            job = running_job(hosts, move.source, move.uuid)
        others: dict[str, Answer] = {}
        requested = self._requested.get(entry.id, _NOT_SEEN)
        has_arrived = there is Presence.PAUSED and requested.answered and requested.why is None
        if not isinstance(job, Progress) and may_be_elsewhere(here, there) and not has_arrived:
            others = self._elsewhere.presences(set(self._group) - {move.source, move.destination}, move.uuid)
        # That it began may be dated by a clock that was ahead.
        asked_since = self._asked_since.setdefault(entry.id, self.clock.monotonic())
        waited = self.clock.monotonic() - asked_since >= LATE_SECONDS
        spent = requested.answered or requested.over or waited
        known = replace(entry, doubled=entry.doubled or entry.id in self._doubled)
        return reconcile(known, job, here, there, others, self.clock.now(), spent=spent)

    def _keep_open(self, entry: JournalEntry, found: StillOpen) -> StillOpen:
        doubled = found.kind is UnsettledKind.TWICE
        if doubled:
            self._doubled.add(entry.id)
            found = self._stale.secured(self.hosts(), entry, found, started=self._was_started(entry))
        self._found[entry.id] = found
        contradicts = found.progress is not None or doubled or found.kind is UnsettledKind.WAITING
        taken_back = entry.result is not None and not entry.lost and contradicts
        if taken_back:
            log.warning("the end of a migration is taken back", domain=entry.move.domain, why=found.text)
        if taken_back or (doubled and not entry.doubled):
            self.journal.reopen(entry.id, found.text, doubled=doubled)
        return found

    def _was_started(self, entry: JournalEntry) -> bool | None:
        """Whether this process has started the domain on its destination; None where that is not certain."""
        requested = self._requested.get(entry.id, _NOT_SEEN)
        if entry.id in self._started or requested.waited_seconds is not None:
            return True
        return False if requested.answered and requested.why else None

    def _outcome(self, entry: JournalEntry, verdict: Verdict) -> MigrationOutcome:
        if self._stop.is_set():
            raise RuntimeError("the balancer is about to end")
        move = entry.move
        requested = self._requested.get(entry.id, _NOT_SEEN)
        figures, why = Completed(), ""
        cause = Cause.STOPPED if verdict.shut_off else requested.cause
        if verdict.result is Result.DONE:
            why = self._tidied(entry, verdict)
            with contextlib.suppress(LibvirtError):
                figures = self.hosts().completed(move.destination, move.uuid)
        else:
            why = f"{requested.why or 'the migration ended'}: {verdict.places}"
        downtime = figures.downtime_seconds  # as libvirt counts it: until the domain waits to be started
        return MigrationOutcome(
            result=verdict.result,
            why=why,
            cause=None if verdict.result is Result.DONE else cause,
            seconds=figures.seconds if requested.seconds is None else requested.seconds,
            downtime_seconds=None if downtime is None else downtime + (requested.waited_seconds or 0.0),
            transferred_bytes=figures.transferred_bytes,
            dirty_bytes_per_second=requested.dirty_bytes_per_second,
            lost=verdict.lost,
        )

    def _tidied(self, entry: JournalEntry, verdict: Verdict) -> str:
        """What is not as it should be after a done migration, or nothing.

        An old definition could be started a second time.
        """
        if not verdict.leftover:
            return ""
        move = entry.move
        try:
            self.journal.check_newest(entry.id)
            self.hosts().undefine(move.source, move.uuid)
        except (LibvirtError, Refused, StoreError) as error:
            return f"its definition is still on {move.source}: {error}"
        return ""


def _unsettled(entry: JournalEntry, found: StillOpen | None) -> Unsettled:
    move = entry.move
    way = f"from {move.source} to {move.destination}"
    kind = UnsettledKind.UNKNOWN
    hosts: tuple[str, ...] = (move.source, move.destination)
    text = f"the migration of {move.domain} {way} has no known end"
    if entry.lost and (found is None or found.kind is not UnsettledKind.TWICE):
        kind, text = UnsettledKind.NOWHERE, f"{move.domain} runs nowhere since its migration {way}"
    elif found is not None:
        kind, hosts, text = found.kind, found.hosts, found.text
    return Unsettled(domain=move.domain, uuid=move.uuid, hosts=hosts, kind=kind, text=text)


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
