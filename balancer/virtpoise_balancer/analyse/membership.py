"""Hosts that are in several groups: no group acts on them."""

from __future__ import annotations

from collections.abc import Mapping

from virtpoise_balancer.analyse.unknown import with_unknown
from virtpoise_balancer.model import Snapshot, Unknown, UnknownKind


def with_shared(snapshot: Snapshot, shared: Mapping[str, str]) -> Snapshot:
    """The snapshot with the hosts marked as unknown that other groups have as well. ``shared``: why, by host."""
    return with_unknown(snapshot, {host: Unknown(kind=UnknownKind.GROUPS, text=text) for host, text in shared.items()})


def shared_hosts(members: Mapping[str, frozenset[str]], group: str) -> Mapping[str, str]:
    """The hosts of a group that others have as well, and why nothing is done with each. ``members``: hosts by group."""
    found: dict[str, list[str]] = {}
    for name, hosts in members.items():
        for host in hosts & members.get(group, frozenset()):
            found.setdefault(host, []).append(name)
    return {
        host: f"it is in the groups {' and '.join(sorted(names))} at once: let the matchers of only one of them fit it"
        for host, names in found.items()
        if len(names) > 1
    }
