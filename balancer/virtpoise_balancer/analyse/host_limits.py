"""The thresholds of single hosts, and what moves must leave free on them."""

from __future__ import annotations

from dataclasses import replace

from virtpoise_balancer.analyse.reserve import fits
from virtpoise_balancer.model import Host, HostLimits, Policy, Resource, Trigger

# So that a share of the limit is defined where all of a host is to be left free.
_LEAST_LIMIT = 1e-6


def limits_of(host: Host, policy: Policy) -> HostLimits | None:
    """The first entry of the policy that fits the host; None: the common thresholds alone count."""
    if not policy.hosts or not policy.traits.limits_of_hosts:
        return None
    return next((one for one in policy.hosts if fits(one, host)), None)


def trigger_of(host: Host, resource: Resource, policy: Policy) -> Trigger:
    """When the resource is a problem of the host. Its own threshold has a recovery as far below as the common one."""
    common, own = policy.trigger(resource), limits_of(host, policy)
    threshold = own.threshold(resource) if own else None
    if threshold is None:
        return common
    return replace(
        common, threshold=threshold, recovery=max(threshold - (common.threshold - common.recovery_ratio), 0.0)
    )


def limit_of(host: Host, resource: Resource, policy: Policy) -> float:
    """What the use of the host must stay below when something comes: its threshold, and what is to be left free."""
    threshold, own = trigger_of(host, resource, policy).threshold, limits_of(host, policy)
    if own is None or resource not in (Resource.CPU, Resource.MEMORY):
        return threshold
    free = own.free_cores / host.cpus if resource is Resource.CPU else own.free_memory_bytes / host.memory_bytes
    return max(min(threshold, 1.0 - free), _LEAST_LIMIT)
