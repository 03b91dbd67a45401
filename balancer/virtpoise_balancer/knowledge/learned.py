"""What the journal teaches the planner: who moved lately, how fast domains write to memory, how far predictions were
off.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from sqlalchemy import Connection, Row, bindparam, func, literal, select, union_all

from virtpoise_balancer.analyse.learned import Learned, PastMoves
from virtpoise_balancer.knowledge.groups import of_group_or_before
from virtpoise_balancer.knowledge.predictions import MEASURED
from virtpoise_balancer.knowledge.rows import Query
from virtpoise_balancer.knowledge.schema import migrations, predictions
from virtpoise_balancer.model import WHY_LENGTH, Cause, FailedAttempts, LinkSpeed, Residual, Result, Role

# For each role and regime. More would not make an interval better, but each cycle slower.
_RESIDUALS_KEPT = 200
# The newest migrations to look at, and the most of them that count for one link.
_MIGRATIONS_WEIGHED = 2000
_MIGRATIONS_OF_A_LINK = 20
# How long a prediction error counts: hosts and their loads change.
_RESIDUALS_COUNT_SECONDS = 30 * 86400.0
# How long the rate counts at which a domain wrote to its memory.
_DIRTYING_COUNTS_SECONDS = 7 * 86400.0
# How long a failure counts.
_FAILURES_COUNT_SECONDS = 7 * 86400.0

_DONE = migrations.c.result == Result.DONE.value
# A failure teaches if the migration began and no one stopped it. So does what kept it from beginning: what a host had
# against it, or how fast the domain writes to its memory.
_TAUGHT = (
    ((migrations.c.result == Result.FAILED.value) & migrations.c.began.is_not(None))
    | migrations.c.cause.in_((Cause.OBSTACLE.value, Cause.SLOW.value))
) & (func.coalesce(migrations.c.cause, "") != Cause.STOPPED.value)
_LATELY = migrations.c.ended > bindparam("since")

_MOVED = Query(
    select(migrations.c.id, migrations.c.uuid, migrations.c.ended).where(_DONE, _LATELY).order_by(migrations.c.ended),
    "migration",
)
_DIRTYING = Query(
    select(migrations.c.id, migrations.c.uuid, migrations.c.dirty_bytes_per_second)
    .where(migrations.c.dirty_bytes_per_second.is_not(None), _LATELY)
    .order_by(migrations.c.id.desc())
    .limit(_MIGRATIONS_WEIGHED),
    "migration",
)
# The newest of each role and regime, so that a common regime does not push a rare one out.
_RESIDUALS = Query(
    union_all(
        *(
            select(
                select(
                    predictions.c.id,
                    literal(role.value).label("role"),
                    literal(saturated).label("saturated"),
                    predictions.c.error,
                    predictions.c.bias,
                    predictions.c.spread,
                )
                .join(migrations, predictions.c.migration_id == migrations.c.id)
                .where(
                    of_group_or_before(migrations.c.group_name),
                    predictions.c.role == role.value,
                    predictions.c.saturated.is_(saturated),
                    MEASURED,
                    predictions.c.spread > 0,
                    _LATELY,
                )
                .order_by(predictions.c.id.desc())
                .limit(_RESIDUALS_KEPT)
                .subquery()
            )
            for role in Role
            for saturated in (False, True)
        )
    ),
    "prediction",
)
_COPIED = Query(
    select(
        migrations.c.id,
        migrations.c.source,
        migrations.c.destination,
        migrations.c.transferred_bytes,
        migrations.c.seconds,
        migrations.c.downtime_seconds,
    )
    .where(_DONE, migrations.c.transferred_bytes > 0, migrations.c.seconds > 0)
    .order_by(migrations.c.id.desc())
    .limit(_MIGRATIONS_WEIGHED),
    "migration",
)
_OF_FAILED = Query(
    select(migrations)
    .where(migrations.c.uuid.in_(select(migrations.c.uuid).where(_TAUGHT, _LATELY)), _LATELY, _DONE | _TAUGHT)
    .order_by(migrations.c.id),
    "migration",
)


def read(connection: Connection, moved_since: float, now: float, group: str, broken: list[str]) -> Learned:
    """What is known from earlier migrations.

    ``moved_since``: only migrations that ended after it count as moves of a domain.
    """
    return Learned(
        moved=_moved(connection, moved_since, broken),
        dirtying=_dirtying(connection, now - _DIRTYING_COUNTS_SECONDS, broken),
        residuals=_residuals(connection, now, group, broken),
        links=_links(connection, broken),
        attempts=_attempts(connection, now, broken),
    )


def read_for_look(connection: Connection, now: float, group: str, broken: list[str]) -> Learned:
    """What decides whether a move that is planned still fits: neither its cost nor a rest."""
    return Learned(residuals=_residuals(connection, now, group, broken), attempts=_attempts(connection, now, broken))


def _moved(connection: Connection, since: float, broken: list[str]) -> dict[str, PastMoves]:
    moved: dict[str, PastMoves] = {}
    for row in _MOVED.rows(connection, broken, since=since):
        before = moved.get(row.uuid)
        moved[row.uuid] = PastMoves(times=1 if before is None else before.times + 1, last=row.ended)
    return moved


def _dirtying(connection: Connection, since: float, broken: list[str]) -> dict[str, float]:
    """By uuid, the newest rate: of a migration that was watched for long enough, whether it was done or not, or of the
    look before it.
    """
    return {row.uuid: row.dirty_bytes_per_second for row in reversed(_DIRTYING.rows(connection, broken, since=since))}


def _residuals(connection: Connection, now: float, group: str, broken: list[str]) -> tuple[Residual, ...]:
    return tuple(
        Residual(
            role=Role(row.role),
            saturated=bool(row.saturated),
            error_ratio=row.error + row.bias,
            spread_ratio=row.spread,
        )
        for row in _RESIDUALS.rows(connection, broken, group=group, since=now - _RESIDUALS_COUNT_SECONDS)
    )


def _links(connection: Connection, broken: list[str]) -> tuple[LinkSpeed, ...]:
    """The speed and the downtime of the newest migrations between each two hosts, taken together."""
    of_links: dict[tuple[str, str], list[Row[Any]]] = {}
    for row in _COPIED.rows(connection, broken):
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


def _attempts(connection: Connection, now: float, broken: list[str]) -> tuple[FailedAttempts, ...]:
    """The failures in a row of each domain and destination; of a domain that does not converge, wherever it went.

    A migration that was done ends the row, and so it does where the domain did not converge.
    """
    found: dict[tuple[str, str | None], FailedAttempts] = {}
    for row in _OF_FAILED.rows(connection, broken, since=now - _FAILURES_COUNT_SECONDS):
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
            why=row.why[:WHY_LENGTH],
        )
    return tuple(found.values())
