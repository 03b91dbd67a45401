"""Part of a plan that can be carried out by itself: what a person takes from a recommendation.

With each move it has those that the move needs (``Move.needs``).
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import replace

from virtpoise_balancer.model import Move, Plan, Policy, Snapshot
from virtpoise_balancer.plan import predict

Choice = tuple[str, str]  # a domain's uuid and its destination


def choice_of(move: Move) -> Choice:
    """The move as a person chooses it: the domain's uuid and the destination."""
    return (move.uuid, move.destination)


def why_not_alone(plan: Plan, wanted: Set[Choice]) -> str | None:
    """Why ``wanted``, moves of the plan, is not self-contained, or None if it can be carried out alone."""
    left_out = {move.uuid: move for move in plan.moves if choice_of(move) not in wanted}
    for move in plan.moves:
        missing = next((left_out[uuid] for uuid in move.needs if uuid in left_out), None)
        if missing is not None and choice_of(move) in wanted:
            if move.bundle is not None and missing.bundle == move.bundle:
                return f"{_named(move)} goes together with {_named(missing)}"
            return f"{_named(move)} needs {_named(missing)}, which comes before it"
    return None


def part(plan: Plan, wanted: Set[Choice], snapshot: Snapshot, policy: Policy) -> Plan:
    """The plan reduced to the wanted moves, predicted as if the other moves were not made.

    A host whose moves are not all wanted is not attempted, so it earns no penalty. ``snapshot``, ``policy``: what the
    plan was made of.
    """
    moves = tuple(move for move in plan.moves if choice_of(move) in wanted)
    if len(moves) == len(plan.moves):
        return plan
    left = {move.source for move in plan.moves if choice_of(move) not in wanted}
    return replace(
        plan,
        solved=False,
        moves=predict(snapshot, policy, moves),
        attempts=tuple(attempt for attempt in plan.attempts if attempt.host not in left),
    )


def _named(move: Move) -> str:
    return f"{move.domain} to {move.destination}"
