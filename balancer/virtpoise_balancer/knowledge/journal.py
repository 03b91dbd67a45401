"""The journal of migrations: written down before they begin, ended once the world has shown their end, corrected if it
shows another.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, Row, String, bindparam, insert, select, update

from virtpoise_balancer.analyse.commitments import Commitment
from virtpoise_balancer.errors import Refused
from virtpoise_balancer.knowledge import predictions
from virtpoise_balancer.knowledge.groups import of_group
from virtpoise_balancer.knowledge.records import MigrationRecord, PredictionRecord
from virtpoise_balancer.knowledge.rows import Query
from virtpoise_balancer.knowledge.schema import migrations
from virtpoise_balancer.model import (
    Entries,
    JournalEntry,
    MigrationOutcome,
    Move,
    Result,
    Unsettled,
    UnsettledKind,
    Written,
)

# How long after a failure the world is still asked: a request that was stuck in a stopped daemon may be carried out
# after all.
_MAY_BE_CONTRADICTED_SECONDS = 300.0
# Libvirt was asked for it, or is about to be: a move that was skipped has changed nothing.
_WAS_MADE = migrations.c.began.is_not(None) & (
    migrations.c.result.is_(None) | (migrations.c.result != Result.SKIPPED.value)
)

_WITHOUT_END = migrations.c.result.is_(None)
_ENDED_LATELY = migrations.c.began.is_not(None) & (migrations.c.ended > bindparam("since"))
_ONE = Query(select(migrations).where(migrations.c.id == bindparam("migration_id")), "migration")
_FAILED = migrations.c.result == Result.FAILED.value
_WATCHED = Query(
    select(migrations)
    .where(
        _WITHOUT_END | migrations.c.lost | (_FAILED & (_ENDED_LATELY | migrations.c.volumes.is_not(None))),
        of_group(migrations.c.group_name),
    )
    .order_by(migrations.c.id),
    "migration",
)
_ELSEWHERE = Query(
    select(migrations)
    .where(
        (migrations.c.began.is_not(None) & _WITHOUT_END) | migrations.c.lost,
        migrations.c.group_name != bindparam("group", type_=String),
    )
    .order_by(migrations.c.id),
    "migration",
)
_COMMITMENTS = Query(
    select(migrations).where(_WITHOUT_END | _ENDED_LATELY, of_group(migrations.c.group_name)).order_by(migrations.c.id),
    "migration",
)
_MADE = Query(
    select(migrations.c.id, migrations.c.uuid, migrations.c.source)
    .where(migrations.c.uuid.in_(bindparam("uuids", expanding=True)), _WAS_MADE)
    .order_by(migrations.c.id),
    "migration",
)
# Migrations of the domain that may create the same volumes.
_SAME_WAY = (
    select(migrations.c.id)
    .where(
        migrations.c.uuid == bindparam("uuid"),
        migrations.c.destination == bindparam("destination"),
        migrations.c.id > bindparam("migration_id"),
        _WITHOUT_END,
    )
    .limit(1)
)
_MADE_LATER = (
    select(migrations.c.id)
    .where(migrations.c.uuid == bindparam("uuid"), migrations.c.id > bindparam("migration_id"), _WAS_MADE)
    .limit(1)
)
_ENTER = insert(migrations).returning(migrations.c.id)
_CHANGE = update(migrations).where(migrations.c.id == bindparam("migration_id"))
_CHANGE_OPEN = _CHANGE.where(_WITHOUT_END)


def enter(
    connection: Connection, plan_id: int, moves: Sequence[Move], now: float, term: int | None, group: str
) -> Entries:
    """Write a plan's moves down with their predictions; the moves with their ids. ``term``: the leader's number."""
    entries = []
    for position, move in enumerate(moves):
        values = {"domain": move.domain, "uuid": move.uuid, "source": move.source, "destination": move.destination}
        entered = values | {"plan_id": plan_id, "position": position, "term": term, "group_name": group}
        migration_id = int(connection.execute(_ENTER, entered).scalar_one())
        predictions.journal(connection, migration_id, move, now)
        entries.append((migration_id, move))
    return tuple(entries)


def begin(connection: Connection, migration_id: int, now: float, term: int | None) -> None:
    """Write that a migration begins. Refused when it has an end already: another balancer gave it one."""
    begun = {"migration_id": migration_id, "began": now, "term": term}
    if connection.execute(_CHANGE_OPEN, begun).rowcount != 1:
        check_open(connection, migration_id)


def check_open(connection: Connection, migration_id: int) -> None:
    """Refused unless the journal has the migration without an end."""
    found = _ONE.row(connection, [], migration_id=migration_id)
    if found is None:
        raise Refused("the journal does not have this migration")
    if found.result is not None:
        raise Refused(f"the journal has this migration as ended ({found.result}: {found.why})")


def check_newest(connection: Connection, migration_id: int) -> None:
    """Refused when a later migration of its domain has begun: what the hosts show is the work of that one."""
    found = _ONE.row(connection, [], migration_id=migration_id)
    if found is not None and _has_moved_on(connection, found.uuid, migration_id):
        raise Refused(f"the next migration of {found.domain} has begun")


def note_volumes(connection: Connection, migration_id: int, volumes: Sequence[str], *, created: bool) -> None:
    """Write which volumes were created for a migration, or are about to be, and are to be deleted if it fails."""
    paths = [*volumes]
    written = json.dumps(paths if created else {"intended": paths}) if volumes else None
    connection.execute(_CHANGE, {"migration_id": migration_id, "volumes": written})


def check_volumes(connection: Connection, migration_id: int) -> None:
    """Refused when a later migration of the domain to the same host has no end: its volumes have the same paths."""
    found = _ONE.row(connection, [], migration_id=migration_id)
    if found is None:
        raise Refused("the journal does not have this migration")
    same = {"uuid": found.uuid, "destination": found.destination, "migration_id": migration_id}
    if connection.execute(_SAME_WAY, same).first() is not None:
        raise Refused(f"the next migration of {found.domain} to {found.destination} has no end")


def _volumes(row: Row[Any], since: float) -> tuple[tuple[str, ...], bool]:
    """What is to be deleted, once the failure of the migration is not contradicted any more, and whether it is known to
    be created.
    """
    if row.volumes is None or row.result != Result.FAILED.value or row.lost or row.ended is None or row.ended > since:
        return (), True
    try:
        found = json.loads(row.volumes)
    except ValueError:
        return (), True
    created = not isinstance(found, dict)
    paths = found if created else found.get("intended")
    known = isinstance(paths, list) and all(isinstance(one, str) for one in paths)
    return tuple(paths) if known else (), created


def end(connection: Connection, migration_id: int, outcome: MigrationOutcome, now: float) -> Written:
    """Write the end of a migration, or correct the one that was written before.

    A failure is corrected when the domain turns out to have arrived, and a loss when the domain is accounted for. Any
    other second end changes nothing, so that an end may be written again.
    """
    before = _ONE.row(connection, [], migration_id=migration_id)
    if before is None:  # forgotten, or a broken row
        return Written.NOTHING
    values = {
        "ended": now,
        "result": outcome.result.value,
        "why": outcome.why,
        "cause": None if outcome.cause is None else outcome.cause.value,
        "seconds": outcome.seconds,
        "downtime_seconds": outcome.downtime_seconds,
        "transferred_bytes": outcome.transferred_bytes,
        "dirty_bytes_per_second": outcome.dirty_bytes_per_second,
        "lost": outcome.lost,
    } | ({"volumes": None} if outcome.result is Result.DONE else {})
    arrived = (
        before.result == Result.FAILED.value
        and outcome.result is Result.DONE
        and not _has_moved_on(connection, before.uuid, migration_id)
    )
    if before.result is None:
        written = Written.ENDED
        if before.why:  # an end was taken back
            values["why"] = "; ".join(filter(None, (outcome.why, before.why)))
    elif arrived:
        written = Written.CORRECTED
        values["why"] = "; ".join(filter(None, (outcome.why, f"corrected, was failed: {before.why}")))
    elif before.lost and not outcome.lost and outcome.result is not Result.SKIPPED:
        written = Written.NOTHING
        values = {"lost": False}
    else:
        return Written.NOTHING
    connection.execute(_CHANGE, values | {"migration_id": migration_id})
    if written is Written.ENDED and outcome.result is not Result.DONE:
        predictions.drop(connection, migration_id)
    return written


def reopen(connection: Connection, migration_id: int, why: str, *, doubled: bool) -> None:
    """Take the end of a migration back, unless the domain's next one has begun. ``why``: what contradicts it.

    ``doubled``: the domain is active on two hosts, which is written down even where there is no end.
    """
    if doubled:
        connection.execute(_CHANGE, {"migration_id": migration_id, "doubled": True})
    before = _ONE.row(connection, [], migration_id=migration_id)
    if before is not None and before.result is not None and not _has_moved_on(connection, before.uuid, migration_id):
        text = f"corrected, was {before.result}: {before.why}; then {why}"
        values = {"result": None, "ended": None, "why": text, "seconds": None, "lost": False}
        connection.execute(_CHANGE, values | {"migration_id": migration_id})


def watched(connection: Connection, now: float, group: str | None, broken: list[str]) -> tuple[JournalEntry, ...]:
    """The entries that the world is asked about: without an end, with a domain that is lost, failed a short while ago,
    or failed and with volumes that are to be deleted.

    The moves are read from the journal itself, not from the stored plan, so that no broken plan hides a migration.
    """
    since = now - _MAY_BE_CONTRADICTED_SECONDS
    rows = _WATCHED.rows(connection, broken, since=since, group=group)
    if not rows:
        return ()
    next_sources = _next_sources(connection, list({row.uuid for row in rows}), broken)
    loads = predictions.loads(connection, [row.id for row in rows], broken)
    return tuple(
        JournalEntry(
            id=row.id,
            move=Move(
                domain=row.domain,
                uuid=row.uuid,
                source=row.source,
                destination=row.destination,
                predicted=loads[row.id],
            ),
            began=row.began,
            result=_result(row),
            lost=bool(row.lost),
            left_from=left_from,
            doubled=bool(row.doubled),
            ended=row.ended,
            volumes=volumes,
            volumes_created=created,
        )
        for row in rows
        for volumes, created in [_volumes(row, since)]
        if (left_from := next_sources(row.uuid, row.id)) is None or row.result is None or row.lost or row.volumes
    )


def commitments(connection: Connection, ended_since: float, group: str, broken: list[str]) -> tuple[Commitment, ...]:
    """The moves that have not ended, and the migrations that ended after ``ended_since``; oldest first."""
    rows = _COMMITMENTS.rows(connection, broken, since=ended_since, group=group)
    return tuple(Commitment(**fields_of_commitment(row)) for row in rows)


def elsewhere(connection: Connection, group: str, broken: list[str]) -> tuple[Unsettled, ...]:
    """The migrations of other groups that keep all action off their hosts: those without an end, and lost domains."""
    found = []
    for row in _ELSEWHERE.rows(connection, broken, group=group):
        way = f"the migration of {row.domain} from {row.source} to {row.destination}"
        kind, text = UnsettledKind.MIGRATING, f"{way} is under way"
        if row.lost:
            kind, text = UnsettledKind.NOWHERE, f"{row.domain} runs nowhere since {way}"
        of = f" in the group {row.group_name}" if row.group_name else ""
        hosts = (row.source, row.destination)
        found.append(Unsettled(domain=row.domain, uuid=row.uuid, hosts=hosts, kind=kind, text=f"{text}{of}"))
    return tuple(found)


def fields_of_commitment(row: Row[Any]) -> dict[str, Any]:
    """What a row of the journal holds of a commitment."""
    names = ("domain", "uuid", "source", "destination", "began", "ended")
    return {name: row._mapping[name] for name in names} | {"result": _result(row)}


def _result(row: Row[Any]) -> Result | None:
    return None if row.result is None else Result(row.result)


def _next_sources(connection: Connection, uuids: Sequence[str], broken: list[str]) -> Callable[[str, int], str | None]:
    """A function of a domain and an entry: the source of the domain's next migration that began, or None."""
    begun: dict[str, list[tuple[int, str]]] = {}
    for row in _MADE.rows(connection, broken, uuids=uuids):
        begun.setdefault(row.uuid, []).append((row.id, row.source))
    return lambda uuid, after: next((source for id_, source in begun.get(uuid, ()) if id_ > after), None)


def _has_moved_on(connection: Connection, uuid: str, migration_id: int) -> bool:
    """Whether a later migration of the domain has begun. What its hosts show since then is the end of that one."""
    return connection.execute(_MADE_LATER, {"uuid": uuid, "migration_id": migration_id}).first() is not None


def acknowledge(connection: Connection, uuid: str, why: str, now: float) -> bool:
    """A person has accounted for a domain that was lost, or whose migration has no known end. Whether there was one."""
    of_domain = update(migrations).where(migrations.c.uuid == uuid)
    found = connection.execute(of_domain.where(migrations.c.lost).values(lost=False))
    left_open = migrations.c.began.is_not(None) & migrations.c.result.is_(None)
    ended = connection.execute(of_domain.where(left_open).values(result=Result.FAILED.value, ended=now, why=why))
    return found.rowcount + ended.rowcount > 0


def history(
    connection: Connection,
    limit: int | None,
    broken: list[str],
    *,
    uuid: str | None = None,
    host: str | None = None,
    plan_id: int | None = None,
    group: str | None = None,
) -> tuple[MigrationRecord, ...]:
    """Migrations with their predictions, the newest first: all, or of one domain, host (either end), plan or
    group.
    """
    wanted = select(migrations).order_by(migrations.c.id.desc()).limit(limit)
    if group is not None:
        wanted = wanted.where(migrations.c.group_name == group)
    if uuid is not None:
        wanted = wanted.where(migrations.c.uuid == uuid)
    if host is not None:
        wanted = wanted.where((migrations.c.source == host) | (migrations.c.destination == host))
    if plan_id is not None:
        wanted = wanted.where(migrations.c.plan_id == plan_id)
    rows = Query(wanted, "migration").rows(connection, broken)
    found: dict[int, list[PredictionRecord]] = {}
    for row in predictions.of_migrations(connection, [row.id for row in rows], broken):
        found.setdefault(row.migration_id, []).append(predictions.as_record(row))
    return tuple(_as_record(row, found.get(row.id, ())) for row in rows)


def _as_record(row: Row[Any], found: Iterable[PredictionRecord]) -> MigrationRecord:
    values = {name: row._mapping[name] for name in MigrationRecord.__slots__ if name != "predictions"}
    return MigrationRecord(**values, predictions=tuple(found))
