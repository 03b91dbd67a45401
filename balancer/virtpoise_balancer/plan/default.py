"""The strategy `default`: the walk with each domain's physical share of its host's CPUs."""

from __future__ import annotations

from virtpoise_balancer.model import Domain, Host, Plan, Policy, Snapshot
from virtpoise_balancer.plan.first_fit import first_fit


def physical_share(domain: Domain, host: Host) -> float:
    """The domain's use of its host's CPUs, 0..1."""
    return domain.cpu_cores / host.cpus


def plan(snapshot: Snapshot, policy: Policy) -> Plan:
    return first_fit(snapshot, policy, strategy="default", load_of=physical_share)
