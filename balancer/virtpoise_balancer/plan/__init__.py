"""Which domains to move where. Pure and deterministic: the same snapshot and policy give the same plan."""

from collections.abc import Callable
from dataclasses import replace

from virtpoise_balancer.model import Plan, Policy, Snapshot
from virtpoise_balancer.plan import default, thesis
from virtpoise_balancer.plan.unmatched import notes

Strategy = Callable[[Snapshot, Policy], Plan]

STRATEGIES: dict[str, Strategy] = {"default": default.plan, "thesis": thesis.plan}


def plan(snapshot: Snapshot, policy: Policy) -> Plan:
    """The plan of the policy's strategy, with notes on what the policy names and the group has not."""
    return replace(STRATEGIES[policy.strategy](snapshot, policy), notes=notes(snapshot, policy))
