"""The simulated hosts: where domains are, what they get, what migrations cost, and what was measured of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from virtpoise_balancer.analyse.demand import Floats, Mask
from virtpoise_balancer.model import ASSUMED_BYTES_PER_SECOND, Resource
from virtpoise_balancer.simulate.contention import BACKLOG_SECONDS, Whole, on_hosts, share
from virtpoise_balancer.simulate.script import Fleet, StepDemand

# What a migration takes of the CPUs of its two hosts (docs/migrations.md): 0.1 s on the source for 143 MiB, and on the
# destination 0.7 s in all, mostly for the start of a QEMU.
_CORE_SECONDS_PER_BYTE = 0.1 / (143 * 2**20)
_START_CORE_SECONDS = 0.6
# What it takes besides the copy.
SETUP_SECONDS = 1.0
# The share of an uplink that a migration gets to copy with.
_LINK_SHARE = 0.9
_DIGITS = 9


@dataclass(slots=True)
class Copying:
    """A migration under way. ``left_bytes``: still to be copied. ``setup_seconds``: until the copy begins."""

    domain: int
    source: int
    destination: int
    left_bytes: float
    setup_seconds: float = SETUP_SECONDS
    seconds: float = 0.0
    copied_bytes: float = 0.0
    speed: float = 0.0


@dataclass(slots=True)
class StepFigures:
    """What was measured in one step: the use of each resource (resources x hosts), and what domains ran and waited for
    (domains, in cores).

    ``figures``: which hosts have figures. ``at``: where domains are at its end.
    """

    ratio: Floats
    run: Floats
    delay: Floats
    figures: Mask
    at: Whole
    memory_bytes: Floats
    rx: Floats
    tx: Floats


@dataclass(slots=True)
class World:
    """One group as one balancer has it. Others move, start and stop domains as the demand says. What the balancer has
    moved away is not moved by them.

    ``copying``: by the migration's id.
    """

    fleet: Fleet
    step_seconds: float
    at: Whole = field(init=False)
    moved: Mask = field(init=False)  # domains that are not where others have put them
    copying: dict[int, Copying] = field(default_factory=dict)
    ignored: int = 0  # moves of others that were not followed
    demand: StepDemand = field(init=False)
    _home: Whole = field(init=False)
    _backlog: Floats = field(init=False)  # core seconds
    _run: Floats = field(init=False)  # core seconds in this step, as the next ones
    _delay: Floats = field(init=False)
    _busy: Floats = field(init=False)
    _received: Floats = field(init=False)
    _sent: Floats = field(init=False)

    def __post_init__(self) -> None:
        domains = self.fleet.domains
        self.at = np.full(domains, -1)
        self._home = np.full(domains, -1)
        self.moved = np.zeros(domains, dtype=np.bool_)
        self._backlog = np.zeros(domains)
        self._empty()

    def _empty(self) -> None:
        self._run, self._delay = np.zeros(self.fleet.domains), np.zeros(self.fleet.domains)
        self._busy, self._received, self._sent = (np.zeros(self.fleet.hosts) for _ in range(3))

    # --- what others do -----------------------------------------------------------------------------------------------

    def begin(self, demand: StepDemand) -> bool:
        """Begin a step. Whether others change where a domain is."""
        self.demand = demand
        changed = np.flatnonzero(demand.home != self._home)
        for domain in changed:
            before, now = self._home[domain], demand.home[domain]
            if now < 0 or before < 0:  # it stops or starts
                self.at[domain], self.moved[domain] = now, False
                self._backlog[domain] = 0.0
            elif self.moved[domain]:
                self.ignored += 1
            else:
                self.at[domain] = now
        self._home = demand.home
        return len(changed) > 0

    def runs(self, domain: int) -> bool:
        """Whether the domain runs now."""
        return self.at[domain] >= 0 and bool(self.demand.up[self.at[domain]])

    # --- migrations ---------------------------------------------------------------------------------------------------

    def start(self, migration_id: int, domain: int, destination: int, limit: float | None) -> None:
        """Begin to copy a domain. ``limit``: bytes per second."""
        memory = float(self.demand.memory_bytes[domain])
        self.copying[migration_id] = Copying(domain, int(self.at[domain]), destination, memory)
        self._set_speeds(limit)

    def _set_speeds(self, limit: float | None) -> None:
        """Uplinks are shared evenly by the migrations that go over them."""
        ends = np.zeros(self.fleet.hosts)
        for one in self.copying.values():
            ends[one.source] += 1
            ends[one.destination] += 1
        for one in self.copying.values():
            links = [self.fleet.link_bytes_per_second[host] / ends[host] for host in (one.source, one.destination)]
            known = [speed * _LINK_SHARE for speed in links if not math.isnan(speed)]
            one.speed = min([*known, *([limit] if limit else [])], default=ASSUMED_BYTES_PER_SECOND)

    def left_seconds(self, one: Copying) -> float:
        """How long the migration will take from now; infinity for one that does not converge."""
        effective = one.speed - float(self.fleet.dirty_bytes_per_second[one.domain])
        return one.setup_seconds + (one.left_bytes / effective if effective > 0 else math.inf)

    def finish(self, migration_id: int, *, done: bool, limit: float | None) -> Copying:
        """The migration that has ended. If it is done, the domain is on its destination."""
        one = self.copying.pop(migration_id)
        if done:
            self.at[one.domain] = one.destination
            self.moved[one.domain] = one.destination != self._home[one.domain]
        self._set_speeds(limit)
        return one

    # --- time ---------------------------------------------------------------------------------------------------------

    def advance(self, seconds: float) -> None:
        """Let this time pass within the step."""
        if seconds <= 0:
            return
        demand, fleet = self.demand, self.fleet
        here = np.where((self.at >= 0) & demand.up[self.at], self.at, -1)
        own, received, sent = demand.own_cores.copy(), np.zeros(fleet.hosts), np.zeros(fleet.hosts)
        for one in self.copying.values():
            self._copy(one, seconds, own, received, sent)
        wanted = np.where(fleet.elastic, demand.cores + self._backlog / self.step_seconds, demand.cores)
        got = share(here, wanted, fleet.vcpus, fleet.elastic, np.maximum(fleet.cpus - own, 0.0))
        unmet = (demand.cores - got.run) * seconds
        self._backlog = np.where(
            fleet.elastic & (here >= 0), np.clip(self._backlog + unmet, 0.0, BACKLOG_SECONDS * demand.cores), 0.0
        )
        self._run += got.run * seconds
        self._delay += got.delay * seconds
        self._busy += np.minimum(own + got.used, fleet.cpus) * seconds
        place, running = np.where(here >= 0, here, 0), here >= 0
        self._received += received + seconds * on_hosts(place, demand.rx * running, fleet.hosts)
        self._sent += sent + seconds * on_hosts(place, demand.tx * running, fleet.hosts)

    def _copy(self, one: Copying, seconds: float, own: Floats, received: Floats, sent: Floats) -> None:
        setup = min(one.setup_seconds, seconds)
        copying = seconds - setup
        amount = one.speed * copying
        one.setup_seconds -= setup
        one.seconds += seconds
        one.copied_bytes += amount
        one.left_bytes -= max(one.speed - float(self.fleet.dirty_bytes_per_second[one.domain]), 0.0) * copying
        sent[one.source] += amount
        received[one.destination] += amount
        spent = amount * _CORE_SECONDS_PER_BYTE
        own[one.source] += spent / seconds
        own[one.destination] += (spent + setup / SETUP_SECONDS * _START_CORE_SECONDS) / seconds

    def measure(self) -> StepFigures:
        """What was measured in the step that ends now, and a fresh start for the next one."""
        demand, fleet, step = self.demand, self.fleet, self.step_seconds
        here = np.where((self.at >= 0) & demand.up[self.at], self.at, -1)
        memory = demand.own_memory_bytes + on_hosts(
            np.where(here >= 0, here, 0), demand.memory_bytes * (here >= 0), fleet.hosts
        )
        for one in self.copying.values():
            memory[one.destination] += demand.memory_bytes[one.domain]
        ratio = np.empty((len(Resource), fleet.hosts))
        # Sums of many domains are a little off: what is full must not be ordered by that.
        ratio[Resource.CPU.row] = np.minimum(np.round(self._busy / (fleet.cpus * step), _DIGITS), 1.0)
        ratio[Resource.MEMORY.row] = np.minimum(memory / fleet.host_memory_bytes, 1.0)
        ratio[Resource.RX.row] = self._received / (fleet.link_bytes_per_second * step)
        ratio[Resource.TX.row] = self._sent / (fleet.link_bytes_per_second * step)
        found = StepFigures(
            ratio=ratio,
            run=self._run / step,
            delay=self._delay / step,
            figures=demand.seen & demand.up,
            at=here,
            memory_bytes=demand.memory_bytes,
            rx=demand.rx,
            tx=demand.tx,
        )
        self._empty()
        return found


def names(fleet: Fleet) -> Mapping[str, int]:
    """The numbers of the hosts by their names."""
    return {name: number for number, name in enumerate(fleet.host_names)}
