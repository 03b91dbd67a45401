"""The back-off of each host. Only cycles write it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from sqlalchemy import Connection, bindparam, delete, insert, select

from virtpoise_balancer.analyse.backoff import Backoff
from virtpoise_balancer.knowledge.database import fields_of
from virtpoise_balancer.knowledge.schema import backoffs


def read(connection: Connection) -> dict[str, Backoff]:
    return {row.host: Backoff(**fields_of(row, Backoff)) for row in connection.execute(select(backoffs))}


def write(connection: Connection, changed: Sequence[Backoff]) -> None:
    if changed:
        rows = [asdict(backoff) for backoff in changed]
        connection.execute(
            delete(backoffs).where(backoffs.c.host == bindparam("name")), [{"name": row["host"]} for row in rows]
        )
        connection.execute(insert(backoffs), rows)
