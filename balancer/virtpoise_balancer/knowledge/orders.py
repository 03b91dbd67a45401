"""All that people have ordered and that stands: overrides and drains."""

from __future__ import annotations

from sqlalchemy import Connection

from virtpoise_balancer.knowledge import drains, overrides
from virtpoise_balancer.knowledge.records import StandingOrders


def standing(connection: Connection, group: str, broken: list[str]) -> StandingOrders:
    """The orders that stand for a group, drains of all hosts among them."""
    return StandingOrders(overrides=overrides.read(connection, group, broken), drains=drains.read(connection, broken))
