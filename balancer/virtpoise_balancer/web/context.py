"""What the web application uses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from virtpoise_balancer.config import Config
from virtpoise_balancer.control.orders import By, Orders
from virtpoise_balancer.knowledge.records import STRANGER
from virtpoise_balancer.knowledge.store import Store
from virtpoise_balancer.web.guard import Gate
from virtpoise_balancer.web.kept import Kept
from virtpoise_balancer.web.metrics import Metrics
from virtpoise_balancer.web.state import Published
from virtpoise_balancer.web.strangers import Strangers

# The most migrations or orders that one answer of the API holds.
MOST_RECORDS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What the routes of a group need.

    ``config``: the current configuration; ``reload``: read it again before the next cycle; ``stopping``: whether the
    server is shutting down. ``group``: whose all this is; empty where the configuration has no groups. ``every``: the
    contexts of all groups, in the order of the configuration.
    """

    published: Published
    metrics: Metrics
    store: Store
    orders: Orders
    config: Callable[[], Config]
    reload: Callable[[], None]
    gate: Gate
    kept: Kept = field(init=False)
    strangers: Strangers = field(init=False)
    stopping: Callable[[], bool] = lambda: False
    group: str = ""
    every: Callable[[], Sequence[Context]] = tuple

    def __post_init__(self) -> None:
        published, metrics = self.published, self.metrics
        kept = Kept(lambda: (published.state, published.overrides(), published.in_flight(), metrics.changes))

        def journal(action: str, target: str, origin: str, answer: str) -> None:
            self.orders.refuse(action, target, By(STRANGER, origin), answer)

        strangers = Strangers(journal, metrics.stranger_refused)
        object.__setattr__(self, "kept", kept)
        object.__setattr__(self, "strangers", strangers)
