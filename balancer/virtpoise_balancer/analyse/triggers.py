"""Which hosts are overloaded in CPU, memory or an uplink: N consecutive samples at or above the threshold, or by their
trend.
"""

from __future__ import annotations

from collections.abc import Sequence

from virtpoise_balancer.analyse.demand import Floats
from virtpoise_balancer.analyse.host_limits import trigger_of
from virtpoise_balancer.analyse.overload import consecutive
from virtpoise_balancer.analyse.trend import forecast
from virtpoise_balancer.model import Host, HostState, Overload, Policy, Resource, Snapshot, Trigger


def watched(host: Host, policy: Policy) -> tuple[tuple[Resource, Trigger, Sequence[float]], ...]:
    """What can be a problem of a known host: each resource with its trigger and its samples, newest last. One without
    samples is unknown, and no problem.
    """
    return tuple(
        (one, trigger_of(host, one, policy), samples) for one in policy.traits.watched if (samples := host.samples(one))
    )


def overloads(snapshot: Snapshot, policy: Policy, hosts: Sequence[Host] | None = None) -> tuple[Overload, ...]:
    """The active hosts with a problem, one entry a resource, the furthest above its threshold first; ties by name.

    ``hosts``: those that are looked at, by default all. Where a sample is at the threshold and the host's trend stays
    above it, the trend stands for the samples that are still missing to N.
    """
    near = [
        (host, above)
        for host in (snapshot.hosts if hosts is None else hosts)
        if host.known
        and host.state is HostState.ACTIVE
        and (above := [one for one in watched(host, policy) if one[2][-1] >= one[1].threshold])
    ]
    found: list[tuple[float, Overload]] = []
    for (host, above), coming in zip(near, ahead([host for host, _ in near], policy).tolist(), strict=True):
        for resource, trigger, readings in above:
            count = consecutive(host, trigger, snapshot, readings)
            rising = resource is Resource.CPU and coming >= trigger.threshold  # False for NaN
            if count and count + (policy.trend.steps if rising else 0) >= trigger.consecutive:
                excess = readings[-1] / trigger.threshold
                overload = Overload(host=host.name, resource=resource, ratio=readings[-1], consecutive=count)
                found.append((-excess, overload))
    return tuple(overload for _, overload in sorted(found, key=lambda one: (one[0], one[1].host, one[1].resource)))


def ahead(hosts: Sequence[Host], policy: Policy) -> Floats:
    """The CPU load of each host that its trend forecasts a few steps ahead (hosts).

    NaN without a trend, for unknown hosts, and where the strategy forecasts nothing.
    """
    return forecast(
        [host.cpu_ratio if host.known else () for host in hosts],
        steps=policy.trend.steps if policy.traits.forecasts else 0,
        level_samples=policy.cpu.consecutive,
    )
