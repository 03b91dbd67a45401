"""Starts journalled moves beside the cycles, each as soon as it may: ``plan.stream`` decides which.

How a migration that was asked for has ended is for the reconciler to find out: at once, or in later cycles while a host
does not answer; no other move waits for it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol, TypeVar

import structlog

from virtpoise_balancer.clock import SYSTEM, Clock
from virtpoise_balancer.errors import Refused
from virtpoise_balancer.execute.migrate import Migrator, WriteRate
from virtpoise_balancer.execute.reconciler import Reconciler, Requested
from virtpoise_balancer.execute.verdict import StillOpen
from virtpoise_balancer.model import Cause, Entries, JournalEntry, Limits, MigrationOutcome, Move, Progress, Result
from virtpoise_balancer.plan.stream import Item, Stage, counts_on, hopeless, ready, withdrawable
from virtpoise_balancer.threads import THREADS, Lock, Thread, Threads

log = structlog.get_logger()

# For how long a domain may be between its hosts after the request was answered, and how often to look.
HANDOVER_SECONDS = 20.0
_LOOK_SECONDS = 0.5

End = TypeVar("End", MigrationOutcome, None)


@dataclass(frozen=True, slots=True)
class InFlight:
    """A migration under way.

    ``began``: in Unix seconds, as the journal has it, None where it does not; ``progress`` once libvirt has reported
    any.
    """

    move: Move
    progress: Progress | None = None
    began: float | None = None

    def seconds(self, now: float) -> float:
        """The seconds since it began; 0 where its beginning is not known."""
        return 0.0 if self.began is None else max(now - self.began, 0.0)


# Looks at the world again before a move: why it must not be made now, or None.
Recheck = Callable[[Move], str | None]


class Executor(Protocol):
    """What the cycle gives a plan to."""

    @property
    def in_flight(self) -> tuple[InFlight, ...]: ...

    @property
    def busy(self) -> bool:
        """Whether moves are being made, or wait for their beginning."""
        ...

    @property
    def acts(self) -> bool:
        """Whether moves are made, not only recommended."""
        ...

    def carry_out(self, entries: Entries, recheck: Recheck) -> None:
        """Make the moves of a plan, beside those of earlier plans."""
        ...

    def withdraw(self, uuids: Set[str], why: str, /) -> bool:
        """Withdraw the moves of these domains, if all of them wait.

        Returns whether they were withdrawn: if one of them has begun, all stay. ``why``: for the journal.
        """
        ...


@dataclass(slots=True)
class LibvirtExecutor:
    """Makes the moves, each in a thread of its own."""

    migrator: Migrator
    reconciler: Reconciler
    ask: Callable[[Sequence[str]], None]  # whether these hosts answer: they are asked, and the answers are kept
    inquire: Callable[[Move], None] = lambda _move: None  # what both hosts of a move have against it; in bounded time
    limits: Limits = field(default_factory=Limits)  # for the moves of all plans together
    threads: Threads = THREADS
    clock: Clock = SYSTEM
    leads: Callable[[], bool] = lambda: True  # whether this balancer acts: another one shows and watches what runs else
    stop: threading.Event = field(default_factory=threading.Event)
    _in_flight: dict[int, InFlight] = field(default_factory=dict)  # by the id in the journal
    _looking: Lock = field(init=False)  # one move begins at a time
    _lock: threading.RLock = field(default_factory=threading.RLock)  # guards all that follows
    _items: dict[int, Item] = field(default_factory=dict)  # of the plans that have not ended, by the id in the journal
    _rechecks: dict[int, Recheck] = field(default_factory=dict)  # by the number of the plan
    _threads: dict[int, Thread] = field(default_factory=dict)  # by the id in the journal
    _watchers: dict[int, Thread] = field(default_factory=dict)  # of those that no move waits for, by id in the journal
    _gives_way: bool = False  # to another balancer, which watches these

    def __post_init__(self) -> None:
        self._looking = self.threads.lock()

    @property
    def in_flight(self) -> tuple[InFlight, ...]:
        if not self.leads():
            return ()
        others = (InFlight(entry.move, progress, entry.began) for entry, progress in self.reconciler.under_way())
        return (*self._in_flight.copy().values(), *others)

    @property
    def _watches(self) -> bool:
        return self.leads() and not self._gives_way

    @property
    def busy(self) -> bool:
        return bool(self._items)

    @property
    def acts(self) -> bool:
        return True

    def carry_out(self, entries: Entries, recheck: Recheck) -> None:
        with self._lock:
            if self.stop.is_set():
                raise Refused("the balancer is about to end")
            plan = max(self._rechecks, default=0) + 1
            self.reconciler.hold(migration_id for migration_id, _ in entries)
            self._items |= {id_: Item(id=id_, plan=plan, move=move) for id_, move in entries}
            self._rechecks[plan] = recheck
            self.go_on()

    def go_on(self) -> None:
        """Begin what may begin now.

        To be called in each cycle as well: migrations of an earlier process end without notice.
        """
        with self._lock:
            if self.stop.is_set():
                self._end_waiting(dict.fromkeys(self._items, "the balancer was stopping"))
            for id_, missing in hopeless(self._items.values()).items():
                self._end_waiting({id_: counts_on(missing)})
            others = [(entry.move.source, entry.move.destination) for entry, _ in self.reconciler.under_way()]
            for id_ in ready(self._items.values(), self.limits, others):
                self._start(id_, self._make_one)
            self._watch_loose_ones()

    def drop(self, why: str) -> None:
        """Begin none of the moves that wait. ``why``: for the journal."""
        with self._lock:
            self._end_waiting(dict.fromkeys(self._items, why))

    def withdraw(self, uuids: Set[str], why: str) -> bool:
        with self._lock:
            ours = withdrawable(self._items.values(), uuids)
            if not ours:
                return False
            self._end_waiting(dict.fromkeys((one.id for one in ours), why))
            threads = [thread for one in ours if (thread := self._threads.get(one.id))]
        for thread in threads:  # the next plan is journalled after these ends
            thread.join()
        return True

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until no moves are being made, for ``seconds`` at most. Whether that came."""
        until = None if seconds is None else self.clock.monotonic() + seconds
        while (left := None if until is None else until - self.clock.monotonic()) is None or left > 0:
            with self._lock:  # where one move ends the next begins before the lock is free
                thread = next(iter(self._threads.values()), None)
            if thread is None:
                break
            thread.join(left)
        return not self.busy

    def close(self, *, leads: bool) -> None:
        """Start nothing more, and wait until what runs has ended or was aborted.

        ``leads``: whether that includes migrations that no move of this process waits for. Otherwise another balancer
        watches these.
        """
        with self._lock:
            self._gives_way = not leads
            self.stop.set()
            self.go_on()
            watchers = list(self._watchers.values())
        self.wait()
        for thread in watchers:
            thread.join()
        self.reconciler.close()

    def _watch_loose_ones(self) -> None:
        """Watch over the migrations under way that no move of this process waits for: those of an earlier process, and
        those whose request was given up. Each is watched once.
        """
        loose = self.reconciler.under_way()
        known = {entry.id for entry, _ in loose}
        self._watchers = {id_: thread for id_, thread in self._watchers.items() if id_ in known}
        for entry, progress in loose:
            if progress is None or entry.id in self._watchers or not self._watches:
                continue
            watch = partial(self._watch_over, entry)
            try:
                self._watchers[entry.id] = self.threads.start(watch, f"watch {entry.move.domain}")
            except RuntimeError as error:  # the system has no thread left: the next cycle tries again
                log.warning("a migration cannot be watched", domain=entry.move.domain, error=str(error))

    def _watch_over(self, entry: JournalEntry) -> None:
        def goes_on() -> bool:
            return self._watches and any(one.id == entry.id for one, _ in self.reconciler.under_way())

        try:
            note, check = partial(self.reconciler.requested, entry), self._check(entry)
            self.migrator.watch_over(entry, goes_on, note, self.stop, check)
            # No move waits for this one, so a silent host is asked again.
            self._hand_over(lambda: self.reconciler.ask_now(entry) if goes_on() else None, lambda _open: False)
        except Exception:  # the reconciler goes on asking for its end
            log.exception("a migration could not be watched", domain=entry.move.domain)

    def _check(self, entry: JournalEntry) -> Callable[[], None]:
        """What raises when nothing further may be done for an entry."""
        return lambda: self.reconciler.journal.check_newest(entry.id)

    def _end_waiting(self, reasons: Mapping[int, str]) -> None:
        for id_, why in reasons.items():
            if (item := self._items.get(id_)) and item.stage is Stage.WAITING:
                self._start(id_, partial(self._skip, why=why))

    def _start(self, id_: int, act: Callable[[int, Move], bool]) -> None:
        """Take a move out of those that wait, and act on it in a thread of its own.

        ``act`` returns whether it was made.
        """
        item = self._items[id_] = replace(self._items[id_], stage=Stage.BEGUN)
        work = partial(self._act, item, act)
        try:
            self._threads[id_] = self.threads.start(work, f"move {item.move.domain}", daemon=False)
        except RuntimeError as error:  # the system has no thread left: the next cycle ends the entry
            log.warning("a move cannot be started", domain=item.move.domain, error=str(error))
            self._ended(item, done=False)

    def _act(self, item: Item, act: Callable[[int, Move], bool]) -> None:
        done = False
        try:
            done = act(item.id, item.move)
        except Exception:  # the next cycles find out what became of it
            log.exception("a move failed in an unforeseen way", domain=item.move.domain)
        finally:
            with self._lock:
                self._ended(item, done=done)
                self.go_on()

    def _ended(self, item: Item, *, done: bool) -> None:
        """Note the end of a move. Forget the plan with its last one."""
        self.reconciler.release(item.id)
        self._items[item.id] = replace(item, stage=Stage.DONE if done else Stage.UNDONE)
        self._threads.pop(item.id, None)
        going = {one.plan for one in self._items.values() if one.stage in (Stage.WAITING, Stage.BEGUN)}
        self._items = {id_: one for id_, one in self._items.items() if one.plan in going}
        self._rechecks = {plan: recheck for plan, recheck in self._rechecks.items() if plan in going}

    def _make_one(self, migration_id: int, move: Move) -> bool:
        """Make the move, unless something is against it. Whether the domain is where it should go."""
        if not self.reconciler.can_write:
            return self._skip(migration_id, move, "the store cannot be written: no move begins")
        self._against(move, lambda: self.inquire(move))  # before the lock: a host that hangs holds up no other move
        with self._looking:  # of two moves to one host the second look must count the first
            try:
                began = self.reconciler.journal.begin(migration_id)
            except Exception as error:
                return self._skip(migration_id, move, _against_it(error))
            why = self._against(move, lambda: self._rechecks[self._items[migration_id].plan](move))
        measured = WriteRate() if why or move.post_copy else self.migrator.measure(move, self._beside(move))
        if measured.why:
            return self._skip(migration_id, move, measured.why, Cause.SLOW, measured.dirty_bytes_per_second)
        cause = None if why else Cause.OBSTACLE
        if why := why or self._against(move, lambda: self.migrator.obstacle(move, self._ours())):
            self._ask_again(move)
            return self._skip(migration_id, move, why, cause)
        try:  # the looks took a while, in which another balancer may have ended it
            self.reconciler.journal.check_open(migration_id)
        except Exception as error:
            return self._skip(migration_id, move, _against_it(error))
        entry = JournalEntry(id=migration_id, move=move, began=began)
        self._in_flight[migration_id] = InFlight(move, began=began)
        try:
            return self._migrate(entry, measured)
        finally:
            del self._in_flight[migration_id]

    def _against(self, move: Move, look: Callable[[], str | None]) -> str | None:
        """What a last look finds against the move. One that fails is against it, too."""
        try:
            return look()
        except Exception as error:  # nothing has begun yet
            log.exception("the last look before a move failed in an unforeseen way", domain=move.domain)
            return f"unforeseen: {type(error).__name__}: {error}"

    def _ours(self) -> set[str]:
        """The uuids of the domains that are migrated now, or have just been."""
        with self._lock:
            begun = {item.move.uuid for item in self._items.values() if item.stage is not Stage.WAITING}
        return begun | {one.move.uuid for one in self.in_flight}

    def _beside(self, move: Move) -> int:
        """How many migrations under way share a host with the move."""
        ends = {move.source, move.destination}
        return sum(bool(ends & {one.move.source, one.move.destination}) for one in self.in_flight)

    def _migrate(self, entry: JournalEntry, measured: WriteRate) -> bool:
        def watch(progress: Progress) -> None:
            self._in_flight[entry.id] = replace(self._in_flight[entry.id], progress=progress)

        requested = Requested(why="unforeseen", answered=False)
        try:
            note = partial(self.reconciler.journal.note_volumes, entry.id)
            requested = self.migrator.request(entry.move, watch, self.stop, self._check(entry), note)
        except Exception as error:  # it was asked for, or not: only the hosts know
            log.exception("a request for a migration failed in an unforeseen way", domain=entry.move.domain)
            requested = Requested(why=f"unforeseen: {type(error).__name__}: {error}", answered=False)
        if requested.dirty_bytes_per_second is None:
            requested = replace(requested, dirty_bytes_per_second=measured.dirty_bytes_per_second)
        self.reconciler.requested(entry, requested)
        if requested.why:
            self._ask_again(entry.move)  # before the end is written, so that the next plan knows it
        found = self._hand_over(
            lambda: self.reconciler.settle(entry), lambda still: still.silent or not requested.answered
        )
        if isinstance(found, StillOpen):
            log.warning("a migration has no known end yet", domain=entry.move.domain, why=found.text)
            return False
        # A request without an answer may still be carried out, and then needs them.
        if requested.made_room and requested.answered and found.result is Result.FAILED and not found.lost:
            self.reconciler.volumes.discard(entry, requested.made_room)
        return found.result is Result.DONE

    def _hand_over(self, ask: Callable[[], End | StillOpen], lets_go: Callable[[StillOpen], bool]) -> End | StillOpen:
        """The last answer of ``ask``, which is repeated until a migration has its end: a domain that has arrived waits
        to be started.

        Ends before that when a job is running, which is no hand-over, when ``lets_go``, or after ``HANDOVER_SECONDS``.
        """
        clock = self.reconciler.clock
        until = clock.monotonic() + HANDOVER_SECONDS
        while isinstance(found := ask(), StillOpen) and found.progress is None and not lets_go(found):
            if clock.monotonic() >= until:
                break
            clock.sleep(_LOOK_SECONDS)
        return found

    def _ask_again(self, move: Move) -> None:
        if not self.stop.is_set():
            self.ask((move.source, move.destination))

    def _skip(
        self, migration_id: int, move: Move, why: str, cause: Cause | None = None, dirtying: float | None = None
    ) -> bool:
        outcome = MigrationOutcome(result=Result.SKIPPED, why=why, cause=cause, dirty_bytes_per_second=dirtying)
        self.reconciler.end(migration_id, move, outcome)
        return False


def _against_it(error: Exception) -> str:
    """Why the journal lets a move not begin, in words."""
    return (
        str(error)
        if isinstance(error, Refused)
        else f"the store cannot be written: {str(error) or type(error).__name__}"
    )


@dataclass(frozen=True, slots=True)
class RecommendingExecutor:
    """Makes no move: the plan stays a recommendation. ``other``: makes those that a person has taken from one."""

    other: Executor

    @property
    def in_flight(self) -> tuple[InFlight, ...]:
        return self.other.in_flight

    @property
    def busy(self) -> bool:
        return self.other.busy

    @property
    def acts(self) -> bool:
        return False

    def carry_out(self, entries: Entries, recheck: Recheck) -> None:
        """Nothing to do: what is recommended is in the store."""

    def withdraw(self, _uuids: Set[str], _why: str, /) -> bool:
        """False: what a person has chosen stays."""
        return False
