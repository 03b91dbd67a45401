"""Moves are made before an overload where that is expected to save enough, and otherwise nothing changes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import domain, group, host
from habitual import even, with_history
from random_groups import carry_out, random_group
from virtpoise_balancer.analyse.habits import HabitBook, readings
from virtpoise_balancer.control.usual import with_habits
from virtpoise_balancer.formats import read_snapshot, write_snapshot
from virtpoise_balancer.model import Foresight, Plan, Policy, Problem, Rule, Snapshot
from virtpoise_balancer.plan import plan

FORESEEING = Policy(foresight=Foresight())


def near(deviation: float, *, steps: int = 1440) -> Snapshot:
    """Four hosts, the first at 73 % with domains that wander by this many cores, the others at 53 %."""
    snapshot = even(cores=1.17)
    return with_history(snapshot, {one.name: one.cpu_cores for one in snapshot.domains}, deviation, steps=steps)


def relieved(made: Plan) -> list[tuple[str, Problem]]:
    return [(attempt.host, attempt.problem) for attempt in made.attempts]


def test_a_host_that_will_often_be_over_its_threshold_is_relieved_before() -> None:
    snapshot = near(0.35)
    assert plan(snapshot, Policy()).moves == ()
    made = plan(snapshot, FORESEEING)
    assert relieved(made) == [("h0", Problem.FORESEEN)]
    assert made.solved
    (move,) = made.moves
    assert (move.source, move.problem) == ("h0", Problem.FORESEEN)
    assert move.saved_minutes is not None
    assert move.cost_minutes is not None
    assert move.saved_minutes - move.cost_minutes >= 10
    assert made.summary.startswith(f"h0 is expected to be overloaded: move {move.domain} to {move.destination}")
    assert "before an overload; what leaves it is expected to save" in move.why


@pytest.mark.parametrize(
    ("snapshot", "policy"),
    [
        pytest.param(near(0.02), FORESEEING, id="calm"),
        pytest.param(near(0.35), Policy(foresight=Foresight(least_saved_minutes=600)), id="too little is saved"),
        pytest.param(near(0.35, steps=10), FORESEEING, id="domains are not known yet"),
        pytest.param(replace(near(0.35), habits=None), FORESEEING, id="nothing is known"),
        pytest.param(
            near(0.35),
            replace(FORESEEING, rules=(Rule(name="stay", kind="ignore", domains=("vm0*",)),)),
            id="a rule keeps them",
        ),
    ],
)
def test_otherwise_nothing_is_moved(snapshot: Snapshot, policy: Policy) -> None:
    assert plan(snapshot, policy).moves == ()


def test_a_soft_rule_is_not_broken_for_it() -> None:
    apart = Rule(name="apart", kind="apart", domains=("*0", "*1", "*2", "*3", "*4"), hard=False)
    stay = Rule(name="stay", kind="only_on", domains=("vm0*",), hosts=("h0",), hard=False)
    assert plan(near(0.35), replace(FORESEEING, rules=(apart,))).moves
    assert plan(near(0.35), replace(FORESEEING, rules=(stay,))).moves == ()


def test_an_overload_is_planned_for_as_without_it() -> None:
    snapshot = even(cores=1.3)
    known = with_history(snapshot, {one.name: 0.85 for one in snapshot.domains}, 0.05)
    assert plan(known, FORESEEING).moves == plan(known, Policy()).moves


@given(st.integers(0, 100_000))
@settings(deadline=None, max_examples=25)
def test_every_beginning_is_legal_each_source_gains_and_a_saved_snapshot_comes_to_the_same(seed: int) -> None:
    snapshot, policy = random_group(seed)
    rng = np.random.default_rng(seed)
    usual = {one.name: one.cpu_cores * rng.choice([0.7, 1.0, 1.3]) for one in snapshot.domains}
    known = with_history(snapshot, usual, 0.4, steps=200)
    policy = replace(policy, foresight=Foresight(least_saved_minutes=1))
    made = plan(known, policy)
    assert carry_out(known, policy, made)[1] == []
    for move in made.moves:
        if move.problem is Problem.FORESEEN:
            assert move.saved_minutes is not None
            assert move.cost_minutes is not None
            assert move.saved_minutes - move.cost_minutes >= 1
    assert plan(read_snapshot(write_snapshot(known), "file"), policy).moves == made.moves


def test_in_a_large_group_only_the_domains_of_hosts_that_count_bring_their_habits() -> None:
    hosts = [host(f"h{number:03}", number / 400) for number in range(200)]
    snapshot = group(*hosts, *(domain(f"vm{one.name}", one.name, 0.1, uuid=one.name) for one in hosts))
    book = HabitBook()
    book.update(1000.0, readings(snapshot), 30.0)
    assert with_habits(snapshot, book, Policy()).habits is None
    known = with_habits(snapshot, book, FORESEEING).habits
    assert known is not None
    assert sorted(known.of_domains) == [f"h{number:03}" for number in (*range(64), *range(136, 200))]
    every = book.habits()
    assert known == replace(every, of_domains={uuid: every.of_domains[uuid] for uuid in known.of_domains})
    full = replace(hosts[-1], cpu_ratio=(0.9,))
    assert with_habits(replace(snapshot, hosts=(*hosts[:-1], full)), book, FORESEEING).habits == every
