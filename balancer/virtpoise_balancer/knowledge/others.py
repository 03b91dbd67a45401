"""What the newest look showed, and the changes that are not ours. Only cycles write it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, Select, delete, insert, select, update

from virtpoise_balancer.analyse.others import ChangeKind, OthersChange, Sightings
from virtpoise_balancer.errors import BadInput
from virtpoise_balancer.knowledge.documents import pack_sightings, unpack_sightings
from virtpoise_balancer.knowledge.rows import fields_of, read_row, read_rows
from virtpoise_balancer.knowledge.schema import looks, others

# By then every sample shows what a change has left, however long the steps are.
_REMEMBERED_SECONDS = 7200.0
# A group whose guests come and go has no use for more.
_MOST_REMEMBERED = 2000
_LOOK = 1


def sightings(connection: Connection, broken: list[str]) -> Sightings | None:
    """What the newest look showed. One that cannot be read is none, so the next look is the first."""
    row = read_row(connection, select(looks), "look", broken)
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
        connection.execute(update(looks).values(at=seen.at))
    else:
        connection.execute(delete(looks))
        connection.execute(insert(looks).values(id=_LOOK, at=seen.at, document=pack_sightings(seen)))
    if changes:
        connection.execute(insert(others), [asdict(one) | {"kind": one.kind.value} for one in changes])


def lately(connection: Connection, now: float, broken: list[str]) -> tuple[OthersChange, ...]:
    """The changes of the last hours, oldest first."""
    return _read(connection, select(others).where(others.c.at > now - _REMEMBERED_SECONDS), broken)


def since(connection: Connection, at: float, broken: list[str]) -> tuple[OthersChange, ...]:
    """The migrations since a time (Unix seconds), oldest first."""
    migrated = others.c.kind == ChangeKind.MIGRATED.value
    return _read(connection, select(others).where(migrated, others.c.at > at), broken)


def _read(connection: Connection, wanted: Select[Any], broken: list[str]) -> tuple[OthersChange, ...]:
    newest = wanted.order_by(others.c.id.desc())
    rows = read_rows(connection, newest.limit(_MOST_REMEMBERED), "change of others", broken)
    return tuple(_as_change(row) for row in reversed(rows))


def history(connection: Connection, limit: int, broken: list[str]) -> tuple[OthersChange, ...]:
    """The newest first."""
    rows = read_rows(connection, select(others).order_by(others.c.id.desc()).limit(limit), "change of others", broken)
    return tuple(_as_change(row) for row in rows)


def forget(connection: Connection, before: float) -> None:
    connection.execute(delete(others).where(others.c.at < before))


def _as_change(row: object) -> OthersChange:
    values = fields_of(row, OthersChange)  # type: ignore[arg-type]
    return OthersChange(**values | {"kind": ChangeKind(values["kind"])})
