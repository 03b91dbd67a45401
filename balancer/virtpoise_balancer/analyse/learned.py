"""What earlier migrations taught, drawn into a snapshot, so that the snapshot alone decides the plan and replays it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from virtpoise_balancer.model import Domain, Link, Residual, Snapshot


@dataclass(frozen=True, slots=True)
class Moved:
    """A domain's migrations in the time that is remembered: how many were done, and when the last ended (Unix seconds)."""

    times: int
    last: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Experience:
    """By the domain's uuid: ``moved``, ``migrating`` (to which host, now), ``dirtying`` (bytes per second); the rest as Snapshot has it."""

    moved: Mapping[str, Moved] = field(default_factory=dict)
    migrating: Mapping[str, str] = field(default_factory=dict)
    dirtying: Mapping[str, float] = field(default_factory=dict)
    residuals: tuple[Residual, ...] = ()
    links: tuple[Link, ...] = ()


def with_experience(snapshot: Snapshot, experience: Experience) -> Snapshot:
    return replace(
        snapshot,
        domains=tuple(_remembered(domain, experience) for domain in snapshot.domains),
        residuals=experience.residuals,
        links=experience.links,
    )


def _remembered(domain: Domain, experience: Experience) -> Domain:
    moved, destination = experience.moved.get(domain.uuid), experience.migrating.get(domain.uuid)
    if moved is not None:
        domain = replace(domain, last_moved=moved.last, recent_moves=moved.times)
    if domain.uuid in experience.dirtying:
        domain = replace(domain, dirty_bytes_per_second=experience.dirtying[domain.uuid])
    if destination not in (None, domain.host):  # it may have arrived, and its end not be written down yet
        domain = replace(domain, migrating_to=destination)
    return domain
