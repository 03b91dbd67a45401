"""Hosts of domains that are not accounted for, or still migrate: unknown for planning until that is settled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from virtpoise_balancer.model import HostState, Snapshot, Unknown, UnknownKind, Unsettled


def with_unsettled(snapshot: Snapshot, unsettled: Sequence[Unsettled]) -> Snapshot:
    """The snapshot with the hosts of these domains marked as unknown.

    A host that is unknown already keeps its reason.
    """
    why: dict[str, Unsettled] = {}
    for one in sorted(unsettled, key=lambda one: not one.unaccounted):
        for host in one.hosts:
            why.setdefault(host, one)
    if not why:
        return snapshot
    return replace(
        snapshot,
        hosts=tuple(
            replace(host, state=HostState.UNKNOWN, unknown=_unknown(why[host.name]))
            if host.known and host.name in why
            else host
            for host in snapshot.hosts
        ),
    )


def _unknown(one: Unsettled) -> Unknown:
    return Unknown(kind=UnknownKind.UNACCOUNTED if one.unaccounted else UnknownKind.MIGRATING, text=one.text)
