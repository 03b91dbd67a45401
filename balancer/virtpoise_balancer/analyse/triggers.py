"""Which hosts are overloaded in CPU, memory or an uplink: N consecutive samples at or above the threshold, or by their
trend.
"""

from __future__ import annotations

from collections.abc import Sequence

from virtpoise_balancer.analyse.overload import consecutive
from virtpoise_balancer.model import Host, HostState, Overload, Policy, Resource, Snapshot, Trigger


def watched(host: Host, policy: Policy) -> tuple[tuple[Resource, Trigger, Sequence[float]], ...]:
    """What can be a problem of a known host: each resource with its trigger and its samples, newest last. One without
    samples is unknown, and no problem.
    """
    return tuple((one, policy.trigger(one), samples) for one in policy.traits.watched if (samples := host.samples(one)))


def overloads(
    snapshot: Snapshot, policy: Policy, hosts: Sequence[Host], ahead: Sequence[float]
) -> tuple[Overload, ...]:
    """The active hosts with a problem, one entry a resource, the furthest above its threshold first; ties by name.

    ``ahead``: the load of each host a few steps from now by its trend, NaN without one. Where a sample is at the
    threshold and the trend stays above it, the trend stands for the samples that are still missing to N.
    """
    found: list[tuple[float, Overload]] = []
    for host, coming in zip(hosts, ahead, strict=True):
        if not host.known or host.state is not HostState.ACTIVE:
            continue
        for resource, trigger, readings in watched(host, policy):
            if readings[-1] < trigger.threshold:
                continue
            count = consecutive(host, trigger, snapshot, readings)
            rising = resource is Resource.CPU and coming >= policy.cpu.threshold  # False for NaN
            if count and count + (policy.trend.steps if rising else 0) >= trigger.consecutive:
                excess = readings[-1] / trigger.threshold
                overload = Overload(host=host.name, resource=resource, ratio=readings[-1], consecutive=count)
                found.append((-excess, overload))
    return tuple(overload for _, overload in sorted(found, key=lambda one: (one[0], one[1].host, one[1].resource)))
