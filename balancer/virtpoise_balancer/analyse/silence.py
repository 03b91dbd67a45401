"""Hosts whose libvirt does not answer the balancer: unknown for planning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from virtpoise_balancer.analyse.unknown import with_unknown
from virtpoise_balancer.model import Snapshot, Unknown, UnknownKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Silence:
    """Which hosts do not answer the balancer.

    ``silent``: why, by host. ``answered``: whether any host answers.
    """

    silent: Mapping[str, str] = field(default_factory=dict)
    answered: bool = False


def with_silence(snapshot: Snapshot, silence: Silence, *, acts: bool) -> Snapshot:
    """The snapshot with the silent hosts marked as unknown.

    A balancer that only recommends (not ``acts``) may have no way to any libvirt. So where no host answers it, silence
    says nothing about the hosts, and it goes by Prometheus alone.
    """
    if not silence.silent or not (acts or silence.answered):
        return snapshot
    return with_unknown(
        snapshot,
        {
            host: Unknown(kind=UnknownKind.SILENT, text=f"its libvirt does not answer the balancer: {why}")
            for host, why in silence.silent.items()
        },
    )
