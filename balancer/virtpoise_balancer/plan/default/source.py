"""Which items must leave a host so that its problem is gone: all ways that are worth trying, the cheapest first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from itertools import combinations, islice
from math import comb

import numpy as np
from numpy.typing import NDArray

from virtpoise_balancer.analyse.demand import Floats, Mask
from virtpoise_balancer.model import Problem, Reason, Refusal, Role
from virtpoise_balancer.plan.default.candidates import Item, movable
from virtpoise_balancer.plan.default.group import CPU, Group
from virtpoise_balancer.plan.default.residents import Residents, foresee

# Sets of one size looked at for one host, and on a large one what their predictions may cost together (sets x domains x CPUs); past it only
# the items that relieve most are combined.
_MOST_SETS = 20_000
_MOST_WORK = 5_000_000
# Of those that solve its problem, so many are kept.
_MOST_WAYS = 400
_CLOSE = 1e-9
# Sets of as many moves that transfer so little more than the least count as equally cheap: then evenness decides.
_AS_CHEAP = 1.05


@dataclass(frozen=True, slots=True)
class Way:
    """Items that together solve a host's problem."""

    items: tuple[Item, ...]
    moves: int
    weight: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """How many domains are left on a host, the share at the upper end of each resource that has a goal, and whether that solves it."""

    domains: int
    shares: Mapping[int, float]
    solved: bool


@dataclass(eq=False)
class Source:
    """A host with a problem. ``goals``: resource -> the share of it that the upper end of the prediction must come down to.

    Without goals (a drain) everything must leave. ``rested``: domains that must rest are not among its items; ``worthwhile``: nor are,
    where only its CPU is the problem, those whose leaving gains less than a migration is worth.
    """

    group: Group
    residents: Residents
    problem: Problem
    goals: Mapping[int, float]
    rested: bool = True
    worthwhile: bool = True
    items: tuple[Item, ...] = field(init=False)
    refusals: tuple[Refusal, ...] = field(init=False)
    _rows: Mask = field(init=False)  # items x domains: which are in it
    _sets: dict[int, NDArray[np.intp]] = field(init=False, default_factory=dict)
    _trials: dict[int, Mask] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        least_gain = self.worthwhile and self.goals.keys() == {CPU}
        chosen = movable(self.group, self.number, rested=self.rested and bool(self.goals), least_gain=least_gain)
        self.items, self.refusals = chosen.items, chosen.refusals
        self._rows = np.zeros((len(self.items), len(self.residents.running)), dtype=np.bool_)
        for number, item in enumerate(self.items):
            self._rows[number, list(item.rows)] = True

    @property
    def _stuck(self) -> bool:
        """Whether a domain cannot leave, on a host that everything must leave."""
        return any(refusal.reason is not Reason.MIGRATING for refusal in self.refusals)

    def with_small(self) -> Source | None:
        """The same host with the domains that gain little among its items; None: there are none."""
        if not any(refusal.reason is Reason.LEAST_GAIN for refusal in self.refusals):
            return None
        return replace(self, worthwhile=False)

    def unrested(self) -> Source | None:
        """The same host with the domains that should rest among its items, and those that gain little; None: none should rest."""
        if not any(refusal.reason is Reason.RESTING for refusal in self.refusals):
            return None
        return replace(self, worthwhile=False, rested=False)

    def left(self, moved: Set[str]) -> Mask:
        """Which domains are left (one row) when those with these uuids have gone."""
        gone = [domain.uuid in moved for domain in self.residents.running]
        return ~(self.residents.leaving | np.array(gone, dtype=np.bool_))[np.newaxis]

    def outcome(self, moved: Set[str]) -> Outcome:
        """What is left when the domains with these uuids have gone."""
        left = self.left(moved)
        shares = self.shares(left)
        if self.goals:
            solved = bool(self._reached(shares)[0])
        else:
            solved = not self._stuck and all(domain.uuid in moved for item in self.items for domain in item.domains)
        return Outcome(int(left.sum()), {resource: float(share[0]) for resource, share in shares.items()}, solved)

    @property
    def number(self) -> int:
        return self.residents.number

    @property
    def above(self) -> float:
        """How many spreads the interval of its load goes above what is predicted."""
        return self.group.reaches[Role.SOURCE, self.residents.saturated].above

    def upper(self, present: Mask) -> Floats:
        """The CPU share at the upper end of the prediction, for each row of ``present`` (cases x domains)."""
        load = self.residents.load(present)
        return np.minimum(load.ratio + self.above * load.spread, 1.0)

    def missing(self, present: Mask) -> Floats:
        """For each row how far the host is above its goals, as shares summed over resources; CPU by what is wanted, so past 1."""
        total = np.zeros(len(present))
        for resource, goal in self.goals.items():
            if resource == CPU:
                load = self.residents.load(present)
                upper = np.minimum(load.ratio + self.above * load.spread, 1.0)
                total += np.where(upper > goal + _CLOSE, np.maximum(upper, load.wanted) - goal, 0.0)
            else:
                total += np.maximum(self.share(resource, present) - goal, 0.0)
        return total

    def share(self, resource: int, present: Mask) -> Floats:
        """The use of memory or an uplink at the upper end, for each row."""
        host = self.residents.host
        now = (0.0, host.memory_ratio, host.rx_ratio, host.tx_ratio)[resource]
        gone = (~present).astype(np.float64) @ self.residents.relief[:, resource]
        share: Floats = np.maximum(now - gone * self.group.per_unit[resource, self.number], 0.0)
        return share

    def solved(self, present: Mask) -> Mask:
        """For each row whether the problem is gone with only these domains present."""
        return self._reached(self.shares(present))

    def shares(self, present: Mask) -> dict[int, Floats]:
        """The share at the upper end of each resource that has a goal, for each row."""
        return {r: self.upper(present) if r == CPU else self.share(r, present) for r in self.goals}

    def _reached(self, shares: Mapping[int, Floats]) -> Mask:
        reached: Mask = np.logical_and.reduce(
            [shares[resource] <= goal + _CLOSE for resource, goal in self.goals.items()]
        )
        return reached

    def trials(self, count: int) -> Mask:
        """Which domains are left when each set of ``count`` items that is worth trying has gone (sets x domains)."""
        left = self._trials.get(count)
        if left is None:
            gone = self._rows[self._worth_combining(count)].any(axis=1)
            left = self._trials[count] = ~(gone | self.residents.leaving)
        return left

    @cached_property
    def cpu_in_turn(self) -> Mask:
        """Which domains are left of all, and after each further item, those that relieve the CPU most first (cases x domains)."""
        return self._in_turn(CPU)

    def _in_turn(self, resource: int) -> Mask:
        gone = np.zeros((len(self.items) + 1, len(self.residents.running)), dtype=np.bool_)
        gone[1:] = np.logical_or.accumulate(self._rows[self._by_gain(resource)])
        left: Mask = ~(gone | self.residents.leaving)
        return left

    @cached_property
    def fewest(self) -> int | None:
        """How few items can solve it; None: not even all of them can."""
        if not self.goals:
            return None if self._stuck else len(self.items)
        fewest = 0
        for resource, goal in self.goals.items():
            left = self.cpu_in_turn if resource == CPU else self._in_turn(resource)
            share = self.upper(left) if resource == CPU else self.share(resource, left)
            enough = np.flatnonzero(share <= goal + _CLOSE)
            if not len(enough):
                return None
            fewest = max(fewest, int(enough[0]))
        return fewest

    def ways(self, count: int) -> Iterator[Way]:
        """The best sets of ``count`` items that solve it, the fewest moves first, then the least to transfer, then the most even."""
        sets = self._sets.get(count)
        if sets is None:
            sets = self._sets[count] = self._find(count)
        for numbers in sets.tolist():
            items = tuple(self.items[number] for number in numbers)
            yield Way(items, sum(item.moves for item in items), sum(item.weight for item in items))

    def cheapest(self, extra: int, most: int) -> Iterator[Way]:
        """The ways of the fewest items and up to ``extra`` more, the fewest moves first, then the least weight; ``most`` of each size."""
        if self.fewest is None:
            return
        counts = range(self.fewest, self.fewest + extra + 1)
        if all(item.moves == 1 for item in self.items):
            for count in counts:
                yield from islice(self.ways(count), most)
        else:
            ways = [way for count in counts for way in islice(self.ways(count), most)]
            yield from sorted(ways, key=lambda way: (way.moves, way.weight))

    def _find(self, count: int) -> NDArray[np.intp]:
        """The numbers of the items of each way (ways x ``count``)."""
        none = np.empty((0, count), dtype=np.intp)
        if count > len(self.items):
            return none
        if not self.goals:
            return _combinations(count, count) if count == len(self.items) and not self._stuck else none
        if count == 0:
            return _combinations(0, 0)
        sets = self._worth_combining(count)
        shares = self.shares(self.trials(count))
        solving = np.flatnonzero(self._reached(shares))
        if not len(solving):
            return none
        weights = np.array([item.weight for item in self.items])
        moves = np.array([item.moves for item in self.items])
        index = sets[solving]
        # Of equals the one that leaves the busier of both ends lowest: neither an emptied source nor a filled destination.
        resource = next(iter(self.goals))
        taken = [item.most(resource) * self.group.per_unit[resource, self.number] for item in self.items]
        there = self.group.least_use[resource] + np.array(taken)[index].max(axis=1)
        busier = np.maximum(shares[resource][solving], there)
        weight, count_of = weights[index].sum(axis=1), moves[index].sum(axis=1)
        least = np.min(weight, where=count_of == count_of.min(), initial=np.inf)
        priced = np.where(weight <= least * _AS_CHEAP, least, weight)
        order = np.lexsort((busier.round(9), priced.round(), count_of))
        return index[order[:_MOST_WAYS]]

    def _worth_combining(self, count: int) -> NDArray[np.intp]:
        """The sets of ``count`` items (their numbers): of all, unless that gives too many."""
        most = len(self.items)
        sets = min(_MOST_SETS, _MOST_WORK // (len(self.residents.running) * self.residents.host.cpus))
        while comb(most, count) > max(sets, 1):
            most -= 1
        if most == len(self.items):
            return _combinations(most, count)
        return np.sort(self._by_gain(next(iter(self.goals)))[:most])[_combinations(most, count)]

    def _by_gain(self, resource: int) -> NDArray[np.intp]:
        """The numbers of the items, those that relieve the host most first."""
        residents = self.residents
        amounts = residents.wants if resource == CPU else residents.relief[:, resource]
        return np.argsort(-(self._rows @ amounts), kind="stable")


def look_ahead(sources: Sequence[Source]) -> None:
    """Predicts together what it takes to relieve each: how few items solve it, and which of so few."""
    loaded = [source for source in sources if CPU in source.goals]
    foresee((source.residents, source.cpu_in_turn) for source in loaded)
    foresee((source.residents, source.trials(source.fewest)) for source in loaded if source.fewest)


def outcomes(sources: Sequence[Source], moved: Set[str]) -> list[Outcome]:
    """What is left of each when the domains with these uuids have gone."""
    foresee((source.residents, source.left(moved)) for source in sources if CPU in source.goals)
    return [source.outcome(moved) for source in sources]


@lru_cache(maxsize=64)
def _combinations(most: int, count: int) -> NDArray[np.intp]:
    """The sets of ``count`` of the numbers below ``most``, in order (sets x count)."""
    return np.array(list(combinations(range(most), count)), dtype=np.intp).reshape(comb(most, count), count)
