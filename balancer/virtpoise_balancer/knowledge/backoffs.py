"""The back-off of each host. Only cycles write it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from sqlalchemy import Connection, bindparam, delete, insert, select

from virtpoise_balancer.analyse.backoff import Backoff
from virtpoise_balancer.knowledge.rows import Query, fields_of
from virtpoise_balancer.knowledge.schema import backoffs

_ALL = Query(select(backoffs), "back-off of")
_ENTER = insert(backoffs)
_THOSE_OF = delete(backoffs).where(backoffs.c.host == bindparam("name"))


def read(connection: Connection, broken: list[str]) -> dict[str, Backoff]:
    """The back-off of each host that has one. ``broken``: gets a line for each row that cannot be read."""
    return {row.host: Backoff(**fields_of(row, Backoff)) for row in _ALL.rows(connection, broken)}


def write(connection: Connection, changed: Sequence[Backoff]) -> None:
    """Write the back-offs that a cycle changed."""
    if changed:
        rows = [asdict(backoff) for backoff in changed]
        connection.execute(_THOSE_OF, [{"name": row["host"]} for row in rows])
        connection.execute(_ENTER, rows)
