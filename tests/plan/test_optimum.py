"""The default strategy against the exact optimum of 300 small groups, tight and roomy, with rules.

The optima were found by mixed-integer programming (tests/optimum.py), which takes long for some, and are kept in
optima.json; a few are found anew here each time. `scripts/bench-plan optimum` does it for all.
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean

import pytest

from comparison import INSTANCES, Ours, best_of, ours
from optimum import Optimum

OPTIMA = {
    int(seed): Optimum(**best) if best else None
    for seed, best in json.loads((Path(__file__).parent / "optima.json").read_text(encoding="utf-8")).items()
}
CLEARABLE = [seed for seed, best in OPTIMA.items() if best]


@pytest.fixture(scope="module")
def plans() -> dict[int, Ours]:
    """Plans of all groups that can be cleared and of some others, where the search uses up its checks."""
    others = [seed for seed in OPTIMA if seed not in CLEARABLE]
    return {seed: ours(seed) for seed in [*CLEARABLE, *others[::5]]}


def test_no_rule_and_no_limit_is_broken_in_any_beginning(plans: dict[int, Ours]) -> None:
    assert [(seed, one.faults) for seed, one in plans.items() if one.faults] == []


def test_it_is_as_good_as_the_optimum(plans: dict[int, Ours]) -> None:
    assert len(OPTIMA) == INSTANCES
    assert len(CLEARABLE) > INSTANCES / 2
    both = [(plans[seed], best) for seed, best in OPTIMA.items() if best and plans[seed].cleared]
    assert len(both) / len(CLEARABLE) >= 0.99
    assert mean(one.moves <= best.moves for one, best in both) >= 0.95
    assert mean(one.bytes / best.bytes for one, best in both) <= 1.05


def test_what_the_optimum_cannot_clear_is_not_cleared_either(plans: dict[int, Ours]) -> None:
    assert [seed for seed, one in plans.items() if one.cleared and seed not in CLEARABLE] == []


@pytest.mark.parametrize("seed", CLEARABLE[3::40])
def test_the_kept_optima_are_those_that_are_found(seed: int, plans: dict[int, Ours]) -> None:
    assert best_of(seed, plans[seed]) == OPTIMA[seed]
