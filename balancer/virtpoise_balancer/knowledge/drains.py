"""The stored orders to drain a host. Only people write them, so a cycle can neither lose nor change one."""

from __future__ import annotations

from sqlalchemy import Connection, delete, insert, select

from virtpoise_balancer.analyse.drains import DrainOrder
from virtpoise_balancer.knowledge.rows import Query, fields_of
from virtpoise_balancer.knowledge.schema import drains

_ALL = Query(select(drains.c.host, drains.c.draining, drains.c.at, drains.c.group_name.label("group")), "drain of")


def read(connection: Connection, broken: list[str]) -> dict[str, DrainOrder]:
    """The newest order for each host."""
    return {row.host: DrainOrder(**fields_of(row, DrainOrder)) for row in _ALL.rows(connection, broken)}


def order(connection: Connection, host: str, *, draining: bool, at: float, group: str) -> bool:
    """Order a drain or take it back. Whether that changed anything."""
    before = connection.execute(select(drains.c.draining).where(drains.c.host == host)).scalar()
    if bool(before) == draining:
        return False
    connection.execute(delete(drains).where(drains.c.host == host))
    connection.execute(insert(drains).values(host=host, draining=draining, at=at, group_name=group))
    return True


def forget(connection: Connection, before: float) -> None:
    """Drop orders that were taken back long ago."""
    connection.execute(delete(drains).where(drains.c.draining.is_(False), drains.c.at < before))
