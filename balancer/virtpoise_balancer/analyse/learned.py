"""What earlier migrations taught, put into a snapshot, so that the snapshot alone decides the plan and decides it
again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from virtpoise_balancer.analyse.drains import DrainOrders
from virtpoise_balancer.model import Domain, FailedAttempts, LinkSpeed, Residual, Snapshot


@dataclass(frozen=True, slots=True)
class PastMoves:
    """The migrations of one domain that were done in the remembered time.

    ``last``: when the newest ended (Unix seconds).
    """

    times: int
    last: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """What the journal knows. The mappings are keyed by a domain's uuid.

    ``dirtying``: bytes of memory written per second. ``residuals``, ``links`` and ``attempts``: as in the Snapshot.
    """

    moved: Mapping[str, PastMoves] = field(default_factory=dict)
    dirtying: Mapping[str, float] = field(default_factory=dict)
    residuals: tuple[Residual, ...] = ()
    links: tuple[LinkSpeed, ...] = ()
    attempts: tuple[FailedAttempts, ...] = ()


def with_learned(snapshot: Snapshot, learned: Learned) -> Snapshot:
    """The snapshot with what is known of each host and domain from earlier migrations."""
    return replace(
        snapshot,
        domains=tuple(_with_learned(domain, learned) for domain in snapshot.domains),
        residuals=learned.residuals,
        links=learned.links,
        attempts=learned.attempts,
    )


def attempts_after_orders(
    attempts: Iterable[FailedAttempts], snapshot: Snapshot, orders: DrainOrders
) -> tuple[FailedAttempts, ...]:
    """The failed attempts, without those from before an order to drain the domain's host: whoever gave it has mended
    what was wrong.
    """
    host_of = {domain.uuid: domain.host for domain in snapshot.domains}
    return tuple(
        one
        for one in attempts
        if (order := orders.get(host_of.get(one.uuid, ""))) is None or not order.draining or order.at < one.failed_at
    )


def _with_learned(domain: Domain, learned: Learned) -> Domain:
    moved = learned.moved.get(domain.uuid)
    if moved is not None:
        domain = replace(domain, last_moved=moved.last, recent_moves=moved.times)
    if domain.uuid in learned.dirtying:
        domain = replace(domain, dirty_bytes_per_second=learned.dirtying[domain.uuid])
    return domain
