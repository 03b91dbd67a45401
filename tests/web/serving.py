"""The real page over a group that a test makes up: the real server, store and cycle; only Prometheus and libvirt are
stood in for.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from builders import domain, group, host
from taking import Taking
from virtpoise_balancer.clock import SYSTEM
from virtpoise_balancer.config import Config, Measurement, Web
from virtpoise_balancer.control.cycle import Cycle
from virtpoise_balancer.control.orders import Orders
from virtpoise_balancer.knowledge.store import Store
from virtpoise_balancer.model import HostState, Policy, Snapshot
from virtpoise_balancer.service.turns import first_state, state_after
from virtpoise_balancer.web.app import make_app
from virtpoise_balancer.web.context import Context
from virtpoise_balancer.web.guard import Gate
from virtpoise_balancer.web.metrics import Metrics
from virtpoise_balancer.web.server import WebServer
from virtpoise_balancer.web.state import Published
from watching import Watching

TOKEN = "a-token-of-alice-1234567890"
POLICY = Policy()


class Balancer:
    """A balancer without a clock: ``cycle()`` runs one cycle over ``watching.seen`` and shows it."""

    def __init__(
        self, folder: Path, snapshot: Snapshot, web: Web, policy: Policy = POLICY, store: Store | None = None
    ) -> None:
        self.watching, self.acting = Watching(snapshot, age_seconds=2.0), Taking()
        self.store = store or Store.open(f"sqlite:///{folder}/state.db")
        self.config = Config(web=web, policy=policy)
        self.loop = Cycle(
            observer=self.watching,
            store=self.store,
            executor=self.acting,
            policy=policy,
            measurement=Measurement(),
            clock=SYSTEM,
            mode="recommend",
        )
        self.published = Published(first_state(self.config, leader=True))
        self.published.in_flight = lambda: self.acting.in_flight
        self.published.overrides = self.store.overrides
        self.metrics = Metrics(self.published)
        self.reloads: list[bool] = []
        self.orders = Orders(
            store=self.store,
            look=lambda: self.watching.observe(time.time()).snapshot,
            mode=lambda: "recommend",
            carry_out=lambda wanted: self.loop.apply(wanted, time.time()),
            on_order=self.metrics.ordered,
        )
        self.context = Context(
            published=self.published,
            metrics=self.metrics,
            store=self.store,
            orders=self.orders,
            config=lambda: self.config,
            reload=lambda: self.reloads.append(True),
            gate=Gate(web),
            stopping=lambda: self.server is not None and self.server.stopping,
        )
        self.server: WebServer | None = None

    def cycle(self) -> None:
        now = time.time()
        report = self.loop.run(now)
        self.published.state = state_after(
            report, self.config, now, before=self.published.state, leads=True, host_answers={}
        )

    @contextmanager
    def served(self) -> Iterator[str]:
        """The page's address while it is served."""
        self.server = WebServer.open(make_app(self.context), self.config.web)
        self.server.start()
        try:
            yield f"http://127.0.0.1:{self.server.port}"
        finally:
            self.server.stop()
            self.store.close()


def token_file(folder: Path) -> Path:
    path = folder / "tokens"
    path.write_text(f"# who may change something\nalice:{TOKEN}\n")
    path.chmod(0o600)
    return path


def small() -> Snapshot:
    """Four hosts, one overloaded and one unknown, and a domain with a hostile name."""
    readings = {"h1": (0.62, 0.7, 0.74, 0.81, 0.86, 0.9, 0.88), "h2": (0.3, 0.34, 0.31, 0.36, 0.33, 0.35, 0.34)}
    return group(
        host("h1", *readings["h1"], memory_ratio=0.62, rx_ratio=0.2),
        host("h2", *readings["h2"], memory_ratio=0.41, tx_ratio=0.1),
        host("h3", 0.55, 0.52, 0.54, memory_ratio=0.7),
        host("h4", state=HostState.UNKNOWN),
        domain("<script>alert(1)</script>", "h1", 0.8, uuid="11111111-1111-4111-8111-111111111111"),
        domain("db-primary", "h1", 2.6, cpu_delay_cores=0.3),
        domain("web-1", "h1", 1.7),
        domain("web-2", "h1", 1.2),
        domain("mail", "h2", 1.1),
        domain("ci-runner", "h2", 0.9),
        domain("build", "h3", 2.8),
        domain("wiki", "h3", 0.7),
    )


def large(hosts: int = 1000, domains: int = 10_000) -> Snapshot:
    """A large group, the same at each call; three hosts in a hundred are overloaded."""
    loads = [0.9 if n % 33 == 7 else 0.25 + (n * 37 % 100) / 220 for n in range(hosts)]
    members: list[object] = [
        host(f"node{n:04}", *([load] * 8), cpus=32, memory_ratio=0.3 + n % 50 / 100) for n, load in enumerate(loads)
    ]
    each = domains // hosts
    for n in range(domains):
        on = n % hosts
        members.append(domain(f"vm{n:05}", f"node{on:04}", loads[on] * 32 / each * 0.9))
    return group(*members)  # type: ignore[arg-type]
