"""One random group: what the planner does about it, held against the exact optimum."""

from __future__ import annotations

from dataclasses import dataclass

from optimum import Optimum, optimum
from random_groups import carry_out, moved_bytes, random_group
from virtpoise_balancer.plan import plan


@dataclass(frozen=True)
class Comparison:
    """``best``: over all legal sequences (None: none clears it); ``note``: where the plan is not as good."""

    seed: int
    cleared: bool
    moves: int
    bytes: int
    faults: tuple[str, ...]
    best: Optimum | None
    note: str


def compare(seed: int) -> Comparison:
    """The optimum over end states is a bound that is quick to find; only where the plan misses it, sequences are searched as well."""
    snapshot, policy = random_group(seed)
    made = plan(snapshot, policy)
    overloaded = sorted({overload.host for overload in made.overloaded})
    world, faults = carry_out(snapshot, policy, made)
    cleared = world.cleared(overloaded)
    moved = moved_bytes(made, {domain.uuid: domain for domain in snapshot.domains})

    def as_good_as(best: Optimum | None) -> bool:
        return best is None or (cleared and (len(made.moves), moved) <= (best.moves, best.bytes))

    best = optimum(snapshot, policy, overloaded)
    if best is not None and not as_good_as(best):
        best = optimum(snapshot, policy, overloaded, waves=3)
    note = "" if as_good_as(best) else f"cleared: {cleared}, {len(made.moves)} moves, {moved} bytes; optimum {best}"
    return Comparison(seed, cleared, len(made.moves), moved, tuple(faults), best, note)
