"""The brake: why the balancer makes no more moves by itself, judged by how its migrations and predictions came out.

A brake stays on until a person releases it. What happened before the release does not count any more.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from virtpoise_balancer.model import BrakeBounds

_WHY_LENGTH = 200


class BrakeCause(StrEnum):
    """What pulled the brake, as a label of a metric."""

    MIGRATIONS = "migrations"  # too many domains' newest migration failed
    PREDICTIONS = "predictions"  # predicted loads are too far from measured ones


@dataclass(frozen=True, slots=True, kw_only=True)
class Brake:
    """Why, and since when (Unix seconds), moves are only recommended."""

    at: float
    cause: BrakeCause
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedMigration:
    """A migration that libvirt was asked for and that has ended. ``why``: empty if it is done.

    ``ended``: in Unix seconds.
    """

    domain: str
    uuid: str
    destination: str
    ended: float
    failed: bool
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionError:
    """How far a measured load was from the predicted one. ``measured``: the end of its window, in Unix seconds."""

    measured: float
    error_ratio: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackRecord:
    """How the newest migrations and predictions came out, oldest first."""

    migrations: tuple[EndedMigration, ...] = ()
    errors: tuple[PredictionError, ...] = ()


def in_force(brake: Brake | None, released: float | None) -> Brake | None:
    """The brake, unless it was released since. ``released``: when a person last released one (Unix seconds)."""
    return brake if brake is not None and (released is None or released < brake.at) else None


def judge(record: TrackRecord, bounds: BrakeBounds, released: float | None, now: float) -> Brake | None:
    """The brake to pull at ``now``, or None. Only what ended after the last release and within the window counts."""
    since = max(now - bounds.window_seconds, released if released is not None else 0.0)
    if why := _failing([one for one in record.migrations if one.ended > since], bounds):
        return Brake(at=now, cause=BrakeCause.MIGRATIONS, why=why)
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
        f"the last one of {last.domain} to {last.destination}: {last.why[:_WHY_LENGTH]}"
    )


def _erring(errors: Sequence[PredictionError], bounds: BrakeBounds) -> str | None:
    newest = [abs(one.error_ratio) for one in errors[-bounds.predictions :]]
    if len(newest) < bounds.predictions:
        return None
    middle = statistics.median(newest)
    if middle < bounds.error_ratio:
        return None
    return f"half of the newest {len(newest)} predicted loads were off by {middle:.0%} of a host or more"
