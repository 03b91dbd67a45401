"""Dates that a clock has written that was ahead.

They keep their order: a brake that was pulled after a release stays on, and one that was released stays off.
"""

from __future__ import annotations

from sqlalchemy import Column, ColumnElement, Connection, func, select, update

from virtpoise_balancer.knowledge.schema import backoffs, brakes, drains, migrations, overrides

# How much of the distance between two dates is left of it.
_KEPT = 1e-3
# Beyond it nothing is a date. SQLite calls a text greater than any number.
_LATEST = 1e18


def redate_before_release(connection: Connection, now: float, group: str) -> None:
    """Date to ``now`` (Unix seconds), or as little before it as keeps their order, the ends of migrations and the
    brakes that lie after it.
    """
    _redate(connection, now, group, (migrations.c.ended, brakes.c.at))


def redate(connection: Connection, now: float, group: str) -> None:
    """Date to ``now`` what ``redate_before_release`` does, and orders of people and penalties as well."""
    dates = (migrations.c.ended, brakes.c.at, overrides.c.at, drains.c.at, backoffs.c.penalty_from)
    _redate(connection, now, group, dates)


def _redate(connection: Connection, now: float, group: str, dates: tuple[Column[float], ...]) -> None:
    ahead = [(date, _is_ahead(date, now, group)) for date in dates]
    newest = [connection.execute(select(func.max(date)).where(later)).scalar() for date, later in ahead]
    if not (found := [at for at in newest if at is not None]):
        return
    for date, later in ahead:
        at = now - _KEPT * (max(found) - date)
        values = {date: at}
        if date is backoffs.c.penalty_from:
            values[backoffs.c.penalty_until] = at + backoffs.c.penalty_until - date
        connection.execute(update(date.table).where(later).values(values))


def _is_ahead(date: Column[float], now: float, group: str) -> ColumnElement[bool]:
    """Drains and penalties are those of all groups, since a host keeps its own when it comes to another one."""
    later = (date > now) & (date < _LATEST)
    return later if date.table in (drains, backoffs) else later & (date.table.c.group_name == group)
