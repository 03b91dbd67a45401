"""The store: everything that must outlive the process. SQLite by default, any database that SQLAlchemy knows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
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
    groups,
    host_facts,
    journal,
    learned,
    orders,
    others,
    overrides,
    plans,
    predictions,
    redating,
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
    OverrideValue,
    PastPlan,
    PlanRecord,
    PredictionRecord,
    StandingOrders,
)
from virtpoise_balancer.model import Entries, JournalEntry, MigrationOutcome, Written

_DAY_SECONDS = 86400.0


@dataclass(slots=True)
class _Lead:
    """What the stores of all groups share while this process leads. ``strays``: whether there may be migrations of
    groups that are not configured any more.
    """

    lock: LeaderLock | None = None  # without one nothing is led: a command, which writes orders alone
    term: int | None = None
    strays: bool = True


class Store:
    """The balancer's memory of one group of hosts. Each method is one transaction, safe to call from several threads.

    ``group``: whose rows are read and written; empty where the configuration has no groups. Drains and back-offs are
    those of all hosts, since a host keeps its own when it comes to another group. ``groups``: all that are configured.

    A row that cannot be read is left out. ``recall`` returns a line for it; the others hand the line to ``left_out``.
    StoreError when the whole store cannot be read or written.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock = SYSTEM,
        left_out: Callable[[str], None] = lambda _row: None,
        *,
        group: str = groups.ALONE,
        all_groups: tuple[str, ...] = (groups.ALONE,),
    ) -> None:
        self.database = database
        self.clock = clock
        self.group = group
        self.groups = all_groups
        self._left_out = left_out
        self._lead = _Lead()

    def of_group(self, group: str, all_groups: Collection[str]) -> Store:
        """The memory of a group in the same database. It leads as long as this store does."""
        made = Store(self.database, self.clock, self._left_out, group=group, all_groups=tuple(all_groups))
        made._lead = self._lead
        return made

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
                orders=orders.standing(connection, self.group, broken),
                backoffs=backoffs.read(connection, broken),
                learned=learned.read(connection, moved_since, now, self.group, broken),
                ended_plans=plans.ended(connection, self.group, broken),
                due=predictions.due(connection, self.group, broken),
                watched=journal.watched(connection, now, self.group, broken),
                commitments=journal.commitments(connection, ended_since, self.group, broken),
                brake=brakes.newest(connection, self.group, broken),
                track_record=brakes.track_record(connection, judged_since, self.group, broken),
                sightings=others.sightings(connection, self.group, broken),
                others=others.lately(connection, now, self.group, broken),
                elsewhere=journal.elsewhere(connection, self.group, broken),
                newest_plan=plans.newest(connection, self.group, broken),
                newest_cycle=cycles.newest(connection, self.group, broken),
                broken=tuple(dict.fromkeys(broken)),
            )

    def recall_for_look(self, *, ended_since: float, judged_since: float) -> Memory:
        """What the last look before a move needs: what people ordered, what failed, what is under way, what others do.

        The rest of the Memory is empty. Times: as in ``recall``.
        """
        broken: list[str] = []
        with self.database.reading() as connection:
            now = self.clock.now()
            return Memory(
                orders=orders.standing(connection, self.group, broken),
                backoffs=backoffs.read(connection, broken),
                learned=learned.read_for_look(connection, now, self.group, broken),
                watched=journal.watched(connection, now, self.group, broken),
                commitments=journal.commitments(connection, ended_since, self.group, broken),
                brake=brakes.newest(connection, self.group, broken),
                track_record=brakes.track_record(connection, judged_since, self.group, broken),
                others=others.lately(connection, now, self.group, broken),
                elsewhere=journal.elsewhere(connection, self.group, broken),
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
                brakes.pull(connection, changes.brake, self.group)
            if (look := changes.look) is not None:
                others.record(connection, look.sightings, look.changes, self.group, same=look.same)
            if changes.cycle is not None:
                cycles.record(connection, changes.cycle, self.group)
            if changes.plan is not None:
                plan_id = plans.record(connection, changes.plan, now, self.group)
                if changes.plan.acted:
                    moves, term = changes.plan.plan.moves, self._lead.term
                    entries = journal.enter(connection, plan_id, moves, now, term, self.group)
            return Committed(entries=entries, open_predictions=predictions.open_ones(connection, self.group, []))

    def forget(self, now: float, *, keep_days: int, keep_bytes: int) -> None:
        """Drop what is older than ``keep_days``, and of the plans the oldest beyond ``keep_bytes``."""
        before = now - keep_days * _DAY_SECONDS
        with self._leading() as connection:
            plans.forget(connection, before, keep_bytes)
            for what in (cycles, overrides, drains, brakes, others, host_facts):
                what.forget(connection, before)

    def host_facts(self) -> dict[str, str]:
        """By host, the document of what its libvirt reported at the last look."""
        with self._reading() as (connection, broken):
            return host_facts.read(connection, broken)

    def remember_host(self, host: str, document: str) -> None:
        with self._leading() as connection:
            host_facts.write(connection, host, document, self.clock.now())

    # --- who leads ----------------------------------------------------------------------------------------------------

    def lead(self, lock: LeaderLock, holder: str) -> None:
        """Begin to lead with the lock that was taken. BadInput when the tables are not those of this version."""
        self.database.reopen()
        with self.database.writing() as connection:
            term = fence.take(connection, holder, self.clock.now())
            groups.hand_down(connection, self.groups)
            strays = bool(groups.stray_groups(connection, self.groups))
        self._lead.lock, self._lead.term, self._lead.strays = lock, term, strays

    def lost(self) -> str | None:
        """Why this process leads no longer; None while it does."""
        if self._lead.lock is None:
            return "it does not lead"
        if why := self._lead.lock.lost():
            return why
        leader = self.leader()
        is_ours = leader and leader.term == self._lead.term
        return None if is_ours else f"{leader.holder if leader else 'another one'} acts"

    def leader(self) -> Leader | None:
        """The newest leader, whether it is still there or not."""
        with self.database.reading() as connection:
            return fence.read(connection)

    # --- migrations ---------------------------------------------------------------------------------------------------

    def adopt(self, hosts: Collection[str]) -> int:
        """Account for the migrations from or to these hosts of groups that are not configured any more: how many."""
        if not self._lead.strays:
            return 0
        with self._leading() as connection:
            adopted = groups.adopt(connection, self.group, self.groups, hosts)
            self._lead.strays = bool(groups.stray_groups(connection, self.groups))
        return adopted

    def begin(self, migration_id: int) -> float:
        """A journalled migration begins now; the time of that. Refused when it has an end already."""
        now = self.clock.now()
        with self._leading() as connection:
            journal.begin(connection, migration_id, now, self._lead.term)
        return now

    def check_open(self, migration_id: int) -> None:
        """Refused unless the migration has no end, Deposed unless this balancer acts."""
        with self._leading() as connection:
            journal.check_open(connection, migration_id)

    def check_newest(self, migration_id: int) -> None:
        """Refused when a later migration of its domain has begun, Deposed unless this balancer acts. Writes nothing."""
        if self._lead.lock is not None and (why := self.lost()):
            raise Deposed(why)
        with self.database.reading() as connection:
            journal.check_newest(connection, migration_id)

    def note_volumes(self, migration_id: int, volumes: Sequence[str], *, created: bool = True) -> None:
        """What was created for a migration, or soon is, and is to be deleted if it fails; none: nothing is."""
        with self._leading() as connection:
            journal.note_volumes(connection, migration_id, volumes, created=created)

    def check_volumes(self, migration_id: int) -> None:
        """Refused when a later migration may create the same volumes, Deposed unless this balancer acts."""
        with self._leading() as connection:
            journal.check_volumes(connection, migration_id)

    def end(self, migration_id: int, outcome: MigrationOutcome) -> Written:
        """The end of a journalled migration is known now; what that changed."""
        with self._leading() as connection:
            return journal.end(connection, migration_id, outcome, self.clock.now())

    def reopen(self, migration_id: int, why: str, *, doubled: bool = False) -> None:
        """The end of a journalled migration was none. ``why``: what contradicts it. ``doubled``: as of the journal."""
        with self._leading() as connection:
            journal.reopen(connection, migration_id, why, doubled=doubled)

    def redate(self, now: float) -> None:
        """Date to ``now`` what was written by a clock that was ahead: it must not count for longer than it lasts."""
        with self._leading() as connection:
            redating.redate(connection, now, self.group)

    def watched(self, *, in_all_groups: bool = False) -> tuple[JournalEntry, ...]:
        """The migrations that the world is to be asked about."""
        with self._reading() as (connection, broken):
            return journal.watched(connection, self.clock.now(), None if in_all_groups else self.group, broken)

    def acknowledge(self, uuid: str, why: str) -> bool:
        """A person has accounted for a domain that was lost or whose migration has no known end: if there was one."""
        with self.database.writing() as connection:
            return journal.acknowledge(connection, uuid, why, self.clock.now())

    # --- orders -------------------------------------------------------------------------------------------------------

    def standing_orders(self) -> StandingOrders:
        with self._reading() as (connection, broken):
            return orders.standing(connection, self.group, broken)

    def overrides(self) -> Overrides:
        with self._reading() as (connection, broken):
            return overrides.read(connection, self.group, broken)

    def brake(self) -> Brake | None:
        """The brake that was pulled last, whether it was released or not."""
        with self._reading() as (connection, broken):
            return brakes.newest(connection, self.group, broken)

    def release(self, setting: OverrideValue) -> None:
        """Release the brake. Nothing that was written before counts as later, whatever the clock said then."""
        with self.database.writing() as connection:
            redating.redate_before_release(connection, setting.at, self.group)
            overrides.write(connection, "released", setting, self.group)

    def override(self, name: Literal["paused", "mode"], setting: OverrideValue | None) -> None:
        """Set it, or take it back with None."""
        with self.database.writing() as connection:
            overrides.write(connection, name, setting, self.group)

    def order_drain(self, host: str, *, draining: bool) -> bool:
        """Order a drain or take it back. Whether that changed anything."""
        with self.database.writing() as connection:
            return drains.order(connection, host, draining=draining, at=self.clock.now(), group=self.group)

    def record_action(self, action: Action) -> None:
        with self.database.writing() as connection:
            overrides.record_action(connection, action, self.group)

    # --- history, newest first ----------------------------------------------------------------------------------------

    @property
    def _shown(self) -> str | None:
        """Whose history is shown: the group's, or all where the configuration has no groups."""
        return self.group or None

    def actions(self, limit: int) -> tuple[Action, ...]:
        with self._reading() as (connection, broken):
            return overrides.actions(connection, limit, self._shown, broken)

    def others(self, limit: int) -> tuple[OthersChange, ...]:
        """The changes by others, the newest first."""
        with self._reading() as (connection, broken):
            return others.history(connection, limit, self._shown, broken)

    def history(self, limit: int, *, uuid: str | None = None, host: str | None = None) -> tuple[MigrationRecord, ...]:
        """The newest migrations (of one domain, or from and to one host), each with its predictions."""
        with self._reading() as (connection, broken):
            group = self._shown if uuid is None and host is None else None
            return journal.history(connection, limit, broken, uuid=uuid, host=host, group=group)

    def cycles(self, limit: int) -> tuple[CycleRecord, ...]:
        with self._reading() as (connection, broken):
            return cycles.history(connection, limit, self._shown, broken)

    def plans(self, limit: int) -> tuple[PlanRecord, ...]:
        with self._reading() as (connection, broken):
            return plans.listed(connection, limit, self._shown, broken)

    def plan(self, plan_id: int) -> PastPlan:
        """A stored plan with its migrations. NotKnown when there is none, BadInput when it cannot be read."""
        with self._reading() as (connection, broken):
            found = plans.one(connection, plan_id)
            if found is None:
                raise NotKnown(f"{plan_id}: no plan with this id is stored; virtpoise history --plans lists them")
            record, plan = found
            migrations = journal.history(connection, None, broken, plan_id=plan_id)
            return PastPlan(record=record, plan=plan, migrations=migrations)

    def inputs(self, plan_id: int) -> Inputs | None:
        """What a plan was made from; None once it is not kept any more. BadInput when it cannot be read."""
        with self.database.reading() as connection:
            return plans.inputs(connection, plan_id)

    def open_predictions(self) -> tuple[PredictionRecord, ...]:
        with self._reading() as (connection, broken):
            return predictions.open_ones(connection, self.group, broken)

    # ------------------------------------------------------------------------------------------------------------------

    @contextmanager
    def _leading(self) -> Iterator[Connection]:
        """A transaction of the balancer that acts. Deposed when this one does not any more; then nothing is written."""
        if self._lead.lock is not None and (why := self._lead.lock.lost()):
            raise Deposed(why)
        with self.database.writing() as connection:
            if self._lead.term is not None:
                fence.check(connection, self._lead.term, self.clock.now())
            yield connection

    @contextmanager
    def _reading(self) -> Iterator[tuple[Connection, list[str]]]:
        """A transaction that reads, and a list for the rows that it cannot read."""
        broken: list[str] = []
        with self.database.reading() as connection:
            yield connection, broken
        for row in dict.fromkeys(broken):
            self._left_out(row)
