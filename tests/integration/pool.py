"""A whole group for a test: real hosts and domains, exporters, Prometheus, and the balancer as its user runs it."""

from __future__ import annotations

import logging
import math
import shutil
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import libvirt
import requests

from virtpoise_lab.balancer import Balancer
from virtpoise_lab.errors import LabError
from virtpoise_lab.lab import Lab
from virtpoise_lab.model import DomainSpec, Kind
from virtpoise_lab.processes import wait_until
from virtpoise_lab.stack import EXPORTER_PORT, Stack

log = logging.getLogger(__name__)

# The thesis reads every 10 s; here it is every 2 s, and Prometheus scrapes every second.
STEP = 2.0
# What a reading covers: a step and one and a half scrapes.
READING = STEP + 1.5
# Its penalties of 190 s and 10 s more are a tenth and a fifth of that here.
PENALTY = {"initial_seconds": 19, "step_seconds": 2}
# For eight domains on one host: a scene has no more.
HOST_MEMORY_MIB = 2304
PORT = 19090
BALANCERS = ("balancer", "second")

Loads = Mapping[str, Mapping[str, float]]
Homes = Mapping[str, tuple[str, ...]]
# One host above the threshold, one empty.
BUSY: Loads = {"h1": {"vm1": 35, "vm2": 35}, "h2": {}}
CALM: Loads = {"h1": {"vm1": 10, "vm2": 10}, "h2": {}}


# The part of its CPU that a host can spare. Guests that do not catch up miss whatever others take.
SPARE: Mapping[Kind, float] = {"work": 0.2, "share": 0.0}


class Pool:
    """A running group. ``homes``: its domains by host. Their loads are set by ``begin``."""

    def __init__(self, homes: Homes) -> None:
        domains = [DomainSpec(name, host) for name, host in _home_of_each(homes).items()]
        self.lab = Lab.up(hosts=len(homes), domains=domains, host_memory_mib=HOST_MEMORY_MIB)
        try:
            self.stack = Stack.start(self.lab, port=PORT)
        except BaseException:
            self.close()
            raise

    def begin(self, loads: Loads, kind: Kind, *, dirty: float = 0.0) -> None:
        """Give the domains loads of this kind (percent of one CPU), and wait until they are read.

        The balancer is not started.
        """
        self.lab.expect_spare(SPARE[kind])
        # Only now: work that piles up while many guests boot would be caught up on for a long time.
        for here in loads.values():
            for name, load in here.items():
                self.lab.load(name, load, kind=kind, dirty=dirty)
        self._began = time.time()
        # Until a reading reaches back to no moment before that: the first decision is to be made on these loads.
        steady = self._began + READING
        wait_until(lambda: all(self.readings(host.name, steady) for host in self.lab.hosts), 30, "steady readings")
        self.balancer = Balancer(self.lab)

    def put_back(self, homes: Homes) -> None:
        """Make it as new for a scene with these domains: no balancer, nothing measured, and each domain at home.

        LabError if a host or a domain is not as it should be.
        """
        balancers = [one.process for one in self.lab.state.processes if one.host is None and one.name in BALANCERS]
        for process in balancers:
            process.signal(signal.SIGKILL)
        wait_until(lambda: not any(process.alive() for process in balancers), 10, "the balancers' end")
        shutil.rmtree(self.balancer.folder)
        self._house(_home_of_each(homes))
        self._check(homes)
        self.stack.delete_samples()
        if (health := self.stack.health()) != {f"{host}:{EXPORTER_PORT}": "up" for host in homes}:
            raise LabError(f"the hosts are not as they were: {health}")

    def _house(self, home: Mapping[str, str]) -> None:
        """Let each of these domains run idle on its home, and no other one run."""
        for name in [spec.name for spec in self.lab.state.domains]:
            if name not in home or not self._at_rest(name):
                self.lab.remove_domain(name)
        here = [spec.name for spec in self.lab.state.domains]
        for name in here:
            self.lab.load(name, 0, kind="share", dirty=0)
            if self.lab.where(name) != home[name]:
                self.lab.migrate(name, home[name])
        self.lab.add_domains(DomainSpec(name, host) for name, host in home.items() if name not in here)

    def _at_rest(self, name: str) -> bool:
        """Whether it runs and no migration of it is under way; one that a balancer has left is aborted."""

        def rests() -> bool:
            where = self.lab.where(name)
            if where is None:
                return False
            known = self.lab.host(where).connection().lookupByName(name)
            if known.jobInfo()[0] == libvirt.VIR_DOMAIN_JOB_NONE:
                return True
            with suppress(libvirt.libvirtError):  # it has ended by itself
                known.abortJob()
            return False

        try:
            wait_until(rests, 5, f"{name} at rest", 0.1)
        except LabError:  # a scene has suspended or ended it
            return False
        return True

    def _check(self, homes: Homes) -> None:
        running = {
            host.name: {known.name(): known.state()[0] for known in host.connection().listAllDomains()}
            for host in self.lab.hosts
        }
        if running != {host: dict.fromkeys(here, libvirt.VIR_DOMAIN_RUNNING) for host, here in homes.items()}:
            raise LabError(f"the domains are not as they should be: {running}")

    def configure(
        self, threshold: float = 0.6, consecutive: int = 2, strategy: str = "thesis", **sections: Any
    ) -> None:
        policy = {
            "strategy": strategy,
            "cpu": {"threshold": threshold, "consecutive": consecutive},
            "penalty": PENALTY,
        }
        self.balancer.configure(self.stack.url, interval_seconds=STEP, policy=policy, **sections)

    def start(self, threshold: float = 0.6, consecutive: int = 2, strategy: str = "thesis", **sections: Any) -> None:
        self.configure(threshold, consecutive, strategy, **sections)
        self.balancer.start()

    def close(self) -> None:
        self.lab.down()

    # --- what is seen

    def readings(self, host: str, since: float) -> list[tuple[float, float]]:
        """The host's load at each step since a time, as Prometheus has it: (Unix seconds, ratio)."""
        return [(at, 1 - idle) for at, idle in self._ratios("idle", host, since)]

    def _ratios(self, mode: str, host: str, since: float) -> list[tuple[float, float]]:
        """The part of the host's CPU time spent in a mode, at each step since a time: (Unix seconds, ratio)."""
        start = math.ceil(since / STEP) * STEP
        end = math.floor(time.time() / STEP) * STEP
        counter = f'virtpoise_host_cpu_seconds_total{{instance=~"{host}:.*"'
        window = f"[{round(READING * 1000)}ms]"
        query = f'sum(rate({counter},mode="{mode}"}}{window})) / sum(rate({counter}}}{window}))'
        form = {"query": query, "start": str(start), "end": str(max(start, end)), "step": str(STEP)}
        found = requests.post(f"{self.stack.url}/api/v1/query_range", data=form, timeout=10).json()["data"]["result"]
        return [(float(t), float(v)) for t, v in found[0]["values"]] if found else []

    def stolen(self) -> dict[str, float]:
        """By host: the largest part of its CPU time that others took in a reading, from the first load on."""
        return {
            host.name: max((v for _, v in self._ratios("steal", host.name, self._began)), default=0.0)
            for host in self.lab.hosts
        }

    def moves(self) -> list[tuple[str, str, str]]:
        """The migrations that were done: domain, source, destination; oldest first."""
        return [(r["domain"], r["source"], r["destination"]) for r in self.balancer.history() if r["result"] == "done"]

    # --- waiting for what must happen

    def wait(self, what: str, reached: Callable[[dict[str, Any]], object], seconds: float = 60) -> dict[str, Any]:
        return self.balancer.wait_for(what, reached, seconds)

    def wait_moves(self, count: int, seconds: float = 60) -> list[tuple[str, str, str]]:
        """Wait until that many migrations are done and none runs."""
        self.wait(
            f"{count} migrations",
            lambda status: len(self.moves()) >= count and not status["in_flight"] and not self._open(),
            seconds,
        )
        return self.moves()

    def wait_failures(self, count: int) -> dict[str, tuple[float, float]]:
        """Wait until each host has failed that many times in a row.

        By host, its penalty in the first status that shows the failure, and for how long at most it ran by then
        (seconds).
        """
        found: dict[str, tuple[float, float]] = {}
        looked = time.monotonic()

        def failed(status: dict[str, Any]) -> bool:
            nonlocal looked
            before, looked = looked, time.monotonic()
            for host in status["hosts"]:
                if host["failures"] == count and host["name"] not in found:
                    found[host["name"]] = host["penalty_seconds"], looked - before
            return len(found) == len(self.lab.hosts)

        self.wait(f"failure {count} of each host", failed)
        return found

    def wait_settled(self, threshold: float = 0.6, steps: int = 4, seconds: float = 60) -> float:
        """Wait until no host has had a reading at or above the threshold for some steps; the time when that began."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            since = time.time() - (steps + 1) * STEP
            newest = {host.name: self.readings(host.name, since) for host in self.lab.hosts}
            if not self._open() and all(
                len(here) >= steps and all(load < threshold for _, load in here) for here in newest.values()
            ):
                return since
            self.wait_next_cycle()
        raise LabError(
            f"no {steps} readings below {threshold:.0%} within {seconds:g} s:\n{self.balancer.last_words(30)}"
        )

    def wait_next_cycle(self, count: int = 1) -> dict[str, Any]:
        for _ in range(count):
            status = self._wait_past((self.balancer.status() or {}).get("cycle_at"))
        return status

    def _wait_past(self, cycle_at: float | None) -> dict[str, Any]:
        return self.wait("next cycle", lambda now: now["cycle_at"] != cycle_at, 30)

    def _open(self) -> bool:
        return any(record["result"] is None for record in self.balancer.history())


class Pools:
    """Gives a test its pool: called with loads, it returns one that has them. As a context manager it ends the last
    pool.

    A pool is kept for the next scene on the same hosts, which begins when all has been put back.
    """

    def __init__(self) -> None:
        self._kept: Pool | None = None

    def __call__(self, loads: Loads, kind: Kind = "work", *, dirty: float = 0.0) -> Pool:
        homes = {host: tuple(here) for host, here in loads.items()}
        pool = self._put_back(homes)
        if pool is None:
            self.close()
            pool = self._kept = Pool(homes)
        pool.begin(loads, kind, dirty=dirty)
        return pool

    def _put_back(self, homes: Homes) -> Pool | None:
        """The pool that was kept, as new; None if it has other hosts, or is not whole any more."""
        if self._kept is None or {host.name for host in self._kept.lab.hosts} != set(homes):
            return None
        try:
            self._kept.put_back(homes)
        except (LabError, libvirt.libvirtError, OSError) as problem:
            log.warning("a new pool: %s", problem)
            return None
        return self._kept

    def stolen(self) -> dict[str, float]:
        """By host, the largest part of its CPU time that others took in a reading of this scene."""
        return self._kept.stolen() if self._kept else {}

    def close(self) -> None:
        if self._kept is not None:
            self._kept.close()
            self._kept = None

    def __enter__(self) -> Pools:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _home_of_each(homes: Homes) -> dict[str, str]:
    """The host of each domain."""
    return {name: host for host, here in homes.items() for name in here}


def places(group: Pool, domain: str) -> dict[str, str]:
    """Where libvirt knows the domain, and as what: running, or only defined."""
    found = {}
    for host in group.lab.hosts:
        try:
            known = host.connection().lookupByName(domain)
        except libvirt.libvirtError:
            continue
        found[host.name] = "running" if known.state()[0] == libvirt.VIR_DOMAIN_RUNNING else "defined"
    return found


def wait_under_way(group: Pool) -> str:
    """Wait until a migration has sent something; the domain's name."""
    status = group.wait(
        "migration under way",
        lambda now: now["in_flight"] and (now["in_flight"][0]["progress"] or {}).get("processed_bytes"),
    )
    return str(status["in_flight"][0]["domain"])
