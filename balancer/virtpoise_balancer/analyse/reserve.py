"""The memory that the policy reserves on each host."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from virtpoise_balancer.model import Host, HostLimits, Policy, Reserve, Snapshot
from virtpoise_balancer.rules.host_patterns import host_pattern


def with_reserve(snapshot: Snapshot, policy: Policy) -> Snapshot:
    """The snapshot with what the policy reserves. A host that no entry fits keeps what the snapshot has of it."""
    if not policy.reserve:
        return snapshot
    reserved: Callable[[Host], Host] = partial(_with_reserve, entries=policy.reserve)
    return replace(snapshot, hosts=tuple(map(reserved, snapshot.hosts)))


def fits(entry: Reserve | HostLimits, host: Host) -> bool:
    """Whether the entry is about the host."""
    return not entry.hosts or any(host_pattern(pattern)(host.name, host.labels) for pattern in entry.hosts)


def _with_reserve(host: Host, entries: tuple[Reserve, ...]) -> Host:
    entry = next((entry for entry in entries if fits(entry, host)), None)
    return host if entry is None else replace(host, memory_reserved_bytes=entry.memory_bytes)
