"""What the journal teaches the planner: who moved lately, how fast domains write to memory, how far predictions were
off.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from sqlalchemy import Connection, Row, func, literal, select, union_all

from virtpoise_balancer.analyse.learned import Learned, Moved
from virtpoise_balancer.knowledge.rows import read_rows
from virtpoise_balancer.knowledge.schema import migrations, predictions
from virtpoise_balancer.model import Cause, FailedAttempts, LinkSpeed, Residual, Result, Role

# For each role and regime. More would not make an interval better, but each cycle slower.
_RESIDUALS_KEPT = 200
# The newest migrations to look at, and the most of them that count for one link.
_MIGRATIONS_WEIGHED = 2000
_MIGRATIONS_OF_A_LINK = 20
# How long the rate counts at which a domain wrote to its memory.
_DIRTYING_COUNTS_SECONDS = 7 * 86400.0
# How long a failure counts, and how much of its reason is kept.
_FAILURES_COUNT_SECONDS = 7 * 86400.0
_WHY_LENGTH = 200


def read(connection: Connection, moved_since: float, now: float, broken: list[str]) -> Learned:
    """``moved_since``: only migrations that ended after it count as moves of a domain."""
    return Learned(
        moved=_moved(connection, moved_since, broken),
        dirtying=_dirtying(connection, now - _DIRTYING_COUNTS_SECONDS, broken),
        residuals=_residuals(connection, broken),
        links=_links(connection, broken),
        attempts=_attempts(connection, now - _FAILURES_COUNT_SECONDS, broken),
    )


def _moved(connection: Connection, since: float, broken: list[str]) -> dict[str, Moved]:
    query = (
        select(migrations.c.id, migrations.c.uuid, migrations.c.ended)
        .where(migrations.c.result == Result.DONE.value, migrations.c.ended > since)
        .order_by(migrations.c.ended)
    )
    moved: dict[str, Moved] = {}
    for row in read_rows(connection, query, "migration", broken):
        before = moved.get(row.uuid)
        moved[row.uuid] = Moved(times=1 if before is None else before.times + 1, last=row.ended)
    return moved


def _dirtying(connection: Connection, since: float, broken: list[str]) -> dict[str, float]:
    """By uuid, the newest rate: of a migration that was watched for long enough, whether it was done or not, or of the
    look before it.
    """
    query = (
        select(migrations.c.id, migrations.c.uuid, migrations.c.dirty_bytes_per_second)
        .where(migrations.c.dirty_bytes_per_second.is_not(None), migrations.c.ended > since)
        .order_by(migrations.c.id.desc())
        .limit(_MIGRATIONS_WEIGHED)
    )
    rows = read_rows(connection, query, "migration", broken)
    return {row.uuid: row.dirty_bytes_per_second for row in reversed(rows)}


def _residuals(connection: Connection, broken: list[str]) -> tuple[Residual, ...]:
    """The newest of each role and regime, so that a common regime does not push a rare one out."""
    kinds = [
        select(
            predictions.c.id,
            literal(role.value).label("role"),
            literal(saturated).label("saturated"),
            predictions.c.error,
            predictions.c.bias,
            predictions.c.spread,
        )
        .where(
            predictions.c.role == role.value,
            predictions.c.saturated.is_(saturated),
            predictions.c.verdict == "measured",
            predictions.c.spread > 0,
        )
        .order_by(predictions.c.id.desc())
        .limit(_RESIDUALS_KEPT)
        .subquery()
        for role in Role
        for saturated in (False, True)
    ]
    rows = read_rows(connection, union_all(*(select(kind) for kind in kinds)), "prediction", broken)
    return tuple(
        Residual(
            role=Role(row.role),
            saturated=bool(row.saturated),
            error_ratio=row.error + row.bias,
            spread_ratio=row.spread,
        )
        for row in rows
    )


def _links(connection: Connection, broken: list[str]) -> tuple[LinkSpeed, ...]:
    """The speed and the downtime of the newest migrations between each two hosts, taken together."""
    query = (
        select(
            migrations.c.id,
            migrations.c.source,
            migrations.c.destination,
            migrations.c.transferred_bytes,
            migrations.c.seconds,
            migrations.c.downtime_seconds,
        )
        .where(
            migrations.c.result == Result.DONE.value,
            migrations.c.transferred_bytes > 0,
            migrations.c.seconds > 0,
        )
        .order_by(migrations.c.id.desc())
        .limit(_MIGRATIONS_WEIGHED)
    )
    of_links: dict[tuple[str, str], list[Row[Any]]] = {}
    for row in read_rows(connection, query, "migration", broken):
        newest = of_links.setdefault((row.source, row.destination), [])
        if len(newest) < _MIGRATIONS_OF_A_LINK:
            newest.append(row)
    return tuple(_link(*ends, newest) for ends, newest in sorted(of_links.items()))


def _link(source: str, destination: str, newest: Sequence[Row[Any]]) -> LinkSpeed:
    downtimes = [row.downtime_seconds for row in newest if row.downtime_seconds is not None]
    return LinkSpeed(
        source=source,
        destination=destination,
        bytes_per_second=sum(row.transferred_bytes for row in newest) / sum(row.seconds for row in newest),
        downtime_seconds=fmean(downtimes) if downtimes else None,
    )


def _attempts(connection: Connection, since: float, broken: list[str]) -> tuple[FailedAttempts, ...]:
    """The failures in a row of each domain and destination; of a domain that does not converge, wherever it went.

    A migration that was done ends the row, and so it does where the domain did not converge.
    """
    taught = (migrations.c.result == Result.FAILED.value) & migrations.c.began.is_not(None)
    # Before it began: what a host had against it, or how fast the domain writes to its memory.
    taught |= migrations.c.cause.in_((Cause.OBSTACLE.value, Cause.SLOW.value))
    taught &= func.coalesce(migrations.c.cause, "") != Cause.STOPPED.value
    failed = select(migrations.c.uuid).where(taught, migrations.c.ended > since)
    done = migrations.c.result == Result.DONE.value
    query = (
        select(migrations)
        .where(migrations.c.uuid.in_(failed), migrations.c.ended > since, done | taught)
        .order_by(migrations.c.id)
    )
    found: dict[tuple[str, str | None], FailedAttempts] = {}
    for row in read_rows(connection, query, "migration", broken):
        if row.result == Result.DONE.value:
            found.pop((row.uuid, row.destination), None)
            found.pop((row.uuid, None), None)
            continue
        to = None if row.cause == Cause.SLOW.value else row.destination
        earlier = found.get((row.uuid, to))
        found[row.uuid, to] = FailedAttempts(
            uuid=row.uuid,
            destination=to,
            failures=earlier.failures + 1 if earlier else 1,
            failed_at=row.ended,
            why=row.why[:_WHY_LENGTH],
        )
    return tuple(found.values())
