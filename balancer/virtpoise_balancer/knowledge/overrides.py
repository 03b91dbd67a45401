"""What people set over the configuration, and the journal of all orders."""

from __future__ import annotations

from dataclasses import asdict
from typing import Literal

from sqlalchemy import Connection, bindparam, delete, insert, select

from virtpoise_balancer.knowledge import schema
from virtpoise_balancer.knowledge.records import STRANGER, Action, Overrides, Setting
from virtpoise_balancer.knowledge.rows import Query, fields_of

_ALL = Query(select(schema.overrides), "override")
_NAMES = select(schema.overrides.c.name)
_NEWEST = select(schema.actions).order_by(schema.actions.c.id.desc()).limit(bindparam("most"))
_OF_STRANGERS = Query(_NEWEST.where(schema.actions.c.who == STRANGER), "order")
_OF_OTHERS = Query(_NEWEST.where(schema.actions.c.who != STRANGER), "order")
# An order that is there and cannot be read counts as the more careful one; a release as none.
_UNREADABLE = {
    "paused": Setting(value="yes", instead_of="no", at=0.0, who="an order that cannot be read"),
    "mode": Setting(value="recommend", instead_of="automatic", at=0.0, who="an order that cannot be read"),
}


def read(connection: Connection, broken: list[str]) -> Overrides:
    rows = _ALL.rows(connection, broken)
    given = connection.execute(_NAMES).scalars().all()
    settings = {name: setting for name, setting in _UNREADABLE.items() if name in given}
    settings |= {row.name: Setting(**fields_of(row, Setting)) for row in rows}
    return Overrides(**{name: settings.get(name) for name in ("paused", "mode", "released")})


def write(connection: Connection, name: Literal["paused", "mode", "released"], setting: Setting | None) -> None:
    """Set it, or take it back with None."""
    connection.execute(delete(schema.overrides).where(schema.overrides.c.name == name))
    if setting is not None:
        connection.execute(insert(schema.overrides).values(asdict(setting) | {"name": name}))


def record_action(connection: Connection, action: Action) -> None:
    connection.execute(insert(schema.actions).values(asdict(action)))


def actions(connection: Connection, limit: int, broken: list[str]) -> tuple[Action, ...]:
    """The newest orders, newest first.

    Refused orders of strangers are at most a quarter of them, so they displace no other.
    """
    strangers = _OF_STRANGERS.rows(connection, broken, most=limit // 4)
    others = _OF_OTHERS.rows(connection, broken, most=limit - len(strangers))
    rows = sorted((*strangers, *others), key=lambda row: -int(row.id))
    return tuple(Action(**fields_of(row, Action)) for row in rows)


def forget(connection: Connection, before: float) -> None:
    connection.execute(delete(schema.actions).where(schema.actions.c.at < before))
