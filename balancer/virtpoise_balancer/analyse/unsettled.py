"""Hosts of domains that are not accounted for, or still migrate: unknown for planning until that is settled."""

from __future__ import annotations

from collections.abc import Sequence

from virtpoise_balancer.analyse.unknown import with_unknown
from virtpoise_balancer.model import Snapshot, Unknown, UnknownKind, Unsettled


def with_unsettled(snapshot: Snapshot, unsettled: Sequence[Unsettled]) -> Snapshot:
    """The snapshot with the hosts of these domains marked as unknown."""
    why: dict[str, Unknown] = {}
    for one in sorted(unsettled, key=lambda one: not one.unaccounted):
        for host in one.hosts:
            why.setdefault(host, _unknown(one))
    return with_unknown(snapshot, why)


def _unknown(one: Unsettled) -> Unknown:
    return Unknown(kind=UnknownKind.UNACCOUNTED if one.unaccounted else UnknownKind.MIGRATING, text=one.text)
