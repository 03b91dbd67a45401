"""What the newest look showed, and the changes that are not ours. Only cycles write it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, Row, bindparam, delete, insert, select, update

from virtpoise_balancer.analyse.others import ChangeKind, OthersChange, Sightings
from virtpoise_balancer.errors import BadInput
from virtpoise_balancer.knowledge.documents import pack_sightings, unpack_sightings
from virtpoise_balancer.knowledge.rows import Query, fields_of
from virtpoise_balancer.knowledge.schema import looks, others

# By then every sample shows what a change has left, however long the steps are.
_REMEMBERED_SECONDS = 7200.0
# A group whose guests come and go has no use for more.
_MOST_REMEMBERED = 2000
_LOOK = 1
_LOOKED = Query(select(looks).limit(1), "look")
_NEWEST_FIRST = select(others).order_by(others.c.id.desc()).limit(bindparam("most"))
_NEWEST = Query(_NEWEST_FIRST, "change of others")
_LATELY = Query(_NEWEST_FIRST.where(others.c.at > bindparam("since")), "change of others")
_MIGRATED = Query(
    _NEWEST_FIRST.where(others.c.kind == ChangeKind.MIGRATED.value, others.c.at > bindparam("since")),
    "change of others",
)
_SEE = insert(looks).values(id=_LOOK)
_SEE_AGAIN = update(looks)
_DROP_LOOKS = delete(looks)
_ENTER = insert(others)


def sightings(connection: Connection, broken: list[str]) -> Sightings | None:
    """What the newest look showed. One that cannot be read is none, so the next look is the first."""
    row = _LOOKED.row(connection, broken)
    if row is None:
        return None
    try:
        return unpack_sightings(row.document, row.at, "state.url: look")
    except BadInput as error:
        broken.append(str(error))
        return None


def record(connection: Connection, seen: Sightings, changes: Sequence[OthersChange], *, same: bool) -> None:
    """Write a look and what it showed of others. ``same``: only its time differs from the one before."""
    if same:
        connection.execute(_SEE_AGAIN, {"at": seen.at})
    else:
        connection.execute(_DROP_LOOKS)
        connection.execute(_SEE, {"at": seen.at, "document": pack_sightings(seen)})
    if changes:
        connection.execute(_ENTER, [asdict(one) | {"kind": one.kind.value} for one in changes])


def lately(connection: Connection, now: float, broken: list[str]) -> tuple[OthersChange, ...]:
    """The changes of the last hours, oldest first."""
    rows = _LATELY.rows(connection, broken, since=now - _REMEMBERED_SECONDS, most=_MOST_REMEMBERED)
    return tuple(_as_change(row) for row in reversed(rows))


def since(connection: Connection, at: float, broken: list[str]) -> tuple[OthersChange, ...]:
    """The migrations since a time (Unix seconds), oldest first."""
    rows = _MIGRATED.rows(connection, broken, since=at, most=_MOST_REMEMBERED)
    return tuple(_as_change(row) for row in reversed(rows))


def history(connection: Connection, limit: int, broken: list[str]) -> tuple[OthersChange, ...]:
    """The newest first."""
    return tuple(_as_change(row) for row in _NEWEST.rows(connection, broken, most=limit))


def forget(connection: Connection, before: float) -> None:
    connection.execute(delete(others).where(others.c.at < before))


def _as_change(row: Row[Any]) -> OthersChange:
    values = fields_of(row, OthersChange)
    return OthersChange(**values | {"kind": ChangeKind(values["kind"])})
