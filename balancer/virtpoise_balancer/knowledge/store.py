"""The store: SQLite by default, any database that SQLAlchemy knows. Safe to use from several threads."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import (
    Connection,
    Engine,
    Executable,
    Row,
    Table,
    column,
    create_engine,
    delete,
    event,
    func,
    insert,
    inspect,
    select,
    table,
    update,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from virtpoise_balancer import model
from virtpoise_balancer.analyse.backoff import Standing
from virtpoise_balancer.analyse.learned import Experience, Moved
from virtpoise_balancer.analyse.measure import DuePrediction, Measured, Role
from virtpoise_balancer.errors import BadInput
from virtpoise_balancer.formats import read_plan, write_plan
from virtpoise_balancer.knowledge.schema import actions, cycles, migrations, plans, predictions, standings, steering
from virtpoise_balancer.knowledge.steering import Action, Setting, Steering
from virtpoise_balancer.model import Link, Move, Outcome, Plan, Prediction, Residual, Result

_ROLES: tuple[Role, ...] = ("source", "destination")
_DAY_SECONDS = 86400.0
_MIGRATIONS = Path(__file__).with_name("migrations")
# More would not make an interval better, but each cycle slower.
_RESIDUALS_KEPT = 200
# A link is what it was lately: so many migrations of each, among the newest of all.
_MIGRATIONS_OF_A_LINK = 20
_MIGRATIONS_WEIGHED = 2000
_VERSION = table("alembic_version", column("version_num"))


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedPlan:
    """A plan whose moves have all ended, how each did, and when the last did."""

    id: int
    plan: Plan
    results: tuple[Result, ...]
    ended: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionRecord:
    """A prediction and, once it has a ``verdict`` (measured, disturbed, no_data, not_moved), how it came out."""

    host: str
    role: Role
    resource: str
    made: float
    predicted: float
    lower: float
    upper: float
    measured: float | None
    error: float | None
    verdict: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationRecord:
    """A migration as the history shows it; ``began`` and ``result`` are None until it has begun and ended."""

    id: int
    domain: str
    uuid: str
    source: str
    destination: str
    began: float | None
    ended: float | None
    result: str | None
    why: str
    seconds: float | None
    downtime_seconds: float | None
    transferred_bytes: int | None
    dirty_bytes_per_second: float | None
    predictions: tuple[PredictionRecord, ...]


class Store:
    """The balancer's memory. ``url``: a database address as SQLAlchemy takes it."""

    def __init__(self, url: str, keep_days: int = 90) -> None:
        self.keep_days = keep_days
        self._engine = _engine(url)

    @classmethod
    def open(cls, url: str, keep_days: int = 90) -> Store:
        """The store at ``url``, its tables brought up to date. BadInput when it cannot be opened."""
        try:
            store = cls(url, keep_days)
            with store._engine.begin() as connection:
                _upgrade(connection)
        except (SQLAlchemyError, OSError, ImportError, ValueError) as error:  # an address or a driver that is none, too
            reason = getattr(error, "orig", None) or error
            raise BadInput(f"state.url: {url}: cannot be opened: {str(reason).splitlines()[0]}") from None
        return store

    def close(self) -> None:
        self._engine.dispose()

    # --- cycles -------------------------------------------------------------------------------------------------------

    def record_cycle(self, *, started: float, seconds: float, mode: str, result: str, sentence: str) -> None:
        with self._engine.begin() as connection:
            connection.execute(
                insert(cycles).values(started=started, seconds=seconds, mode=mode, result=result, sentence=sentence)
            )

    def forget(self, now: float) -> None:
        """Drop what is older than ``keep_days``."""
        before = now - self.keep_days * _DAY_SECONDS
        with self._engine.begin() as connection:
            connection.execute(delete(cycles).where(cycles.c.started < before))
            connection.execute(delete(plans).where(plans.c.made < before, plans.c.settled))
            connection.execute(delete(actions).where(actions.c.at < before))

    # --- plans and migrations -----------------------------------------------------------------------------------------

    def record_plan(self, plan: Plan, now: float, *, acted: bool) -> tuple[tuple[int, Move], ...]:
        """Write a plan down; if it is acted on, with its migrations and predictions, which are returned by their ids.

        A recommendation that has not changed since the last one is not written again.
        """
        with self._engine.begin() as connection:
            if not acted and _newest_recommendation(connection) == plan.moves:
                return ()
            values = {"strategy": plan.strategy, "solved": plan.solved, "summary": plan.summary}
            plan_id = _new_id(
                connection,
                plans,
                values | {"made": now, "document": write_plan(plan), "acted": acted, "settled": not acted},
            )
            if not acted:
                return ()
            return tuple((_journal(connection, plan_id, i, move, now), move) for i, move in enumerate(plan.moves))

    def begin(self, migration_id: int) -> None:
        """A journalled migration starts now."""
        self._write(update(migrations).where(migrations.c.id == migration_id).values(began=time.time()))

    def end(self, migration_id: int, outcome: Outcome) -> None:
        """A journalled migration has ended now."""
        self._write(
            update(migrations)
            .where(migrations.c.id == migration_id)
            .values(
                ended=time.time(),
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
            self._write(
                update(predictions).where(predictions.c.migration_id == migration_id).values(verdict="not_moved")
            )

    def unfinished(self) -> tuple[tuple[tuple[int, Move], ...], tuple[int, ...]]:
        """Journalled migrations without an end: those that had begun, and the ids of those that had not."""
        with self._engine.connect() as connection:
            rows = connection.execute(select(migrations).where(migrations.c.result.is_(None))).all()
            begun = tuple((int(row.id), _move(connection, row)) for row in rows if row.began is not None)
        return begun, tuple(int(row.id) for row in rows if row.began is None)

    def ended_plans(self) -> tuple[EndedPlan, ...]:
        """The plans that were acted on, whose moves have all ended, and that are not settled yet; oldest first."""
        ended = []
        with self._engine.connect() as connection:
            for row in connection.execute(select(plans).where(plans.c.settled.is_(False)).order_by(plans.c.id)):
                moves = connection.execute(
                    select(migrations.c.result, migrations.c.ended)
                    .where(migrations.c.plan_id == row.id)
                    .order_by(migrations.c.position)
                ).all()
                if any(move.result is None for move in moves):
                    continue
                ended.append(
                    EndedPlan(
                        id=row.id,
                        plan=read_plan(row.document, "store"),
                        results=tuple(Result(move.result) for move in moves),
                        ended=max((move.ended for move in moves), default=row.made),
                    )
                )
        return tuple(ended)

    def settle(self, plan_id: int, standings_after: Mapping[str, Standing]) -> None:
        """Draw a plan's end into the standings, in one transaction."""
        with self._engine.begin() as connection:
            _save_standings(connection, standings_after.values())
            connection.execute(update(plans).where(plans.c.id == plan_id).values(settled=True))

    def experience(self, moved_since: float) -> Experience:
        """What the migrations so far taught; of a domain's moves those that ended after ``moved_since`` (Unix seconds)."""
        with self._engine.connect() as connection:
            return Experience(
                moved=_moved(connection, moved_since),
                migrating=_migrating(connection),
                dirtying=_dirtying(connection),
                residuals=_residuals(connection),
                links=_links(connection),
            )

    def lost(self, running: Iterable[str]) -> frozenset[str]:
        """The uuids of domains that a migration left running on neither host; those that run again are lost no longer."""
        with self._engine.begin() as connection:
            rows = connection.execute(select(migrations.c.uuid).where(migrations.c.lost))
            lost = frozenset(row.uuid for row in rows)
            found = lost.intersection(running) if lost else lost
            if found:
                connection.execute(update(migrations).where(migrations.c.uuid.in_(found)).values(lost=False))
        return lost - found

    # --- predictions --------------------------------------------------------------------------------------------------

    def due_predictions(self, before: float) -> tuple[DuePrediction, ...]:
        """Predictions without a verdict whose migration was done before ``before``."""
        other = migrations.alias("other")
        with self._engine.connect() as connection:
            rows = connection.execute(
                select(predictions, migrations.c.ended, migrations.c.began)
                .join(migrations, predictions.c.migration_id == migrations.c.id)
                .where(
                    predictions.c.verdict.is_(None),
                    migrations.c.result == Result.DONE.value,
                    migrations.c.ended < before,
                )
                .order_by(predictions.c.id)
            ).all()
            due = []
            for row in rows:
                disturbed = connection.execute(
                    select(func.min(other.c.began)).where(
                        other.c.id != row.migration_id,
                        # begun later, or begun earlier and still under way when this one had ended
                        (other.c.began > row.began)
                        | (other.c.ended > row.ended)
                        | (other.c.began.is_not(None) & other.c.result.is_(None)),
                        (other.c.source == row.host) | (other.c.destination == row.host),
                    )
                ).scalar_one()
                due.append(
                    DuePrediction(
                        id=row.id,
                        host=row.host,
                        role=row.role,
                        predicted=row.predicted,
                        lower=row.lower,
                        upper=row.upper,
                        migrated=row.ended,
                        disturbed_from=disturbed,
                    )
                )
        return tuple(due)

    def ends(self, prediction_id: int) -> tuple[str, str]:
        """Source and destination of the migration that a prediction is of."""
        with self._engine.connect() as connection:
            row = connection.execute(
                select(migrations.c.source, migrations.c.destination)
                .join(predictions, predictions.c.migration_id == migrations.c.id)
                .where(predictions.c.id == prediction_id)
            ).one()
        return row.source, row.destination

    def record_verdict(self, prediction_id: int, measured: Measured) -> None:
        start, end = measured.window or (None, None)
        self._write(
            update(predictions)
            .where(predictions.c.id == prediction_id)
            .values(
                verdict=measured.verdict,
                window_start=start,
                window_end=end,
                measured=measured.ratio,
                error=measured.error,
            )
        )

    def open_predictions(self) -> tuple[PredictionRecord, ...]:
        """The predictions of acted plans that still wait for their verdict; a host's newest last."""
        with self._engine.connect() as connection:
            rows = connection.execute(
                select(predictions).where(predictions.c.verdict.is_(None)).order_by(predictions.c.id)
            )
            return tuple(_prediction(row) for row in rows)

    # --- history ------------------------------------------------------------------------------------------------------

    def history(self, limit: int, *, uuid: str | None = None, host: str | None = None) -> tuple[MigrationRecord, ...]:
        """The newest migrations (of a domain, or from and to a host), newest first, each with its predictions."""
        wanted = select(migrations).order_by(migrations.c.id.desc()).limit(limit)
        if uuid is not None:
            wanted = wanted.where(migrations.c.uuid == uuid)
        if host is not None:
            wanted = wanted.where((migrations.c.source == host) | (migrations.c.destination == host))
        with self._engine.connect() as connection:
            rows = connection.execute(wanted).all()
            ids = [row.id for row in rows]
            found: dict[int, list[PredictionRecord]] = {}
            for row in connection.execute(
                select(predictions).where(predictions.c.migration_id.in_(ids)).order_by(predictions.c.id)
            ):
                found.setdefault(row.migration_id, []).append(_prediction(row))
        return tuple(_migration(row, found.get(row.id, ())) for row in rows)

    # --- standings ----------------------------------------------------------------------------------------------------

    def standings(self) -> dict[str, Standing]:
        with self._engine.connect() as connection:
            return {row.host: Standing(**row._mapping) for row in connection.execute(select(standings))}

    def save_standings(self, changed: Iterable[Standing]) -> None:
        with self._engine.begin() as connection:
            _save_standings(connection, changed)

    def set_draining(self, host: str, *, draining: bool) -> bool:
        """Order a drain or take the order back; whether that changed anything. The host's penalty and count start afresh."""
        with self._engine.begin() as connection:
            row = connection.execute(select(standings.c.draining).where(standings.c.host == host)).first()
            if bool(row and row.draining) == draining:
                return False
            _save_standings(connection, [Standing(host=host, draining=draining)])
            return True

    # --- orders -------------------------------------------------------------------------------------------------------

    def steering(self) -> Steering:
        with self._engine.connect() as connection:
            rows = connection.execute(select(steering)).all()
        return Steering(**{row.name: Setting(**_fields(row, Setting)) for row in rows})

    def set_steering(self, name: Literal["paused", "mode"], setting: Setting | None) -> None:
        """Set it, or with None take it back."""
        with self._engine.begin() as connection:
            connection.execute(delete(steering).where(steering.c.name == name))
            if setting is not None:
                connection.execute(insert(steering).values(asdict(setting) | {"name": name}))

    def record_action(self, action: Action) -> None:
        self._write(insert(actions).values(asdict(action)))

    def actions(self, limit: int) -> tuple[Action, ...]:
        """The newest orders, newest first."""
        with self._engine.connect() as connection:
            rows = connection.execute(select(actions).order_by(actions.c.id.desc()).limit(limit))
            return tuple(Action(**_fields(row, Action)) for row in rows)

    def _write(self, statement: Executable) -> None:
        with self._engine.begin() as connection:
            connection.execute(statement)


def _engine(url: str) -> Engine:
    address = make_url(url)
    engine = create_engine(address, connect_args={"timeout": 30} if address.get_backend_name() == "sqlite" else {})
    if address.get_backend_name() == "sqlite":

        @event.listens_for(engine, "connect")
        def _prepare(connection: Any, _record: Any) -> None:
            # Readers (history, status) must not hold the balancer up, nor it them.
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA foreign_keys=ON")

    return engine


def _upgrade(connection: Connection) -> None:
    """Bring the tables up to date; where they are, alembic is not even imported, for commands must come at once."""
    if inspect(connection).has_table(_VERSION.name) and connection.scalar(select(_VERSION.c.version_num)) == _newest():
        return
    from alembic import command
    from alembic.config import Config as AlembicConfig

    config = AlembicConfig()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _newest() -> str:
    """The newest revision: each is named by the number that its file begins with."""
    return max(path.name.partition("_")[0] for path in (_MIGRATIONS / "versions").glob("[0-9]*.py"))


def _new_id(connection: Connection, table: Table, values: Mapping[str, Any]) -> int:
    return int(connection.execute(insert(table).values(values).returning(table.c.id)).scalar_one())


def _newest_recommendation(connection: Connection) -> tuple[Move, ...] | None:
    newest = connection.execute(select(plans.c.acted, plans.c.document).order_by(plans.c.id.desc()).limit(1)).first()
    return read_plan(newest.document, "store").moves if newest and not newest.acted else None


def _journal(connection: Connection, plan_id: int, position: int, move: Move, now: float) -> int:
    """Write a move down with its predictions; its id."""
    values = {"domain": move.domain, "uuid": move.uuid, "source": move.source, "destination": move.destination}
    migration_id = _new_id(connection, migrations, values | {"plan_id": plan_id, "position": position})
    for role in _ROLES:
        predicted: Prediction = getattr(move.predicted, role)
        _new_id(
            connection,
            predictions,
            {
                "migration_id": migration_id,
                "host": getattr(move, role),
                "role": role,
                "resource": "cpu",
                "made": now,
                "predicted": predicted.cpu_ratio,
                "lower": predicted.cpu_ratio_lower,
                "upper": predicted.cpu_ratio_upper,
                "spread": predicted.cpu_spread_ratio,
                "bias": predicted.cpu_bias_ratio,
                "saturated": predicted.saturated,
            },
        )
    return migration_id


def _move(connection: Connection, row: Row[Any]) -> Move:
    document = connection.execute(select(plans.c.document).where(plans.c.id == row.plan_id)).scalar_one()
    move: Move = read_plan(document, "store").moves[row.position]
    return move


def _moved(connection: Connection, since: float) -> dict[str, Moved]:
    rows = connection.execute(
        select(migrations.c.uuid, func.count().label("times"), func.max(migrations.c.ended).label("last"))
        .where(migrations.c.result == Result.DONE.value, migrations.c.ended > since)
        .group_by(migrations.c.uuid)
    )
    return {row.uuid: Moved(times=row.times, last=row.last) for row in rows}


def _migrating(connection: Connection) -> dict[str, str]:
    under_way = select(migrations.c.uuid, migrations.c.destination).where(
        migrations.c.began.is_not(None), migrations.c.result.is_(None)
    )
    return {row.uuid: row.destination for row in connection.execute(under_way)}


def _dirtying(connection: Connection) -> dict[str, float]:
    """What the newest migration of each domain that was watched for long enough told, whether it was done or not."""
    rows = connection.execute(
        select(migrations.c.uuid, migrations.c.dirty_bytes_per_second)
        .where(migrations.c.dirty_bytes_per_second.is_not(None))
        .order_by(migrations.c.id.desc())
        .limit(_MIGRATIONS_WEIGHED)
    ).all()
    return {row.uuid: row.dirty_bytes_per_second for row in reversed(rows)}


def _residuals(connection: Connection) -> tuple[Residual, ...]:
    """The newest of each role and regime, so that a common regime does not push a rare one out."""
    found = []
    for role in _ROLES:
        for saturated in (False, True):
            rows = connection.execute(
                select(predictions.c.error, predictions.c.bias, predictions.c.spread)
                .where(
                    predictions.c.role == role,
                    predictions.c.saturated.is_(saturated),
                    predictions.c.verdict == "measured",
                    predictions.c.spread > 0,
                )
                .order_by(predictions.c.id.desc())
                .limit(_RESIDUALS_KEPT)
            )
            found += [
                Residual(
                    role=model.Role(role),
                    saturated=saturated,
                    error_ratio=row.error + row.bias,
                    spread_ratio=row.spread,
                )
                for row in rows
            ]
    return tuple(found)


def _links(connection: Connection) -> tuple[Link, ...]:
    """How fast the newest migrations between each two hosts were, taken together."""
    rows = connection.execute(
        select(migrations.c.source, migrations.c.destination, migrations.c.transferred_bytes, migrations.c.seconds)
        .where(
            migrations.c.result == Result.DONE.value,
            migrations.c.transferred_bytes > 0,
            migrations.c.seconds > 0,
        )
        .order_by(migrations.c.id.desc())
        .limit(_MIGRATIONS_WEIGHED)
    )
    totals: dict[tuple[str, str], tuple[int, int, float]] = {}
    for row in rows:
        count, transferred, seconds = totals.get((row.source, row.destination), (0, 0, 0.0))
        if count < _MIGRATIONS_OF_A_LINK:
            totals[row.source, row.destination] = (
                count + 1,
                transferred + row.transferred_bytes,
                seconds + row.seconds,
            )
    return tuple(
        Link(source=source, destination=destination, bytes_per_second=transferred / seconds)
        for (source, destination), (_, transferred, seconds) in sorted(totals.items())
    )


def _prediction(row: Row[Any]) -> PredictionRecord:
    return PredictionRecord(**_fields(row, PredictionRecord))


def _migration(row: Row[Any], found: Iterable[PredictionRecord]) -> MigrationRecord:
    values = {name: row._mapping[name] for name in MigrationRecord.__slots__ if name != "predictions"}
    return MigrationRecord(**values, predictions=tuple(found))


def _fields(row: Row[Any], kind: type) -> dict[str, Any]:
    """The row's columns that are fields of the dataclass."""
    return {field.name: row._mapping[field.name] for field in fields(kind)}


def _save_standings(connection: Connection, changed: Iterable[Standing]) -> None:
    for standing in changed:
        connection.execute(delete(standings).where(standings.c.host == standing.host))
        connection.execute(insert(standings).values(asdict(standing)))
