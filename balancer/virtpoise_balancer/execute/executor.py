"""Carries journalled moves out beside the cycles: those of a wave at the same time, one wave after another.

The start and the end of each are written down. Waves already respect the limits in flight (plan); a move that counts on one that was
not made is skipped. An end that cannot be told, since a host does not answer, is asked for until both hosts tell; meanwhile the entry
in the journal stays open, so that the domain counts as migrating, and the group is balanced on.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Protocol, TypeVar

import structlog

from virtpoise_balancer.errors import Refused
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
    """A migration under way; ``progress`` once libvirt has told of it; ``began`` on the monotonic clock, for this process."""

    move: Move
    progress: Progress | None = None
    began: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """For how long; of one that an earlier process began, libvirt knows more than this one."""
        return max(time.monotonic() - self.began, self.progress.elapsed_seconds if self.progress else 0.0)


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
    ask: Callable[[Sequence[str]], None]  # whether these hosts answer: they are asked, and the answers are kept
    stop: threading.Event = field(default_factory=threading.Event)
    _in_flight: dict[str, InFlight] = field(default_factory=dict)  # by the domain's uuid
    _looking: threading.Lock = field(default_factory=threading.Lock)  # one look at the group at a time
    _starting: threading.Lock = field(default_factory=threading.Lock)  # nothing starts after `stop`
    _thread: threading.Thread | None = None
    _settling: list[threading.Thread] = field(default_factory=list)  # one for each move whose end could not be told

    @property
    def in_flight(self) -> tuple[InFlight, ...]:
        return tuple(self._in_flight.copy().values())

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

    def wait(self, seconds: float, *, ends: bool = False) -> bool:
        """Wait until no moves are being made, for ``seconds`` at most. Whether that came.

        ``ends``: also until the ends that could not be told at once are known.
        """
        deadline = time.monotonic() + seconds
        threads = [self._thread, *(self._settling if ends else ())]
        for thread in threads:
            if thread is not None:
                thread.join(max(deadline - time.monotonic(), 0))
        return not any(thread is not None and thread.is_alive() for thread in threads)

    def close(self) -> None:
        """Start nothing more, and wait until what runs has ended or was aborted."""
        with self._starting:
            self.stop.set()
        if self._thread is not None:
            self._thread.join()
        for settling in self._settling:
            settling.join()

    def _start(self, work: Callable[[], None]) -> None:
        with self._starting:
            if self.stop.is_set():
                raise Refused("the balancer is about to end")
            if self.busy:
                raise RuntimeError("moves are already being made")
            self._thread = threading.Thread(target=work, name="executor")
            self._thread.start()

    def _make(self, entries: Entries, recheck: Recheck) -> None:
        not_made: list[Move] = []
        for _, wave in groupby(sorted(entries, key=lambda entry: entry[1].wave), key=lambda entry: entry[1].wave):
            before = tuple(not_made)

            def make(migration_id: int, move: Move, before: Sequence[Move] = before) -> None:
                result = None
                try:
                    result = self._make_one(before, recheck, migration_id, move)
                finally:
                    if result is not Result.DONE:
                        not_made.append(move)

            _together(make, tuple(wave), "move")

    def _make_one(self, not_made: Sequence[Move], recheck: Recheck, migration_id: int, move: Move) -> Result | None:
        """How the move ended; None while that cannot be told."""
        missing = next((other for other in not_made if other.uuid in move.needs), None)
        if self.stop.is_set():
            outcome = Outcome(result=Result.SKIPPED, why="told to stop")
        elif missing is not None:
            outcome = Outcome(
                result=Result.SKIPPED, why=f"it counts on {missing.domain} having left {missing.source}, which did not"
            )
        else:
            self.journal.begin(migration_id)
            begun = self._move(move, recheck)
            if (begun is None or begun.result is not Result.DONE) and not self.stop.is_set():
                self.ask((move.source, move.destination))  # before the end is written, so that the next plan knows it
            if begun is None:
                self._settle_later(migration_id, move)
                return None
            outcome = begun
        self._end(migration_id, move, outcome)
        return outcome.result

    def _end(self, migration_id: int, move: Move, outcome: Outcome) -> None:
        self.journal.end(migration_id, outcome)
        self.on_end(move, outcome)

    def _move(self, move: Move, recheck: Recheck) -> Outcome | None:
        try:
            with self._looking:
                why = recheck(move)
            if why:
                return Outcome(result=Result.SKIPPED, why=why)
            return self._watched(move, self.migrator.migrate)
        except Exception as error:  # a mistake of ours must not leave the journal open
            log.exception("a move failed in an unforeseen way", domain=move.domain)
            return Outcome(result=Result.FAILED, why=f"unforeseen: {type(error).__name__}: {error}")

    def _settle_later(self, migration_id: int, move: Move) -> None:
        """Ask for the end beside the moves to come: a host that is gone must not hold up the others."""
        log.warning(
            "the end of a migration cannot be told yet", domain=move.domain, hosts=[move.source, move.destination]
        )
        settling = threading.Thread(target=self._settle_one, args=(migration_id, move), name=f"settle {move.domain}")
        with self._starting:
            settling.start()
            self._settling = [one for one in self._settling if one.is_alive()] + [settling]

    def _settle(self, unfinished: Entries) -> None:
        _together(self._settle_one, unfinished, "settle")

    def _settle_one(self, migration_id: int, move: Move) -> None:
        while not self.stop.is_set():
            outcome = self._watched(move, self.migrator.settle)
            if outcome is not None:
                self._end(migration_id, move, outcome)
                return
            self.stop.wait(_RETRY_SECONDS)

    def _watched(self, move: Move, make: Callable[[Move, Watch, threading.Event], _T]) -> _T:
        began = InFlight(move)

        def watch(progress: Progress) -> None:
            self._in_flight[move.uuid] = replace(began, progress=progress)

        self._in_flight[move.uuid] = began
        try:
            return make(move, watch, self.stop)
        finally:
            del self._in_flight[move.uuid]


def _together(work: Callable[[int, Move], None], entries: Entries, name: str) -> None:
    """Do the work for all entries at the same time, and return when all is done."""
    threads = [threading.Thread(target=work, args=entry, name=f"{name} {entry[1].domain}") for entry in entries]
    for thread in threads:
        thread.start()
    for thread in threads:
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
