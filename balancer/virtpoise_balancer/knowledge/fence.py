"""The number of the balancer that acts.

A new leader takes the next one, so whatever an earlier one still writes is refused.
"""

from __future__ import annotations

from sqlalchemy import Connection, bindparam, insert, select, update

from virtpoise_balancer.errors import Deposed
from virtpoise_balancer.knowledge.records import Leader
from virtpoise_balancer.knowledge.rows import Query, fields_of
from virtpoise_balancer.knowledge.schema import leaders

_NEWEST = Query(select(leaders).limit(1), "leader")
_ENTER, _REPLACE = insert(leaders), update(leaders)
_ALIVE = update(leaders).where(leaders.c.term == bindparam("own"))


def take(connection: Connection, holder: str, now: float) -> int:
    """Begin to lead; the number. ``holder``: who leads, for people."""
    before = _NEWEST.row(connection, [])
    term = 1 if before is None else before.term + 1
    values = {"term": term, "holder": holder, "since": now, "seen": now}
    if connection.execute(_REPLACE, values).rowcount == 0:
        connection.execute(_ENTER, values)
    return term


def check(connection: Connection, term: int, now: float) -> None:
    """Deposed unless the number is still the newest. Writes down that the leader is alive."""
    if connection.execute(_ALIVE, {"own": term, "seen": now}).rowcount != 1:
        found = read(connection)
        raise Deposed(f"{found.holder} acts" if found else "another balancer acts")


def read(connection: Connection) -> Leader | None:
    """The newest leader, whether it is still there or not."""
    row = _NEWEST.row(connection, [])
    return None if row is None else Leader(**fields_of(row, Leader))
