"""The group as the default strategy reckons with it: hosts and what they use as arrays, the domains of a host on demand.

Four resources in this order, the rows of all arrays of hosts: CPU (cores of a CPU of speed 1), memory (bytes), received and sent traffic
(bytes per second). A host's use is a share of what it has; ``per_unit`` turns a domain's amount into that share. Everything is sorted
by name, so that the order of the input decides nothing.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import groupby
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

from virtpoise_balancer.analyse.calibration import Reaches, reaches
from virtpoise_balancer.analyse.demand import Demands, Floats, estimate, residence
from virtpoise_balancer.analyse.prediction import NOISE_RATIO, corrections, own_cores
from virtpoise_balancer.analyse.trend import forecast
from virtpoise_balancer.analyse.triggers import overloads
from virtpoise_balancer.analyse.windows import newest
from virtpoise_balancer.model import Domain, DomainState, Overload, Policy, Refusal, Role, Snapshot
from virtpoise_balancer.plan.default.residents import TOGETHER, UPLINK_BYTES_PER_SECOND, Residents
from virtpoise_balancer.plan.default.rules import Rules, gather
from virtpoise_balancer.plan.problems import no_destination

CPU, MEMORY, RX, TX = range(4)
RESOURCES = ("cpu", "memory", "rx", "tx")


class Group:
    """A snapshot under a policy."""

    def __init__(self, snapshot: Snapshot, policy: Policy) -> None:
        self.snapshot = snapshot
        self.policy = policy
        self.hosts = sorted(snapshot.hosts, key=attrgetter("name"))
        self.index = {host.name: number for number, host in enumerate(self.hosts)}
        self.reaches: Reaches = reaches(snapshot.residuals, policy.coverage)
        # Which domains are on which host: their numbers in the snapshot, sorted by host, and where each host's begin.
        hosts_of = map(self.index.__getitem__, map(attrgetter("host"), snapshot.domains))
        place = np.fromiter(hosts_of, np.int64, len(snapshot.domains))
        self._by_host = np.argsort(place, kind="stable")
        self._begins = np.searchsorted(place[self._by_host], np.arange(len(self.hosts) + 1))
        self.under_way = sorted((d for d in snapshot.domains if d.migrating_to is not None), key=lambda d: d.uuid)
        placed = any(map(attrgetter("placement"), snapshot.domains))
        self.rules = (
            gather(
                policy.rules,
                sorted(snapshot.domains, key=lambda d: d.uuid),
                [host.name for host in self.hosts],
                metadata=policy.metadata == "own",
            )
            if policy.rules or placed
            else Rules([host.name for host in self.hosts])
        )
        uplinks = [host.uplink_bytes_per_second or UPLINK_BYTES_PER_SECOND for host in self.hosts]
        cores = [host.cpus * host.cpu_speed for host in self.hosts]
        self.per_unit = 1 / np.array((cores, [float(host.memory_bytes) for host in self.hosts], uplinks, uplinks))
        thresholds = (policy.cpu.threshold, policy.memory.threshold, policy.network.threshold, policy.network.threshold)
        self.limit = np.array(thresholds)[:, np.newaxis]
        self.recovery = np.array(
            (
                policy.cpu.recovery_ratio,
                policy.memory.recovery_ratio,
                policy.network.recovery_ratio,
                policy.network.recovery_ratio,
            )
        )
        self.level, self.use = self._use()
        self._residents: dict[int, Residents] = {}

    def domains_on(self, number: int) -> list[Domain]:
        """All domains of a host, in any state and any order."""
        domains = self.snapshot.domains
        return [domains[i] for i in self._by_host[self._begins[number] : self._begins[number + 1]].tolist()]

    def _use(self) -> tuple[Floats, Floats]:
        """The CPU load of each host over the last N readings, and what each host uses of each resource, at the upper end.

        As a destination a host counts with its highest recent reading, or with where its load is going if that is higher: one low
        sample makes no room.
        """
        count, hosts = self.policy.cpu.consecutive, self.hosts
        cpu = newest([host.cpu_ratio for host in hosts], count)
        level = np.nansum(cpu, axis=1) / np.maximum(np.isfinite(cpu).sum(axis=1), 1)
        use = [np.fmax(_highest(cpu), self.ahead)]
        for ratio in ("memory_ratio", "rx_ratio", "tx_ratio"):
            now = np.array(list(map(attrgetter(ratio), hosts)), dtype=np.float64)
            recent = newest(list(map(attrgetter(f"{ratio}_window"), hosts)), count)
            use.append(np.fmax(now, _highest(recent)))
        unknown = [not host.known for host in hosts]
        return np.where(unknown, 0.0, level), np.where(unknown, np.inf, use)

    @cached_property
    def ahead(self) -> Floats:
        """Each host's load as its trend has it in a few steps; NaN where there is none."""
        return forecast(
            [host.cpu_ratio if host.known else () for host in self.hosts],
            steps=self.policy.trend.steps,
            level_readings=self.policy.cpu.consecutive,
        )

    @cached_property
    def overloads(self) -> tuple[Overload, ...]:
        """The overloads of all hosts; only those that use as much as a threshold are looked at, which is no less than they read now."""
        near = np.flatnonzero((self.use >= self.limit).any(axis=0)).tolist()
        return overloads(self.snapshot, self.policy, [self.hosts[number] for number in near], self.ahead[near].tolist())

    @cached_property
    def cpus(self) -> NDArray[np.int64]:
        return np.array([host.cpus for host in self.hosts], dtype=np.int64)

    @cached_property
    def fewest_cpus(self) -> int:
        return int(self.cpus.min(initial=np.iinfo(np.int64).max))

    @cached_property
    def least_use(self) -> Floats:
        """Of each resource what the host that uses least of it does."""
        least: Floats = self.use.min(axis=1, initial=np.inf)
        return least

    @cached_property
    def link_speed(self) -> dict[int, dict[int, float]]:
        """By source and destination, what earlier migrations between them reached, in bytes per second."""
        speeds: dict[int, dict[int, float]] = {}
        for link in self.snapshot.links:
            if link.source in self.index and link.destination in self.index:
                speeds.setdefault(self.index[link.source], {})[self.index[link.destination]] = link.bytes_per_second
        return speeds

    def speeds(self, number: int) -> Floats | None:
        """How fast a migration from the host to each host is taken to be; None: nothing was learned of any.

        One that was never tried is taken to be as fast as the best that was: it must not lose to a nearly full host for that.
        """
        learned = self.link_speed.get(number)
        if not learned:
            return None
        best = max(self.policy.migration.bytes_per_second, *learned.values())
        speeds = np.full(len(self.hosts), best)
        speeds[list(learned)] = list(learned.values())
        speeds[number] = 0.0
        return speeds

    @cached_property
    def closed(self) -> list[Refusal]:
        """The hosts that can take no domain at all, and why."""
        return [refusal for host in self.hosts if (refusal := no_destination(host))]

    @cached_property
    def repeated_names(self) -> dict[str, list[int]]:
        """The hosts that hold a domain of a name that exists more than once."""
        name_of = attrgetter("name")
        holders: dict[str, list[int]] = defaultdict(list)
        if len(set(map(name_of, self.snapshot.domains))) < len(self.snapshot.domains):
            repeated = {name for name, times in Counter(map(name_of, self.snapshot.domains)).items() if times > 1}
            for number in range(len(self.hosts)):
                for domain in self.domains_on(number):
                    if domain.name in repeated:
                        holders[domain.name].append(number)
        return holders

    def residents(self, number: int) -> Residents:
        """The running domains of a host that is known."""
        if number not in self._residents:
            self._look([number])
        return self._residents[number]

    def look(self, wanted: Iterable[int]) -> None:
        """Prepares for what will be asked of these hosts, which are known: for many together that is much quicker."""
        missing = sorted({number for number in wanted if number not in self._residents}, key=self.cpus.__getitem__)
        for _, alike in groupby(missing, key=self.cpus.__getitem__):
            numbers = list(alike)
            for begin in range(0, len(numbers), TOGETHER):
                self._look(numbers[begin : begin + TOGETHER])

    def _look(self, numbers: Sequence[int]) -> None:
        """``numbers``: of hosts with equally many CPUs."""
        cpus = self.hosts[numbers[0]].cpus
        state, order = DomainState.RUNNING, attrgetter("name", "uuid")
        running = [
            sorted((domain for domain in self.domains_on(number) if domain.state is state), key=order)
            for number in numbers
        ]
        level = self.level[list(numbers)]
        saturated = level >= self.policy.saturation_ratio
        demands = estimate(running, cpus=cpus, load=level, saturated=saturated)
        there = residence([len(domains) for domains in running])
        own = own_cores(cpus, level, demands, there)
        # A saturated host hides what the formula makes plain: there it is no error that needs correction.
        stays, goes = corrections(cpus, level, own, demands, there)
        begin = 0
        for at, number in enumerate(numbers):
            end = begin + len(running[at])
            full = bool(saturated[at])
            self._residents[number] = Residents(
                number=number,
                host=self.hosts[number],
                level=float(level[at]),
                saturated=full,
                running=running[at],
                demands=Demands(demands.table[begin:end]),
                own=float(own[at]),
                above=self.reaches[Role.DESTINATION, full].above,
                overhead_ratio=self.policy.migration.overhead_ratio,
                leaving=np.array([domain.migrating_to is not None for domain in running[at]], dtype=np.bool_),
                corrections=(0.0, np.zeros(end - begin)) if full else (float(stays[at]), goes[begin:end]),
            )
            begin = end

    def room(self, use: Floats) -> Floats:
        """Of each host what is free of its scarcest resource, as a share of the limit; ``use``: shares (resources x hosts), used up here.

        Arrays of all hosts are dear to make, so this one serves again.
        """
        np.subtract(self.limit, use, out=use)
        use /= self.limit
        room: Floats = use.min(axis=0)
        return room

    def margin(self, *, saturated: bool) -> float:
        """What the interval of a prediction of a destination adds to its load, whatever comes to it."""
        return NOISE_RATIO * self.reaches[Role.DESTINATION, saturated].above


def _highest(readings: Floats) -> Floats:
    """The highest of each row, NaN where there is none."""
    highest: Floats = np.fmax.reduce(readings, axis=1, initial=np.nan)
    return highest
