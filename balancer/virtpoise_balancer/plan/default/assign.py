"""Assigns destinations until the problems are gone: quickly for all, by search where that is not provably the best.

In a group with room each source's cheapest set of domains fits, and nothing can be better; that is settled source by
source. What is left over goes to the search, and what no set of moves can solve is relieved as far as it can be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from virtpoise_balancer.plan.default.candidates import Candidate
from virtpoise_balancer.plan.default.search import Budget, Search
from virtpoise_balancer.plan.default.soft_rules_after import broken_beyond_penalties
from virtpoise_balancer.plan.default.source import Source, predict_ahead
from virtpoise_balancer.plan.default.trial import Step, Trial

# The quick assignment tries options with up to this many candidates more than the fewest, this many of each size, and
# places at most this many candidates in all.
_EXTRA_CANDIDATES = 2
_TRIES = 32
_MOST_PLACED = 400
# Of a source that cannot be solved: with up to this many candidates each move is chosen by itself. With more, moves
# that take off half of the excess are chosen at once, since predictions of such a host take long.
_ONE_BY_ONE = 32
# How many destinations a source is expected to need a full prediction of.
_LIKELY = 2
# The budget of all searches for one plan, in checks of a candidate on a host. Each search may use half of what is left.
_CHECKS = 150_000
# Up to this many sources are searched together. Where there are more, only those that the quick assignment left over,
# in portions.
_TOGETHER = 4
_PORTION = 2
# The most left-over sources that are searched. Where there are more the group is full, and searching does not make it
# less so.
_MOST_SEARCHED = 12


@dataclass(slots=True, eq=False)
class Assignment:
    """Sources that were assigned together, with the steps; ``solved`` by those steps, ``best``: provably with the least
    cost. ``broken``: what the steps cost for soft rules beyond the penalties of their candidates.
    """

    sources: list[Source]
    steps: list[Step]
    solved: bool
    best: bool
    broken: float = 0.0


def relieve(trial: Trial, sources: Sequence[Source]) -> tuple[Trial, set[int]]:
    """A trial with the steps added that solve as many sources as can be found; the numbers of the hosts that are not
    solved.
    """
    earlier = trial
    predict_ahead(sources)
    candidates = [candidate for source in sources for candidate in source.candidates]
    if candidates:
        trial.group.prepare(trial.roomiest(candidates, _LIKELY * len(sources)))
    assignments = []
    for source in sources:
        trial, assignment = _assign(trial, source)
        assignments.append(assignment)
    if all(assignment.best for assignment in assignments):
        return trial, set()
    checks = _CHECKS
    for chosen in _portions(assignments):
        if not all(assignment in assignments for assignment in chosen):
            continue  # replaced by an earlier search
        others = [assignment for assignment in assignments if assignment not in chosen]
        without = earlier.replayed([step for assignment in others for step in assignment.steps])
        if without is None:
            continue
        budget = Budget(checks // 2)
        found = _search(without, chosen, budget)
        checks -= checks // 2 - max(budget.checks, 0)
        if found is not None:
            assignments = [*others, found]
    final = earlier.replayed([step for assignment in assignments for step in assignment.steps])
    if final is None:
        raise AssertionError("steps that were legal one after the other are not any more")
    return final, {
        source.number for assignment in assignments if not assignment.solved for source in assignment.sources
    }


def relieve_partly(trial: Trial, source: Source) -> None:
    """Take as much off a source that cannot be solved as fits elsewhere, the candidates that relieve it most first.

    What leaves it overloaded must gain something: each move takes at least the least gain off the excess.
    """
    least = source.group.least_gain(source.number)
    while True:
        left = source.left(trial.moved)
        candidates = [
            candidate for candidate in source.candidates if not any(d.uuid in trial.moved for d in candidate.domains)
        ]
        if not candidates or (source.goals and source.solved(left)[0]):
            return
        without = np.repeat(left, len(candidates), axis=0)
        for case, candidate in enumerate(candidates):
            without[case, list(candidate.rows)] = False
        missing, still = float(source.missing(left)[0]), source.missing(without)
        order = sorted(range(len(candidates)), key=lambda i: (round(float(still[i]), 9), candidates[i].weight, i))
        gained = 0.0
        for i in order:
            if source.goals and not _gains(missing, float(still[i]), least):
                break
            destination = trial.best(candidates[i])
            if destination is not None:
                trial.apply(Step(candidates[i], destination))
                gained += missing - float(still[i])
                if len(candidates) <= _ONE_BY_ONE or gained >= missing / 2:
                    break
        if trial.moved.isdisjoint(domain.uuid for one in candidates for domain in one.domains):
            return


def _gains(missing: float, still: float, least: float) -> bool:
    """Whether a move is worth it that leaves ``still`` of what is ``missing`` to the goals; nothing left always is."""
    return still < missing and (still <= 0 or missing - still >= least)


def _assign(trial: Trial, source: Source) -> tuple[Trial, Assignment]:
    """The cheapest of the source's options that fits, without making room first, and the trial with it."""
    unsolved = Assignment([source], [], solved=False, best=False)
    if source.fewest is None:
        return trial, unsolved
    nowhere: set[int] = set()
    placed = 0
    found: tuple[Trial, Assignment] | None = None
    bound = (0, 0.0)
    for number, option in enumerate(source.cheapest(_EXTRA_CANDIDATES, _TRIES)):
        if placed > _MOST_PLACED or (found and (option.moves, option.weight) >= bound):
            break
        if any(id(candidate) in nowhere for candidate in option.candidates):
            continue
        placed += len(option.candidates)
        with_all = _place_all(trial, option.candidates)
        if with_all is not None:
            steps = with_all.steps[len(trial.steps) :]
            broken = broken_beyond_penalties(trial, with_all, steps)
            if not broken and not found:
                return with_all, Assignment([source], steps, solved=True, best=number == 0)
            if not found or (option.moves, option.weight + broken) < bound:
                bound = (option.moves, option.weight + broken)
                found = with_all, Assignment([source], steps, solved=True, best=False, broken=broken)
            continue
        nowhere.update(
            id(candidate)
            for candidate in option.candidates
            if id(candidate) not in nowhere and trial.best(candidate) is None
        )
    return found or (trial, unsolved)


def _place_all(trial: Trial, candidates: Sequence[Candidate]) -> Trial | None:
    """A trial on which all have a destination, the largest first; None: one of them finds none."""
    placed_all = trial.copy()
    for candidate in sorted(candidates, key=lambda candidate: -candidate.wants):
        destination = placed_all.best(candidate)
        if destination is None:
            return None
        placed_all.apply(Step(candidate, destination))
    return placed_all


def _portions(assignments: list[Assignment]) -> list[list[Assignment]]:
    """Groups of assignments; each group is searched together."""
    coverable = [assignment for assignment in assignments if assignment.sources[0].fewest is not None]
    if len(coverable) <= _TOGETHER:
        unsolved = [[assignment] for assignment in coverable if not assignment.solved] if len(coverable) > 1 else []
        return [coverable, *unsolved] if coverable else []
    left_over = [assignment for assignment in coverable if not assignment.best][:_MOST_SEARCHED]
    return [left_over[i : i + _PORTION] for i in range(0, len(left_over), _PORTION)]


def _search(without: Trial, chosen: list[Assignment], budget: Budget) -> Assignment | None:
    """A better assignment in place of the chosen ones; None: none was found."""
    sources = [source for assignment in chosen for source in assignment.sources]
    steps = [step for assignment in chosen for step in assignment.steps]
    if all(assignment.solved for assignment in chosen):
        moves: int | None = sum(step.candidate.moves for step in steps)
        weight = sum(step.candidate.weight for step in steps) + sum(assignment.broken for assignment in chosen)
    else:
        moves, weight = None, 0.0
    found = Search(without, sources, budget).run(moves, weight)
    if found is None:
        return None
    return Assignment(sources, found.steps, solved=True, best=True)
