"""The strategy `default`: clears all overloads together with the fewest and cheapest migrations."""

from virtpoise_balancer.plan.default.strategy import plan

__all__ = ["plan"]
