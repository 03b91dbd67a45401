"""Orders to drain a host. They belong to people: a cycle reads them and never writes them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from virtpoise_balancer.model import DrainLimit, Host, HostState, Snapshot


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
    """Whether the newest order about the host is to drain it."""
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


def too_many(snapshot: Snapshot, host: Host, orders: DrainOrders, limit: DrainLimit) -> str | None:
    """Why the host must not drain beside those of its rack that do, or None. Hosts without the label are together."""
    rack = host.labels.get(limit.label, "")
    hosts = [one.name for one in snapshot.hosts if one.labels.get(limit.label, "") == rack]
    draining = sorted(name for name in hosts if name != host.name and is_draining(name, orders))
    if len(draining) < limit.most(len(hosts)):
        return None
    which = f"with {limit.label}={rack}" if rack else f"without the label {limit.label}"
    return (
        f"of the {len(hosts)} hosts {which} at most {limit.most(len(hosts))} may drain at once (policy.drains), "
        f"and {', '.join(draining)} {'does' if len(draining) == 1 else 'do'}"
    )


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
