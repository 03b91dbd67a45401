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
from virtpoise_balancer.plan.default.candidates import Item, movable
from virtpoise_balancer.plan.default.group import CPU, MEMORY
from virtpoise_balancer.plan.default.source import Source, Way
from virtpoise_balancer.plan.default.trial import Board, Step, departure

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
    steps: list[tuple[Item, int]] = field(default_factory=list)
    weight: float | None = None


class Search:
    """``board``: with everything placed that is not searched."""

    def __init__(self, board: Board, sources: Sequence[Source], budget: Budget) -> None:
        self.board = board
        self.budget = budget
        self.sources = sources
        group = board.group
        room = ((board.limit - board.use) / board.limit).min(axis=0)
        hosts = [host for host in range(len(group.hosts)) if board.open[host]]
        relieved = [source.number for source in sources if board.relievable[source.number]]
        self.hosts = sorted(sorted(hosts, key=lambda host: (-room[host], host))[:_MOST_HOSTS] + relieved)
        self.limit: dict[int, list[float]] = {host: board.limit[:, host].tolist() for host in self.hosts}
        self.use: dict[int, list[float]] = {host: board.use[:, host].tolist() for host in self.hosts}
        self.per_unit = {host: group.per_unit[:, host].tolist() for host in self.hosts}
        self.members = {bond: dict(board.members(bond)) for bond in range(len(group.rules.bonds))}
        self.moved = set(board.moved)
        self._loads: dict[int, dict[int, tuple[float, ...]]] = {}
        self._departures: dict[int, list[float]] = {}
        self._most_freed: dict[int, list[float]] = {}
        self._ejectable: dict[int, list[Item]] = {}
        self._likings: dict[int, Floats | None] = {}

    def run(self, moves: int | None, weight: float) -> Found | None:
        """The best sequence that solves all sources with fewer moves, or as many and less weight, than given (None: any)."""
        ways = [self._by_moves(source) for source in self.sources]
        if not all(ways):
            return None
        base = sum(min(by_moves) for by_moves in ways)
        for total in range(base, base + _MOST_EXTRA + 1):
            if moves is not None and total > moves:
                return None
            best = self._with(total, base, ways, weight if total == moves else float("inf"))
            if best is not None:
                return best
            if self.budget.checks < 0:
                return None
        return None

    def _by_moves(self, source: Source) -> dict[int, list[Way]]:
        fewest = source.fewest
        by_moves: dict[int, list[Way]] = {}
        for count in range(fewest, fewest + _MOST_EXTRA + 1) if fewest is not None else ():
            for way in source.ways(count):
                by_moves.setdefault(way.moves, []).append(way)
        for ways in by_moves.values():
            ways.sort(key=lambda way: way.weight)
        return by_moves

    def _with(self, total: int, base: int, ways: list[dict[int, list[Way]]], bound: float) -> Found | None:
        best: Found | None = None
        for ejections in range(min(total - base, _MOST_EJECTIONS) + 1):
            sizes = [one for one in product(*(sorted(w) for w in ways)) if sum(one) == total - ejections]
            combinations = heapq.merge(
                *(_cheapest_first([w[size] for w, size in zip(ways, one, strict=True)]) for one in sizes),
                key=lambda found: found[0],
            )
            for weight, chosen in combinations:
                if weight >= bound or self.budget.checks < 0:
                    break
                items = [item for way in chosen for item in way.items]
                if self.budget.spent() or not self._room_for(items):
                    continue
                goal = _Goal(bound, first=not ejections)
                self._place([(item, None) for item in self._hardest_first(items)], ejections, weight, goal, [])
                if goal.weight is not None:
                    bound = goal.weight
                    best = Found(total, bound, [Step(item, host) for item, host in goal.steps])
                    if not ejections:
                        break
        return best

    def _room_for(self, items: Sequence[Item]) -> bool:
        """Whether all hosts together have as much CPU and memory left as the items need. Making room on one host takes it on another."""
        use = {host: list(shares) for host, shares in self.use.items()}
        for item in items:
            if item.source in use:
                for resource, (amount, unit) in enumerate(
                    zip(self._departure(item), self.per_unit[item.source], strict=True)
                ):
                    use[item.source][resource] -= amount * unit
        for resource in (CPU, MEMORY):
            left = sum(
                max(self.limit[host][resource] - use[host][resource], 0.0) / self.per_unit[host][resource]
                for host in self.hosts
            )
            if sum(float(item.arrival[resource]) for item in items) >= left:
                return False
        return True

    def _hardest_first(self, items: list[Item]) -> list[Item]:
        limit = self.board.group.limit[:, 0]
        unit = self.board.group.per_unit.mean(axis=1)
        return sorted(items, key=lambda item: -float((item.arrival * unit / limit).max()))

    def _place(
        self,
        pending: list[tuple[Item, int | None]],
        ejections: int,
        weight: float,
        goal: _Goal,
        steps: list[tuple[Item, int]],
    ) -> None:
        """Place all pending items; a host given with one is the only one for it (room was made there)."""
        if not pending:
            if weight < goal.bound:
                self.budget.checks -= _REPLAY_CHECKS * len(steps)
                if self.board.replayed([Step(*one) for one in steps]) is not None:
                    goal.bound, goal.weight, goal.steps = weight, weight, list(steps)
            return
        (item, forced), rest = pending[0], pending[1:]
        bonds = self._bonds(item)
        once = item.allowed is None and not bonds
        hosts = self._best_first(item) if forced is None else [forced]
        seen: set[tuple[float, ...]] = set()
        tight: list[int] = []
        for host in hosts:
            if self.budget.spent():
                return
            if not self._allowed(item, host, bonds):
                continue
            load = self._load(item, host)
            use = self.use[host]
            if not self._below(host, use, load, item.margin):
                tight.append(host)
                continue
            if once:
                # Of hosts that are alike one is enough.
                likeness = (*use, *load, *self.limit[host])
                if likeness in seen:
                    continue
                seen.add(likeness)
            self._put(item, host, steps)
            self._place(rest, ejections, weight, goal, steps)
            self._take_back(item, host, steps)
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
                if not self._fits_without(item, host, other, ejections - 1):
                    continue
                self._place(
                    [(other, None), (item, host), *rest], ejections - other.moves, weight + other.weight, goal, steps
                )
                if self.budget.checks < 0:
                    return

    def _best_first(self, item: Item) -> list[int]:
        """The hosts on which most soft rules and preferences are kept first, of those the emptiest."""
        if id(item) not in self._likings:
            self._likings[id(item)] = self.board.liking(item)
        liking = self._likings[id(item)]
        if liking is None:
            return sorted(self.hosts, key=self._fullness)
        return sorted(self.hosts, key=lambda host: (-liking[host], self._fullness(host)))

    def _fullness(self, host: int) -> float:
        cpu, memory, rx, tx = self.use[host]
        cpu_limit, memory_limit, rx_limit, tx_limit = self.limit[host]
        return max(cpu / cpu_limit, memory / memory_limit, rx / rx_limit, tx / tx_limit)

    def _load(self, item: Item, host: int) -> tuple[float, ...]:
        loads = self._loads.setdefault(id(item), {})
        found = loads.get(host)
        if found is None:
            found = loads[host] = tuple(a * u for a, u in zip(item.arrival.tolist(), self.per_unit[host], strict=True))
        return found

    def _departure(self, item: Item) -> list[float]:
        left = self._departures.get(id(item))
        if left is None:
            left = self._departures[id(item)] = departure(self.board, item).tolist()
        return left

    def _below(self, host: int, use: Sequence[float], load: Sequence[float], margin: float) -> bool:
        cpu, memory, rx, tx = self.limit[host]
        return (
            use[0] + load[0] + margin < cpu
            and use[1] + load[1] < memory
            and use[2] + load[2] < rx
            and use[3] + load[3] < tx
        )

    def _fits_without(self, item: Item, host: int, other: Item, more: int) -> bool:
        """Whether the item could fit once the other has left, and up to so many more that free as much of each resource as any does."""
        freed = [
            max(use - (relief + more * most) * unit, 0.0)
            for use, relief, most, unit in zip(
                self.use[host], self._departure(other), self._largest(host), self.per_unit[host], strict=True
            )
        ]
        return self._below(host, freed, self._load(item, host), item.margin)

    def _bonds(self, item: Item) -> list[int]:
        """The hard rules that keep the item's domains together with others, or apart."""
        if not self.members:
            return []
        bonds = self.board.group.rules.bonds
        of = self.board.group.rules.bonds_of
        return [n for domain in item.domains for n in of.get(domain.uuid, ()) if bonds[n].hard]

    def _allowed(self, item: Item, host: int, bound_by: Sequence[int]) -> bool:
        if host == item.source or (item.allowed is not None and not item.allowed[host]):
            return False
        if any(self.board.placed_there(domain.name, host) for domain in item.domains):
            return False
        bonds = self.board.group.rules.bonds
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

    def _out_of(self, host: int) -> list[Item]:
        """Single domains that could leave a host to make room, the cheapest first."""
        found = self._ejectable.get(host)
        if found is None:
            items = movable(self.board.group, host, least_gain=False).items
            found = sorted((item for item in items if item.moves == 1), key=lambda item: item.weight)
            self._ejectable[host] = found
        return found

    def _put(self, item: Item, host: int, steps: list[tuple[Item, int]]) -> None:
        self._shift(item, host, 1)
        self.moved.update(domain.uuid for domain in item.domains)
        steps.append((item, host))

    def _take_back(self, item: Item, host: int, steps: list[tuple[Item, int]]) -> None:
        self._shift(item, host, -1)
        self.moved.difference_update(domain.uuid for domain in item.domains)
        steps.pop()

    def _shift(self, item: Item, host: int, sign: int) -> None:
        self.use[host] = [u + sign * a for u, a in zip(self.use[host], self._load(item, host), strict=True)]
        if item.source in self.use:
            unit = self.per_unit[item.source]
            self.use[item.source] = [
                u - sign * a * n for u, a, n in zip(self.use[item.source], self._departure(item), unit, strict=True)
            ]
        for number in self._bonds(item):
            members = self.members[number]
            members[host] = members.get(host, 0) + sign
            members[item.source] = members.get(item.source, 0) - sign


def _cheapest_first(lists: list[list[Way]]) -> Iterator[tuple[float, tuple[Way, ...]]]:
    """One of each list, in all combinations, the least total weight first; each list is sorted by weight."""
    start = (0,) * len(lists)
    heap = [(sum(ways[0].weight for ways in lists), start)]
    seen = {start}
    while heap:
        weight, index = heapq.heappop(heap)
        yield weight, tuple(ways[i] for ways, i in zip(lists, index, strict=True))
        for k, ways in enumerate(lists):
            if index[k] + 1 < len(ways):
                following = (*index[:k], index[k] + 1, *index[k + 1 :])
                if following not in seen:
                    seen.add(following)
                    more = ways[index[k] + 1].weight - ways[index[k]].weight
                    heapq.heappush(heap, (weight + more, following))
