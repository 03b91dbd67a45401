"""What a run of the campaign plays on: time, the world, Prometheus, the store and the balancers."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from virtpoise_balancer.config import Config, parse_config
from virtpoise_balancer.knowledge.database import Database
from virtpoise_lab.campaign.balancer import Balancer
from virtpoise_lab.campaign.disk import Disk
from virtpoise_lab.campaign.kernel import Kernel
from virtpoise_lab.campaign.prometheus import SCRAPE_SECONDS, Prometheus
from virtpoise_lab.campaign.world import World

INTERVAL_SECONDS = 10.0
THRESHOLD_RATIO = 0.7
BEGAN = 1_700_000_003.0
# Longer than a migration may take in some seeds.
SHORT_TIMEOUT_SECONDS = 15.0
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
class Setting:
    """How a run differs from others. ``faults``: their names.

    ``short``: whether migrations must run into their time-out. ``asks_for_facts``: whether the balancer asks hosts what
    they would refuse. ``copies``: whether each domain has a disk of its own.

    ``group``: the name of the one that the faults meet. ``still``: why the other one stands still, or empty.
    ``groups``: their section of the balancer's configuration, if there are any.
    """

    faults: tuple[str, ...]
    short: bool
    copies: bool
    asks_for_facts: bool
    group: str = ""
    still: str = ""
    groups: str = ""


@dataclass(eq=False)
class Stage:
    """What a run plays on, on virtual time. ``random``: what the seed draws.

    ``pending``: faults that have not come yet. ``draining``: a host that a person has drained.
    """

    seed: int
    setting: Setting
    trace: list[str] = field(default_factory=list)
    balancers: list[Balancer] = field(default_factory=list)
    pending: int = 0
    draining: str | None = None
    healed_at: float = BEGAN

    def __post_init__(self) -> None:
        self.random = Random(self.seed)
        self.kernel = Kernel(Random(self.random.random()), BEGAN)
        self.world = World(self.kernel, self.note)
        self.server = Prometheus(self.kernel, self.world)
        database, driver, new = _database()
        driver.deserialize(new)
        self.disk = Disk(self.kernel, database, driver)
        timeout_seconds = SHORT_TIMEOUT_SECONDS if self.random.random() < 0.1 or self.setting.short else 600.0
        self.config = _config(timeout_seconds, self.setting.groups)
        self._folder = tempfile.TemporaryDirectory(prefix="virtpoise-campaign-", dir=_IN_MEMORY)

    def note(self, text: str) -> None:
        text = text.replace(f"{self._folder.name}/", "")  # another one in each run
        self.trace.append(f"{self.kernel.at - BEGAN:8.2f}  {text}")

    @property
    def lock_file(self) -> Path:
        return Path(self._folder.name) / "store.lock"

    @property
    def hosts(self) -> list[str]:
        """Those that the faults meet."""
        return self.world.hosts_of(self.setting.group)

    @property
    def limit_cores(self) -> float:
        """What a host may use."""
        return THRESHOLD_RATIO * 8

    def faulty_until(self, at: float) -> None:
        self.healed_at = max(self.healed_at, at)

    @property
    def leader(self) -> Balancer | None:
        return next((one for one in self.balancers if one.leads), None)
