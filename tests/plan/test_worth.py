"""Moves are made where what they are expected to save exceeds what they cost; without a history all is as it was."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import where
from habitual import even, with_history
from random_groups import random_group, varied_group
from virtpoise_balancer.explain import wording
from virtpoise_balancer.explain.explain import explain
from virtpoise_balancer.formats import read_snapshot, write_snapshot
from virtpoise_balancer.model import Habit, Habits, HostLimits, Plan, Policy, Problem, Reason
from virtpoise_balancer.plan import plan

GIB = 2**30


def not_worth(made: Plan) -> list[str]:
    return [str(one.host) for one in made.refusals if one.reason is Reason.NOT_WORTH]


def test_what_wanders_about_the_same_mean_is_left_alone() -> None:
    snapshot = even(cores=1.3)
    usual = {one.name: 1.0 for one in snapshot.domains}
    assert plan(snapshot, Policy()).moves
    made = plan(with_history(snapshot, usual, 0.35), Policy())
    assert (made.moves, not_worth(made), made.attempts, made.solved) == ((), ["h0"], (), False)
    assert "would add" in made.summary  # a sixth domain on another host


def test_a_lasting_step_is_relieved_and_the_move_says_what_it_saves_and_costs() -> None:
    snapshot = even(cores=1.3)
    usual = {one.name: 0.85 for one in snapshot.domains}
    made = plan(with_history(snapshot, usual, 0.05), Policy())
    assert where(made) == where(plan(snapshot, Policy()))
    for move in made.moves:
        assert move.saved_minutes is not None
        assert 30 < move.saved_minutes < 65
        assert move.cost_minutes is not None
        assert 0.5 < move.cost_minutes < 2
        assert "is expected to save" in move.why


@pytest.mark.parametrize(("peak_cores", "moves"), [(0.5, True), (1.5, False)])
def test_what_peaks_would_cost_where_a_domain_goes_counts_as_long_as_domains_were_watched(
    peak_cores: float,
    moves: bool,
) -> None:
    """Five domains and the peak of one are no overload, six are; and the present one passes within minutes."""
    snapshot = even(cores=1.3)
    known = with_history(snapshot, {one.name: 0.85 for one in snapshot.domains}, 0.05).habits
    assert known is not None
    passing = replace(known, ended_ratio=(0.0, 0.0, 0.9, 0.9, 0.9), peak_ratio=0.02, peak_cores=peak_cores)
    made = plan(replace(snapshot, habits=passing), Policy())
    assert bool(made.moves) == moves
    assert moves or "would add 18.2 minutes of overload and cost 0.7 minutes of a host" in made.summary


def test_a_host_with_a_threshold_of_its_own_is_weighed_by_that() -> None:
    snapshot = even(cores=1.08)  # 68 %, for good
    usual = {one.name: 1.08 if one.host == "h0" else 0.85 for one in snapshot.domains}
    policy = Policy(hosts=(HostLimits(hosts=("h0",), cpu=0.6),))
    made = plan(with_history(snapshot, usual, 0.05), policy)
    assert not_worth(made) == []
    assert {move.source for move in made.moves} == {"h0"}


def test_a_refusal_has_both_numbers_and_a_wording() -> None:
    snapshot = with_history(even(cores=1.3), dict.fromkeys((one.name for one in even().domains), 1.0), 0.35)
    (refusal,) = (one for one in plan(snapshot, Policy()).refusals if one.reason is Reason.NOT_WORTH)
    assert refusal.detail == {"added_minutes": pytest.approx(60, abs=20), "cost_minutes": pytest.approx(0.7, abs=0.1)}
    assert wording.figures(refusal).endswith(
        " minutes of overload, on other hosts or later, they would cost 0.7 minutes of a host"
    )


def test_each_place_that_explains_says_both_numbers_the_resource_and_the_host() -> None:
    """The plan, its overloaded host, and a domain there, beside another host with a problem of its own."""
    snapshot = even(cores=1.3)
    full = [replace(one, memory_used_bytes=62 * GIB, memory_ratio_window=(0.97,) * 6) for one in snapshot.hosts[1:2]]
    both = replace(snapshot, hosts=(snapshot.hosts[0], *full, *snapshot.hosts[2:]))
    known = with_history(both, dict.fromkeys((one.name for one in both.domains), 1.0), 0.35)
    made = plan(known, Policy())
    assert not_worth(made) == ["h0"]
    numbers = re.compile(r"would (save|add) \d+\.\d minutes of overload.* cost 0\.\d minutes of a host")
    assert re.search(r"h0 is overloaded \(CPU load 81%.*" + numbers.pattern, made.summary)
    for name in ("h0", "vm00"):
        (found,) = explain(known, Policy(), made, name)
        (reason,) = (one for one in found.reasons if numbers.search(one))
        assert re.search("[Ii]ts CPU load is too high, but", reason)
        assert "h1" not in reason
    (other,) = explain(known, Policy(), made, "h1")
    assert not any(numbers.search(one) for one in other.reasons)
    assert wording._REASONS[Reason.NOT_WORTH]


def test_a_drain_and_a_memory_problem_are_not_weighed() -> None:
    snapshot = with_history(even(cores=1.3), dict.fromkeys((one.name for one in even().domains), 1.0), 0.35)
    full = [
        replace(one, memory_used_bytes=int(0.95 * one.memory_bytes), memory_ratio_window=(0.95,) * 6)
        if one.name == "h0"
        else one
        for one in snapshot.hosts
    ]
    made = plan(replace(snapshot, hosts=tuple(full)), Policy())
    assert made.moves
    assert all(move.saved_minutes is None and move.problem is Problem.OVERLOAD for move in made.moves)


@given(st.integers(0, 100_000), st.sampled_from([random_group, varied_group]), st.booleans())
@settings(deadline=None, max_examples=25)
def test_without_a_history_the_plan_is_the_same(seed: int, make, young: bool) -> None:  # type: ignore[no-untyped-def]
    snapshot, policy = make(seed)
    habit = Habit(age_seconds=200, means=(0.1,) * 5, deviations=(0.3,) * 5)
    known = Habits(of_domains={one.uuid: habit for one in snapshot.domains} if young else {})
    assert plan(replace(snapshot, habits=known), policy) == plan(snapshot, policy)


@given(st.integers(0, 100_000))
@settings(deadline=None, max_examples=15)
def test_what_is_not_worth_it_leaves_the_rest_of_the_plan_legal_and_every_move_pays(seed: int) -> None:
    from random_groups import carry_out

    snapshot, policy = random_group(seed)
    rng = np.random.default_rng(seed)
    usual = {one.name: one.cpu_cores * rng.choice([0.5, 1.0]) for one in snapshot.domains}
    known = with_history(snapshot, usual, 0.1, steps=200)
    made = plan(known, policy)
    assert carry_out(known, policy, made)[1] == []
    weighed = [move for move in made.moves if move.saved_minutes is not None and move.cost_minutes is not None]
    assert all(move.saved_minutes > move.cost_minutes for move in weighed)  # type: ignore[operator]
    relieved = {attempt.host for attempt in made.attempts}
    assert relieved.isdisjoint(not_worth(made))


def test_a_saved_snapshot_comes_to_the_same_plan() -> None:
    snapshot = with_history(even(cores=1.3), dict.fromkeys((one.name for one in even().domains), 0.9), 0.2)
    again = read_snapshot(write_snapshot(snapshot), "file")
    assert again.habits == snapshot.habits
    assert plan(again, Policy()) == plan(snapshot, Policy())
