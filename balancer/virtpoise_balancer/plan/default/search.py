"""Where the quick assignment is not provably the best: a search over what leaves and where it goes, fewest moves first.

The moves counted are those of the sources' domains and of others that make room for them (A leaves, so that B fits). For each number of
moves the sets that could leave are tried cheapest first; the first that can be placed is the cheapest of that number. Every step is legal
when it is made, so each beginning of the sequence is. The work is bounded by a number of checks, never by time.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product

from virtpoise_balancer.analyse.demand import Floats
from virtpoise_balancer.model import RuleKind
from virtpoise_balancer.plan.default.candidates import Candidate, movable
from virtpoise_balancer.plan.default.group import CPU, MEMORY
from virtpoise_balancer.plan.default.source import Option, Source
from virtpoise_balancer.plan.default.trial import Step, Trial, departure

# Hosts looked at as destinations; in a larger group those with the most room.
_MOST_HOSTS = 16
# How many moves more than the fewest conceivable are looked at, and how many of them may only make room.
_MOST_EXTRA = 4
_MOST_EJECTIONS = 3
# What holding one step against the whole prediction costs, in checks.
_REPLAY_CHECKS = 20


@dataclass(slots=True)
class Budget:
    """How many checks of a domain on a host are left."""

    checks: int

    def spent(self) -> bool:
        self.checks -= 1
        return self.checks < 0


@dataclass(slots=True)
class Found:
    moves: int
    weight: float
    steps: list[Step]


@dataclass(slots=True)
class _Goal:
    """The best placement so far of one number of moves."""

    bound: float
    first: bool
    steps: list[tuple[Candidate, int]] = field(default_factory=list)
    weight: float | None = None


class Search:
    """``trial``: with everything placed that is not searched."""

    def __init__(self, trial: Trial, sources: Sequence[Source], budget: Budget) -> None:
        self.trial = trial
        self.budget = budget
        self.sources = sources
        group = trial.group
        room = ((trial.limit - trial.use) / trial.limit).min(axis=0)
        hosts = [host for host in range(len(group.hosts)) if trial.open[host]]
        relieved = [source.number for source in sources if trial.relievable[source.number]]
        self.hosts = sorted(sorted(hosts, key=lambda host: (-room[host], host))[:_MOST_HOSTS] + relieved)
        self.limit: dict[int, list[float]] = {host: trial.limit[:, host].tolist() for host in self.hosts}
        self.use: dict[int, list[float]] = {host: trial.use[:, host].tolist() for host in self.hosts}
        self.per_unit = {host: group.per_unit[:, host].tolist() for host in self.hosts}
        self.members = {bond: dict(trial.members(bond)) for bond in range(len(group.rules.bonds))}
        self.moved = set(trial.moved)
        self._loads: dict[int, dict[int, tuple[float, ...]]] = {}
        self._departures: dict[int, list[float]] = {}
        self._most_freed: dict[int, list[float]] = {}
        self._ejectable: dict[int, list[Candidate]] = {}
        self._likings: dict[int, Floats | None] = {}

    def run(self, moves: int | None, weight: float) -> Found | None:
        """The best sequence that solves all sources with fewer moves, or as many and less weight, than given (None: any)."""
        options = [self._by_moves(source) for source in self.sources]
        if not all(options):
            return None
        base = sum(min(by_moves) for by_moves in options)
        for total in range(base, base + _MOST_EXTRA + 1):
            if moves is not None and total > moves:
                return None
            best = self._with(total, base, options, weight if total == moves else float("inf"))
            if best is not None:
                return best
            if self.budget.checks < 0:
                return None
        return None

    def _by_moves(self, source: Source) -> dict[int, list[Option]]:
        fewest = source.fewest
        by_moves: dict[int, list[Option]] = {}
        for count in range(fewest, fewest + _MOST_EXTRA + 1) if fewest is not None else ():
            for option in source.options(count):
                by_moves.setdefault(option.moves, []).append(option)
        for options in by_moves.values():
            options.sort(key=lambda option: option.weight)
        return by_moves

    def _with(self, total: int, base: int, options: list[dict[int, list[Option]]], bound: float) -> Found | None:
        best: Found | None = None
        for ejections in range(min(total - base, _MOST_EJECTIONS) + 1):
            sizes = [one for one in product(*(sorted(w) for w in options)) if sum(one) == total - ejections]
            combinations = heapq.merge(
                *(_cheapest_first([w[size] for w, size in zip(options, one, strict=True)]) for one in sizes),
                key=lambda found: found[0],
            )
            for weight, chosen in combinations:
                if weight >= bound or self.budget.checks < 0:
                    break
                candidates = [candidate for option in chosen for candidate in option.candidates]
                if self.budget.spent() or not self._room_for(candidates):
                    continue
                goal = _Goal(bound, first=not ejections)
                self._place(
                    [(candidate, None) for candidate in self._hardest_first(candidates)], ejections, weight, goal, []
                )
                if goal.weight is not None:
                    bound = goal.weight
                    best = Found(total, bound, [Step(candidate, host) for candidate, host in goal.steps])
                    if not ejections:
                        break
        return best

    def _room_for(self, candidates: Sequence[Candidate]) -> bool:
        """Whether all hosts together have as much CPU and memory left as the candidates need. Making room on one host takes it on another."""
        use = {host: list(shares) for host, shares in self.use.items()}
        for candidate in candidates:
            if candidate.source in use:
                for resource, (amount, unit) in enumerate(
                    zip(self._departure(candidate), self.per_unit[candidate.source], strict=True)
                ):
                    use[candidate.source][resource] -= amount * unit
        for resource in (CPU, MEMORY):
            left = sum(
                max(self.limit[host][resource] - use[host][resource], 0.0) / self.per_unit[host][resource]
                for host in self.hosts
            )
            if sum(float(candidate.arrival[resource]) for candidate in candidates) >= left:
                return False
        return True

    def _hardest_first(self, candidates: list[Candidate]) -> list[Candidate]:
        limit = self.trial.group.limit[:, 0]
        unit = self.trial.group.per_unit.mean(axis=1)
        return sorted(candidates, key=lambda candidate: -float((candidate.arrival * unit / limit).max()))

    def _place(
        self,
        pending: list[tuple[Candidate, int | None]],
        ejections: int,
        weight: float,
        goal: _Goal,
        steps: list[tuple[Candidate, int]],
    ) -> None:
        """Place all pending candidates; a host given with one is the only one for it (room was made there)."""
        if not pending:
            if weight < goal.bound:
                self.budget.checks -= _REPLAY_CHECKS * len(steps)
                if self.trial.replayed([Step(*one) for one in steps]) is not None:
                    goal.bound, goal.weight, goal.steps = weight, weight, list(steps)
            return
        (candidate, forced), rest = pending[0], pending[1:]
        bonds = self._bonds(candidate)
        once = candidate.allowed is None and not bonds
        hosts = self._best_first(candidate) if forced is None else [forced]
        seen: set[tuple[float, ...]] = set()
        tight: list[int] = []
        for host in hosts:
            if self.budget.spent():
                return
            if not self._allowed(candidate, host, bonds):
                continue
            load = self._load(candidate, host)
            use = self.use[host]
            if not self._below(host, use, load, candidate.margin):
                tight.append(host)
                continue
            if once:
                # Of hosts that are alike one is enough.
                likeness = (*use, *load, *self.limit[host])
                if likeness in seen:
                    continue
                seen.add(likeness)
            self._put(candidate, host, steps)
            self._place(rest, ejections, weight, goal, steps)
            self._take_back(candidate, host, steps)
            if goal.first and goal.weight is not None:
                return
        if not ejections:
            return
        spoken_for = self.moved.union(domain.uuid for one, _ in pending for domain in one.domains)
        for host in tight:
            for other in self._out_of(host):
                if weight + other.weight >= goal.bound:
                    break
                if any(domain.uuid in spoken_for for domain in other.domains):
                    continue
                if not self._fits_without(candidate, host, other, ejections - 1):
                    continue
                self._place(
                    [(other, None), (candidate, host), *rest],
                    ejections - other.moves,
                    weight + other.weight,
                    goal,
                    steps,
                )
                if self.budget.checks < 0:
                    return

    def _best_first(self, candidate: Candidate) -> list[int]:
        """The hosts on which most soft rules and preferences are kept first, of those the emptiest."""
        if id(candidate) not in self._likings:
            self._likings[id(candidate)] = self.trial.liking(candidate)
        liking = self._likings[id(candidate)]
        if liking is None:
            return sorted(self.hosts, key=self._fullness)
        return sorted(self.hosts, key=lambda host: (-liking[host], self._fullness(host)))

    def _fullness(self, host: int) -> float:
        cpu, memory, rx, tx = self.use[host]
        cpu_limit, memory_limit, rx_limit, tx_limit = self.limit[host]
        return max(cpu / cpu_limit, memory / memory_limit, rx / rx_limit, tx / tx_limit)

    def _load(self, candidate: Candidate, host: int) -> tuple[float, ...]:
        loads = self._loads.setdefault(id(candidate), {})
        found = loads.get(host)
        if found is None:
            found = loads[host] = tuple(
                a * u for a, u in zip(candidate.arrival.tolist(), self.per_unit[host], strict=True)
            )
        return found

    def _departure(self, candidate: Candidate) -> list[float]:
        left = self._departures.get(id(candidate))
        if left is None:
            left = self._departures[id(candidate)] = departure(self.trial, candidate).tolist()
        return left

    def _below(self, host: int, use: Sequence[float], load: Sequence[float], margin: float) -> bool:
        cpu, memory, rx, tx = self.limit[host]
        return (
            use[0] + load[0] + margin < cpu
            and use[1] + load[1] < memory
            and use[2] + load[2] < rx
            and use[3] + load[3] < tx
        )

    def _fits_without(self, candidate: Candidate, host: int, other: Candidate, more: int) -> bool:
        """Whether the candidate could fit once the other has left, and up to so many more that free as much of each resource as any does."""
        freed = [
            max(use - (relief + more * most) * unit, 0.0)
            for use, relief, most, unit in zip(
                self.use[host], self._departure(other), self._largest(host), self.per_unit[host], strict=True
            )
        ]
        return self._below(host, freed, self._load(candidate, host), candidate.margin)

    def _bonds(self, candidate: Candidate) -> list[int]:
        """The hard rules that keep the candidate's domains together with others, or apart."""
        if not self.members:
            return []
        bonds = self.trial.group.rules.bonds
        of = self.trial.group.rules.bonds_of
        return [n for domain in candidate.domains for n in of.get(domain.uuid, ()) if bonds[n].hard]

    def _allowed(self, candidate: Candidate, host: int, bound_by: Sequence[int]) -> bool:
        if host == candidate.source or (candidate.allowed is not None and not candidate.allowed[host]):
            return False
        if any(self.trial.placed_there(domain.name, host) for domain in candidate.domains):
            return False
        bonds = self.trial.group.rules.bonds
        return not any(
            bonds[number].kind is RuleKind.APART and self.members[number].get(host, 0) for number in bound_by
        )

    def _largest(self, host: int) -> list[float]:
        """Of each resource the most that one of the host's domains frees by leaving."""
        found = self._most_freed.get(host)
        if found is None:
            found = [max(freed) for freed in zip(*(self._departure(one) for one in self._out_of(host)), strict=True)]
            self._most_freed[host] = found
        return found

    def _out_of(self, host: int) -> list[Candidate]:
        """Single domains that could leave a host to make room, the cheapest first."""
        found = self._ejectable.get(host)
        if found is None:
            candidates = movable(self.trial.group, host, least_gain=False).candidates
            found = sorted(
                (candidate for candidate in candidates if candidate.moves == 1), key=lambda candidate: candidate.weight
            )
            self._ejectable[host] = found
        return found

    def _put(self, candidate: Candidate, host: int, steps: list[tuple[Candidate, int]]) -> None:
        self._shift(candidate, host, 1)
        self.moved.update(domain.uuid for domain in candidate.domains)
        steps.append((candidate, host))

    def _take_back(self, candidate: Candidate, host: int, steps: list[tuple[Candidate, int]]) -> None:
        self._shift(candidate, host, -1)
        self.moved.difference_update(domain.uuid for domain in candidate.domains)
        steps.pop()

    def _shift(self, candidate: Candidate, host: int, sign: int) -> None:
        self.use[host] = [u + sign * a for u, a in zip(self.use[host], self._load(candidate, host), strict=True)]
        if candidate.source in self.use:
            unit = self.per_unit[candidate.source]
            self.use[candidate.source] = [
                u - sign * a * n
                for u, a, n in zip(self.use[candidate.source], self._departure(candidate), unit, strict=True)
            ]
        for number in self._bonds(candidate):
            members = self.members[number]
            members[host] = members.get(host, 0) + sign
            members[candidate.source] = members.get(candidate.source, 0) - sign


def _cheapest_first(lists: list[list[Option]]) -> Iterator[tuple[float, tuple[Option, ...]]]:
    """One of each list, in all combinations, the least total weight first; each list is sorted by weight."""
    start = (0,) * len(lists)
    heap = [(sum(options[0].weight for options in lists), start)]
    seen = {start}
    while heap:
        weight, index = heapq.heappop(heap)
        yield weight, tuple(options[i] for options, i in zip(lists, index, strict=True))
        for k, options in enumerate(lists):
            if index[k] + 1 < len(options):
                following = (*index[:k], index[k] + 1, *index[k + 1 :])
                if following not in seen:
                    seen.add(following)
                    more = options[index[k] + 1].weight - options[index[k]].weight
                    heapq.heappush(heap, (weight + more, following))
