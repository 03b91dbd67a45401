"""Makes a stored plan again from what it was made from, and says whether the outcome is the same. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from virtpoise_balancer.knowledge.records import Inputs
from virtpoise_balancer.model import Move, Plan
from virtpoise_balancer.plan import plan as make_plan
from virtpoise_balancer.plan.subset import choice_of, part


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayedPlan:
    """A stored plan made again.

    ``plan``: as it is made now. ``missing``: moves of the stored plan that are not in it; ``added``: those only in it.

    ``made_by`` and ``replayed_by``: versions of virtpoise, which may explain a difference.
    """

    plan: Plan
    same: bool
    missing: tuple[Move, ...]
    added: tuple[Move, ...]
    made_by: str
    replayed_by: str


def replay(stored: Plan, inputs: Inputs, version: str) -> ReplayedPlan:
    """The outcome is the same when the moves, their order and what they solve are; predicted loads are not compared."""
    made = make_plan(inputs.snapshot, inputs.policy)
    if inputs.wanted is not None:
        made = part(made, inputs.wanted, inputs.snapshot, inputs.policy)
    then, now = ([(*choice_of(move), move.source) for move in one.moves] for one in (stored, made))
    return ReplayedPlan(
        plan=made,
        same=(then, stored.solved) == (now, made.solved),
        missing=tuple(move for move in stored.moves if (*choice_of(move), move.source) not in now),
        added=tuple(move for move in made.moves if (*choice_of(move), move.source) not in then),
        made_by=inputs.version,
        replayed_by=version,
    )
