"""Starts journalled moves beside the cycles: those of a wave at the same time, one wave after another.

Waves already respect the limits in flight (plan). A move that needs one that was not made is skipped. How a migration that was asked for
has ended is for the reconciler to find out: at once, or in later cycles while a host does not answer; the next moves do not wait for it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from typing import Protocol

import structlog

from virtpoise_balancer.errors import Refused
from virtpoise_balancer.execute.migrate import Migrator
from virtpoise_balancer.execute.reconcile import StillOpen
from virtpoise_balancer.execute.reconciler import Reconciler, Requested
from virtpoise_balancer.model import JournalEntry, MigrationOutcome, Move, Progress, Result
from virtpoise_balancer.threads import THREADS, Lock, Thread, Threads

log = structlog.get_logger()

# For how long a domain may be between its hosts after the request was answered, and how often to look.
_HANDOVER_SECONDS = 20.0
_LOOK_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class InFlight:
    """A migration under way. ``began``: in Unix seconds, as the journal has it; ``progress`` once libvirt has reported any."""

    move: Move
    progress: Progress | None = None
    began: float = field(default_factory=time.time)

    @property
    def seconds(self) -> float:
        """For how long it has been under way."""
        return max(time.time() - self.began, 0.0)


# Moves by their ids in the journal.
Entries = Sequence[tuple[int, Move]]
# Looks at the world again before a move: why it must not be made now, or None.
Recheck = Callable[[Move], str | None]


class Executor(Protocol):
    """What the cycle gives a plan to."""

    @property
    def in_flight(self) -> tuple[InFlight, ...]: ...

    @property
    def busy(self) -> bool:
        """Whether moves of a plan are being made."""
        ...

    @property
    def acts(self) -> bool:
        """Whether moves are made, not only recommended."""
        ...

    def carry_out(self, entries: Entries, recheck: Recheck) -> None: ...


@dataclass(slots=True)
class LibvirtExecutor:
    """Makes the moves, in a thread of its own."""

    migrator: Migrator
    reconciler: Reconciler
    ask: Callable[[Sequence[str]], None]  # whether these hosts answer: they are asked, and the answers are kept
    threads: Threads = THREADS
    stop: threading.Event = field(default_factory=threading.Event)
    _in_flight: dict[int, InFlight] = field(default_factory=dict)  # by the id in the journal
    _looking: Lock = field(init=False)  # one look at the group at a time
    _starting: threading.Lock = field(default_factory=threading.Lock)  # nothing starts after `stop`
    _thread: Thread | None = None

    def __post_init__(self) -> None:
        self._looking = self.threads.lock()

    @property
    def in_flight(self) -> tuple[InFlight, ...]:
        others = (
            InFlight(entry.move, progress, entry.began or time.time())
            for entry, progress in self.reconciler.under_way()
        )
        return (*self._in_flight.copy().values(), *others)

    @property
    def busy(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    @property
    def acts(self) -> bool:
        return True

    def carry_out(self, entries: Entries, recheck: Recheck) -> None:
        with self._starting:
            if self.stop.is_set():
                raise Refused("the balancer is about to end")
            if self.busy:
                raise RuntimeError("moves are already being made")
            self.reconciler.hold(migration_id for migration_id, _ in entries)
            self._thread = self.threads.start(partial(self._make, tuple(entries), recheck), "executor", daemon=False)

    def wait(self, seconds: float) -> bool:
        """Wait until no moves are being made, for ``seconds`` at most. Whether that came."""
        if self._thread is not None:
            self._thread.join(seconds)
        return not self.busy

    def close(self) -> None:
        """Start nothing more, and wait until what runs has ended or was aborted."""
        with self._starting:
            self.stop.set()
        if self._thread is not None:
            self._thread.join()
        self.reconciler.close()

    def _make(self, entries: Entries, recheck: Recheck) -> None:
        not_made: list[Move] = []
        for _, wave in groupby(sorted(entries, key=lambda entry: entry[1].wave), key=lambda entry: entry[1].wave):
            before = tuple(not_made)

            def make(migration_id: int, move: Move, before: Sequence[Move] = before) -> None:
                done = False
                try:
                    done = self._make_one(before, recheck, migration_id, move)
                except Exception:  # the next cycles find out what became of it
                    log.exception("a move failed in an unforeseen way", domain=move.domain)
                finally:
                    self.reconciler.release(migration_id)
                    if not done:
                        not_made.append(move)

            self._together(make, tuple(wave))

    def _make_one(self, not_made: Sequence[Move], recheck: Recheck, migration_id: int, move: Move) -> bool:
        """Make the move, unless something is against it. Whether the domain is where it should go."""
        missing = next((other for other in not_made if other.uuid in move.needs), None)
        if self.stop.is_set():
            return self._skip(migration_id, move, "told to stop")
        if missing is not None:
            return self._skip(
                migration_id, move, f"it counts on {missing.domain} having left {missing.source}, which did not"
            )
        if not self.reconciler.can_write:
            return self._skip(migration_id, move, "the store cannot be written: no move begins")
        try:
            began = self.reconciler.journal.begin(migration_id)
        except Exception as error:
            return self._skip(migration_id, move, f"the store cannot be written: {str(error) or type(error).__name__}")
        entry = JournalEntry(id=migration_id, move=move, began=began)
        if why := self._obstacle(move, recheck):
            self._ask_again(move)
            return self._skip(migration_id, move, why)
        self._in_flight[migration_id] = InFlight(move, began=began)
        try:
            return self._migrate(entry)
        finally:
            del self._in_flight[migration_id]

    def _obstacle(self, move: Move, recheck: Recheck) -> str | None:
        try:
            with self._looking:
                why = recheck(move)
            return why or self.migrator.obstacle(move)
        except Exception as error:  # nothing has begun yet
            log.exception("the last look before a move failed in an unforeseen way", domain=move.domain)
            return f"unforeseen: {type(error).__name__}: {error}"

    def _migrate(self, entry: JournalEntry) -> bool:
        def watch(progress: Progress) -> None:
            self._in_flight[entry.id] = replace(self._in_flight[entry.id], progress=progress)

        requested = Requested(why="unforeseen", answered=False)
        try:
            requested = self.migrator.request(entry.move, watch, self.stop)
        except Exception as error:  # it was asked for, or not: only the hosts know
            log.exception("a request for a migration failed in an unforeseen way", domain=entry.move.domain)
            requested = Requested(why=f"unforeseen: {type(error).__name__}: {error}", answered=False)
        self.reconciler.requested(entry, requested)
        if requested.why:
            self._ask_again(entry.move)  # before the end is written, so that the next plan knows it
        clock = self.reconciler.clock
        patience = clock.monotonic() + _HANDOVER_SECONDS
        while isinstance(found := self.reconciler.settle(entry), StillOpen):
            if found.silent or found.progress or not requested.answered or clock.monotonic() >= patience:
                log.warning("a migration has no known end yet", domain=entry.move.domain, why=found.text)
                return False
            clock.sleep(_LOOK_SECONDS)
        return found.result is Result.DONE

    def _ask_again(self, move: Move) -> None:
        if not self.stop.is_set():
            self.ask((move.source, move.destination))

    def _skip(self, migration_id: int, move: Move, why: str) -> bool:
        self.reconciler.end(migration_id, move, MigrationOutcome(result=Result.SKIPPED, why=why))
        return False

    def _together(self, work: Callable[[int, Move], None], entries: Entries) -> None:
        """Do the work for all entries at the same time, and return when all is done."""
        started = [
            self.threads.start(partial(work, *entry), f"move {entry[1].domain}", daemon=False) for entry in entries
        ]
        for thread in started:
            thread.join()


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
