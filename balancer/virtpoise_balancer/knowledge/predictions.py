"""Predictions of journalled moves, and their verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, bindparam, func, insert, select, update

from virtpoise_balancer.analyse.measure import DuePrediction, Measured
from virtpoise_balancer.knowledge.groups import of_group
from virtpoise_balancer.knowledge.records import PredictionRecord
from virtpoise_balancer.knowledge.rows import Query, fields_of
from virtpoise_balancer.knowledge.schema import migrations, predictions
from virtpoise_balancer.model import RATIO_TOLERANCE, Move, PredictedLoads, Prediction, Result, Role

# What counts as measured. Earlier versions also wrote down loads that cannot be.
MEASURED = (
    (predictions.c.verdict == "measured")
    & predictions.c.measured.between(1 - RATIO_TOLERANCE, RATIO_TOLERANCE)
    & predictions.c.error.is_not(None)
)

# When the first other migration began that was under way on the host after this one had begun, or ended after it.
_OTHER = migrations.alias("other")
_DISTURBED_FROM = (
    select(func.min(_OTHER.c.began))
    .where(
        _OTHER.c.id != predictions.c.migration_id,
        # begun later, or begun earlier and still under way when this one had ended
        (_OTHER.c.began > migrations.c.began)
        | (_OTHER.c.ended > migrations.c.ended)
        | (_OTHER.c.began.is_not(None) & _OTHER.c.result.is_(None)),
        (_OTHER.c.source == predictions.c.host) | (_OTHER.c.destination == predictions.c.host),
    )
    .correlate(predictions, migrations)
    .scalar_subquery()
)
_DUE = Query(
    select(
        predictions.c.id,
        predictions.c.host,
        predictions.c.role,
        predictions.c.predicted,
        predictions.c.lower,
        predictions.c.upper,
        migrations.c.ended.label("migrated"),
        _DISTURBED_FROM.label("disturbed_from"),
        migrations.c.source,
        migrations.c.destination,
    )
    .join(migrations, predictions.c.migration_id == migrations.c.id)
    .where(
        predictions.c.verdict.is_(None),
        migrations.c.result == Result.DONE.value,
        migrations.c.ended.is_not(None),
        of_group(migrations.c.group_name),
    )
    .order_by(predictions.c.id),
    "prediction",
)
_OPEN = Query(
    select(predictions)
    .join(migrations, predictions.c.migration_id == migrations.c.id)
    .where(predictions.c.verdict.is_(None), of_group(migrations.c.group_name))
    .order_by(predictions.c.id),
    "prediction",
)
_OF_MIGRATIONS = Query(
    select(predictions)
    .where(predictions.c.migration_id.in_(bindparam("ids", expanding=True)))
    .order_by(predictions.c.id),
    "prediction",
)
_ENTER = insert(predictions)
_JUDGE = update(predictions).where(predictions.c.id == bindparam("prediction_id"))
_DROP = update(predictions).where(predictions.c.migration_id == bindparam("of")).values(verdict="not_moved")


def journal(connection: Connection, migration_id: int, move: Move, now: float) -> None:
    """Write down what is predicted for both hosts of a move."""
    rows = []
    for role in Role:
        predicted: Prediction = getattr(move.predicted, role.value)
        rows.append(
            {
                "migration_id": migration_id,
                "host": getattr(move, role.value),
                "role": role.value,
                "resource": "cpu",
                "made": now,
                "predicted": predicted.cpu_ratio,
                "lower": predicted.cpu_ratio_lower,
                "upper": predicted.cpu_ratio_upper,
                "spread": predicted.cpu_spread_ratio,
                "bias": predicted.cpu_bias_ratio,
                "saturated": predicted.saturated,
            }
        )
    connection.execute(_ENTER, rows)


def due(connection: Connection, group: str, broken: list[str]) -> tuple[DuePrediction, ...]:
    """Predictions without a verdict whose migration is done."""
    return tuple(
        DuePrediction(**fields_of(row, DuePrediction) | {"role": Role(row.role)})
        for row in _DUE.rows(connection, broken, group=group)
    )


def record_verdicts(connection: Connection, verdicts: Mapping[int, Measured]) -> None:
    """Write how predictions compare with measurements. ``verdicts``: by the prediction's id."""
    for prediction_id, measured in verdicts.items():
        start, end = measured.window or (None, None)
        values = {
            "verdict": measured.verdict,
            "window_start": start,
            "window_end": end,
            "measured": measured.ratio,
            "error": measured.error,
        }
        connection.execute(_JUDGE, values | {"prediction_id": prediction_id})


def drop(connection: Connection, migration_id: int) -> None:
    """The migration was not done, so its predictions will not be measured."""
    connection.execute(_DROP, {"of": migration_id})


def of_migrations(connection: Connection, migration_ids: Sequence[int], broken: list[str]) -> list[Row[Any]]:
    """All predictions of these migrations, in the order in which they were made."""
    return _OF_MIGRATIONS.rows(connection, broken, ids=migration_ids)


def loads(connection: Connection, migration_ids: Sequence[int], broken: list[str]) -> dict[int, PredictedLoads]:
    """By migration, the CPU loads that were predicted for its two hosts."""
    found: dict[tuple[int, str], Prediction] = {}
    for row in of_migrations(connection, migration_ids, broken):
        found[row.migration_id, row.role] = Prediction(
            cpu_ratio=row.predicted,
            cpu_ratio_lower=row.lower,
            cpu_ratio_upper=row.upper,
            cpu_spread_ratio=row.spread,
            cpu_bias_ratio=row.bias,
            saturated=row.saturated,
        )
    missing = Prediction.exact(0.0)
    return {
        one: PredictedLoads(
            source=found.get((one, Role.SOURCE.value), missing),
            destination=found.get((one, Role.DESTINATION.value), missing),
        )
        for one in migration_ids
    }


def open_ones(connection: Connection, group: str | None, broken: list[str]) -> tuple[PredictionRecord, ...]:
    """The predictions that wait for their verdict; a host's newest last."""
    return tuple(as_record(row) for row in _OPEN.rows(connection, broken, group=group))


def as_record(row: Row[Any]) -> PredictionRecord:
    """The row as a record."""
    return PredictionRecord(**fields_of(row, PredictionRecord) | {"role": Role(row.role)})
