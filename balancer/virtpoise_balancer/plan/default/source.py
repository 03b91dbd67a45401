"""Which candidates must leave a host so that its problem is gone: the sets that solve it, the cheapest first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from itertools import combinations, islice
from math import comb

import numpy as np
from numpy.typing import NDArray

from virtpoise_balancer.analyse.calibration import FALLBACK
from virtpoise_balancer.analyse.demand import Floats, Mask
from virtpoise_balancer.model import Problem, Reason, Refusal, Resource, Role
from virtpoise_balancer.plan.default.candidates import Candidate, movable
from virtpoise_balancer.plan.default.group import Group
from virtpoise_balancer.plan.default.residents import Residents, predict_together

# The most sets of one size that are tried for one host, and the most that their predictions may cost together on a
# large host (sets x domains x CPUs). Beyond either, only the candidates that relieve the host most are combined.
_MOST_SETS = 20_000
_MOST_WORK = 5_000_000
# The most options that are kept of one size.
_MOST_OPTIONS = 400
_CLOSE = 1e-9
# Options with equally many moves count as equally cheap up to this many times the least weight: then evenness decides.
_AS_CHEAP = 1.05


@dataclass(frozen=True, slots=True)
class Option:
    """Candidates that together solve a host's problem, with their moves and their weight."""

    candidates: tuple[Candidate, ...]
    moves: int
    weight: float


@dataclass(frozen=True, slots=True)
class Residue:
    """What is left on a source after some domains have gone.

    ``domains``: how many. ``shares``: by resource that has a goal, the share in use at the upper end. ``solved``:
    whether that solves it.
    """

    domains: int
    shares: Mapping[Resource, float]
    solved: bool


@dataclass(eq=False)
class Source:
    """A host with a problem. tests/invariants.py checks what the comments say."""

    group: Group
    # Its running domains.
    residents: Residents
    problem: Problem
    # By resource, the share that the upper end of the prediction must come down to, 0..1. The first is the worst
    # problem. Empty for a drain: everything must leave.
    goals: Mapping[Resource, float]
    # Domains that must rest are no candidates. A drain moves them all the same.
    rested: bool = True
    # Where the CPU is the only problem: domains whose leaving gains less than a migration is worth are no candidates.
    worthwhile: bool = True
    # What may leave, by name. No domain is in two.
    candidates: tuple[Candidate, ...] = field(init=False)
    # Why each other domain that runs or is paused must stay.
    refusals: tuple[Refusal, ...] = field(init=False)
    # Which domains are in each candidate (candidates x domains).
    _rows: Mask = field(init=False)
    # By number of candidates, the places of the candidates of each option, best first (options x candidates). Filled on
    # demand.
    _sets: dict[int, NDArray[np.intp]] = field(init=False, default_factory=dict)
    # By number of candidates, the same as options. Filled on demand.
    _options: dict[int, list[Option]] = field(init=False, default_factory=dict)
    # By number of candidates, which domains are left by each set that is tried (sets x domains). Filled on demand.
    _left_after: dict[int, Mask] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        least_gain = self.worthwhile and self.goals.keys() == {Resource.CPU}
        chosen = movable(self.group, self.number, rested=self.rested and bool(self.goals), least_gain=least_gain)
        self.candidates, self.refusals = chosen.candidates, chosen.refusals
        self._rows = np.zeros((len(self.candidates), len(self.residents.running)), dtype=np.bool_)
        for number, candidate in enumerate(self.candidates):
            self._rows[number, list(candidate.rows)] = True

    @property
    def _stuck(self) -> bool:
        """Whether a domain cannot leave, on a host that everything must leave."""
        return any(refusal.reason is not Reason.MIGRATING for refusal in self.refusals)

    def with_small(self) -> Source | None:
        """The source with the domains that gain little as further candidates; None if there are none."""
        if not any(refusal.reason is Reason.LEAST_GAIN for refusal in self.refusals):
            return None
        return replace(self, worthwhile=False)

    def unrested(self) -> Source | None:
        """The source with all domains as candidates that move only if nothing else helps, or that gain little.

        None if there are none.
        """
        last = self.group.rules.last
        if not any(
            refusal.reason in (Reason.RESTING, Reason.NOT_CONVERGING) or refusal.uuid in last
            for refusal in self.refusals
        ):
            return None
        return replace(self, worthwhile=False, rested=False)

    def below_thresholds(self) -> Source | None:
        """The source with its thresholds in place of what it should come down to; None if that is no less, or for a
        drain.
        """
        most = self.group.limit[:, self.number]
        goals = {resource: max(goal, float(most[resource.row])) for resource, goal in self.goals.items()}
        return None if goals == self.goals else replace(self, goals=goals)

    def left(self, moved: Set[str]) -> Mask:
        """Which domains are left when those with these uuids have gone (1 x domains)."""
        gone = [domain.uuid in moved for domain in self.residents.running]
        return ~(self.residents.leaving | np.array(gone, dtype=np.bool_))[np.newaxis]

    def residue(self, moved: Set[str]) -> Residue:
        """What is left when the domains with these uuids have gone."""
        left = self.left(moved)
        shares = self.shares(left)
        if self.goals:
            solved = bool(self._reached(shares)[0])
        else:
            solved = not self._stuck and all(
                domain.uuid in moved for candidate in self.candidates for domain in candidate.domains
            )
        return Residue(int(left.sum()), {resource: float(share[0]) for resource, share in shares.items()}, solved)

    def own(self, resource: Resource) -> float:
        """The share in use that is left when every running domain has gone."""
        if resource is Resource.CPU:
            return self.residents.own / self.residents.host.cpus
        none = np.zeros((1, len(self.residents.running)), dtype=np.bool_)
        return float(self.shares(none)[resource][0])

    @property
    def number(self) -> int:
        return self.residents.number

    @property
    def above(self) -> float:
        """How many spreads the interval of its load reaches above the prediction."""
        return self.group.quantiles[Role.SOURCE, self.residents.saturated].above

    def upper(self, present: Mask) -> Floats:
        """The CPU share at the upper end of the prediction (cases).

        ``present``: which domains are there (cases x domains).
        """
        load = self.residents.load(present)
        return np.minimum(load.ratio + self.above * load.spread, 1.0)

    def decided_by_errors(self, moved: Set[str]) -> float:
        """By how much earlier errors raise the upper end of its CPU load; 0 where without them no fewer of the domains
        with these uuids would go.
        """
        goal = self.goals.get(Resource.CPU)
        if goal is None or self.above <= FALLBACK:
            return 0.0
        gone = [one for one in self.candidates if any(domain.uuid in moved for domain in one.domains)]
        present = np.repeat(self.left(moved), len(gone), axis=0)
        for case, candidate in enumerate(gone):
            present[case, list(candidate.rows)] = True
        load = self.residents.load(present)
        enough = load.ratio + FALLBACK * load.spread <= goal + _CLOSE
        return float(((self.above - FALLBACK) * load.spread[enough]).max(initial=0.0))

    def missing(self, present: Mask) -> Floats:
        """How far the host is above its goals, as shares added up over resources (cases).

        Of the CPU what is wanted counts, so it may pass 1.
        """
        total = np.zeros(len(present))
        for resource, goal in self.goals.items():
            if resource is Resource.CPU:
                load = self.residents.load(present)
                upper = np.minimum(load.ratio + self.above * load.spread, 1.0)
                total += np.where(upper > goal + _CLOSE, np.maximum(upper, load.wanted) - goal, 0.0)
            else:
                total += np.maximum(self.share(resource, present) - goal, 0.0)
        return total

    def gain(self, candidate: Candidate, moved: Set[str]) -> float:
        """How much nearer its goals the host comes when the candidate follows the domains with these uuids, as shares
        added up over resources.
        """
        left = self.left(moved)
        without = left.copy()
        without[0, list(candidate.rows)] = False
        return float(self.missing(left)[0] - self.missing(without)[0])

    def share(self, resource: Resource, present: Mask) -> Floats:
        """The share of memory or an uplink in use at the upper end (cases)."""
        now = self.residents.host.ratio(resource) or 0.0  # what has a goal is known
        gone = (~present).astype(np.float64) @ self.residents.relief[:, resource.row]
        share: Floats = np.maximum(now - gone * self.group.per_unit[resource.row, self.number], 0.0)
        return share

    def solved(self, present: Mask) -> Mask:
        """Whether the problem is gone with only these domains present (cases)."""
        return self._reached(self.shares(present))

    def shares(self, present: Mask) -> dict[Resource, Floats]:
        """By resource that has a goal, the share in use at the upper end (cases)."""
        return {r: self.upper(present) if r is Resource.CPU else self.share(r, present) for r in self.goals}

    def _reached(self, shares: Mapping[Resource, Floats]) -> Mask:
        reached: Mask = np.logical_and.reduce(
            [shares[resource] <= goal + _CLOSE for resource, goal in self.goals.items()]
        )
        return reached

    def left_after(self, count: int) -> Mask:
        """Which domains are left after each set of ``count`` candidates that is tried (sets x domains)."""
        left = self._left_after.get(count)
        if left is None:
            gone = self._rows[self._worth_combining(count)].any(axis=1)
            left = self._left_after[count] = ~(gone | self.residents.leaving)
        return left

    @cached_property
    def cpu_in_turn(self) -> Mask:
        """Which domains are left after none, one, two, ... candidates, those that relieve the CPU most first (cases x
        domains).
        """
        return self._in_turn(Resource.CPU)

    def _in_turn(self, resource: Resource) -> Mask:
        gone = np.zeros((len(self.candidates) + 1, len(self.residents.running)), dtype=np.bool_)
        gone[1:] = np.logical_or.accumulate(self._rows[self._by_gain(resource)])
        left: Mask = ~(gone | self.residents.leaving)
        return left

    @cached_property
    def fewest(self) -> int | None:
        """The fewest candidates that can solve it, or None if not even all of them can."""
        if not self.goals:
            return None if self._stuck else len(self.candidates)
        fewest = 0
        for resource, goal in self.goals.items():
            left = self.cpu_in_turn if resource is Resource.CPU else self._in_turn(resource)
            share = self.upper(left) if resource is Resource.CPU else self.share(resource, left)
            enough = np.flatnonzero(share <= goal + _CLOSE)
            if not len(enough):
                return None
            fewest = max(fewest, int(enough[0]))
        return fewest

    def options(self, count: int) -> Iterator[Option]:
        """The best sets of ``count`` candidates that solve it: the fewest moves first, then the least weight, then the
        most even.
        """
        found = self._options.get(count)
        if found is not None:
            yield from found
            return
        sets = self._sets.get(count)
        if sets is None:
            sets = self._sets[count] = self._find(count)
        found = []
        for numbers in sets.tolist():
            candidates = tuple([self.candidates[number] for number in numbers])
            moves = sum([candidate.moves for candidate in candidates])
            option = Option(candidates, moves, sum([candidate.weight for candidate in candidates]))
            found.append(option)
            yield option
        self._options[count] = found  # whoever wants fewer does not come here

    def cheapest(self, extra: int, most: int) -> Iterator[Option]:
        """The options of the fewest candidates and up to ``extra`` more, at most ``most`` of each size.

        The fewest moves come first, then the least weight.
        """
        if self.fewest is None:
            return
        counts = range(self.fewest, self.fewest + extra + 1)
        if all(candidate.moves == 1 for candidate in self.candidates):
            for count in counts:
                yield from islice(self.options(count), most)
        else:
            options = [option for count in counts for option in islice(self.options(count), most)]
            yield from sorted(options, key=lambda option: (option.moves, option.weight))

    def _find(self, count: int) -> NDArray[np.intp]:
        """The places of the candidates of each option, best first (options x ``count``)."""
        none = np.empty((0, count), dtype=np.intp)
        if count > len(self.candidates):
            return none
        if not self.goals:
            return _combinations(count, count) if count == len(self.candidates) and not self._stuck else none
        if count == 0:
            return _combinations(0, 0)
        sets = self._worth_combining(count)
        shares = self.shares(self.left_after(count))
        solving = np.flatnonzero(self._reached(shares))
        if not len(solving):
            return none
        costs = np.array([candidate.cost for candidate in self.candidates], dtype=np.float64)
        penalties = np.array([candidate.penalty for candidate in self.candidates])
        heals = np.array([min(candidate.breaks, 0.0) for candidate in self.candidates])
        moves = np.array([candidate.moves for candidate in self.candidates])
        index = sets[solving]
        # Of equals the one after which most soft rules are kept that were broken; then the one that leaves the busier
        # of both ends lowest: neither an emptied source nor a filled destination.
        resource = next(iter(self.goals))
        taken = np.array([candidate.most(resource.row) for candidate in self.candidates])
        taken *= self.group.per_unit[resource.row, self.number]
        there = self.group.least_use[resource.row] + taken[index].max(axis=1)
        busier = np.maximum(shares[resource][solving], there)
        cost, penalty, count_of = costs[index].sum(axis=1), penalties[index].sum(axis=1), moves[index].sum(axis=1)
        fewest = count_of == count_of.min()
        fewest &= penalty == penalty.min(where=fewest, initial=np.inf)
        least = np.min(cost, where=fewest, initial=np.inf)
        priced = np.where(cost <= least * _AS_CHEAP, least, cost)
        order = np.lexsort((busier.round(9), heals[index].sum(axis=1), priced.round(), penalty, count_of))
        return index[order[:_MOST_OPTIONS]]

    def _worth_combining(self, count: int) -> NDArray[np.intp]:
        """The sets of ``count`` candidates that are tried, as places (sets x ``count``): of all candidates, unless that
        gives too many.
        """
        most = len(self.candidates)
        sets = min(_MOST_SETS, _MOST_WORK // (len(self.residents.running) * self.residents.host.cpus))
        while comb(most, count) > max(sets, 1):
            most -= 1
        if most == len(self.candidates):
            return _combinations(most, count)
        return np.sort(self._by_gain(next(iter(self.goals)))[:most])[_combinations(most, count)]

    def _by_gain(self, resource: Resource) -> NDArray[np.intp]:
        """The places of the candidates, those that relieve the host most of the resource first."""
        residents = self.residents
        amounts = residents.wants if resource is Resource.CPU else residents.relief[:, resource.row]
        return np.argsort(-(self._rows @ amounts), kind="stable")


def predict_ahead(sources: Sequence[Source]) -> None:
    """Batch the predictions that ``fewest`` and ``options`` will ask for. A speed-up only; results do not change."""
    loaded = [source for source in sources if Resource.CPU in source.goals]
    predict_together((source.residents, source.cpu_in_turn) for source in loaded)
    predict_together((source.residents, source.left_after(source.fewest)) for source in loaded if source.fewest)


def residues(sources: Sequence[Source], moved: Set[str]) -> list[Residue]:
    """What is left of each when the domains with these uuids have gone."""
    predict_together((source.residents, source.left(moved)) for source in sources if Resource.CPU in source.goals)
    return [source.residue(moved) for source in sources]


@lru_cache(maxsize=64)
def _combinations(most: int, count: int) -> NDArray[np.intp]:
    """All sets of ``count`` numbers below ``most``, in order (sets x ``count``)."""
    return np.array(list(combinations(range(most), count)), dtype=np.intp).reshape(comb(most, count), count)
