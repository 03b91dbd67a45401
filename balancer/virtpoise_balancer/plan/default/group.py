"""A snapshot as the default strategy computes with it: hosts and what they use as arrays, the domains of a host on
demand.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import groupby
from operator import attrgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from virtpoise_balancer.analyse.calibration import Quantiles, quantiles
from virtpoise_balancer.analyse.demand import Demands, Floats, Mask, estimate, residence
from virtpoise_balancer.analyse.host_limits import limit_of
from virtpoise_balancer.analyse.prediction import corrections, own_cores
from virtpoise_balancer.analyse.steady import NOISE_RATIO, steady
from virtpoise_balancer.analyse.triggers import ahead, overloads
from virtpoise_balancer.analyse.windows import newest
from virtpoise_balancer.model import (
    ASSUMED_BYTES_PER_SECOND,
    Detail,
    Domain,
    DomainState,
    FailedAttempts,
    Host,
    HostState,
    Overload,
    Policy,
    Refusal,
    Requirement,
    Resource,
    Role,
    Snapshot,
)
from virtpoise_balancer.plan.default.residents import BATCH_HOSTS, Residents
from virtpoise_balancer.plan.default.rule_set import RuleSet, gather
from virtpoise_balancer.plan.possible import offers
from virtpoise_balancer.plan.problems import concerned, no_destination
from virtpoise_balancer.plan.stocks import Stocks

# The rows of resources x hosts, and the columns of domains x resources.
CPU, MEMORY, RX, TX = Resource.CPU.row, Resource.MEMORY.row, Resource.RX.row, Resource.TX.row
# What is worth a migration on any host, in its cores: on a large one a small share of its CPUs is much.
_WORTHWHILE_CORES = 0.1
# How much of a host's highest sample may count as chance: this many times what its noise is below the most.
_KNOWN = 4.0
# Where a host has the samples of each resource but the CPU.
_WINDOWS = {Resource.MEMORY: "memory_ratios", Resource.RX: "rx_ratio_window", Resource.TX: "tx_ratio_window"}


class Group:
    """A snapshot under a policy. Hosts are numbers, the columns of all arrays; resources are rows, in the order of
    ``Resource``.

    Amounts in the *group's units*: CPU in cores of a CPU of speed 1, memory in bytes, traffic in bytes per second.
    Apart from what is computed on demand nothing changes. tests/invariants.py checks what the comments say.
    """

    def __init__(self, snapshot: Snapshot, policy: Policy) -> None:
        """Cheap: what concerns single hosts and their domains is computed on demand."""
        self.snapshot = snapshot
        self.policy = policy
        # By name, so that the order of the input decides nothing. A host's number is its place here.
        self.hosts: list[Host] = sorted(snapshot.hosts, key=attrgetter("name"))
        # The number of each host, by name.
        self.index: dict[str, int] = {host.name: number for number, host in enumerate(self.hosts)}
        # Which hosts are known (hosts).
        self._known: list[bool] = [host.known for host in self.hosts]
        # How far intervals reach and predictions are biased, by role and whether the source was saturated.
        self.quantiles: Quantiles = quantiles(snapshot.residuals, policy.coverage)
        # Places of the domains in the snapshot, sorted by host (domains); and where each host's begin (hosts + 1).
        hosts_of = map(self.index.__getitem__, map(attrgetter("host"), snapshot.domains))
        place = np.fromiter(hosts_of, np.int64, len(snapshot.domains))
        self._by_host: NDArray[np.intp] = np.argsort(place, kind="stable")
        self._begins: NDArray[np.intp] = np.searchsorted(place[self._by_host], np.arange(len(self.hosts) + 1))
        # Domains that are being migrated already, by uuid.
        self.under_way: list[Domain] = sorted(snapshot.migrating, key=attrgetter("uuid"))
        # The failed migrations of domains, by uuid, to each destination; None: that did not end in time.
        self.failed: dict[str, dict[str | None, FailedAttempts]] = defaultdict(dict)
        for one in snapshot.attempts:
            self.failed[one.uuid][one.destination] = one
        # The placement rules as they apply to these domains.
        placed = any(map(attrgetter("placement"), snapshot.domains))
        self.rules: RuleSet = (
            gather(
                policy.rules,
                sorted(snapshot.domains, key=lambda d: d.uuid),
                self.hosts,
                metadata=policy.metadata == "own",
            )
            if policy.rules or placed
            else RuleSet(self._each("name"), self._each("labels"))
        )
        # Where no uplink's speed is known, the assumed one cancels out in their ratios.
        uplinks = [speed or ASSUMED_BYTES_PER_SECOND for speed in self._each("uplink_bytes_per_second")]
        there = {
            Resource.CPU: self.cpus * np.array(self._each("cpu_speed"), dtype=np.float64),
            Resource.MEMORY: self._each("memory_bytes"),
            Resource.RX: uplinks,
            Resource.TX: uplinks,
        }
        # The share of the host that one of the group's units takes (resources x hosts); above 0. Where a host's use of
        # an uplink is unknown it is 0: traffic adds nothing to what is unknown.
        self.per_unit: Floats = 1 / np.array([there[resource] for resource in Resource], dtype=np.float64)
        # What the use of a destination must stay below: mostly its threshold (resources x hosts). Above 0.
        self.limit: Floats = np.repeat(
            np.array([[policy.trigger(resource).threshold] for resource in Resource]), len(self.hosts), axis=1
        )
        if policy.hosts:
            limits = [[limit_of(host, resource, policy) for host in self.hosts] for resource in Resource]
            self.limit = np.array(limits).reshape(self.limit.shape)
        # ``level``: the CPU load by the last N samples, or more where it has stayed the same (hosts), 0 for unknown
        # hosts. ``noise``: how far it may be from what is measured next, as a share (hosts). ``use``: the share in use,
        # at the upper end (resources x hosts), infinite for unknown hosts. Where a host's use of an uplink is unknown
        # it is 0, before the plan and after: never a problem, a limit or the scarcest resource.
        self.level, self.noise, self.use = self._use()
        unknown = np.isnan(self.use)
        self.use[unknown] = self.per_unit[unknown] = 0.0
        # The running domains of the hosts that were asked for so far.
        self._residents: dict[int, Residents] = {}
        # ``speeds`` from the hosts that were asked for so far.
        self._speeds: dict[int, Floats | None] = {}

    def _each(self, name: str) -> list[Any]:
        """A property of each host (hosts)."""
        return list(map(attrgetter(name), self.hosts))

    def backoff(self, uuid: str, destination: str | None) -> Detail | None:
        """Why the domain is not sent to this destination again now, or None. Without one: not sent anywhere."""
        one = self.failed[uuid].get(destination) if uuid in self.failed else None
        if one is None:
            return None
        left = one.failed_at + self.policy.backoff.seconds(one.failures) - self.snapshot.time
        return {"failures": one.failures, "seconds_left": round(left, 3), "why": one.why} if left > 0 else None

    def least_gain(self, number: int, ratio: float | None = None) -> float:
        """The share of the host's CPUs that a move must take off it at least: ``ratio``, by default the policy's.

        At most what is worth a migration on any host.
        """
        wanted = self.policy.least_gain_ratio if ratio is None else ratio
        return min(wanted, _WORTHWHILE_CORES / self.hosts[number].cpus)

    def domains_on(self, number: int) -> list[Domain]:
        """All domains of a host, in any state and any order."""
        domains = self.snapshot.domains
        return [domains[i] for i in self._by_host[self._begins[number] : self._begins[number + 1]].tolist()]

    def _use(self) -> tuple[Floats, Floats, Floats]:
        """The CPU load and its noise (hosts), and the share in use at the upper end (resources x hosts).

        N is the resource's own. A destination counts with its highest recent sample, or with its forecast if that is
        higher: one low sample makes no room. Of the CPU the highest counts for less the steadier the load is. NaN: the
        use of a known host's uplink is unknown.
        """
        policy = self.policy
        level, noise = steady(
            self._each("cpu_ratio"),
            self.cpus.astype(np.float64),
            count=policy.cpu.consecutive,
            counted=np.where(self.counted, self.counted, policy.cpu.consecutive),
            saturation=policy.saturation_ratio,
            coverage=policy.coverage,
        )
        use = np.empty((len(Resource), len(self.hosts)))
        # How far one sample is above the mean by chance. Nothing where little is known of the host.
        single = np.minimum(np.sqrt(policy.cpu.consecutive) * noise, _KNOWN * (NOISE_RATIO - noise))
        use[CPU] = np.fmax(np.fmax(level, self._highest_load - single), self.ahead)
        for resource, window in _WINDOWS.items():
            now = np.array(self._each(f"{resource}_ratio"), dtype=np.float64)
            recent = newest(self._each(window), self.policy.trigger(resource).consecutive)
            use[resource.row] = np.fmax(now, _highest(recent))
        return np.where(self._known, level, 0.0), noise, np.where(self._known, use, np.inf)

    @cached_property
    def _highest_load(self) -> Floats:
        """The highest of the newest N samples of each host's CPU load (hosts), NaN without any."""
        return _highest(newest(self._each("cpu_ratio"), self.policy.cpu.consecutive))

    @cached_property
    def ahead(self) -> Floats:
        """The load of each host that its trend forecasts a few steps ahead (hosts); NaN without a trend."""
        return ahead(self.hosts, self.policy)

    @cached_property
    def overloads(self) -> tuple[Overload, ...]:
        """The overloads of all hosts.

        Hosts whose highest samples are below every threshold need no closer look.
        """
        highest = self.use.copy()
        highest[CPU] = np.fmax(highest[CPU], self._highest_load)
        near = np.flatnonzero((highest >= self.limit).any(axis=0)).tolist()
        return overloads(self.snapshot, self.policy, [self.hosts[number] for number in near])

    @cached_property
    def cpus(self) -> NDArray[np.int64]:
        """The number of CPUs (hosts)."""
        return np.array(self._each("cpus"), dtype=np.int64)

    @cached_property
    def counted(self) -> NDArray[np.int64]:
        """How many of each host's newest N samples of the CPU count, 0 to N (hosts)."""
        most = self.policy.cpu.consecutive
        since = np.array([np.nan if at is None else at for at in self._each("counted_from")], dtype=np.float64)
        steps = np.nan_to_num((self.snapshot.time - since) // self.snapshot.step_seconds, nan=most)
        there = np.minimum(list(map(len, self._each("cpu_ratio"))), most)
        return np.clip(steps, 0, there).astype(np.int64)

    @cached_property
    def fewest_cpus(self) -> int:
        """The smallest number of CPUs of any host."""
        return int(self.cpus.min(initial=np.iinfo(np.int64).max))

    @cached_property
    def least_use(self) -> Floats:
        """The least share in use of any host where it is known (resources)."""
        least: Floats = self.use.min(axis=1, initial=np.inf, where=self.per_unit > 0)
        return least

    @cached_property
    def link_speed(self) -> dict[int, dict[int, float]]:
        """By source and destination, the speed of earlier migrations between them, in bytes per second."""
        speeds: dict[int, dict[int, float]] = {}
        for link in self.snapshot.links:
            if link.source in self.index and link.destination in self.index:
                speeds.setdefault(self.index[link.source], {})[self.index[link.destination]] = link.bytes_per_second
        return speeds

    def speeds(self, number: int) -> Floats | None:
        """The expected speed of a migration from the host to each host, in bytes per second (hosts), or None if none
        was measured.

        An untried pair counts as fast as the fastest: being new must not make it lose to a nearly full host.
        """
        if number not in self._speeds:
            self._speeds[number] = self._speeds_from(number)
        return self._speeds[number]

    def _speeds_from(self, number: int) -> Floats | None:
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
        """One refusal for each host that can take no domain at all."""
        return [
            refusal
            for host, known in zip(self.hosts, self._known, strict=True)
            # Most hosts are active and known, which is all that it takes.
            if not (known and host.state is HostState.ACTIVE) and (refusal := no_destination(host))
        ]

    @property
    def takers(self) -> Mask:
        """The hosts that may take something (hosts): those whose state allows it, and that are not overloaded
        themselves. A mask that can be changed.
        """
        found = np.ones(len(self.hosts), dtype=np.bool_)
        found[[self.index[str(refusal.host)] for refusal in self.closed]] = False
        found[[self.index[overload.host] for overload in self.overloads]] = False
        return found

    @cached_property
    def domain_of(self) -> Mapping[str, Domain]:
        """The domains by uuid."""
        return {domain.uuid: domain for domain in self.snapshot.domains}

    @cached_property
    def members(self) -> Mapping[int, Mapping[int, int]]:
        """By number of a bond and zone, how many of the bond's domains are there."""
        if not self.rules.bonds:
            return {}
        domain_of, index = self.domain_of, self.index
        return {
            number: Counter(sorted(bond.zones[index[domain_of[uuid].host]] for uuid in bond.members))
            for number, bond in enumerate(self.rules.bonds)
        }

    @cached_property
    def concerned(self) -> Mapping[str, str]:
        """By host, the name of a domain that is on its way from or to it. While it is, the host does not judge
        itself.
        """
        return concerned(self.under_way)

    @cached_property
    def taken(self) -> Mask:
        """The hosts to which as many domains are on their way as may be at once (hosts): a further one would wait."""
        coming = Counter(self.index[d.migrating_to] for d in self.under_way if d.migrating_to in self.index)
        found = np.zeros(len(self.hosts), dtype=np.bool_)
        found[[number for number, count in coming.items() if count >= self.policy.limits.per_destination]] = True
        return found

    @cached_property
    def stocks(self) -> Stocks:
        """What the hosts have free of the stocks that domains need."""
        return Stocks.of(self.hosts, self.snapshot.domains, self.policy)

    @cached_property
    def offers(self) -> Mapping[Requirement, Mask]:
        """By each requirement that some host lacks, whether a host has it (hosts)."""
        return offers(self.hosts)

    @cached_property
    def repeated_names(self) -> dict[str, list[int]]:
        """By each name that more than one domain has, the hosts that hold such a domain."""
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
        """The running domains of a known host."""
        if number not in self._residents:
            self._prepare([number])
        return self._residents[number]

    def prepare(self, wanted: Iterable[int]) -> None:
        """Compute ``residents`` of these known hosts together, which is much quicker.

        A speed-up only; results do not change.
        """
        missing = sorted({number for number in wanted if number not in self._residents}, key=self.cpus.__getitem__)
        for _, alike in groupby(missing, key=self.cpus.__getitem__):
            numbers = list(alike)
            for begin in range(0, len(numbers), BATCH_HOSTS):
                self._prepare(numbers[begin : begin + BATCH_HOSTS])

    def _prepare(self, numbers: Sequence[int]) -> None:
        """Predict these hosts together. ``numbers``: hosts with the same number of CPUs."""
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
                noise=float(self.noise[number]),
                saturated=full,
                running=running[at],
                demands=Demands(demands.table[begin:end]),
                own=float(own[at]),
                above=self.quantiles[Role.DESTINATION, full].above,
                overhead_ratio=self.policy.migration.overhead_ratio,
                leaving=np.array([domain.migrating_to is not None for domain in running[at]], dtype=np.bool_),
                corrections=(0.0, np.zeros(end - begin)) if full else (float(stays[at]), goes[begin:end]),
            )
            begin = end

    def room(self, use: Floats) -> Floats:
        """The free share of each host's scarcest resource, as a share of its limit (hosts); negative: exceeded.

        ``use``: shares in use (resources x hosts). It is overwritten, since arrays of all hosts are expensive to
        allocate.
        """
        np.subtract(self.limit, use, out=use)
        use /= self.limit
        room: Floats = use.min(axis=0)
        return room


def _highest(readings: Floats) -> Floats:
    """The highest of each row, NaN where there is none."""
    highest: Floats = np.fmax.reduce(readings, axis=1, initial=np.nan)
    return highest
