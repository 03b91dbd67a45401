"""What the web application uses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from virtpoise_balancer.config import Config
from virtpoise_balancer.control.orders import Orders
from virtpoise_balancer.knowledge.store import Store
from virtpoise_balancer.web.guard import Gate
from virtpoise_balancer.web.metrics import Metrics
from virtpoise_balancer.web.state import Published

# The most migrations or orders that one answer of the API holds.
MOST_RECORDS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """``config``: the current configuration; ``reload``: read it again before the next cycle; ``stopping``: whether the
    server is shutting down.
    """

    published: Published
    metrics: Metrics
    store: Store
    orders: Orders
    config: Callable[[], Config]
    reload: Callable[[], None]
    gate: Gate
    stopping: Callable[[], bool] = lambda: False
