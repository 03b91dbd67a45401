"""Hosts that are in several groups, under one name or two: no group acts on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from virtpoise_balancer.analyse.unknown import with_unknown
from virtpoise_balancer.model import Snapshot, Unknown, UnknownKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What libvirt reports of a host. ``uuid``: the host's own; ``domains``: the uuids of those that run there."""

    uuid: str
    domains: frozenset[str]


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


def same_machines(machines: Mapping[str, Mapping[str, Machine]], group: str) -> Mapping[str, str]:
    """The hosts of a group that another group has under another name, and why nothing is done with each.

    ``machines``: by group and host. Two boards may have the same uuid, so hosts that both run domains, and not one in
    common, are two.
    """
    named: dict[str, list[tuple[str, str]]] = {}
    for name, hosts in machines.items():
        for host, machine in hosts.items():
            named.setdefault(machine.uuid, []).append((name, host))
    found = {}
    for host, machine in machines.get(group, {}).items():
        for name, other in named[machine.uuid]:
            there = machines[name][other]
            differ = machine.domains and there.domains and machine.domains.isdisjoint(there.domains)
            if name != group and other != host and not differ:
                found[host] = f"it is {other} of group {name} under another name: both have the uuid {machine.uuid}"
    return found
