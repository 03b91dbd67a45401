"""What the cycles did, in their own sentences. Cycles in a row that came to the same share a row."""

from __future__ import annotations

from sqlalchemy import Connection, bindparam, delete, insert, select, update

from virtpoise_balancer.knowledge.groups import of_group
from virtpoise_balancer.knowledge.records import CycleRecord, NewCycle, NewestCycle
from virtpoise_balancer.knowledge.rows import Query, fields_of
from virtpoise_balancer.knowledge.schema import cycles

_NEWEST = Query(
    select(cycles).where(of_group(cycles.c.group_name)).order_by(cycles.c.id.desc()).limit(bindparam("most")), "cycle"
)
_ENTER = insert(cycles).values(cycles=1)
_EXTEND = update(cycles).where(cycles.c.id == bindparam("extended")).values(cycles=cycles.c.cycles + 1)
# Far more than a person reads, and few enough to never matter.
_MOST_KEPT = 20_000


def newest(connection: Connection, group: str, broken: list[str]) -> NewestCycle | None:
    """The group's newest row, or None."""
    row = _NEWEST.row(connection, broken, most=1, group=group)
    return None if row is None else NewestCycle(**fields_of(row, NewestCycle))


def record(connection: Connection, cycle: NewCycle, group: str) -> None:
    """Enter the cycle, or count it in the row that it extends."""
    said = {"last": cycle.at, "result": cycle.result, "sentence": cycle.sentence, "gist": cycle.gist}
    if cycle.extends is None:
        connection.execute(_ENTER, said | {"first": cycle.at, "group_name": group})
    else:
        connection.execute(_EXTEND, said | {"extended": cycle.extends})


def history(connection: Connection, limit: int, group: str | None, broken: list[str]) -> tuple[CycleRecord, ...]:
    """The newest first."""
    rows = _NEWEST.rows(connection, broken, most=limit, group=group)
    return tuple(CycleRecord(**fields_of(row, CycleRecord)) for row in rows)


def forget(connection: Connection, before: float) -> None:
    """Delete rows whose last cycle was before this time, and all but the newest 20,000."""
    oldest_kept = select(cycles.c.id).order_by(cycles.c.id.desc()).offset(_MOST_KEPT).limit(1).scalar_subquery()
    connection.execute(delete(cycles).where((cycles.c.last < before) | (cycles.c.id <= oldest_kept)))
