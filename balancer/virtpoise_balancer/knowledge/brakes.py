"""The brake that cycles pull, and what it is judged by. A person's release is an override."""

from __future__ import annotations

from sqlalchemy import Connection, bindparam, delete, func, insert, select

from virtpoise_balancer.analyse.brake import Brake, BrakeCause, EndedMigration, PredictionError, TrackRecord
from virtpoise_balancer.knowledge import others
from virtpoise_balancer.knowledge.journal import fields_of_commitment
from virtpoise_balancer.knowledge.predictions import MEASURED
from virtpoise_balancer.knowledge.rows import Query
from virtpoise_balancer.knowledge.schema import brakes, migrations, predictions
from virtpoise_balancer.model import Cause, Result

_NEWEST = Query(select(brakes).order_by(brakes.c.id.desc()).limit(1), "brake")
_ENDED = Query(
    select(migrations)
    .where(
        migrations.c.ended > bindparam("since"),
        migrations.c.began.is_not(None),
        migrations.c.result.in_([Result.DONE.value, Result.FAILED.value]),
        func.coalesce(migrations.c.cause, "") != Cause.STOPPED.value,
    )
    .order_by(migrations.c.ended, migrations.c.id),
    "migration",
)
_MEASURED = Query(
    select(predictions.c.id, predictions.c.window_end, predictions.c.error)
    .where(
        MEASURED,
        predictions.c.window_end > bindparam("since"),
    )
    .order_by(predictions.c.window_end, predictions.c.id),
    "prediction",
)


def newest(connection: Connection, broken: list[str]) -> Brake | None:
    """The brake that was pulled last. One that cannot be read is pulled again, since its causes are in the journal."""
    row = _NEWEST.row(connection, broken)
    return None if row is None else Brake(at=row.at, cause=BrakeCause(row.cause), why=row.why)


def pull(connection: Connection, brake: Brake) -> None:
    connection.execute(insert(brakes).values(at=brake.at, cause=brake.cause.value, why=brake.why))


def track_record(connection: Connection, since: float, broken: list[str]) -> TrackRecord:
    """What ended after ``since`` (Unix seconds), without what the balancer ended because it stopped."""
    return TrackRecord(
        others=others.since(connection, since, broken),
        migrations=tuple(
            EndedMigration(**fields_of_commitment(row), why=row.why)
            for row in _ENDED.rows(connection, broken, since=since)
        ),
        errors=tuple(
            PredictionError(measured=row.window_end, error_ratio=row.error)
            for row in _MEASURED.rows(connection, broken, since=since)
        ),
    )


def forget(connection: Connection, before: float) -> None:
    """Drop brakes that were pulled before ``before``, but not the newest, which may be on."""
    kept = select(func.max(brakes.c.id)).scalar_subquery()
    connection.execute(delete(brakes).where(brakes.c.at < before, brakes.c.id != kept))
