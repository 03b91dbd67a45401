"""One run of the campaign: a group of hosts with a task, faults from a seed, healing, a person who goes by the alerts,
and the oracle.
"""

from __future__ import annotations

import gc
import resource
import tempfile
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from random import Random
from typing import Any

import structlog

from virtpoise_balancer.config import Config, parse_config
from virtpoise_balancer.knowledge.database import Database
from virtpoise_lab.campaign import beside, faults
from virtpoise_lab.campaign.balancer import Balancer
from virtpoise_lab.campaign.disk import Disk
from virtpoise_lab.campaign.faults.of_migrations import (
    LONG_COPY_SECONDS,
    SHORT_TIMEOUT_SECONDS,
    need_aborts,
    need_copies,
    need_facts,
)
from virtpoise_lab.campaign.kernel import Kernel
from virtpoise_lab.campaign.oracle import Oracle
from virtpoise_lab.campaign.person import Person
from virtpoise_lab.campaign.prometheus import SCRAPE_SECONDS, Prometheus
from virtpoise_lab.campaign.world import Machine, World

INTERVAL_SECONDS = 10.0
THRESHOLD_RATIO = 0.7
_BEGAN = 1_700_000_003.0
_CALM_SECONDS = 60.0
_KEPT_LINES = 1000  # of the trace of a run of hours
_HOSTS = ("h1", "h2", "h3", "h4")
# For a drain or an overload once all is well again, with back-off and all.
_TASK_SECONDS = 600.0
# How often a person looks at the alerts until then.
_ALERT_SECONDS = 60.0
# The shares of all seeds in which the balancer asks hosts what they would refuse, and domains have disks of their own.
_WITH_FACTS, _WITH_COPIES = 0.4, 0.2
# Where a file that lives for one run costs no disk anything.
_IN_MEMORY = "/dev/shm"


@cache
def _config(timeout_seconds: float, groups: str) -> Config:
    """The balancer's configuration. ``groups``: their section, if there are any."""
    return parse_config(
        f"""
mode: automatic
interval_seconds: {INTERVAL_SECONDS:g}
prometheus: {{scrape_interval_seconds: {SCRAPE_SECONDS:g}}}
libvirt: {{pattern: 'h*'}}
policy:
  cpu: {{threshold: {THRESHOLD_RATIO}, consecutive: 2, recovery: 0.65}}
  penalty: {{initial_seconds: 20, step_seconds: 10}}
  backoff: {{initial_seconds: 30}}
  rest_seconds: 60
migration: {{timeout_seconds: {timeout_seconds:g}}}
measurement: {{settle_seconds: 10, window_seconds: 30}}
{groups}
""",
        "the campaign",
    )


@cache
def _database() -> tuple[Database, Any, bytes]:
    """The store of all runs, one after the other, in memory; its driver's connection; what it holds when it is new."""
    database = Database.open("sqlite://", upgrade=True)
    with database.engine.connect() as connection:
        driver: Any = connection.connection.driver_connection
    return database, driver, driver.serialize()


@dataclass(frozen=True)
class Outcome:
    """How a run ended. ``violations``: what must not be, in words; empty for a good run. ``trace``: what happened."""

    seed: int
    faults: tuple[str, ...]
    violations: tuple[str, ...]
    trace: tuple[str, ...]
    seconds: float
    migrations: int
    doubled: bool
    lost: bool


@dataclass(frozen=True)
class Figures:
    """What the balancer holds. ``memory_bytes`` and ``descriptors``: of the whole process, with the model in it.

    ``threads``: of the balancer. ``violations``: found so far.
    """

    hour: int
    memory_bytes: int
    threads: int
    descriptors: int
    violations: tuple[str, ...]

    @classmethod
    def now(cls, hour: int, run: Run) -> Figures:
        gc.collect()
        resident_pages = int(Path("/proc/self/statm").read_text().split()[1])
        return cls(
            hour=hour,
            memory_bytes=resident_pages * resource.getpagesize(),
            threads=sum(len(balancer.process.tasks) for balancer in run.balancers),
            descriptors=len(list(Path("/proc/self/fd").iterdir())),
            violations=tuple(run.oracle.violations),
        )


@dataclass(eq=False)
class Run:
    """One run of the campaign on virtual time.

    ``names``: of the faults; None for some that the seed chooses. ``groups``: how many; None for as many as the seed
    chooses, if it chooses the faults as well, and else one.

    ``asks_for_facts``: whether the balancer asks hosts what they would refuse. ``copies``: whether each domain has a
    disk of its own.

    ``group``: the name of the one that the faults meet. ``still``: why the other one stands still, or empty.
    """

    seed: int
    names: Sequence[str] | None = None
    groups: int | None = None
    trace: list[str] = field(default_factory=list)
    balancers: list[Balancer] = field(default_factory=list)
    pending: int = 0  # faults that have not come yet
    draining: str | None = None
    healed_at: float = _BEGAN

    def __post_init__(self) -> None:
        self.random = Random(self.seed)
        self.kernel = Kernel(Random(self.random.random()), _BEGAN)
        self.world = World(self.kernel, self.note)
        self.server = Prometheus(self.kernel, self.world)
        database, driver, new = _database()
        driver.deserialize(new)
        self.disk = Disk(self.kernel, database, driver)
        self.faults = tuple(self.names or self._chosen())
        chooses = self.groups is None and self.names is None
        self._beside = beside.drawn(self.seed, None if chooses else self.groups or 1)
        self.group = beside.FIRST if self._beside else ""
        self.still = self._beside.choice(beside.STILL) if self._beside else ""
        draws_facts = Random(self.seed + 4_000_000_007)  # a seed with these names given plays as before
        self.copies = need_copies(self.faults) or (not self.names and draws_facts.random() < _WITH_COPIES)
        self.asks_for_facts = self.copies or need_facts(self.faults)
        self.asks_for_facts |= not self.names and draws_facts.random() < _WITH_FACTS
        short = need_aborts(self.faults)
        timeout_seconds = SHORT_TIMEOUT_SECONDS if self.random.random() < 0.1 or short else 600.0
        self.config = _config(timeout_seconds, beside.configured(self.still) if self._beside else "")
        self.oracle = Oracle(self, THRESHOLD_RATIO, INTERVAL_SECONDS)
        self.person = Person(self)
        self._folder = tempfile.TemporaryDirectory(prefix="virtpoise-campaign-", dir=_IN_MEMORY)

    def note(self, text: str) -> None:
        text = text.replace(f"{self._folder.name}/", "")  # another one in each run
        self.trace.append(f"{self.kernel.at - _BEGAN:8.2f}  {text}")

    @property
    def lock_file(self) -> Path:
        return Path(self._folder.name) / "store.lock"

    @property
    def hosts(self) -> list[str]:
        """Those that the faults meet."""
        return self.world.hosts_of(self.group)

    @property
    def limit_cores(self) -> float:
        """What a host may use."""
        return THRESHOLD_RATIO * 8

    def faulty_until(self, at: float) -> None:
        self.healed_at = max(self.healed_at, at)

    # --- balancers ----------------------------------------------------------------------------------------------------

    def start_balancer(self) -> None:
        name = f"balancer {len(self.balancers) + 1}"
        self.note(f"{name} starts")
        made = Balancer(
            self.kernel,
            self.world,
            self.server,
            self.disk,
            self.config,
            Path(self._folder.name) / "store",
            self.oracle.request,
            self.oracle.act,
            name,
            self.asks_for_facts,
        )
        made.process.ahead_seconds = self.balancers[-1].process.ahead_seconds if self.balancers else 0.0
        made.on_turn.append(self.oracle.turn)
        self.balancers.append(made)
        made.start()

    def kill_balancer(self) -> None:
        """Kill the one that leads, or the newest."""
        alive = [one for one in self.balancers if one.process.alive]
        for one in [one for one in alive if one.leads][:1] or alive[-1:]:
            self.note(f"{one.name} is killed")
            one.kill()

    @property
    def leader(self) -> Balancer | None:
        return next((one for one in self.balancers if one.leads), None)

    # --- the whole ----------------------------------------------------------------------------------------------------

    def play(self) -> Outcome:
        with _uncollected(), self._whole():
            self._play()
        return Outcome(
            seed=self.seed,
            faults=self.faults,
            violations=tuple(dict.fromkeys(self.oracle.violations)),
            trace=tuple(self.trace),
            seconds=self.kernel.at - _BEGAN,
            migrations=sum(job.ours for job in self.world.jobs),
            doubled=self.oracle.doubled,
            lost=self.oracle.lost,
        )

    def last(self, hours: int) -> Iterator[Figures]:
        """What the balancer holds at each hour of a run whose faults last to its end."""
        with self._whole():
            self._begin()
            for name in self.faults:
                self.kernel.after(_CALM_SECONDS, partial(faults.at_once, self, name, hours * 3600.0))
            for hour in range(hours + 1):
                self.kernel.run(_BEGAN + hour * 3600.0 + 1.0)
                yield Figures.now(hour, self)
                del self.trace[:-_KEPT_LINES]

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """In the block, what is logged is noted; after it nothing of the run goes on."""
        try:
            with _logged(self._logged):
                yield
        finally:
            for balancer in self.balancers:
                if balancer.process.alive:
                    balancer.kill()
            self.kernel.kill(self.world.process)
            self._folder.cleanup()

    def _begin(self) -> None:
        self._set_up()
        self.server.start(_CALM_SECONDS)
        self.start_balancer()
        if self.draining:
            self.kernel.after(12.0, lambda: self.person.order_drain(str(self.draining)))

    def _play(self) -> None:
        self._begin()
        for name in self.faults:
            faults.plan(self, name)
        self.kernel.run(_BEGAN + 400.0, lambda: self.pending == 0)
        while self.kernel.at < self.healed_at:
            self.kernel.run(self.healed_at)
        self.world.perform_seconds = min(self.world.perform_seconds, 8.0)  # well below each time-out
        self._settle()
        self.oracle.after_healing()
        if self.person.mend():
            self._settle()
            self.oracle.after_mending()
        until = self.kernel.at + _TASK_SECONDS
        while not self.oracle.task_is_done() and self.kernel.at < until:
            self.kernel.run(min(self.kernel.at + _ALERT_SECONDS, until), self.oracle.task_is_done)
            self.person.release()
        self._settle_migrations()
        self.oracle.at_end()

    def _settle(self) -> None:
        """Five intervals."""
        self.kernel.run(self.kernel.at + 5 * INTERVAL_SECONDS)

    def _settle_migrations(self) -> None:
        """Wait until no migration is under way or about to begin, nor has been for a while."""
        for _ in range(20):
            if not self.oracle.something_is_being_made():
                return
            self.kernel.run(self.kernel.at + INTERVAL_SECONDS)

    def _set_up(self) -> None:
        random = self.random
        names = _HOSTS[: random.choice((3, 3, 4))]
        for name in names:
            self.world.machines[name] = Machine(name, group=self.group)
        self.world.perform_seconds = random.choice((3.0, 8.0, 20.0))
        limit = THRESHOLD_RATIO * 8
        drains = random.random() < 0.4
        wanted = {name: random.uniform(0.15, 0.45) * limit for name in names}
        wanted["h1"] = limit * (random.uniform(0.3, 0.6) if drains else random.uniform(1.05, 1.2))
        if not drains and Random(self.seed + 2_000_000_011).random() < 0.3:
            wanted[names[-1]] = limit * 0.88  # a wrong choice would push this one over its threshold
        for name in names:
            self.world.fill(name, wanted[name], random, named="vm", uuids="00000000-0000-4000-8000-")
        if need_aborts(self.faults):
            self.world.perform_seconds = LONG_COPY_SECONDS
        if drains:
            self.draining = "h1"
        if self._beside:
            beside.set_up(self, self._beside, limit)
        if self.copies:
            self.world.lay_disks()
        self.oracle.begin()

    def _chosen(self) -> tuple[str, ...]:
        random = Random(self.seed + 1_000_000_007)  # so that a seed with these names given plays the same
        number = random.choice((1, 1, 2, 2, 3))
        return tuple(random.choice(sorted(faults.FAULTS)) for _ in range(number))

    def _logged(self, level: str, text: str, values: Mapping[str, Any]) -> None:
        task = self.kernel.current
        who = task.process.name if task else "?"
        shown = " ".join(f"{key}={value}" for key, value in values.items() if key not in ("exc_info", "seconds"))
        self.note(f"{who} [{level}] {text} {shown}".rstrip())
        if values.get("exc_info"):
            self.oracle.exception(text)


@contextmanager
def _logged(keep: Callable[[str, str, Mapping[str, Any]], None]) -> Iterator[None]:
    """In the block, all that the balancer logs goes to ``keep`` alone."""

    def catch(_logger: object, level: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
        keep(level, str(event.pop("event")), event)
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(processors=[catch], wrapper_class=structlog.BoundLogger, cache_logger_on_first_use=False)
    try:
        yield
    finally:
        structlog.configure(**before)


@contextmanager
def _uncollected() -> Iterator[None]:
    """In the block, Python collects no garbage: a run makes little, and a collection looks at all its objects."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def last(seed: int, names: Sequence[str], hours: int) -> Iterator[Figures]:
    """Play one seed for hours, and its faults with it."""
    return Run(seed, names).last(hours)


def play(seed: int, names: Sequence[str] | None = None, groups: int | None = None) -> Outcome:
    """Play one seed."""
    return Run(seed, names, groups).play()
