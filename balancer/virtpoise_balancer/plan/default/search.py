"""A search over what leaves the sources and where it goes: fewest moves first, then least weight.

It runs where the quick assignment (``assign``) is not provably the best. Moves that make room count as well: A leaves
h2, so that B fits there. Such a move is an *ejection*.

The algorithm
    1. For each source list the options that solve it, by number of moves (``Source.options``).
    2. ``base`` is the sum of the fewest moves of all sources. For each total from base to base + 4:
    3.   For each number of ejections from 0 to 3, at most total - base:
    4.     Go through the combinations of one option a source that have total - ejections moves together, the lightest
           first. Stop at the first that weighs no less than the best so far.
    5.     Skip a combination that all hosts together have no room for; all of them at once, where none has any.
    6.     Place its candidates, the largest first, by depth-first search: each on every host that takes it, the
           emptiest first; where it does not fit and ejections are left, after one domain of that host was placed
           elsewhere.
    7.     When all are placed, let Trial replay the sequence by the whole prediction. If legal, and no heavier with the
           soft rules that it breaks, it is the best so far.
    8.   If anything was found, it is the result: no smaller total has a solution.

A depth-first search with one ejection, for candidates B and C (numbers: the order of the attempts)::

    pending [B, C]
      1 B -> h3 fits            pending [C]
      2   C -> h3 does not fit, C -> h4 does not fit: take B back
      3 B -> h2 does not fit: first A, which is on h2
      4   pending [A, B -> h2, C]       A -> h4 fits
      5     B -> h2 fits now            pending [C]
      6       C -> h3 fits              pending []: replay A, B, C

Invariants
    - Each step is legal when it is made, by what adds up and by hard rules. So every prefix of a sequence is legal.
    - Where a call of ``_place`` returns, the state is as it was when it was called.
    - The best so far only gets lighter. Without ejections no sequence of a combination weighs less than the
      combination, so the first that weighs no more ends the search.

Bounds: a budget of checks (one candidate on one host each), never time, so that the result does not depend on the
machine. Once it is spent, the best so far stands, or nothing.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from math import inf, isinf, prod

from virtpoise_balancer.plan.default.candidates import Candidate
from virtpoise_balancer.plan.default.search_state import SearchState
from virtpoise_balancer.plan.default.soft_rules_after import broken_beyond_penalties
from virtpoise_balancer.plan.default.source import Option, Source
from virtpoise_balancer.plan.default.trial import Step, Trial

# The search tries up to this many moves more than the fewest conceivable; at most this many of them only make room.
_MOST_EXTRA = 4
_MOST_EJECTIONS = 3
# What holding one step against the whole prediction costs, in checks.
_REPLAY_CHECKS = 20

# What is still to be placed, in this order. With a host: only there, since room was made there for it.
Pending = list[tuple[Candidate, int | None]]


@dataclass(slots=True)
class Budget:
    """How many checks of a candidate on a host are left; negative: spent."""

    checks: int

    def spent(self) -> bool:
        """Take one check; whether there was none left."""
        self.checks -= 1
        return self.checks < 0

    def spend(self, checks: int) -> None:
        """Take ``checks`` checks, or all that are left."""
        if self.checks >= 0:
            self.checks = max(self.checks - checks, -1)


@dataclass(slots=True)
class Found:
    """A sequence that solves all sources."""

    moves: int
    weight: float
    steps: list[Step]


@dataclass(slots=True)
class _Best:
    """The best legal placement so far of one combination of options.

    ``bound``: what a placement must weigh less than. ``least``: one that weighs no more cannot be beaten. ``weight``
    None: none was found.
    """

    bound: float
    least: float
    steps: list[Step] = field(default_factory=list)
    weight: float | None = None


class Search:
    """One search; see the module for the algorithm."""

    def __init__(self, trial: Trial, sources: Sequence[Source], budget: Budget, also: Sequence[int] = ()) -> None:
        """Prepare a search. ``trial``: with everything placed that is not searched. ``also``: further destinations."""
        # The group before the search; has the last word on each sequence. Never changed here.
        self.trial = trial
        # The hosts with a problem that must all be solved.
        self.sources = sources
        # Shared by all searches for one plan.
        self.budget = budget
        # The hosts after the steps that are being tried.
        self.state = SearchState(trial, sources, also)
        # By candidate, the largest share of any resource that it takes of an average host. Filled when it is needed.
        self._shares: dict[Candidate, float] = {}

    def run(self, moves: int | None, weight: float) -> Found | None:
        """The best sequence that solves all sources, or None.

        ``moves``, ``weight``: of the sequence that is to be beaten, by fewer moves or by as many and less weight; None:
        there is none.
        """
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

    def place(self, candidate: Candidate, only: int | None = None) -> list[Step] | None:
        """The lightest steps that place one candidate, the fewest first, with those that make room for it; or None.

        ``only``: the host where it is to go; it is one of those that are searched, or nothing is found.
        """
        if only is not None and only not in self.state.use:
            return None
        for ejections in range(1, _MOST_EJECTIONS + 1):
            best = _Best(inf, least=-inf)
            self._place([(candidate, only)], ejections, candidate.weight, best)
            if best.weight is not None:
                return best.steps
        return None

    def _by_moves(self, source: Source) -> dict[int, list[Option]]:
        """The source's options by their number of moves, the lightest first."""
        fewest = source.fewest
        by_moves: dict[int, list[Option]] = {}
        for count in range(fewest, fewest + _MOST_EXTRA + 1) if fewest is not None else ():
            for option in source.options(count):
                by_moves.setdefault(option.moves, []).append(option)
        for options in by_moves.values():
            options.sort(key=lambda option: option.weight)
        return by_moves

    def _with(self, total: int, base: int, options: list[dict[int, list[Option]]], bound: float) -> Found | None:
        """The lightest sequence of ``total`` moves that weighs less than ``bound``, or None (steps 3 to 7)."""
        best: Found | None = None
        for ejections in range(min(total - base, _MOST_EJECTIONS) + 1):
            sizes = [one for one in product(*(sorted(w) for w in options)) if sum(one) == total - ejections]
            lists = [[w[size] for w, size in zip(options, one, strict=True)] for one in sizes]
            if isinf(bound) and not any(map(self.state.may_have_room, lists)):
                self.budget.spend(sum(prod(map(len, one)) for one in lists))
                continue
            combinations = heapq.merge(*map(_cheapest_first, lists), key=lambda found: found[0])
            for weight, chosen in combinations:
                if weight >= bound or self.budget.checks < 0:
                    break
                if self.budget.spent() or not self.state.room_for(chosen):
                    continue
                candidates = [candidate for option in chosen for candidate in option.candidates]
                placed = _Best(bound, least=-inf if ejections else weight)
                pending: Pending = [(candidate, None) for candidate in self._largest_first(candidates)]
                self._place(pending, ejections, weight, placed)
                if placed.weight is not None:
                    bound = placed.weight
                    best = Found(total, bound, placed.steps)
        return best

    def _largest_first(self, candidates: list[Candidate]) -> list[Candidate]:
        """The candidates by the largest share of any resource that each takes of an average host, falling."""
        if any(candidate not in self._shares for candidate in candidates):
            limit = self.trial.group.limit.min(axis=1)
            unit = self.trial.group.per_unit.mean(axis=1)
            self._shares |= {one: float((one.arrival * unit / limit).max()) for one in candidates}
        return sorted(candidates, key=self._shares.__getitem__, reverse=True)

    def _place(self, pending: Pending, ejections: int, weight: float, best: _Best) -> None:
        """Try to place all that is pending, and keep the lightest legal sequence in ``best`` (steps 6 and 7).

        ``ejections``: how many more may be made. ``weight``: of the whole sequence with those made so far.
        """
        if not pending:
            self._keep_if_legal(weight, best)
            return
        tight = self._place_where_it_fits(pending, ejections, weight, best)
        if tight is not None and ejections:
            self._place_where_room_is_made(pending, tight, ejections, weight, best)

    def _keep_if_legal(self, weight: float, best: _Best) -> None:
        if weight < best.bound:
            steps = self.state.steps
            self.budget.checks -= _REPLAY_CHECKS * len(steps)
            replayed = self.trial.replayed(steps)
            if replayed is not None:
                weight += broken_beyond_penalties(self.trial, replayed, steps)
                if weight < best.bound:
                    best.bound, best.weight, best.steps = weight, weight, list(steps)

    def _place_where_it_fits(self, pending: Pending, ejections: int, weight: float, best: _Best) -> list[int] | None:
        """Try the first pending candidate on each host that takes it, each time with the rest of the candidates.

        Returns the hosts that lack only room, or None where the search is to end: the budget is spent, or the best is
        found.
        """
        (candidate, only), rest = pending[0], pending[1:]
        state = self.state
        bonds = state.hard_bonds(candidate)
        # Without rules of its own one of several hosts that are alike is enough.
        once = candidate.allowed is None and not bonds
        seen: set[tuple[float, ...]] = set()
        tight: list[int] = []
        for host in state.best_first(candidate) if only is None else [only]:
            if self.budget.spent():
                return None
            if not state.allowed(candidate, host, bonds):
                continue
            if not state.fits(candidate, host):
                tight.append(host)
                continue
            if once:
                likeness = state.likeness(candidate, host)
                if likeness in seen:
                    continue
                seen.add(likeness)
            state.put(candidate, host)
            self._place(rest, ejections, weight, best)
            state.take_back()
            if best.bound <= best.least:
                return None
        return tight

    def _place_where_room_is_made(
        self, pending: Pending, tight: Sequence[int], ejections: int, weight: float, best: _Best
    ) -> None:
        """Place the first pending candidate on each tight host once one domain has left it for elsewhere."""
        (candidate, _), rest = pending[0], pending[1:]
        taken = self.state.moved.union(domain.uuid for one, _ in pending for domain in one.domains)
        for host in tight:
            for other in self.state.ejectable(host):
                if weight + other.weight >= best.bound:
                    break  # the others weigh more
                if any(domain.uuid in taken for domain in other.domains):
                    continue
                if not self.state.fits_without(candidate, host, other, ejections - 1):
                    continue
                first: Pending = [(other, None), (candidate, host)]
                self._place([*first, *rest], ejections - other.moves, weight + other.weight, best)
                if self.budget.checks < 0:
                    return


def _cheapest_first(lists: list[list[Option]]) -> Iterator[tuple[float, tuple[Option, ...]]]:
    """One option of each list, in all combinations, with their total weight, the least first; each list is sorted by
    weight.
    """
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
