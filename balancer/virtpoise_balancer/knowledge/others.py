"""What the newest look showed, and the changes by others. Only cycles write it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, Row, bindparam, delete, insert, select, update

from virtpoise_balancer.analyse.others import ChangeKind, OthersChange, Sightings
from virtpoise_balancer.errors import BadInput
from virtpoise_balancer.knowledge.documents import pack_sightings, unpack_sightings
from virtpoise_balancer.knowledge.groups import of_group
from virtpoise_balancer.knowledge.rows import Query, fields_of
from virtpoise_balancer.knowledge.schema import looks, others

# By then every sample shows what a change has left, however long the steps are.
_REMEMBERED_SECONDS = 7200.0
# A group whose guests come and go has no use for more.
_MOST_REMEMBERED = 2000
# In the store, of all groups: what a hundred such hosts come to in four hours.
_MOST_KEPT = 100_000
_LOOKED = Query(select(looks).where(of_group(looks.c.group_name)).limit(1), "look")
_NEWEST_FIRST = (
    select(others).where(of_group(others.c.group_name)).order_by(others.c.id.desc()).limit(bindparam("most"))
)
_NEWEST = Query(_NEWEST_FIRST, "change of others")
_LATELY = Query(_NEWEST_FIRST.where(others.c.at > bindparam("since")), "change of others")
_MIGRATED = Query(
    _NEWEST_FIRST.where(others.c.kind == ChangeKind.MIGRATED.value, others.c.at > bindparam("since")),
    "change of others",
)
_SEE = insert(looks)
_SEE_AGAIN = update(looks).where(looks.c.group_name == bindparam("group"))
_DROP_LOOKS = delete(looks).where(looks.c.group_name == bindparam("group"))
_ENTER = insert(others)


def sightings(connection: Connection, group: str, broken: list[str]) -> Sightings | None:
    """What the newest look showed. One that cannot be read is none, so the next look is the first."""
    row = _LOOKED.row(connection, broken, group=group)
    if row is None:
        return None
    try:
        return unpack_sightings(row.document, row.at, "state.url: look")
    except BadInput as error:
        broken.append(str(error))
        return None


def record(connection: Connection, seen: Sightings, changes: Sequence[OthersChange], group: str, *, same: bool) -> None:
    """Write a look and what others changed since the one before. ``same``: only its time differs from that one."""
    if same:
        connection.execute(_SEE_AGAIN, {"at": seen.at, "group": group})
    else:
        connection.execute(_DROP_LOOKS, {"group": group})
        connection.execute(_SEE, {"at": seen.at, "document": pack_sightings(seen), "group_name": group})
    if changes:
        rows = [asdict(one) | {"kind": one.kind.value, "group_name": group} for one in changes]
        connection.execute(_ENTER, rows)


def lately(connection: Connection, now: float, group: str, broken: list[str]) -> tuple[OthersChange, ...]:
    """The changes of the last hours, oldest first."""
    since = now - _REMEMBERED_SECONDS
    rows = _LATELY.rows(connection, broken, since=since, most=_MOST_REMEMBERED, group=group)
    return tuple(_as_change(row) for row in reversed(rows))


def since(connection: Connection, at: float, group: str, broken: list[str]) -> tuple[OthersChange, ...]:
    """The migrations since a time (Unix seconds), oldest first."""
    rows = _MIGRATED.rows(connection, broken, since=at, most=_MOST_REMEMBERED, group=group)
    return tuple(_as_change(row) for row in reversed(rows))


def history(connection: Connection, limit: int, group: str | None, broken: list[str]) -> tuple[OthersChange, ...]:
    """The newest first."""
    return tuple(_as_change(row) for row in _NEWEST.rows(connection, broken, most=limit, group=group))


def forget(connection: Connection, before: float) -> None:
    """Delete changes from before this time, and all but the newest 100,000."""
    oldest_kept = select(others.c.id).order_by(others.c.id.desc()).offset(_MOST_KEPT).limit(1).scalar_subquery()
    connection.execute(delete(others).where((others.c.at < before) | (others.c.id <= oldest_kept)))


def _as_change(row: Row[Any]) -> OthersChange:
    values = fields_of(row, OthersChange)
    return OthersChange(**values | {"kind": ChangeKind(values["kind"])})
