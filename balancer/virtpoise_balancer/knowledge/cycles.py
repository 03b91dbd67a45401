"""What the cycles did, in their own sentences. Cycles in a row that came to the same share a row."""

from __future__ import annotations

from sqlalchemy import Connection, delete, insert, select, update

from virtpoise_balancer.knowledge.records import CycleRecord, NewCycle, NewestCycle
from virtpoise_balancer.knowledge.rows import fields_of, read_row, read_rows
from virtpoise_balancer.knowledge.schema import cycles

# Far more than a person reads, and few enough to never matter.
_MOST_KEPT = 20_000


def newest(connection: Connection, broken: list[str]) -> NewestCycle | None:
    row = read_row(connection, select(cycles).order_by(cycles.c.id.desc()), "cycle", broken)
    return None if row is None else NewestCycle(**fields_of(row, NewestCycle))


def record(connection: Connection, cycle: NewCycle) -> None:
    said = {"last": cycle.at, "result": cycle.result, "sentence": cycle.sentence, "gist": cycle.gist}
    if cycle.extends is None:
        connection.execute(insert(cycles).values(said | {"first": cycle.at, "cycles": 1}))
    else:
        extended = update(cycles).where(cycles.c.id == cycle.extends)
        connection.execute(extended.values(said | {"cycles": cycles.c.cycles + 1}))


def history(connection: Connection, limit: int, broken: list[str]) -> tuple[CycleRecord, ...]:
    """The newest first."""
    rows = read_rows(connection, select(cycles).order_by(cycles.c.id.desc()).limit(limit), "cycle", broken)
    return tuple(CycleRecord(**fields_of(row, CycleRecord)) for row in rows)


def forget(connection: Connection, before: float) -> None:
    oldest_kept = select(cycles.c.id).order_by(cycles.c.id.desc()).offset(_MOST_KEPT).limit(1).scalar_subquery()
    connection.execute(delete(cycles).where((cycles.c.last < before) | (cycles.c.id <= oldest_kept)))
