"""Makes a script of a scenario and a seed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from uuid import NAMESPACE_DNS, uuid5

import numpy as np

from virtpoise_balancer.analyse.demand import Floats
from virtpoise_balancer.simulate.contention import Whole
from virtpoise_balancer.simulate.scenario import (
    DomainEntry,
    Drain,
    HostDown,
    HostLoad,
    Migrated,
    MigrationsFail,
    NoFigures,
    Scenario,
    Stopped,
)
from virtpoise_balancer.simulate.script import Failing, Fleet, ScriptedOrder, StepDemand
from virtpoise_balancer.simulate.shapes import Grid, Leak

_GIB, _MIB = 2**30, 2**20
# A Sunday in November 2023: any time would do, as long as it stays the same.
_BEGAN = 1_700_352_000.0


@dataclass(frozen=True, slots=True)
class StagedScenario:
    """A scenario with its loads drawn by a seed. ``folder``: of its file."""

    scenario: Scenario
    seed: int
    folder: Path
    fleet: Fleet = field(init=False)
    _cores: Floats = field(init=False)  # steps x domains
    _memory: Floats = field(init=False)  # domains, or steps x domains where some leak
    _first: Whole = field(init=False)  # the first host of each domain

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "fleet", _fleet(self.scenario))
        cores = np.empty((len(self), self.fleet.domains))
        memory = self.fleet.memory_bytes
        first = []
        number = 0
        for at, entry in enumerate(self.scenario.domains):
            places = _places(entry, self.scenario.host_names)
            for place, _ in enumerate(entry.names):
                grids = [self._grid(at, place, part, entry) for part in range(len(entry.load) + 1)]
                wanted = sum(
                    (one.wanted(grid) for one, grid in zip(entry.load, grids[1:], strict=True)), np.zeros(len(self))
                )
                if entry.spread_ratio:
                    wanted = wanted * np.exp(grids[0].random.normal(0.0, entry.spread_ratio))
                if entry.noise_ratio:
                    wanted = wanted * (1 + entry.noise_ratio * grids[0].random.normal(size=len(self)))
                cores[:, number] = np.clip(wanted, 0.0, entry.vcpus)
                for leak in (one for one in entry.load if isinstance(one, Leak)):
                    memory = np.array(np.broadcast_to(memory, (len(self), self.fleet.domains)))
                    memory[:, number] = leak.held_bytes(grids[0], entry.memory_gib * _GIB)
                first.append(places[place % len(places)])
                number += 1
        put(self, "_cores", cores)
        put(self, "_memory", memory)
        put(self, "_first", np.array(first, dtype=np.int64))

    def _grid(self, entry: int, place: int, part: int, of: DomainEntry) -> Grid:
        return Grid(
            minutes=(np.arange(len(self)) + 0.5) * self.step_seconds / 60,
            step_minutes=self.step_seconds / 60,
            random=np.random.default_rng([self.seed, entry, place, part]),
            number=place,
            vcpus=of.vcpus,
            folder=self.folder,
        )

    @property
    def step_seconds(self) -> float:
        return self.scenario.config.interval_seconds

    @property
    def start(self) -> float:
        return _BEGAN // self.step_seconds * self.step_seconds

    def __len__(self) -> int:
        return self.scenario.steps

    def __iter__(self) -> Iterator[StepDemand]:
        number = {name: at for at, name in enumerate(self.fleet.domain_names)}
        host = {name: at for at, name in enumerate(self.fleet.host_names)}
        own = np.array([one.own_cores for one in self.scenario.hosts for _ in one.names])
        own_memory = np.array([one.own_memory_gib * _GIB for one in self.scenario.hosts for _ in one.names])
        traffic = [
            np.array([getattr(one, name) * _MIB for one in self.scenario.domains for _ in one.names])
            for name in ("rx_mib_per_second", "tx_mib_per_second")
        ]
        draining: set[str] = set()
        for step in range(len(self)):
            minutes = step * self.step_seconds / 60
            now = [event for event in self.scenario.events if event.lasts(minutes)]
            home, own_cores = self._first.copy(), own.copy()
            up, seen = np.ones(self.fleet.hosts, dtype=np.bool_), np.ones(self.fleet.hosts, dtype=np.bool_)
            for event in now:
                match event:
                    case HostDown():
                        up[host[event.host]] = False
                    case NoFigures():
                        seen[host[event.host]] = False
                    case HostLoad():
                        own_cores[host[event.host]] += event.cores
                    case Stopped():
                        home[number[event.domain]] = -1
                    case Migrated():
                        home[number[event.domain]] = host[event.to]
                    case _:
                        pass
            wanted = {event.host for event in now if isinstance(event, Drain)}
            orders = [ScriptedOrder(host=name, draining=name in wanted) for name in sorted(wanted ^ draining)]
            draining = wanted
            yield StepDemand(
                cores=self._cores[step],
                memory_bytes=self._memory if self._memory.ndim == 1 else self._memory[step],
                rx=traffic[0],
                tx=traffic[1],
                home=home,
                own_cores=own_cores,
                own_memory_bytes=own_memory,
                up=up,
                seen=seen,
                orders=tuple(orders),
                failing=tuple(
                    Failing(domain=one.domain, destination=one.to) for one in now if isinstance(one, MigrationsFail)
                ),
            )


def _places(entry: DomainEntry, hosts: tuple[str, ...]) -> list[int]:
    """The numbers of the hosts that an entry names, each once, in the order of its patterns."""
    found = dict.fromkeys(at for pattern in entry.hosts for at, name in enumerate(hosts) if fnmatchcase(name, pattern))
    return list(found)


def _fleet(scenario: Scenario) -> Fleet:
    hosts = [one for one in scenario.hosts for _ in one.names]
    domains = [one for one in scenario.domains for _ in one.names]
    return Fleet(
        host_names=scenario.host_names,
        cpus=np.array([one.cpus for one in hosts], dtype=float),
        host_memory_bytes=np.array([one.memory_gib * _GIB for one in hosts]),
        link_bytes_per_second=np.array(
            [np.nan if one.link_mib_per_second is None else one.link_mib_per_second * _MIB for one in hosts]
        ),
        domain_names=scenario.domain_names,
        uuids=tuple(str(uuid5(NAMESPACE_DNS, name)) for name in scenario.domain_names),
        vcpus=np.array([one.vcpus for one in domains], dtype=float),
        memory_bytes=np.array([one.memory_gib * _GIB for one in domains]),
        dirty_bytes_per_second=np.array([one.dirty_mib_per_second * _MIB for one in domains], dtype=float),
        elastic=np.array([one.guest == "elastic" for one in domains], dtype=np.bool_),
        labels=tuple(one.labels for one in hosts),
    )
