"""The brake: why the balancer makes no more moves by itself, judged by how its migrations and predictions
came out, and by whether others and it undo each other's moves.

A brake stays on until a person releases it. What happened before the release does not count any more.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from virtpoise_balancer.analyse.commitments import Commitment
from virtpoise_balancer.analyse.drains import DrainOrders
from virtpoise_balancer.analyse.others import ChangeKind, OthersChange
from virtpoise_balancer.model import WHY_LENGTH, BrakeBounds, Result

_MOST_NAMED = 3
# For how long after a migration another one of the same domain is taken to undo it.
_UNDONE_SECONDS = 3600.0


class BrakeCause(StrEnum):
    """What pulled the brake, as a label of a metric."""

    MIGRATIONS = "migrations"  # too many domains' newest migration failed
    PREDICTIONS = "predictions"  # predicted loads are too far from measured ones
    OTHERS = "others"  # it and others undo each other's moves: perhaps a second balancer with another store


@dataclass(frozen=True, slots=True, kw_only=True)
class Brake:
    """Why, and since when (Unix seconds), moves are only recommended."""

    at: float
    cause: BrakeCause
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedMigration(Commitment):
    """A migration that libvirt was asked for and that has ended. ``why``: empty if it is done."""

    began: float
    ended: float
    result: Result
    why: str = ""

    @property
    def failed(self) -> bool:
        return self.result is Result.FAILED


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionError:
    """How far a measured load was from the predicted one. ``measured``: the end of its window, in Unix seconds."""

    measured: float
    error_ratio: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackRecord:
    """The outcomes of the balancer's newest migrations and predictions, and others' migrations; all oldest first."""

    migrations: tuple[EndedMigration, ...] = ()
    errors: tuple[PredictionError, ...] = ()
    others: tuple[OthersChange, ...] = ()


def in_force(brake: Brake | None, released: float | None) -> Brake | None:
    """The brake, unless it was released since. ``released``: when a person last released one (Unix seconds)."""
    return brake if brake is not None and (released is None or released < brake.at) else None


def judge(
    record: TrackRecord, bounds: BrakeBounds, released: float | None, now: float, drains: DrainOrders | None = None
) -> Brake | None:
    """The brake to pull at ``now``, or None. Only what ended after the last release and within the window counts.

    ``drains``: the newest order for each host.
    """
    since = max(now - bounds.window_seconds, released if released is not None else 0.0)
    if why := _failing([one for one in record.migrations if one.ended > since], bounds):
        return Brake(at=now, cause=BrakeCause.MIGRATIONS, why=why)
    if why := _opposed(record, bounds, since, drains or {}):
        return Brake(at=now, cause=BrakeCause.OTHERS, why=why)
    if why := _erring([one for one in record.errors if one.measured > since], bounds):
        return Brake(at=now, cause=BrakeCause.PREDICTIONS, why=why)
    return None


def _failing(migrations: Sequence[EndedMigration], bounds: BrakeBounds) -> str | None:
    """Each domain counts once, with its newest migration: one domain that cannot be migrated is no fault of the
    group.
    """
    newest = {one.uuid: one for one in migrations}
    failed = [one for one in newest.values() if one.failed]
    if len(failed) < bounds.failed_domains or len(failed) < bounds.failed_ratio * len(newest):
        return None
    last = sorted(failed, key=lambda one: one.ended)[-1]  # the last one of equals
    return (
        f"the newest migration of {len(failed)} of {len(newest)} domains failed, "
        f"the last one of {last.domain} to {last.destination}: {last.why[:WHY_LENGTH]}"
    )


def _opposed(record: TrackRecord, bounds: BrakeBounds, since: float, drains: DrainOrders) -> str | None:
    """Others and we undo each other's moves.

    Each such move counts for both sides, so a second balancer comes to the same. Only placements count: to change these
    takes rights on two hosts, while a domain's owner may write whatever into its metadata.
    """
    theirs = [one for one in record.others if one.kind is ChangeKind.MIGRATED and one.at > since]
    ours = [one for one in record.migrations if not one.failed and one.ended > since]
    against = [
        *((one.at, one.domain, one.source, one.destination) for one in theirs if _undoes(one, ours)),
        *((one.at, one.domain, one.source, one.destination) for one in theirs if _fills(one, drains)),
        *((one.ended, one.domain, one.source, one.destination) for one in ours if _is_contrary(one, theirs, drains)),
    ]
    against = sorted(set(against))
    if len(against) < bounds.opposed_moves:
        return None
    named = ", ".join(f"{domain} from {source} to {there}" for _, domain, source, there in against[-_MOST_NAMED:])
    return (
        f"it and others undid {len(against)} of each other's moves ({named}); perhaps a second balancer with another "
        "store acts on these hosts"
    )


def _undoes(change: OthersChange, ours: Sequence[EndedMigration]) -> bool:
    """Whether others took a domain away from where our newest migration had put it, a short while before."""
    before = [one for one in ours if one.uuid == change.uuid and one.ended <= change.at]
    return bool(before) and before[-1].destination == change.source and change.at - before[-1].ended <= _UNDONE_SECONDS


def _fills(change: OthersChange, drains: DrainOrders) -> bool:
    """Whether others brought a domain to a host that a person has us drain."""
    order = drains.get(change.destination or "")
    return order is not None and order.draining and order.at < change.before


def _is_contrary(move: EndedMigration, theirs: Sequence[OthersChange], drains: DrainOrders) -> bool:
    """Whether we took a domain away from where others had put it, a short while before, and not for a drain."""
    order = drains.get(move.source)
    if order is not None and (order.draining or order.at > move.ended):
        return False
    before = [one for one in theirs if one.uuid == move.uuid and one.at <= move.ended]
    return bool(before) and before[-1].destination == move.source and move.ended - before[-1].at <= _UNDONE_SECONDS


def _erring(errors: Sequence[PredictionError], bounds: BrakeBounds) -> str | None:
    newest = [abs(one.error_ratio) for one in errors[-bounds.predictions :]]
    if len(newest) < bounds.predictions:
        return None
    middle = statistics.median(newest)
    if middle < bounds.error_ratio:
        return None
    return f"half of the newest {len(newest)} predicted loads were off by {middle:.0%} of a host or more"
