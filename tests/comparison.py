"""Random groups: what the planner does about each, held against the exact optimum.

python tests/comparison.py [FIRST COUNT] > tests/plan/optima.json      finds the optima anew (some minutes for all 300)
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass

from optimum import Optimum, optimum
from random_groups import carry_out, moved_bytes, random_group
from virtpoise_balancer.plan import plan

INSTANCES = 300


@dataclass(frozen=True)
class Ours:
    """What the plan does: whether it clears all overloads, its cost, and what any beginning of it breaks."""

    cleared: bool
    moves: int
    bytes: int
    faults: tuple[str, ...]

    def as_good_as(self, best: Optimum | None) -> bool:
        return best is None or (self.cleared and (self.moves, self.bytes) <= (best.moves, best.bytes))


def ours(seed: int) -> Ours:
    snapshot, policy = random_group(seed)
    made = plan(snapshot, policy)
    world, faults = carry_out(snapshot, policy, made)
    cleared = world.cleared(sorted({overload.host for overload in made.overloaded}))
    moved = moved_bytes(made, {domain.uuid: domain for domain in snapshot.domains})
    return Ours(cleared, len(made.moves), moved, tuple(faults))


def best_of(seed: int, plan_of_ours: Ours) -> Optimum | None:
    """The optimum over end states is a bound that is quick to find; only where the plan misses it, sequences are
    searched as well.
    """
    snapshot, policy = random_group(seed)
    overloaded = sorted({overload.host for overload in plan(snapshot, policy).overloaded})
    best = optimum(snapshot, policy, overloaded)
    if not plan_of_ours.as_good_as(best):
        best = optimum(snapshot, policy, overloaded, waves=3)
    return best


def main() -> None:
    first, count = (int(one) for one in sys.argv[1:]) if len(sys.argv) > 1 else (0, INSTANCES)
    found = {seed: best_of(seed, ours(seed)) for seed in range(first, first + count)}
    json.dump({str(seed): best and asdict(best) for seed, best in found.items()}, sys.stdout, indent=0)


if __name__ == "__main__":
    main()
