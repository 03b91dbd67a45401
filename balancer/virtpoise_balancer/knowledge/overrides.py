"""What people set over the configuration, and the journal of all orders."""

from __future__ import annotations

from dataclasses import asdict
from typing import Literal

from sqlalchemy import Connection, bindparam, delete, insert, select

from virtpoise_balancer.knowledge import schema
from virtpoise_balancer.knowledge.groups import of_group
from virtpoise_balancer.knowledge.records import STRANGER, Action, Overrides, OverrideValue
from virtpoise_balancer.knowledge.rows import Query, fields_of

_OF_GROUP = of_group(schema.overrides.c.group_name)
# The name first: it is what a row that cannot be read is called.
_COLUMNS = (schema.overrides.c.name, *(one for one in schema.overrides.c if one.name != "name"))
_ALL = Query(select(*_COLUMNS).where(_OF_GROUP), "override")
_NAMES = select(schema.overrides.c.name).where(_OF_GROUP)
_NEWEST = (
    select(schema.actions)
    .where(of_group(schema.actions.c.group_name))
    .order_by(schema.actions.c.id.desc())
    .limit(bindparam("most"))
)
_OF_STRANGERS = Query(_NEWEST.where(schema.actions.c.who == STRANGER), "order")
_OF_OTHERS = Query(_NEWEST.where(schema.actions.c.who != STRANGER), "order")
# An order that is there and cannot be read counts as the more careful one; a release as none.
_UNREADABLE = {
    "paused": OverrideValue(value="yes", instead_of="no", at=0.0, who="an order that cannot be read"),
    "mode": OverrideValue(value="recommend", instead_of="automatic", at=0.0, who="an order that cannot be read"),
}


def read(connection: Connection, group: str, broken: list[str]) -> Overrides:
    """The group's overrides. ``broken``: gets a line for each row that cannot be read."""
    rows = _ALL.rows(connection, broken, group=group)
    given = connection.execute(_NAMES, {"group": group}).scalars().all()
    settings = {name: setting for name, setting in _UNREADABLE.items() if name in given}
    settings |= {row.name: OverrideValue(**fields_of(row, OverrideValue)) for row in rows}
    return Overrides(**{name: settings.get(name) for name in ("paused", "mode", "released")})


def write(
    connection: Connection, name: Literal["paused", "mode", "released"], setting: OverrideValue | None, group: str
) -> None:
    """Set it, or take it back with None."""
    before = (schema.overrides.c.name == name) & (schema.overrides.c.group_name == group)
    connection.execute(delete(schema.overrides).where(before))
    if setting is not None:
        connection.execute(insert(schema.overrides).values(asdict(setting) | {"name": name, "group_name": group}))


def record_action(connection: Connection, action: Action, group: str) -> None:
    """Journal an order with its answer."""
    connection.execute(insert(schema.actions).values(asdict(action) | {"group_name": group}))


def actions(connection: Connection, limit: int, group: str | None, broken: list[str]) -> tuple[Action, ...]:
    """The newest orders, newest first.

    Refused orders of strangers are at most a quarter of them, so they displace no other.
    """
    strangers = _OF_STRANGERS.rows(connection, broken, most=limit // 4, group=group)
    others = _OF_OTHERS.rows(connection, broken, most=limit - len(strangers), group=group)
    rows = sorted((*strangers, *others), key=lambda row: -int(row.id))
    return tuple(Action(**fields_of(row, Action)) for row in rows)


def forget(connection: Connection, before: float) -> None:
    """Delete orders from before this time."""
    connection.execute(delete(schema.actions).where(schema.actions.c.at < before))
