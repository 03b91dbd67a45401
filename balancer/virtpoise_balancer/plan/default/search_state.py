"""The few hosts of a search, kept so that one step can be made and taken back in microseconds.

Why this exists beside ``Trial``: a search makes many thousand steps on at most some twenty hosts. Trial holds arrays of
all hosts, and copying them for each step would cost far more. So the search counts in plain lists with what adds up,
and Trial has the last word: it replays each sequence that is found, by the whole prediction. Both must agree on what
adds up; tests/invariants.py compares them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from virtpoise_balancer.analyse.demand import Floats
from virtpoise_balancer.plan.default.candidates import Candidate, movable
from virtpoise_balancer.plan.default.group import CPU, MEMORY
from virtpoise_balancer.plan.default.source import Option, Source
from virtpoise_balancer.plan.default.trial import Step, Trial, departure
from virtpoise_balancer.plan.stocks import Stock

# The most hosts that the search tries as destinations, besides the sources; in a larger group those with the most room.
_MOST_HOSTS = 16


class SearchState:
    """The hosts of a search after the steps that are made at this moment.

    Invariant: after ``put(s)`` and ``take_back(s)`` everything is as before, but for rounding. Lists of one number a
    resource stand in the order of ``Resource``.
    """

    def __init__(self, trial: Trial, sources: Sequence[Source], also: Sequence[int] = ()) -> None:
        """Copy the few hosts of a search.

        ``trial``: with everything placed that is not searched. ``sources``: what is searched. ``also``:
        destinations besides those with the most room.
        """
        group = trial.group
        room = ((trial.limit - trial.use) / trial.limit).min(axis=0)
        hosts = [host for host in range(len(group.hosts)) if trial.open[host]]
        relieved = [source.number for source in sources if trial.relievable[source.number]]
        # The group before the search. Never changed here.
        self.trial = trial
        # Numbers of the possible destinations, by name. A source is one as well: once relieved, it may take something
        # (a swap).
        roomiest = sorted(hosts, key=lambda host: (-room[host], host))[:_MOST_HOSTS]
        self.hosts: list[int] = sorted({*roomiest, *relieved, *also})
        # By host, for each resource the share that its use must stay below. Never changed.
        self.limit: dict[int, list[float]] = {host: trial.limit[:, host].tolist() for host in self.hosts}
        # By host, for each resource the share in use after the steps, at the upper end. Not cut at 0, so that a step
        # can be taken back.
        self.use: dict[int, list[float]] = {host: trial.use[:, host].tolist() for host in self.hosts}
        # By host, how far its CPU load may be from what is measured next. Never changed.
        self._noise: dict[int, float] = {host: float(group.noise[host]) for host in self.hosts}
        # By host, the use of its scarcest resource after the steps, as a share of its limit.
        self._fullness: dict[int, float] = {host: self._full(host) for host in self.hosts}
        # By host, for each resource the share that one unit of the group takes. Never changed.
        self.per_unit: dict[int, list[float]] = {host: group.per_unit[:, host].tolist() for host in self.hosts}
        # By number of a bond and zone, how many of the bond's domains are there after the steps. Hard bonds alone are
        # kept up to date.
        self.members: dict[int, dict[int, int]] = {n: dict(trial.members(n)) for n in range(len(group.rules.bonds))}
        # By stock and host, what the steps take. What leaves frees nothing.
        self.taken: dict[tuple[Stock, int], float] = {}
        # Uuids of the domains that have a step, in the trial or here.
        self.moved: set[str] = set(trial.moved)
        # The steps made here, in order.
        self.steps: list[Step] = []
        # The CPU and the memory that all hosts have free before any step, in the group's units.
        self._room: list[float] = [sum(self._free(host, row) for host in self.hosts) for row in (CPU, MEMORY)]
        # What was computed once, by ``id`` of the candidate (which its Source, or _leaving, keeps alive) or by host.
        self._loads: dict[int, dict[int, tuple[float, ...]]] = {}
        self._departures: dict[int, list[float]] = {}
        self._most_freed: dict[int, list[float]] = {}
        self._leaving: dict[int, list[Candidate]] = {}
        self._likings: dict[int, Floats | None] = {}
        self._hard_bonds: dict[int, Mapping[int, int]] = {}
        # By ``id`` of an option, which the search keeps alive.
        self._missing: dict[int, tuple[float, float]] = {}

    def put(self, candidate: Candidate, host: int) -> None:
        """Make a step."""
        self._shift(candidate, host, 1)
        self.moved.update(domain.uuid for domain in candidate.domains)
        self.steps.append(Step(candidate, host))

    def take_back(self) -> None:
        """Undo the last step."""
        step = self.steps.pop()
        self._shift(step.candidate, step.destination, -1)
        self.moved.difference_update(domain.uuid for domain in step.candidate.domains)

    def _shift(self, candidate: Candidate, host: int, sign: int) -> None:
        # Written out: a search does this twice for each step that it tries.
        source = candidate.source
        cpu, memory, rx, tx = self.use[host]
        a, b, c, d = self.load(candidate, host)
        self.use[host] = [cpu + sign * a, memory + sign * b, rx + sign * c, tx + sign * d]
        self._fullness[host] = self._full(host)
        if source in self.use:
            cpu, memory, rx, tx = self.use[source]
            a, b, c, d = self._departure(candidate)
            i, j, k, n = self.per_unit[source]
            self.use[source] = [cpu - sign * a * i, memory - sign * b * j, rx - sign * c * k, tx - sign * d * n]
            self._fullness[source] = self._full(source)
        for stock, need in candidate.needs.items():
            self.taken[stock, host] = self.taken.get((stock, host), 0) + sign * need
        for number, count in self.hard_bonds(candidate).items():
            members, zones = self.members[number], self.trial.group.rules.bonds[number].zones
            there, here = zones[host], zones[candidate.source]
            members[there] = members.get(there, 0) + sign * count
            members[here] = members.get(here, 0) - sign * count

    def room_for(self, chosen: Sequence[Option]) -> bool:
        """Whether all hosts together have the CPU and the memory that the options need; a cheap necessary condition.

        ``chosen``: one option a source, before any step. It holds for any number of ejections: making room on one host
        takes it on another.
        """
        # Written out: a search of many sources does this for each combination of their options.
        cpu, memory = self._room
        for option in chosen:
            missing = self._missing.get(id(option)) or self._missing_for(option)
            cpu -= missing[0]
            memory -= missing[1]
        return cpu > 0 and memory > 0

    def may_have_room(self, lists: Sequence[Sequence[Option]]) -> bool:
        """Whether ``room_for`` may hold for one option of each list; False only where it holds for none."""
        cpu, memory = self._room
        for options in lists:
            missing = [self._missing.get(id(option)) or self._missing_for(option) for option in options]
            cpu -= min(missing)[0]
            memory -= min([one[1] for one in missing])
        return cpu > 0 and memory > 0

    def _missing_for(self, option: Option) -> tuple[float, float]:
        """The CPU and the memory that the option needs beyond what its leaving frees, in the group's units; kept."""
        found = self._missing[id(option)] = self._count_missing(option)
        return found

    def _count_missing(self, option: Option) -> tuple[float, float]:
        if not option.candidates:  # it is low enough already
            return 0.0, 0.0
        source = option.candidates[0].source
        needed = {row: sum(float(one.arrival[row]) for one in option.candidates) for row in (CPU, MEMORY)}
        if source not in self.use:
            return needed[CPU], needed[MEMORY]
        for row in (CPU, MEMORY):
            left = sum(self._departure(one)[row] for one in option.candidates)
            needed[row] -= self._free(source, row, left) - self._free(source, row)
        return needed[CPU], needed[MEMORY]

    def _free(self, host: int, row: int, left: float = 0.0) -> float:
        """What the host has free of a resource once ``left`` has gone, in the group's units."""
        unit = self.per_unit[host][row]
        return max(self.limit[host][row] - self.use[host][row] + left * unit, 0.0) / unit

    def fits(self, candidate: Candidate, host: int) -> bool:
        """Whether the host stays below its limits with the candidate, by what adds up."""
        return self._below(host, self.use[host], candidate)

    def fits_without(self, candidate: Candidate, host: int, other: Candidate, more: int) -> bool:
        """Whether the candidate could fit once ``other`` has left, and up to ``more`` further domains of the host.

        A further domain is assumed to free as much of each resource as any one there does, so the answer errs towards
        yes.
        """
        freed = [
            max(use - (relief + more * most) * unit, 0.0)
            for use, relief, most, unit in zip(
                self.use[host], self._departure(other), self._largest(host), self.per_unit[host], strict=True
            )
        ]
        return self._below(host, freed, candidate)

    def _below(self, host: int, use: Sequence[float], candidate: Candidate) -> bool:
        # Written out: this is what a search does most.
        cpu, memory, rx, tx = use
        more_cpu, more_memory, more_rx, more_tx = self.load(candidate, host)
        most_cpu, most_memory, most_rx, most_tx = self.limit[host]
        return (
            cpu + more_cpu + candidate.above * self._noise[host] < most_cpu
            and memory + more_memory < most_memory
            and rx + more_rx < most_rx
            and tx + more_tx < most_tx
        )

    def allowed(self, candidate: Candidate, host: int, hard_bonds: Mapping[int, int]) -> bool:
        """Whether rules, names and stocks let the candidate go to the host. ``hard_bonds``: its own."""
        # Written out: a search does this nearly as often.
        if host == candidate.source or (candidate.allowed is not None and not candidate.allowed[host]):
            return False
        group = self.trial.group
        if group.repeated_names and any(self.trial.placed_there(domain.name, host) for domain in candidate.domains):
            return False
        for stock, need in candidate.needs.items():
            if self._left(stock, host) < need:
                return False
        for number, count in hard_bonds.items():
            bond = group.rules.bonds[number]
            members = self.members[number]
            there, here = (
                bond.there(members, host, candidate.source, count),
                members.get(bond.zones[candidate.source], 0),
            )
            if not bond.takes(there, count, here):
                return False
        return True

    def _left(self, stock: Stock, host: int) -> float:
        return float(self.trial.free(stock)[host]) - self.taken.get((stock, host), 0)

    def hard_bonds(self, candidate: Candidate) -> Mapping[int, int]:
        """The numbers of the hard rules about several domains, each with how many of the candidate's it has."""
        found = self._hard_bonds.get(id(candidate))
        if found is None:
            rules = self.trial.group.rules
            among = rules.bonds_among(candidate.domains) if self.members else {}
            found = self._hard_bonds[id(candidate)] = {n: one for n, one in among.items() if rules.bonds[n].hard}
        return found

    def best_first(self, candidate: Candidate) -> list[int]:
        """All hosts: those on which most soft rules and preferences are kept first, of those the emptiest."""
        if id(candidate) not in self._likings:
            self._likings[id(candidate)] = self.trial.liking(candidate)
        liking = self._likings[id(candidate)]
        if liking is None:
            return sorted(self.hosts, key=self._fullness.__getitem__)
        return sorted(self.hosts, key=lambda host: (-liking[host], self._fullness[host]))

    def _full(self, host: int) -> float:
        """The use of the host's scarcest resource, as a share of its limit."""
        cpu, memory, rx, tx = self.use[host]
        most_cpu, most_memory, most_rx, most_tx = self.limit[host]
        return max(cpu / most_cpu, memory / most_memory, rx / most_rx, tx / most_tx)

    def likeness(self, candidate: Candidate, host: int) -> tuple[float, ...]:
        """Equal for hosts on which placing the candidate leads to the same."""
        stocks = (self._left(stock, host) for stock in self.trial.group.stocks.free)
        return (*self.use[host], *self.load(candidate, host), *self.limit[host], *stocks)

    def load(self, candidate: Candidate, host: int) -> tuple[float, ...]:
        """The shares that the candidate adds to the host, one a resource."""
        loads = self._loads.setdefault(id(candidate), {})
        found = loads.get(host)
        if found is None:
            amounts = zip(candidate.arrival.tolist(), self.per_unit[host], strict=True)
            found = loads[host] = tuple(amount * unit for amount, unit in amounts)
        return found

    def _departure(self, candidate: Candidate) -> list[float]:
        left = self._departures.get(id(candidate))
        if left is None:
            left = self._departures[id(candidate)] = departure(self.trial, candidate).tolist()
        return left

    def _largest(self, host: int) -> list[float]:
        """The most of each resource that one of the host's domains frees by leaving (resources)."""
        found = self._most_freed.get(host)
        if found is None:
            freed = (self._departure(one) for one in self.ejectable(host))
            found = self._most_freed[host] = [max(amounts) for amounts in zip(*freed, strict=True)]
        return found

    def ejectable(self, host: int) -> list[Candidate]:
        """Single domains that could leave the host to make room, the cheapest first."""
        found = self._leaving.get(host)
        if found is None:
            candidates = movable(self.trial.group, host, least_gain=False).candidates
            found = sorted((one for one in candidates if one.moves == 1), key=lambda one: one.weight)
            self._leaving[host] = found
        return found
