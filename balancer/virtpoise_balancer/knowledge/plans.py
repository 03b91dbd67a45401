"""Stored plans, each with the snapshot and the policy it was made from, so that any of them can be made again."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Integer, Row, bindparam, cast, delete, func, insert, or_, select, update

from virtpoise_balancer import __version__
from virtpoise_balancer.errors import BadInput
from virtpoise_balancer.knowledge.documents import pack_inputs, pack_plan, unpack_inputs, unpack_plan
from virtpoise_balancer.knowledge.groups import of_group
from virtpoise_balancer.knowledge.records import EndedPlan, Inputs, NewestPlan, NewPlan, PlanRecord
from virtpoise_balancer.knowledge.rows import Query, fields_of
from virtpoise_balancer.knowledge.schema import migrations, plans
from virtpoise_balancer.model import Cause, Plan, Result

_DAY_SECONDS = 86_400.0
# For how many days at least the bytes suffice, by what a plan is made from.
_DAYS = 8

_SHORT = (
    plans.c.id,
    plans.c.made,
    plans.c.strategy,
    plans.c.acted,
    plans.c.solved,
    plans.c.moves,
    plans.c.summary,
    plans.c.inputs.is_not(None).label("replayable"),
)
_LISTED = Query(
    select(*_SHORT).where(of_group(plans.c.group_name)).order_by(plans.c.id.desc()).limit(bindparam("most")), "plan"
)
_ONE = Query(select(*_SHORT, plans.c.document).where(plans.c.id == bindparam("plan_id")), "plan")
_NEWEST = Query(
    select(plans.c.id, plans.c.made, plans.c.gist, plans.c.acted)
    .where(of_group(plans.c.group_name))
    .order_by(plans.c.id.desc())
    .limit(1),
    "plan",
)
_NOT_SETTLED = Query(
    select(
        plans.c.id,
        plans.c.made,
        migrations.c.id.label("migration_id"),
        migrations.c.result,
        migrations.c.cause,
        migrations.c.ended,
    )
    .outerjoin(migrations, migrations.c.plan_id == plans.c.id)
    .where(plans.c.settled.is_(False), of_group(plans.c.group_name))
    .order_by(plans.c.id, migrations.c.position),
    "plan",
)
_INPUTS = select(plans.c.inputs).where(plans.c.id == bindparam("plan_id"))
_DOCUMENT = select(plans.c.document).where(plans.c.id == bindparam("plan_id"))
_ENTER = insert(plans).returning(plans.c.id)
_SETTLE = update(plans).where(plans.c.id.in_(bindparam("ids", expanding=True))).values(settled=True)


def record(connection: Connection, new: NewPlan, now: float, group: str) -> int:
    """Write a plan down; its id."""
    made = new.plan
    packed = pack_plan(made)
    inputs = pack_inputs(Inputs(snapshot=new.snapshot, policy=new.policy, wanted=new.wanted, version=__version__))
    values = {
        "made": now,
        "strategy": made.strategy,
        "solved": made.solved,
        "summary": made.summary,
        "moves": len(made.moves),
        "gist": new.gist,
        "document": packed,
        "inputs": inputs,
        "bytes": len(packed) + len(inputs),
        "acted": new.acted,
        "settled": not new.acted,
        "group_name": group,
    }
    return int(connection.execute(_ENTER, values).scalar_one())


def newest(connection: Connection, group: str, broken: list[str]) -> NewestPlan | None:
    """The group's newest plan, or None."""
    row = _NEWEST.row(connection, broken, group=group)
    return None if row is None else NewestPlan(**fields_of(row, NewestPlan))


def ended(connection: Connection, group: str, broken: list[str]) -> tuple[EndedPlan, ...]:
    """The plans that were acted on, whose moves have all ended, and that are not settled yet; oldest first."""
    rows = _NOT_SETTLED.rows(connection, broken, group=group)
    found = []
    for plan_id in dict.fromkeys(row.id for row in rows):
        of_plan = [row for row in rows if row.id == plan_id]
        moves = [row for row in of_plan if row.migration_id is not None]
        if any(move.result is None for move in moves):
            continue
        plan = document(connection, plan_id, broken)
        if plan is None:
            continue
        if len(plan.moves) != len(moves) or any(move.ended is None for move in moves):
            broken.append(f"{_named(plan_id)}: its moves and the journal do not fit together")
            continue
        found.append(
            EndedPlan(
                id=plan_id,
                plan=plan,
                results=tuple(Result(move.result) for move in moves),
                causes=tuple(Cause(move.cause) if move.cause else None for move in moves),
                ended=max((move.ended for move in moves), default=of_plan[0].made),
            )
        )
    return tuple(found)


def settle(connection: Connection, plan_ids: tuple[int, ...]) -> None:
    """The back-offs account for how these plans ended."""
    if plan_ids:
        connection.execute(_SETTLE, {"ids": [*plan_ids]})


def listed(connection: Connection, limit: int, group: str | None, broken: list[str]) -> tuple[PlanRecord, ...]:
    """The stored plans in short, the newest first."""
    return tuple(_short(row) for row in _LISTED.rows(connection, broken, most=limit, group=group))


def one(connection: Connection, plan_id: int) -> tuple[PlanRecord, Plan] | None:
    """A stored plan; None when there is none. BadInput when it cannot be read."""
    broken: list[str] = []
    row = _ONE.row(connection, broken, plan_id=plan_id)
    for problem in broken:
        raise BadInput(problem)
    return None if row is None else (_short(row), unpack_plan(row.document, _named(plan_id)))


def inputs(connection: Connection, plan_id: int) -> Inputs | None:
    """What a plan was made from; None when that is not kept. BadInput when it cannot be read."""
    packed = connection.execute(_INPUTS, {"plan_id": plan_id}).scalar()
    return None if packed is None else unpack_inputs(packed, _named(plan_id))


def document(connection: Connection, plan_id: int, broken: list[str]) -> Plan | None:
    """The plan, or None with a line in ``broken`` when it cannot be read."""
    packed = connection.execute(_DOCUMENT, {"plan_id": plan_id}).scalar()
    try:
        return unpack_plan(packed, _named(plan_id))
    except BadInput as error:
        broken.append(str(error))
        return None


def forget(connection: Connection, before: float, keep_bytes: int) -> None:
    """Drop plans made before ``before``, and the oldest of the others until ``keep_bytes`` suffice.

    A plan that was acted on loses only its inputs to ``keep_bytes``, since its migrations belong to the history. Those
    of one day lose their inputs, the oldest first, beyond a share of ``keep_bytes``: so one day cannot take it all.
    """
    connection.execute(delete(plans).where(plans.c.made < before, plans.c.settled))
    newest_first = plans.c.id.desc()
    day = cast(plans.c.made / _DAY_SECONDS, Integer)
    running = select(
        plans.c.id,
        plans.c.bytes,
        func.sum(plans.c.bytes).over(order_by=newest_first).label("total"),
        func.sum(plans.c.bytes).over(partition_by=day, order_by=newest_first).label("of_day"),
    ).subquery()
    beyond = select(running.c.id).where(running.c.total > keep_bytes)
    connection.execute(delete(plans).where(plans.c.id.in_(beyond), plans.c.acted.is_(False)))
    of_a_day = running.c.of_day - running.c.bytes >= keep_bytes // _DAYS
    too_many = select(running.c.id).where(or_(running.c.total > keep_bytes, of_a_day))
    connection.execute(
        update(plans)
        .where(plans.c.id.in_(too_many), plans.c.inputs.is_not(None))
        .values(inputs=None, bytes=func.length(plans.c.document))
    )


def _short(row: Row[Any]) -> PlanRecord:
    return PlanRecord(**fields_of(row, PlanRecord) | {"replayable": bool(row.replayable)})


def _named(plan_id: int) -> str:
    return f"state.url: plan {plan_id}"
