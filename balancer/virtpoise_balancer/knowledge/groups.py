"""Whose rows a query reads or writes: those of one group of hosts. Where the configuration has no groups, its name is
empty.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, String, bindparam, delete, insert, or_, select, update

from virtpoise_balancer.knowledge.schema import brakes, migrations, overrides, plans

ALONE = ""


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
    given = {(row.group_name, row.name) for row in connection.execute(select(overrides)) if row.group_name in groups}
    for row in connection.execute(select(overrides).where(overrides.c.group_name.not_in(groups))).mappings().all():
        if row["group_name"] == ALONE or (ALONE in groups and row["name"] == "paused"):
            for group in {*groups} - {group for group, name in given if name == row["name"]}:
                connection.execute(insert(overrides).values(dict(row) | {"group_name": group}))
                given.add((group, row["name"]))
    connection.execute(delete(overrides).where(overrides.c.group_name.not_in(groups)))
    if ALONE not in groups:
        before = select(brakes.c.at, brakes.c.cause, brakes.c.why).where(brakes.c.group_name == ALONE)
        newest = connection.execute(before.order_by(brakes.c.id.desc()).limit(1)).mappings().first()
        if newest is not None:
            connection.execute(insert(brakes), [dict(newest) | {"group_name": group} for group in groups])
            connection.execute(delete(brakes).where(brakes.c.group_name == ALONE))
    stray = plans.c.group_name.not_in(groups) & plans.c.settled.is_(False)
    connection.execute(update(plans).where(stray).values(settled=True))


def _strays(groups: Sequence[str]) -> ColumnElement[bool]:
    """Migrations that must be accounted for, of groups that are not configured any more."""
    return migrations.c.group_name.not_in(groups) & (migrations.c.result.is_(None) | migrations.c.lost)


def stray_groups(connection: Connection, groups: Sequence[str]) -> tuple[str, ...]:
    found = connection.scalars(select(migrations.c.group_name).where(_strays(groups)).distinct())
    return tuple(sorted(found))


def adopt(connection: Connection, group: str, groups: Sequence[str], hosts: Collection[str]) -> int:
    """Have ``group`` account for strays from or to one of its hosts. How many there were."""
    here = migrations.c.source.in_(hosts) | migrations.c.destination.in_(hosts)
    return connection.execute(update(migrations).where(_strays(groups), here).values(group_name=group)).rowcount
