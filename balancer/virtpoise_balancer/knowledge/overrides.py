"""What people set over the configuration, and the journal of all orders."""

from __future__ import annotations

from dataclasses import asdict
from typing import Literal

from sqlalchemy import Connection, delete, insert, select

from virtpoise_balancer.knowledge import schema
from virtpoise_balancer.knowledge.records import STRANGER, Action, Overrides, Setting
from virtpoise_balancer.knowledge.rows import fields_of, read_rows

# An order that is there and cannot be read counts as the more careful one; a release as none.
_UNREADABLE = {
    "paused": Setting(value="yes", instead_of="no", at=0.0, who="an order that cannot be read"),
    "mode": Setting(value="recommend", instead_of="automatic", at=0.0, who="an order that cannot be read"),
}


def read(connection: Connection, broken: list[str]) -> Overrides:
    rows = read_rows(connection, select(schema.overrides), "override", broken)
    given = connection.execute(select(schema.overrides.c.name)).scalars().all()
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
    newest = select(schema.actions).order_by(schema.actions.c.id.desc())
    stranger = schema.actions.c.who == STRANGER
    strangers = read_rows(connection, newest.where(stranger).limit(limit // 4), "order", broken)
    others = read_rows(connection, newest.where(~stranger).limit(limit - len(strangers)), "order", broken)
    rows = sorted((*strangers, *others), key=lambda row: -int(row.id))
    return tuple(Action(**fields_of(row, Action)) for row in rows)


def forget(connection: Connection, before: float) -> None:
    connection.execute(delete(schema.actions).where(schema.actions.c.at < before))
