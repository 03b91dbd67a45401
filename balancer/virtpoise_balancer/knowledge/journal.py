"""The journal of migrations: written down before they begin, ended once their end is known."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from virtpoise_balancer.knowledge import predictions
from virtpoise_balancer.knowledge.records import Entries, LostDomain, MigrationRecord, PredictionRecord
from virtpoise_balancer.knowledge.schema import migrations
from virtpoise_balancer.knowledge.schema import predictions as predictions_table
from virtpoise_balancer.model import Move, Outcome, Result


def enter(connection: Connection, plan_id: int, moves: Sequence[Move], now: float) -> Entries:
    """Write a plan's moves down with their predictions; the moves with their ids."""
    entries = []
    for position, move in enumerate(moves):
        values = {"domain": move.domain, "uuid": move.uuid, "source": move.source, "destination": move.destination}
        entered = insert(migrations).values(values | {"plan_id": plan_id, "position": position})
        migration_id = int(connection.execute(entered.returning(migrations.c.id)).scalar_one())
        predictions.journal(connection, migration_id, move, now)
        entries.append((migration_id, move))
    return tuple(entries)


def begin(connection: Connection, migration_id: int, now: float) -> None:
    connection.execute(update(migrations).where(migrations.c.id == migration_id).values(began=now))


def end(connection: Connection, migration_id: int, outcome: Outcome, now: float) -> None:
    connection.execute(
        update(migrations)
        .where(migrations.c.id == migration_id)
        .values(
            ended=now,
            result=outcome.result.value,
            why=outcome.why,
            seconds=outcome.seconds,
            downtime_seconds=outcome.downtime_seconds,
            transferred_bytes=outcome.transferred_bytes,
            dirty_bytes_per_second=outcome.dirty_bytes_per_second,
            lost=outcome.lost,
        )
    )
    if outcome.result is not Result.DONE:
        predictions.drop(connection, migration_id)


def unfinished(connection: Connection) -> tuple[Entries, tuple[int, ...]]:
    """Migrations without an end: those that had begun, and the ids of those that had not.

    The moves are read from the journal itself, not from the stored plan, so that no broken plan hides a migration.
    """
    rows = connection.execute(select(migrations).where(migrations.c.result.is_(None)).order_by(migrations.c.id)).all()
    begun = [row for row in rows if row.began is not None]
    loads = predictions.loads(connection, [row.id for row in begun])
    moves = tuple(
        (
            int(row.id),
            Move(
                domain=row.domain,
                uuid=row.uuid,
                source=row.source,
                destination=row.destination,
                predicted=loads[row.id],
            ),
        )
        for row in begun
    )
    return moves, tuple(int(row.id) for row in rows if row.began is None)


def noted(connection: Connection) -> tuple[dict[str, str], tuple[LostDomain, ...]]:
    """The migrations that are under way, as the domain's uuid and its destination, and the domains that were lost."""
    rows = connection.execute(
        select(
            migrations.c.id, migrations.c.uuid, migrations.c.destination, migrations.c.ended, migrations.c.lost
        ).where(migrations.c.lost | (migrations.c.began.is_not(None) & migrations.c.result.is_(None)))
    ).all()
    under_way = {row.uuid: row.destination for row in rows if not row.lost}
    lost = tuple(LostDomain(migration_id=row.id, uuid=row.uuid, ended=row.ended or 0.0) for row in rows if row.lost)
    return under_way, lost


def mark_found(connection: Connection, migration_ids: Sequence[int]) -> None:
    """The domains that these migrations lost run again."""
    if migration_ids:
        connection.execute(update(migrations).where(migrations.c.id.in_(migration_ids)).values(lost=False))


def history(
    connection: Connection,
    limit: int | None,
    *,
    uuid: str | None = None,
    host: str | None = None,
    plan_id: int | None = None,
) -> tuple[MigrationRecord, ...]:
    """The newest migrations, newest first, each with its predictions: all, or of one domain, host (either end) or plan."""
    wanted = select(migrations).order_by(migrations.c.id.desc()).limit(limit)
    if uuid is not None:
        wanted = wanted.where(migrations.c.uuid == uuid)
    if host is not None:
        wanted = wanted.where((migrations.c.source == host) | (migrations.c.destination == host))
    if plan_id is not None:
        wanted = wanted.where(migrations.c.plan_id == plan_id)
    rows = connection.execute(wanted).all()
    found: dict[int, list[PredictionRecord]] = {}
    ids = [row.id for row in rows]
    of_these = select(predictions_table).where(predictions_table.c.migration_id.in_(ids))
    for row in connection.execute(of_these.order_by(predictions_table.c.id)):
        found.setdefault(row.migration_id, []).append(predictions.as_record(row))
    return tuple(_as_record(row, found.get(row.id, ())) for row in rows)


def _as_record(row: Row[Any], found: Iterable[PredictionRecord]) -> MigrationRecord:
    values = {name: row._mapping[name] for name in MigrationRecord.__slots__ if name != "predictions"}
    return MigrationRecord(**values, predictions=tuple(found))
