"""Carries a plan's moves out one after another, beside the cycles: each is journalled before it starts and when it has ended."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from virtpoise_balancer.execute.migrate import Migrator, Watch
from virtpoise_balancer.model import Move, Outcome, Progress, Result

_RETRY_SECONDS = 5.0
_T = TypeVar("_T")


class Journal(Protocol):
    """Where migrations are written down (knowledge keeps it)."""

    def begin(self, plan_id: int, move: Move) -> int: ...

    def end(self, migration_id: int, outcome: Outcome) -> None: ...


@dataclass(frozen=True, slots=True)
class InFlight:
    """A migration under way; ``progress`` once libvirt has told of it."""

    move: Move
    progress: Progress | None = None


# Looks at the world again before a move: why it must not be made now, or None.
Recheck = Callable[[Move], str | None]


class Executor(Protocol):
    """What the cycle gives a plan to."""

    @property
    def in_flight(self) -> tuple[InFlight, ...]: ...

    @property
    def busy(self) -> bool: ...

    def carry_out(self, plan_id: int, moves: Sequence[Move], recheck: Recheck) -> str:
        """Take the moves on; what becomes of them, in one word: ``moved`` or ``recommended``."""
        ...


@dataclass(slots=True)
class LibvirtExecutor:
    """Makes the moves, in a thread of its own."""

    migrator: Migrator
    journal: Journal
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

    def carry_out(self, plan_id: int, moves: Sequence[Move], recheck: Recheck) -> str:
        self._start(lambda: self._make(plan_id, tuple(moves), recheck))
        return "moved"

    def adopt(self, unfinished: Sequence[tuple[int, Move]]) -> None:
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

    def _make(self, plan_id: int, moves: Sequence[Move], recheck: Recheck) -> None:
        # All are journalled first: whoever comes after this process knows what was meant to be.
        entries = [(self.journal.begin(plan_id, move), move) for move in moves]
        for migration_id, move in entries:
            if self.stop.is_set():
                outcome = Outcome(result=Result.SKIPPED, why="told to stop")
            elif why := recheck(move):
                outcome = Outcome(result=Result.SKIPPED, why=why)
            else:
                outcome = self._watched(move, self.migrator.migrate)
            self.journal.end(migration_id, outcome)

    def _settle(self, unfinished: Sequence[tuple[int, Move]]) -> None:
        for migration_id, move in unfinished:
            while not self.stop.is_set():
                outcome = self._watched(move, self.migrator.settle)
                if outcome is not None:
                    self.journal.end(migration_id, outcome)
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
    """Makes no move: the plan stays a recommendation."""

    in_flight: tuple[InFlight, ...] = ()
    busy: bool = False

    def carry_out(self, plan_id: int, moves: Sequence[Move], recheck: Recheck) -> str:  # noqa: ARG002
        return "recommended"
