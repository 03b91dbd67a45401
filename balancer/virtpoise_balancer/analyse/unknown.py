"""Hosts that a cycle takes for unknown, though Prometheus has figures of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from virtpoise_balancer.model import HostState, Snapshot, Unknown


def with_unknown(snapshot: Snapshot, why: Mapping[str, Unknown]) -> Snapshot:
    """The snapshot with these hosts marked as unknown. One that is unknown already keeps its reason.

    ``why``: by host.
    """
    if not why:
        return snapshot
    marked = (
        replace(host, state=HostState.UNKNOWN, unknown=why[host.name]) if host.known and host.name in why else host
        for host in snapshot.hosts
    )
    return replace(snapshot, hosts=tuple(marked))
