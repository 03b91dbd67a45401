"""One balancer as a virtual process: all of its own code from the turn of the daemon down, between the model's
Prometheus and hosts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import cast

from virtpoise_balancer.analyse.membership import with_shared
from virtpoise_balancer.analyse.silence import with_silence
from virtpoise_balancer.config import Config
from virtpoise_balancer.control.orders import By, Orders
from virtpoise_balancer.execute.accounts import LibvirtAccounts
from virtpoise_balancer.execute.copies import Copies
from virtpoise_balancer.execute.executor import LibvirtExecutor
from virtpoise_balancer.execute.hosts import Hosts
from virtpoise_balancer.execute.inventory import Inventory
from virtpoise_balancer.execute.migrate import Migrator
from virtpoise_balancer.execute.reach import Reach
from virtpoise_balancer.execute.reconciler import Reconciler
from virtpoise_balancer.knowledge.leader import FileLock
from virtpoise_balancer.knowledge.store import Store
from virtpoise_balancer.model import MigrationOutcome, Move, Snapshot, Unsettled
from virtpoise_balancer.monitor.client import PrometheusClient
from virtpoise_balancer.monitor.queries import Ranges
from virtpoise_balancer.plan.stream import limits_of
from virtpoise_balancer.service import reports, wiring
from virtpoise_balancer.service.leading import Leadership
from virtpoise_balancer.service.roster import Roster
from virtpoise_balancer.service.turns import Turns, first_state
from virtpoise_balancer.web.metrics import Metrics
from virtpoise_balancer.web.state import Published
from virtpoise_lab.campaign.disk import Disk, ModelDatabase
from virtpoise_lab.campaign.hosts import ModelHosts
from virtpoise_lab.campaign.kernel import Kernel, Task, VirtualClock, VirtualLock, VirtualProcess, VirtualThreads
from virtpoise_lab.campaign.prometheus import ModelClient, Prometheus
from virtpoise_lab.campaign.world import World

PERSON = By("person", "command")


@dataclass
class Part:
    """All that works for one group of hosts in a balancer. ``config``: the group's own."""

    balancer: Balancer
    config: Config
    turning: VirtualLock

    def __post_init__(self) -> None:
        balancer, config, clock = self.balancer, self.config, self.balancer.clock
        threads, hosts = VirtualThreads(balancer.kernel, balancer.process), cast(Hosts, balancer.hosts)
        self.store = balancer.store.of_group(config.group, config.all_groups)
        self.reach = Reach(balancer.hosts.active_domains, clock=clock, threads=threads)
        self.published = Published(first_state(config), clock=clock)
        self.metrics = Metrics(self.published)
        reconciler = Reconciler(lambda: hosts, self.store, self._ended, clock, threads=threads)
        accounts = LibvirtAccounts(reconciler, Copies(lambda: hosts, threads=threads))
        migrator = Migrator(
            hosts=hosts,
            timeout_seconds=config.migration.timeout_seconds,
            stop_grace_seconds=config.migration.stop_grace_seconds,
            clock=clock,
        )
        inventory = self._inventory(hosts, threads) if balancer.asks_for_facts else None
        self.inventory = inventory
        self.executor = LibvirtExecutor(
            migrator,
            reconciler,
            self._ask,
            self._inquire if inventory else lambda _move: None,
            limits=limits_of(config.policy),
            threads=threads,
            clock=clock,
            leads=lambda: balancer.leadership.leads,
        )
        cycle = wiring.make_cycle(
            config, self.store, self.executor, accounts, clock, self.reach, self._shared, inventory
        )
        self.observer = replace(
            wiring.make_observer(config), client=cast(PrometheusClient, self._client()), clock=clock
        )
        self.turns = Turns(
            config=config,
            cycle=replace(cycle, observer=self.observer),
            leadership=balancer.leadership,
            store=self.store,
            go_on=self.executor.go_on,
            reach=self.reach,
            metrics=self.metrics,
            published=self.published,
            clock=clock,
            threads=threads,
            group=config.group,
            turning=self.turning,
            look_at=inventory.keep_up if inventory else lambda _running: None,
        )
        self.published.in_flight = lambda: self.executor.in_flight
        self.published.overrides = self.store.overrides
        self.orders = Orders(
            store=self.store,
            look=self._look,
            mode=lambda: config.mode,
            carry_out=self.turns.apply,
            clock=clock,
        )

    def members(self) -> frozenset[str]:
        return self.observer.members(self.balancer.clock.now())

    def _shared(self) -> dict[str, str]:
        return dict(self.balancer.roster.shared(self.config.group))

    def _inventory(self, hosts: Hosts, threads: VirtualThreads) -> Inventory:
        return Inventory(
            lambda: hosts,
            remember=self.store.remember_host,
            recall=self.store.host_facts,
            clock=self.balancer.clock,
            threads=threads,
        )

    def _ask(self, hosts: Sequence[str]) -> None:
        self.reach.ask(hosts)
        if self.inventory is not None:
            silent = self.reach.silence().silent
            self.inventory.look_again([host for host in hosts if host not in silent])

    def _inquire(self, move: Move) -> None:
        if self.inventory is not None:
            self.inventory.ask([move], skip=self.reach.silence().silent, acts=True)

    def _look(self) -> Snapshot:
        seen = self.observer.observe(self.balancer.clock.now()).snapshot
        return with_silence(with_shared(seen, self._shared()), self.reach.silence(), acts=True)

    def _client(self) -> ModelClient:
        config = self.config
        ranges = Ranges.of(
            step_seconds=config.interval_seconds,
            scrape_interval_seconds=config.scrape_interval_seconds,
            consecutive=config.policy.cpu.consecutive,
            saturation_ratio=config.policy.saturation_ratio,
        )
        return ModelClient(self.balancer.server, self.balancer.process, ranges, config.prometheus.matchers)

    def _ended(self, move: Move, outcome: MigrationOutcome) -> None:
        self.metrics.migration_ended(move, outcome)
        reports.migration_ended(move, outcome)


@dataclass
class Balancer:
    """A process of the balancer. ``on_turn``: called after each of its turns.

    ``on_request``, ``on_act``: as in ModelHosts. ``asks_for_facts``: whether it asks hosts what they would refuse.
    """

    kernel: Kernel
    world: World
    server: Prometheus
    disk: Disk
    config: Config
    store_file: Path
    on_request: Callable[[VirtualProcess, str, str, str], None]
    on_act: Callable[[VirtualProcess, str, str, str], None]
    name: str = "balancer"
    asks_for_facts: bool = False
    process: VirtualProcess = field(init=False)
    longest_turn: float = 0.0
    on_turn: list[Callable[[Balancer], None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.process = VirtualProcess(self.name)

    @cached_property
    def clock(self) -> VirtualClock:
        return VirtualClock(self.kernel, self.process)

    @cached_property
    def hosts(self) -> ModelHosts:
        return ModelHosts(self.world, self.process, self.on_request, self.on_act)

    def start(self) -> None:
        self.store = Store(ModelDatabase(self.disk, self.process), self.clock)
        self.leadership = Leadership(FileLock(self.store_file), self.config.interval_seconds, self.clock)
        self.roster = Roster()
        threads = VirtualThreads(self.kernel, self.process)
        turning = threads.lock()
        self.parts = [Part(self, config, turning) for config in self.config.each_group.values()]
        threads.start(self._run, "daemon")

    @property
    def first(self) -> Part:
        """The group that the faults of a run meet."""
        return self.parts[0]

    @property
    def unaccounted(self) -> list[Unsettled]:
        """The unsettled domains of all groups."""
        return [one for part in self.parts for one in part.published.state.unsettled if one.unaccounted]

    @property
    def term(self) -> int | None:
        """Its number, once it has led."""
        return self.store._lead.term

    @property
    def leads(self) -> bool:
        return self.process.alive and self.leadership.leads

    def kill(self) -> None:
        """End the balancer at once, as SIGKILL does."""
        self.leadership.release()
        self.kernel.kill(self.process)

    def order(self, name: str, give: Callable[[], object]) -> Task:
        """Have a thread of the web server give an order; the thread."""
        return self.kernel.start(self.process, give, name)

    def _run(self) -> None:
        step = self.config.interval_seconds
        while True:
            now = self.clock.now()
            self.clock.sleep(math.ceil((now + 0.001) / step) * step - now)
            began = self.kernel.at
            self.first.turns.turn(prepare=self._prepare)
            for part in self.parts[1:]:
                part.turns.turn()
            self.longest_turn = max(self.longest_turn, self.kernel.at - began)
            for act in list(self.on_turn):
                act(self)

    def _prepare(self) -> None:
        self.roster.keep_up({part.config.group: part.members for part in self.parts})
