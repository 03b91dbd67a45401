"""Which moves libvirt would refuse for a reason that is known: what a host lacks, and what holds a domain."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

from virtpoise_balancer.model import Detail, Domain, Holder, Host, Need, Reason, Refusal, Requirement

_LACKS: Mapping[Need, Reason] = {
    Need.CPU: Reason.LACKS_CPU,
    Need.MACHINE: Reason.LACKS_MACHINE,
    Need.NETWORK: Reason.LACKS_NETWORK,
    Need.STORAGE: Reason.LACKS_STORAGE,
    Need.PINS: Reason.LACKS_PINS,
}
_HELD: Mapping[Holder, Reason] = {
    Holder.DEVICE: Reason.HELD_DEVICE,
    Holder.STORAGE: Reason.HELD_STORAGE,
    Holder.SNAPSHOTS: Reason.HELD_SNAPSHOTS,
    Holder.JOB: Reason.HELD_JOB,
    Holder.SETTING: Reason.HELD_SETTING,
}


def offers(hosts: Sequence[Host]) -> dict[Requirement, NDArray[np.bool_]]:
    """By each requirement that some host lacks, whether a host has it (hosts). Empty where none lacks anything."""
    found: dict[Requirement, NDArray[np.bool_]] = {}
    for number, host in enumerate(hosts):
        for requirement in host.lacks:
            if requirement not in found:
                found[requirement] = np.ones(len(hosts), dtype=np.bool_)
            found[requirement][number] = False
    return found


def lacking(host: Host, domains: Iterable[Domain]) -> tuple[Reason, Detail] | None:
    """The first that the host lacks of what the domains need, or None."""
    if not host.lacks:
        return None
    for domain in domains:
        for requirement in domain.requires:
            if requirement in host.lacks:
                return _LACKS[requirement.kind], {"needs": requirement.name}
    return None


def holding(domain: Domain) -> Refusal | None:
    """Why libvirt would migrate the domain nowhere now, or None."""
    if not domain.holds:
        return None
    first = domain.holds[0]
    why = "; ".join(map(attrgetter("why"), domain.holds))
    return Refusal.of(domain, _HELD[first.kind], {"why": why})
