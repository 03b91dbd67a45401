"""One balancer as a virtual process: all of its own code from the turn of the daemon down, between the model's
Prometheus and hosts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import cast

from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from virtpoise_balancer.analyse.silence import with_silence
from virtpoise_balancer.config import Config
from virtpoise_balancer.control.orders import By, Orders
from virtpoise_balancer.errors import LibvirtError, StoreError
from virtpoise_balancer.execute.accounts import LibvirtAccounts
from virtpoise_balancer.execute.copies import Copies
from virtpoise_balancer.execute.executor import LibvirtExecutor
from virtpoise_balancer.execute.facts import HostFacts, Presence
from virtpoise_balancer.execute.hosts import Completed, Hosts
from virtpoise_balancer.execute.migrate import Migrator
from virtpoise_balancer.execute.reach import Reach
from virtpoise_balancer.execute.reconciler import Reconciler
from virtpoise_balancer.knowledge.database import Database
from virtpoise_balancer.knowledge.leader import FileLock
from virtpoise_balancer.knowledge.store import Store
from virtpoise_balancer.model import MigrationOutcome, Move, Progress
from virtpoise_balancer.monitor.client import PrometheusClient
from virtpoise_balancer.monitor.queries import Ranges
from virtpoise_balancer.plan.stream import limits_of
from virtpoise_balancer.service import reports, wiring
from virtpoise_balancer.service.leading import Leadership
from virtpoise_balancer.service.turns import Turns, first_state
from virtpoise_balancer.web.metrics import Metrics
from virtpoise_balancer.web.state import Published
from virtpoise_lab.campaign.kernel import Kernel, VirtualClock, VirtualProcess, VirtualThreads
from virtpoise_lab.campaign.prometheus import ModelClient, Prometheus
from virtpoise_lab.campaign.world import ACTIVE, KEEPALIVE_SECONDS, SILENCE_SECONDS, Job, Step, World

WE = "balancer"
PERSON = By("person", "command")
_LOCK_SECONDS = 30.0


class StoreFails(OperationalError):
    """An error as SQLite's driver raises it."""

    def __init__(self, text: str) -> None:
        super().__init__("model", {}, Exception(text))


@dataclass
class Disk:
    """What the store lies on.

    ``fault``: "", locked, full or gone. ``moments``: called around each transaction that writes.
    """

    kernel: Kernel
    database: Database
    fault: str = ""
    moments: list[Callable[[str, VirtualProcess], None]] = field(default_factory=list)


class ModelDatabase(Database):
    """A virtual process's way to the store. Transactions take turns, so none waits within one."""

    def __init__(self, disk: Disk, process: VirtualProcess) -> None:
        self.url = disk.database.url
        self.engine = disk.database.engine
        self._disk = disk
        self._process = process

    def reopen(self) -> None:
        """Nothing: a store in memory would be lost with its connection."""
        self._process.check()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        self._process.check()
        if self._disk.fault == "gone":
            raise StoreError("the store cannot be opened")
        with super().reading() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        self._wait()
        self._moment("before")
        with super().writing() as connection:
            yield connection
            if self._disk.fault == "full":
                raise StoreFails("database or disk is full")
        self._moment("after")

    def _wait(self) -> None:
        self._process.check()
        disk = self._disk
        if disk.fault == "locked" and not disk.kernel.wait_until(lambda: disk.fault != "locked", _LOCK_SECONDS):
            raise StoreError("the store is locked")
        if disk.fault == "gone":
            raise StoreError("the store cannot be opened")

    def _moment(self, when: str) -> None:
        for act in list(self._disk.moments):
            act(when, self._process)
        self._process.check()


@dataclass
class _Request:
    """The balancer's end of a migration call."""

    hosts: ModelHosts
    source: str
    uuid: str
    job: Job | None
    heard: float
    error: str | None = None
    waited_seconds: float | None = None

    def ended(self, seconds: float) -> bool:
        world, kernel = self.hosts.world, self.hosts.world.kernel
        until = kernel.at + seconds
        while True:
            self.hosts.process.check()
            there = world.reachable(WE, self.source)
            if there:
                self.heard = kernel.at
            if self.job is not None and self.job.over and there:
                self.error = self.job.error
                if self.error is None and world.reachable(WE, self.job.destination):
                    kernel.sleep(0.02)
                    world.resume(self.uuid, self.job.destination)
                    self.waited_seconds = 0.02
                return True
            if world.machines[self.source].daemon == "dead" or not world.machines[self.source].powered:
                self.error = "connection reset by peer"
                return True
            if kernel.at - self.heard > KEEPALIVE_SECONDS:
                self.error = "connection closed due to keepalive timeout"
                return True
            if kernel.at >= until:
                return False
            kernel.sleep(min(0.5, max(until - kernel.at, 0.01)))


@dataclass
class ModelHosts:
    """The world behind the port of ``execute.hosts``. ``on_request``: called before each request for a migration."""

    world: World
    process: VirtualProcess
    on_request: Callable[[VirtualProcess, str, str, str], None]
    counting: dict[str, int] = field(default_factory=dict)  # how often a host is being asked for its number of domains
    most_counting: int = 0

    def active_domains(self, host: str) -> int:
        self.counting[host] = self.counting.get(host, 0) + 1
        self.most_counting = max(self.most_counting, self.counting[host])
        try:
            self._reach(host)
        finally:
            self.counting[host] -= 1
        return sum(copy.state in ACTIVE for copy in self.world.machines[host].copies.values())

    def presence(self, host: str, uuid: str) -> Presence:
        self._reach(host)
        copy = self.world.machines[host].copies.get(uuid)
        return Presence.ABSENT if copy is None else copy.state

    def progress(self, host: str, uuid: str) -> Progress | None:
        self._reach(host)
        for job in self.world.running_jobs(uuid):
            if (job.source == host and job.driver) or (job.destination == host and job.step > Step.PREPARE):
                return Progress(
                    elapsed_seconds=self.world.kernel.at - job.asked,
                    total_bytes=int(job.seconds * 100),
                    processed_bytes=int(job.performed * 100),
                    remaining_bytes=max(int((job.seconds - job.performed) * 100), 0),
                )
        return None

    def completed(self, host: str, uuid: str) -> Completed:
        self._reach(host)
        return Completed(seconds=self.world.perform_seconds, downtime_seconds=0.1, transferred_bytes=2**30)

    @contextmanager
    def migration(
        self, uuid: str, source: str, destination: str, bandwidth_mib_per_second: int | None
    ) -> Iterator[_Request]:
        self.process.check()
        self.on_request(self.process, uuid, source, destination)
        world = self.world
        job = None
        if world.reachable(WE, source):
            job = world.migrate(uuid, source, destination, ours=True)
        elif world.machines[source].daemon == "stopped" and world.kernel.random.random() < 0.5:
            # It lies in the socket of a stopped daemon, which carries it out when it goes on.
            life = world.machines[source].lives

            def late() -> None:
                if world.machines[source].lives == life:
                    request.job = world.migrate(uuid, source, destination, ours=True)

            world.machines[source].late.append(late)
        request = _Request(self, source, uuid, job, world.kernel.at)
        yield request

    def dirty_rate(self, host: str, uuid: str, least_bytes: int) -> float | None:
        return None  # its domains are small

    def set_bandwidth(self, host: str, uuid: str, bandwidth_mib_per_second: int | None) -> None:
        self._reach(host)

    def abort(self, host: str, uuid: str) -> None:
        def do() -> None:
            for job in self.world.running_jobs(uuid):
                if job.source == host:
                    job.aborted = True

        self._do(host, do)

    def undefine(self, host: str, uuid: str) -> None:
        self._do(host, lambda: self.world.undefine(uuid, host))

    def resume(self, host: str, uuid: str) -> None:
        self._do(host, lambda: self.world.resume(uuid, host))

    def suspend(self, host: str, uuid: str) -> None:
        self._do(host, lambda: self.world.suspend(uuid, host))

    def describe(self, host: str, uuid: str) -> str:
        return f"{self.presence(host, uuid)}, 3 s of CPU time"

    def facts(self, host: str) -> HostFacts:
        raise NotImplementedError

    def reaches(self, host: str, destination: str) -> str | None:
        raise NotImplementedError

    def runs_cpu(self, host: str, cpu: str) -> bool | None:
        raise NotImplementedError

    def unseen(self, host: str, paths: Sequence[str]) -> tuple[str, ...]:
        raise NotImplementedError

    def _do(self, host: str, do: Callable[[], None]) -> None:
        """Have the daemon do it; a stopped one may do it when it goes on, after the balancer has given it up."""
        machine = self.world.machines[host]
        if machine.daemon == "stopped" and self.world.kernel.random.random() < 0.3:
            life = machine.lives
            machine.late.append(lambda: do() if machine.lives == life else None)
        self._reach(host)
        do()

    def _reach(self, host: str) -> None:
        """Wait for the host's answer. LibvirtError when none comes."""
        self.process.check()
        kernel, machine = self.world.kernel, self.world.machines[host]
        kernel.sleep(0.002 + 0.02 * kernel.random.random())
        if machine.daemon == "dead" and machine.powered and frozenset((WE, host)) not in self.world.cut:
            raise LibvirtError(f"{host}: connection refused")
        if not kernel.wait_until(lambda: self.world.reachable(WE, host), SILENCE_SECONDS):
            raise LibvirtError(f"{host}: no answer within {SILENCE_SECONDS:g} s")


@dataclass
class Balancer:
    """A process of the balancer. ``on_turn``: called after each of its turns."""

    kernel: Kernel
    world: World
    server: Prometheus
    disk: Disk
    config: Config
    store_file: Path
    on_request: Callable[[VirtualProcess, str, str, str], None]
    name: str = "balancer"
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
        return ModelHosts(self.world, self.process, self.on_request)

    def start(self) -> None:
        threads = VirtualThreads(self.kernel, self.process)
        hosts = cast(Hosts, self.hosts)
        config = self.config
        self.store = Store(ModelDatabase(self.disk, self.process), self.clock)
        self.reach = Reach(hosts.active_domains, clock=self.clock, threads=threads)
        self.published = Published(first_state(config))
        self.metrics = Metrics(self.published)
        self.leadership = Leadership(FileLock(self.store_file), config.interval_seconds, self.clock)
        reconciler = Reconciler(lambda: hosts, self.store, self._ended, self.clock, threads=threads)
        self.accounts = LibvirtAccounts(reconciler, Copies(lambda: hosts, threads=threads))
        migrator = Migrator(
            hosts=hosts,
            timeout_seconds=config.migration.timeout_seconds,
            stop_grace_seconds=config.migration.stop_grace_seconds,
            clock=self.clock,
        )
        self.executor = LibvirtExecutor(
            migrator, reconciler, self.reach.ask, limits=limits_of(config.policy), threads=threads
        )
        cycle = wiring.make_cycle(config, self.store, self.executor, self.accounts, self.clock, self.reach)
        observer = replace(
            wiring.make_observer(config), client=cast(PrometheusClient, self._client()), clock=self.clock
        )
        self.turns = Turns(
            config=config,
            cycle=replace(cycle, observer=observer),
            leadership=self.leadership,
            store=self.store,
            go_on=self.executor.go_on,
            reach=self.reach,
            metrics=self.metrics,
            published=self.published,
            clock=self.clock,
            threads=threads,
        )
        self.published.in_flight = lambda: self.executor.in_flight
        self.published.overrides = self.store.overrides
        self.orders = Orders(
            store=self.store,
            look=lambda: with_silence(observer.observe(self.clock.now()).snapshot, self.reach.silence(), acts=True),
            mode=lambda: config.mode,
            carry_out=self.turns.apply,
            clock=self.clock,
        )
        threads.start(self._run, "daemon")

    def _client(self) -> ModelClient:
        config = self.config
        ranges = Ranges.of(
            step_seconds=config.interval_seconds,
            scrape_interval_seconds=config.scrape_interval_seconds,
            consecutive=config.policy.cpu.consecutive,
            saturation_ratio=config.policy.saturation_ratio,
        )
        return ModelClient(self.server, self.process, ranges, config.prometheus.matchers)

    @property
    def leads(self) -> bool:
        return self.process.alive and self.leadership.leads

    def kill(self) -> None:
        """As SIGKILL does."""
        self.leadership.release()
        self.kernel.kill(self.process)

    def order(self, name: str, give: Callable[[], object]) -> None:
        """Have a thread of the web server give an order."""
        self.kernel.start(self.process, give, name)

    def _run(self) -> None:
        step = self.config.interval_seconds
        while True:
            now = self.clock.now()
            self.clock.sleep(math.ceil((now + 0.001) / step) * step - now)
            began = self.kernel.at
            self.turns.turn()
            self.longest_turn = max(self.longest_turn, self.kernel.at - began)
            for act in list(self.on_turn):
                act(self)

    def _ended(self, move: Move, outcome: MigrationOutcome) -> None:
        self.metrics.migration_ended(move, outcome)
        reports.migration_ended(move, outcome)
