"""Assigns destinations until the problems are gone: quickly for all, by search where that is not provably the best.

In a group with room each source's cheapest set of domains fits, and nothing can be better; that is settled source by source. What is
left over goes to the search, and what no set of moves can solve is relieved as far as it can be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from virtpoise_balancer.plan.default.candidates import Item
from virtpoise_balancer.plan.default.search import Budget, Search
from virtpoise_balancer.plan.default.source import Source, look_ahead
from virtpoise_balancer.plan.default.trial import Board, Step

# How many items more than the fewest the quick assignment tries, how many sets of one size, and how many items in all.
_EXTRA_ITEMS = 2
_TRIES = 32
_MOST_PLACED = 400
# For each source, so many hosts are likely to be looked at as destinations.
_LIKELY = 2
# Checks of a domain on a host that all searches for one plan may make together; each may use half of what is left.
_CHECKS = 150_000
# Up to so many sources are searched together; of more only those that the quick assignment left over, in portions.
_TOGETHER = 4
_PORTION = 2
# So many left-over sources are searched at most: where there are more the group is full, and searching does not empty it.
_MOST_SEARCHED = 12


@dataclass(slots=True, eq=False)
class Part:
    """Sources that were assigned together, with the steps; ``solved`` by those steps, ``best``: provably with the least cost."""

    sources: list[Source]
    steps: list[Step]
    solved: bool
    best: bool


def relieve(board: Board, sources: Sequence[Source]) -> tuple[Board, set[int]]:
    """A board with the steps added that solve as many sources as can be found; the numbers of the hosts that are not solved."""
    earlier = board
    look_ahead(sources)
    items = [item for source in sources for item in source.items]
    if items:
        board.group.look(board.roomiest(items, _LIKELY * len(sources)))
    parts = []
    for source in sources:
        board, part = _assign(board, source)
        parts.append(part)
    if all(part.best for part in parts):
        return board, set()
    checks = _CHECKS
    for chosen in _portions(parts):
        if not all(part in parts for part in chosen):
            continue  # found together with others meanwhile
        others = [part for part in parts if part not in chosen]
        without = earlier.replayed([step for part in others for step in part.steps])
        if without is None:
            continue
        budget = Budget(checks // 2)
        found = _search(without, chosen, budget)
        checks -= checks // 2 - max(budget.checks, 0)
        if found is not None:
            parts = [*others, found]
    final = earlier.replayed([step for part in parts for step in part.steps])
    if final is None:
        raise AssertionError("steps that were legal one after the other are not any more")
    return final, {source.number for part in parts if not part.solved for source in part.sources}


def relieve_partly(board: Board, source: Source) -> None:
    """Take as much off a source that cannot be solved as fits elsewhere, the items that relieve it most first."""
    while True:
        left = source.left(board.moved)
        candidates = [item for item in source.items if not any(d.uuid in board.moved for d in item.domains)]
        if not candidates or (source.goals and source.solved(left)[0]):
            return
        without = np.repeat(left, len(candidates), axis=0)
        for case, item in enumerate(candidates):
            without[case, list(item.rows)] = False
        missing, still = float(source.missing(left)[0]), source.missing(without)
        order = sorted(range(len(candidates)), key=lambda i: (round(float(still[i]), 9), candidates[i].weight, i))
        for i in order:
            if source.goals and still[i] >= missing:
                return
            destination = board.best(candidates[i])
            if destination is not None:
                board.apply(Step(candidates[i], destination))
                break
        else:
            return


def _assign(board: Board, source: Source) -> tuple[Board, Part]:
    """The cheapest of the source's ways that fits, without making room first, and the board with it."""
    unsolved = Part([source], [], solved=False, best=False)
    if source.fewest is None:
        return board, unsolved
    nowhere: set[int] = set()
    placed = 0
    for number, way in enumerate(source.cheapest(_EXTRA_ITEMS, _TRIES)):
        if placed > _MOST_PLACED:
            break
        if any(id(item) in nowhere for item in way.items):
            continue
        placed += len(way.items)
        with_all = _place_all(board, way.items)
        if with_all is not None:
            steps = with_all.steps[len(board.steps) :]
            return with_all, Part([source], steps, solved=True, best=number == 0)
        nowhere.update(id(item) for item in way.items if id(item) not in nowhere and board.best(item) is None)
    return board, unsolved


def _place_all(board: Board, items: Sequence[Item]) -> Board | None:
    """A board on which all have a destination, the largest first; None: one of them finds none."""
    trial = board.copy()
    for item in sorted(items, key=lambda item: -item.wants):
        destination = trial.best(item)
        if destination is None:
            return None
        trial.apply(Step(item, destination))
    return trial


def _portions(parts: list[Part]) -> list[list[Part]]:
    """Which parts to search anew, together."""
    coverable = [part for part in parts if part.sources[0].fewest is not None]
    if len(coverable) <= _TOGETHER:
        unsolved = [[part] for part in coverable if not part.solved] if len(coverable) > 1 else []
        return [coverable, *unsolved] if coverable else []
    left_over = [part for part in coverable if not part.best][:_MOST_SEARCHED]
    return [left_over[i : i + _PORTION] for i in range(0, len(left_over), _PORTION)]


def _search(without: Board, chosen: list[Part], budget: Budget) -> Part | None:
    """A better part in place of the chosen ones; None: none was found."""
    sources = [source for part in chosen for source in part.sources]
    steps = [step for part in chosen for step in part.steps]
    if all(part.solved for part in chosen):
        moves: int | None = sum(step.item.moves for step in steps)
        weight = sum(step.item.weight for step in steps)
    else:
        moves, weight = None, 0.0
    found = Search(without, sources, budget).run(moves, weight)
    if found is None:
        return None
    return Part(sources, found.steps, solved=True, best=True)
