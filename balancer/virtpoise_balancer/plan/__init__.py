"""Which domains to move where. Pure and deterministic: the same snapshot and policy give the same plan."""

from collections.abc import Callable

from virtpoise_balancer.model import Plan, Policy, Snapshot
from virtpoise_balancer.plan import default, thesis

Strategy = Callable[[Snapshot, Policy], Plan]

STRATEGIES: dict[str, Strategy] = {"default": default.plan, "thesis": thesis.plan}


def plan(snapshot: Snapshot, policy: Policy) -> Plan:
    """The plan of the policy's strategy."""
    return STRATEGIES[policy.strategy](snapshot, policy)
