"""What earlier migrations taught, put into a snapshot, so that the snapshot alone decides the plan and decides it again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from virtpoise_balancer.model import Domain, LinkSpeed, Residual, Snapshot


@dataclass(frozen=True, slots=True)
class Moved:
    """The migrations of one domain that were done in the remembered time. ``last``: when the newest ended (Unix seconds)."""

    times: int
    last: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """What the journal knows. The mappings are keyed by a domain's uuid.

    ``migrating``: the destination of a migration under way. ``dirtying``: bytes of memory written per second.
    ``residuals`` and ``links``: as in the Snapshot.
    """

    moved: Mapping[str, Moved] = field(default_factory=dict)
    migrating: Mapping[str, str] = field(default_factory=dict)
    dirtying: Mapping[str, float] = field(default_factory=dict)
    residuals: tuple[Residual, ...] = ()
    links: tuple[LinkSpeed, ...] = ()


def with_learned(snapshot: Snapshot, learned: Learned) -> Snapshot:
    return replace(
        snapshot,
        domains=tuple(_with_learned(domain, learned) for domain in snapshot.domains),
        residuals=learned.residuals,
        links=learned.links,
    )


def _with_learned(domain: Domain, learned: Learned) -> Domain:
    moved, destination = learned.moved.get(domain.uuid), learned.migrating.get(domain.uuid)
    if moved is not None:
        domain = replace(domain, last_moved=moved.last, recent_moves=moved.times)
    if domain.uuid in learned.dirtying:
        domain = replace(domain, dirty_bytes_per_second=learned.dirtying[domain.uuid])
    if destination not in (None, domain.host):  # the domain may have arrived before the end is in the journal
        domain = replace(domain, migrating_to=destination)
    return domain
