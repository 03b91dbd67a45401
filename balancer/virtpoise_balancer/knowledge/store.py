"""The store: everything that must outlive the process. SQLite by default, any database that SQLAlchemy knows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from sqlalchemy import Connection

from virtpoise_balancer.analyse.brake import Brake
from virtpoise_balancer.analyse.others import OthersChange
from virtpoise_balancer.clock import SYSTEM, Clock
from virtpoise_balancer.errors import Deposed, NotKnown
from virtpoise_balancer.knowledge import (
    backoffs,
    brakes,
    cycles,
    drains,
    fence,
    journal,
    learned,
    others,
    overrides,
    plans,
    predictions,
)
from virtpoise_balancer.knowledge.database import Database
from virtpoise_balancer.knowledge.leader import LeaderLock
from virtpoise_balancer.knowledge.records import (
    Action,
    Changes,
    Committed,
    CycleRecord,
    Inputs,
    Leader,
    Memory,
    MigrationRecord,
    Overrides,
    PastPlan,
    PlanRecord,
    PredictionRecord,
    Setting,
    StandingOrders,
)
from virtpoise_balancer.model import Entries, JournalEntry, MigrationOutcome, Written

_DAY_SECONDS = 86400.0


class Store:
    """The balancer's memory. Each method is one transaction, safe to call from several threads.

    A row that cannot be read is left out. ``recall`` returns a line for it; the others hand the line to ``left_out``.
    StoreError when the whole store cannot be read or written.
    """

    def __init__(
        self, database: Database, clock: Clock = SYSTEM, left_out: Callable[[str], None] = lambda _row: None
    ) -> None:
        self.database = database
        self.clock = clock
        self._left_out = left_out
        self._lock: LeaderLock | None = None  # without one nothing is led: a command, which writes orders alone
        self._term: int | None = None

    @classmethod
    def open(
        cls,
        url: str,
        *,
        upgrade: bool = False,
        password_file: Path | None = None,
        clock: Clock = SYSTEM,
        left_out: Callable[[str], None] = lambda _row: None,
    ) -> Store:
        """The store at ``url``, a SQLAlchemy address. ``upgrade`` and ``password_file``: as of Database.open.

        BadInput when it cannot be opened.
        """
        return cls(Database.open(url, upgrade=upgrade, password_file=password_file), clock, left_out)

    def close(self) -> None:
        self.database.close()

    # --- a cycle ------------------------------------------------------------------------------------------------------

    def recall(self, *, moved_since: float, ended_since: float, judged_since: float) -> Memory:
        """All that a cycle needs. Times in Unix seconds.

        Moves of a domain count towards its rest if they ended after ``moved_since``. Migrations that ended after
        ``ended_since`` are commitments. The brake is judged by what ended after ``judged_since``.
        """
        broken: list[str] = []
        with self.database.reading() as connection:
            now = self.clock.now()
            return Memory(
                orders=_standing_orders(connection, broken),
                backoffs=backoffs.read(connection, broken),
                learned=learned.read(connection, moved_since, now, broken),
                ended_plans=plans.ended(connection, broken),
                due=predictions.due(connection, broken),
                watched=journal.watched(connection, now, broken),
                commitments=journal.commitments(connection, ended_since, broken),
                brake=brakes.newest(connection, broken),
                track_record=brakes.track_record(connection, judged_since, broken),
                sightings=others.sightings(connection, broken),
                others=others.lately(connection, now, broken),
                newest_plan=plans.newest(connection, broken),
                newest_cycle=cycles.newest(connection, broken),
                broken=tuple(dict.fromkeys(broken)),
            )

    def commit(self, changes: Changes, now: float) -> Committed:
        """Write all that a cycle decided."""
        entries: Entries = ()
        with self._leading() as connection:
            predictions.record_verdicts(connection, changes.verdicts)
            plans.settle(connection, changes.settled)
            backoffs.write(connection, changes.backoffs)
            if changes.brake is not None:
                brakes.pull(connection, changes.brake)
            if changes.look is not None:
                others.record(connection, changes.look.sightings, changes.look.changes, same=changes.look.same)
            if changes.cycle is not None:
                cycles.record(connection, changes.cycle)
            if changes.plan is not None:
                plan_id = plans.record(connection, changes.plan, now)
                if changes.plan.acted:
                    entries = journal.enter(connection, plan_id, changes.plan.plan.moves, now, self._term)
            return Committed(entries=entries, open_predictions=predictions.open_ones(connection, []))

    def forget(self, now: float, *, keep_days: int, keep_bytes: int) -> None:
        """Drop what is older than ``keep_days``, and of the plans the oldest beyond ``keep_bytes``."""
        before = now - keep_days * _DAY_SECONDS
        with self._leading() as connection:
            cycles.forget(connection, before)
            plans.forget(connection, before, keep_bytes)
            overrides.forget(connection, before)
            drains.forget(connection, before)
            brakes.forget(connection, before)
            others.forget(connection, before)

    # --- who leads ----------------------------------------------------------------------------------------------------

    def lead(self, lock: LeaderLock, holder: str) -> None:
        """Begin to lead with the lock that was taken. BadInput when the tables are not those of this version."""
        self.database.reopen()
        with self.database.writing() as connection:
            term = fence.take(connection, holder, self.clock.now())
        self._lock, self._term = lock, term

    def lost(self) -> str | None:
        """Why this process leads no longer; None while it does."""
        if self._lock is None:
            return "it does not lead"
        if why := self._lock.lost():
            return why
        leader = self.leader()
        return None if leader and leader.term == self._term else f"{leader.holder if leader else 'another one'} acts"

    def leader(self) -> Leader | None:
        """The newest leader, whether it is still there or not."""
        with self.database.reading() as connection:
            return fence.read(connection)

    # --- migrations ---------------------------------------------------------------------------------------------------

    def begin(self, migration_id: int) -> float:
        """A journalled migration begins now; the time of that."""
        now = self.clock.now()
        with self._leading() as connection:
            journal.begin(connection, migration_id, now, self._term)
        return now

    def end(self, migration_id: int, outcome: MigrationOutcome) -> Written:
        """The end of a journalled migration is known now; what that changed."""
        with self._leading() as connection:
            return journal.end(connection, migration_id, outcome, self.clock.now())

    def reopen(self, migration_id: int, why: str) -> None:
        """The end of a journalled migration was none. ``why``: what contradicts it."""
        with self._leading() as connection:
            journal.reopen(connection, migration_id, why)

    def watched(self) -> tuple[JournalEntry, ...]:
        """The migrations that the world is to be asked about."""
        with self._reading() as (connection, broken):
            return journal.watched(connection, self.clock.now(), broken)

    def acknowledge(self, uuid: str, why: str) -> bool:
        """A person has accounted for a domain that was lost, or whose migration has no known end.

        Whether there was one.
        """
        with self.database.writing() as connection:
            return journal.acknowledge(connection, uuid, why, self.clock.now())

    # --- orders -------------------------------------------------------------------------------------------------------

    def standing_orders(self) -> StandingOrders:
        with self._reading() as (connection, broken):
            return _standing_orders(connection, broken)

    def overrides(self) -> Overrides:
        with self._reading() as (connection, broken):
            return overrides.read(connection, broken)

    def brake(self) -> Brake | None:
        """The brake that was pulled last, whether it was released or not."""
        with self._reading() as (connection, broken):
            return brakes.newest(connection, broken)

    def override(self, name: Literal["paused", "mode", "released"], setting: Setting | None) -> None:
        """Set it, or take it back with None."""
        with self.database.writing() as connection:
            overrides.write(connection, name, setting)

    def order_drain(self, host: str, *, draining: bool) -> bool:
        """Order a drain or take it back. Whether that changed anything."""
        with self.database.writing() as connection:
            return drains.order(connection, host, draining=draining, at=self.clock.now())

    def record_action(self, action: Action) -> None:
        with self.database.writing() as connection:
            overrides.record_action(connection, action)

    # --- history, newest first ----------------------------------------------------------------------------------------

    def actions(self, limit: int) -> tuple[Action, ...]:
        with self._reading() as (connection, broken):
            return overrides.actions(connection, limit, broken)

    def others(self, limit: int) -> tuple[OthersChange, ...]:
        """The changes that are not ours."""
        with self._reading() as (connection, broken):
            return others.history(connection, limit, broken)

    def history(self, limit: int, *, uuid: str | None = None, host: str | None = None) -> tuple[MigrationRecord, ...]:
        """The newest migrations (of one domain, or from and to one host), each with its predictions."""
        with self._reading() as (connection, broken):
            return journal.history(connection, limit, broken, uuid=uuid, host=host)

    def cycles(self, limit: int) -> tuple[CycleRecord, ...]:
        with self._reading() as (connection, broken):
            return cycles.history(connection, limit, broken)

    def plans(self, limit: int) -> tuple[PlanRecord, ...]:
        with self._reading() as (connection, broken):
            return plans.listed(connection, limit, broken)

    def plan(self, plan_id: int) -> PastPlan:
        """NotKnown when there is no such plan, BadInput when it cannot be read."""
        with self._reading() as (connection, broken):
            found = plans.one(connection, plan_id)
            if found is None:
                raise NotKnown(f"{plan_id}: no plan with this id is stored; virtpoise history --plans lists them")
            record, plan = found
            return PastPlan(
                record=record, plan=plan, migrations=journal.history(connection, None, broken, plan_id=plan_id)
            )

    def inputs(self, plan_id: int) -> Inputs | None:
        """What a plan was made from; None once it is not kept any more. BadInput when it cannot be read."""
        with self.database.reading() as connection:
            return plans.inputs(connection, plan_id)

    def open_predictions(self) -> tuple[PredictionRecord, ...]:
        with self._reading() as (connection, broken):
            return predictions.open_ones(connection, broken)

    # ------------------------------------------------------------------------------------------------------------------

    @contextmanager
    def _leading(self) -> Iterator[Connection]:
        """A transaction of the balancer that acts. Deposed when this one does not any more; then nothing is written."""
        if self._lock is not None and (why := self._lock.lost()):
            raise Deposed(why)
        with self.database.writing() as connection:
            if self._term is not None:
                fence.check(connection, self._term, self.clock.now())
            yield connection

    @contextmanager
    def _reading(self) -> Iterator[tuple[Connection, list[str]]]:
        """A transaction that reads, and a list for the rows that it cannot read."""
        broken: list[str] = []
        with self.database.reading() as connection:
            yield connection, broken
        for row in dict.fromkeys(broken):
            self._left_out(row)


def _standing_orders(connection: Connection, broken: list[str]) -> StandingOrders:
    return StandingOrders(overrides=overrides.read(connection, broken), drains=drains.read(connection, broken))
