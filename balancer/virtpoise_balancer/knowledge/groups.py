"""Whose rows a query reads or writes: those of one group of hosts. Where the configuration has no groups, its name is
empty.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import (
    BindParameter,
    Column,
    ColumnElement,
    Connection,
    String,
    bindparam,
    delete,
    insert,
    or_,
    select,
    update,
)

from virtpoise_balancer.knowledge.schema import brakes, migrations, overrides, plans

ALONE = ""

_groups: BindParameter[Any] = bindparam("groups", expanding=True)
_SET = select(overrides)
_SET_ELSEWHERE = select(overrides).where(overrides.c.group_name.not_in(_groups))
_ENTER = insert(overrides)
_DROP = delete(overrides).where(overrides.c.group_name.not_in(_groups))
_BRAKE_BEFORE = (
    select(brakes.c.at, brakes.c.cause, brakes.c.why)
    .where(brakes.c.group_name == ALONE)
    .order_by(brakes.c.id.desc())
    .limit(1)
)
_ENTER_BRAKES = insert(brakes)
_DROP_BRAKES = delete(brakes).where(brakes.c.group_name == ALONE)
_SETTLE = update(plans).where(plans.c.group_name.not_in(_groups), plans.c.settled.is_(False)).values(settled=True)
# Migrations that must be accounted for, of groups that are not configured any more.
_STRAY = migrations.c.group_name.not_in(_groups) & (migrations.c.result.is_(None) | migrations.c.lost)
_STRAY_GROUPS = select(migrations.c.group_name).where(_STRAY).distinct()
_hosts: BindParameter[Any] = bindparam("hosts", expanding=True)
_ADOPT = update(migrations).where(_STRAY, migrations.c.source.in_(_hosts) | migrations.c.destination.in_(_hosts))


def of_group(column: Column[Any]) -> ColumnElement[bool]:
    """The rows of ``group``, or with None those of all groups."""
    wanted = bindparam("group", type_=String)
    return or_(wanted.is_(None), column == wanted)


def of_group_or_before(column: Column[Any]) -> ColumnElement[bool]:
    """The rows of ``group``, and those from before there were groups."""
    return or_(column == bindparam("group", type_=String), column == ALONE)


def hand_down(connection: Connection, groups: Sequence[str]) -> None:
    """What people have set, and the brake, go on to count in ``groups``, all that are configured now.

    What is from before there were groups goes to each of them. Where there are none any more, a pause of any group
    counts. What else belongs to groups that are not configured any more is dropped.
    """
    those = {"groups": [*groups]}
    given = {(row.group_name, row.name) for row in connection.execute(_SET) if row.group_name in groups}
    for row in connection.execute(_SET_ELSEWHERE, those).mappings().all():
        if row["group_name"] == ALONE or (ALONE in groups and row["name"] == "paused"):
            for group in {*groups} - {group for group, name in given if name == row["name"]}:
                connection.execute(_ENTER, dict(row) | {"group_name": group})
                given.add((group, row["name"]))
    connection.execute(_DROP, those)
    if ALONE not in groups:
        newest = connection.execute(_BRAKE_BEFORE).mappings().first()
        if newest is not None:
            connection.execute(_ENTER_BRAKES, [dict(newest) | {"group_name": group} for group in groups])
            connection.execute(_DROP_BRAKES)
    connection.execute(_SETTLE, those)


def stray_groups(connection: Connection, groups: Sequence[str]) -> tuple[str, ...]:
    """The groups that are not configured any more and have migrations that must be accounted for."""
    return tuple(sorted(connection.execute(_STRAY_GROUPS, {"groups": [*groups]}).scalars()))


def adopt(connection: Connection, group: str, groups: Sequence[str], hosts: Collection[str]) -> int:
    """Have ``group`` account for strays from or to one of its hosts. How many there were."""
    values = {"groups": [*groups], "hosts": [*hosts], "group_name": group}
    return connection.execute(_ADOPT, values).rowcount
