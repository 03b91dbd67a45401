"""A store in memory, for what needs one for a while: simulations and tests."""

from __future__ import annotations

from virtpoise_balancer.clock import Clock
from virtpoise_balancer.knowledge.database import Database
from virtpoise_balancer.knowledge.schema import metadata
from virtpoise_balancer.knowledge.store import Store


def store_in_memory(clock: Clock) -> Store:
    """An empty store with the tables of this version. It is gone when it is closed."""
    database = Database("sqlite://")
    metadata.create_all(database.engine)
    return Store(database, clock)
