"""A part of a plan that can be carried out by itself: what a person takes from a recommendation.

A move's predictions hold after all moves before it in the plan, and it may only fit because of them. So a part must have, with
each move, every earlier one that touches the same hosts; and of a bundle all moves or none.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import replace

from virtpoise_balancer.model import Move, Plan

Choice = tuple[str, str]  # a domain's uuid and its destination


def choice(move: Move) -> Choice:
    return (move.uuid, move.destination)


def needs(plan: Plan, wanted: Set[Choice]) -> str | None:
    """Why the wanted moves of the plan, each of which is in it, cannot be made by themselves; None: they can."""
    chosen = [choice(move) in wanted for move in plan.moves]
    for i, move in enumerate(plan.moves):
        if not chosen[i]:
            continue
        for j, other in enumerate(plan.moves):
            if chosen[j]:
                continue
            if move.bundle is not None and other.bundle == move.bundle:
                return f"{_told(move)} goes together with {_told(other)}"
            if j < i and {move.source, move.destination} & {other.source, other.destination}:
                return f"{_told(move)} counts on {_told(other)}, which comes before it"
    return None


def part(plan: Plan, wanted: Set[Choice]) -> Plan:
    """The plan with the wanted moves alone. A host whose moves are not all wanted is not attempted, so it earns no penalty."""
    moves = tuple(move for move in plan.moves if choice(move) in wanted)
    if len(moves) == len(plan.moves):
        return plan
    left = {move.source for move in plan.moves if choice(move) not in wanted}
    return replace(
        plan,
        solved=False,
        moves=moves,
        attempts=tuple(attempt for attempt in plan.attempts if attempt.host not in left),
    )


def _told(move: Move) -> str:
    return f"{move.domain} to {move.destination}"
