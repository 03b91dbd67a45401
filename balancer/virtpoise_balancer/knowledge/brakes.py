"""The brake that cycles pull, and what it is judged by. A person's release is an override."""

from __future__ import annotations

from sqlalchemy import Connection, bindparam, delete, func, insert, select

from virtpoise_balancer.analyse.brake import Brake, BrakeCause, EndedMigration, PredictionError, TrackRecord
from virtpoise_balancer.knowledge import others
from virtpoise_balancer.knowledge.groups import of_group
from virtpoise_balancer.knowledge.journal import fields_of_commitment
from virtpoise_balancer.knowledge.predictions import MEASURED
from virtpoise_balancer.knowledge.rows import Query
from virtpoise_balancer.knowledge.schema import brakes, migrations, predictions
from virtpoise_balancer.model import Cause, Result

_NEWEST = Query(select(brakes).where(of_group(brakes.c.group_name)).order_by(brakes.c.id.desc()).limit(1), "brake")
_ENDED = Query(
    select(migrations)
    .where(
        migrations.c.ended > bindparam("since"),
        migrations.c.began.is_not(None),
        migrations.c.result.in_([Result.DONE.value, Result.FAILED.value]),
        func.coalesce(migrations.c.cause, "") != Cause.STOPPED.value,
        of_group(migrations.c.group_name),
    )
    .order_by(migrations.c.ended, migrations.c.id),
    "migration",
)
_MEASURED = Query(
    select(predictions.c.id, predictions.c.window_end, predictions.c.error)
    .join(migrations, predictions.c.migration_id == migrations.c.id)
    .where(
        of_group(migrations.c.group_name),
        MEASURED,
        predictions.c.window_end > bindparam("since"),
    )
    .order_by(predictions.c.window_end, predictions.c.id),
    "prediction",
)


def newest(connection: Connection, group: str, broken: list[str]) -> Brake | None:
    """The brake that was pulled last. One that cannot be read is pulled again, since its causes are in the journal."""
    row = _NEWEST.row(connection, broken, group=group)
    return None if row is None else Brake(at=row.at, cause=BrakeCause(row.cause), why=row.why)


def pull(connection: Connection, brake: Brake, group: str) -> None:
    """Write that the brake of the group is on."""
    connection.execute(insert(brakes).values(at=brake.at, cause=brake.cause.value, why=brake.why, group_name=group))


def track_record(connection: Connection, since: float, group: str, broken: list[str]) -> TrackRecord:
    """What ended after ``since`` (Unix seconds), without what was stopped (``Cause``)."""
    return TrackRecord(
        others=others.since(connection, since, group, broken),
        migrations=tuple(
            EndedMigration(**fields_of_commitment(row), why=row.why)
            for row in _ENDED.rows(connection, broken, since=since, group=group)
        ),
        errors=tuple(
            PredictionError(measured=row.window_end, error_ratio=row.error)
            for row in _MEASURED.rows(connection, broken, since=since, group=group)
        ),
    )


def forget(connection: Connection, before: float) -> None:
    """Drop brakes that were pulled before ``before``, but not the newest of each group, which may be on."""
    kept = select(func.max(brakes.c.id)).group_by(brakes.c.group_name).scalar_subquery()
    connection.execute(delete(brakes).where(brakes.c.at < before, brakes.c.id.not_in(kept)))
