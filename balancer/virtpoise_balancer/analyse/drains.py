"""Orders to drain a host. They belong to people: a cycle reads them and never writes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from virtpoise_balancer.model import HostState, Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainOrder:
    """The newest order for a host: drain it, or take it back (``draining`` is False). ``at``: Unix seconds."""

    host: str
    draining: bool
    at: float


DrainOrders = Mapping[str, DrainOrder]


def is_draining(host: str, orders: DrainOrders) -> bool:
    order = orders.get(host)
    return order is not None and order.draining


def with_drains(snapshot: Snapshot, orders: DrainOrders) -> Snapshot:
    """The snapshot with each active host that is to drain marked as draining; an unknown host stays unknown."""
    return replace(
        snapshot,
        hosts=tuple(
            replace(host, state=HostState.DRAINING)
            if host.state is HostState.ACTIVE and is_draining(host.name, orders)
            else host
            for host in snapshot.hosts
        ),
    )
