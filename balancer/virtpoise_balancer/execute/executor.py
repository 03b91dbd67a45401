"""Carries journalled moves out one after another, beside the cycles; the start and the end of each are written down."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import structlog

from virtpoise_balancer.execute.migrate import Migrator, Watch
from virtpoise_balancer.model import Move, Outcome, Progress, Result

log = structlog.get_logger()

_RETRY_SECONDS = 5.0
_T = TypeVar("_T")


class Journal(Protocol):
    """Where migrations are written down (knowledge keeps it)."""

    def begin(self, migration_id: int) -> None: ...

    def end(self, migration_id: int, outcome: Outcome) -> None: ...


@dataclass(frozen=True, slots=True)
class InFlight:
    """A migration under way; ``progress`` once libvirt has told of it."""

    move: Move
    progress: Progress | None = None


# Moves by their ids in the journal.
Entries = Sequence[tuple[int, Move]]
# Looks at the world again before a move: why it must not be made now, or None.
Recheck = Callable[[Move], str | None]


class Executor(Protocol):
    """What the cycle gives a plan to."""

    @property
    def in_flight(self) -> tuple[InFlight, ...]: ...

    @property
    def busy(self) -> bool: ...

    @property
    def acts(self) -> bool:
        """Whether moves are made, not only recommended."""
        ...

    def carry_out(self, entries: Entries, recheck: Recheck) -> None: ...


@dataclass(slots=True)
class LibvirtExecutor:
    """Makes the moves, in a thread of its own."""

    migrator: Migrator
    journal: Journal
    on_end: Callable[[Move, Outcome], None]
    stop: threading.Event = field(default_factory=threading.Event)
    _in_flight: InFlight | None = None
    _thread: threading.Thread | None = None

    @property
    def in_flight(self) -> tuple[InFlight, ...]:
        current = self._in_flight
        return (current,) if current else ()

    @property
    def busy(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    @property
    def acts(self) -> bool:
        return True

    def carry_out(self, entries: Entries, recheck: Recheck) -> None:
        self._start(lambda: self._make(tuple(entries), recheck))

    def adopt(self, unfinished: Entries) -> None:
        """Wait for the migrations that an earlier process journalled and did not see the end of, and journal their ends."""
        if unfinished:
            self._start(lambda: self._settle(tuple(unfinished)))

    def close(self) -> None:
        """Start nothing more, and wait until what runs has ended or was aborted."""
        self.stop.set()
        if self._thread is not None:
            self._thread.join()

    def _start(self, work: Callable[[], None]) -> None:
        if self.busy:
            raise RuntimeError("moves are already being made")
        self._thread = threading.Thread(target=work, name="executor")
        self._thread.start()

    def _make(self, entries: Entries, recheck: Recheck) -> None:
        for migration_id, move in entries:
            if self.stop.is_set():
                outcome = Outcome(result=Result.SKIPPED, why="told to stop")
            else:
                self.journal.begin(migration_id)
                outcome = self._move(move, recheck)
            self._end(migration_id, move, outcome)

    def _end(self, migration_id: int, move: Move, outcome: Outcome) -> None:
        self.journal.end(migration_id, outcome)
        self.on_end(move, outcome)

    def _move(self, move: Move, recheck: Recheck) -> Outcome:
        try:
            if why := recheck(move):
                return Outcome(result=Result.SKIPPED, why=why)
            return self._watched(move, self.migrator.migrate)
        except Exception as error:  # a mistake of ours must not leave the journal open
            log.exception("a move failed in an unforeseen way", domain=move.domain)
            return Outcome(result=Result.FAILED, why=f"unforeseen: {type(error).__name__}: {error}")

    def _settle(self, unfinished: Entries) -> None:
        for migration_id, move in unfinished:
            while not self.stop.is_set():
                outcome = self._watched(move, self.migrator.settle)
                if outcome is not None:
                    self._end(migration_id, move, outcome)
                    break
                self.stop.wait(_RETRY_SECONDS)

    def _watched(self, move: Move, make: Callable[[Move, Watch, threading.Event], _T]) -> _T:
        self._in_flight = InFlight(move)

        def watch(progress: Progress) -> None:
            self._in_flight = InFlight(move, progress)

        try:
            return make(move, watch, self.stop)
        finally:
            self._in_flight = None


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
