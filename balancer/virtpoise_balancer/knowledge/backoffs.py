"""The back-off of each host. Only cycles write it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from sqlalchemy import Connection, bindparam, delete, insert, select

from virtpoise_balancer.analyse.backoff import Backoff
from virtpoise_balancer.knowledge.rows import fields_of, read_rows
from virtpoise_balancer.knowledge.schema import backoffs


def read(connection: Connection, broken: list[str]) -> dict[str, Backoff]:
    rows = read_rows(connection, select(backoffs), "back-off of", broken)
    return {row.host: Backoff(**fields_of(row, Backoff)) for row in rows}


def write(connection: Connection, changed: Sequence[Backoff]) -> None:
    if changed:
        rows = [asdict(backoff) for backoff in changed]
        connection.execute(
            delete(backoffs).where(backoffs.c.host == bindparam("name")), [{"name": row["host"]} for row in rows]
        )
        connection.execute(insert(backoffs), rows)
