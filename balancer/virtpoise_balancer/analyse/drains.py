"""Orders to drain a host. They belong to people: a cycle reads them and never writes them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from virtpoise_balancer.model import HostState, Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainOrder:
    """The newest order for a host: drain it, or take it back (``draining`` is False). ``at``: Unix seconds.

    ``group``: of the host when this was ordered.
    """

    host: str
    draining: bool
    at: float
    group: str = ""


DrainOrders = Mapping[str, DrainOrder]


def is_draining(host: str, orders: DrainOrders) -> bool:
    order = orders.get(host)
    return order is not None and order.draining


def of_group(orders: DrainOrders, group: str, groups: Collection[str], hosts: Collection[str]) -> DrainOrders:
    """The orders that concern a group: for its hosts, and for hosts that were in it, or in a group that is no more.

    ``groups``: all that there are; ``hosts``: those that the group has now.
    """
    return {
        name: order
        for name, order in orders.items()
        if name in hosts or order.group == group or order.group not in groups
    }


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
