"""What docs/scoring.md says in passing: margins, constants and orders that no larger test would miss."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from builders import GIB, domain, group, host, where
from virtpoise_balancer.analyse.demand import estimate
from virtpoise_balancer.model import (
    Domain,
    Imbalance,
    LinkSpeed,
    MigrationCost,
    Policy,
    Reason,
    Resource,
    Rule,
    SpaceTrigger,
    Trend,
    Trigger,
)
from virtpoise_balancer.plan import plan
from virtpoise_balancer.plan.default.candidates import transfer_bytes
from virtpoise_balancer.plan.default.consider import consider
from virtpoise_balancer.plan.default.group import Group
from virtpoise_balancer.plan.default.strategy import sources_of
from virtpoise_balancer.plan.problems import find

POLICY = Policy(cpu=Trigger(threshold=0.8, consecutive=2), memory=SpaceTrigger(threshold=0.9, consecutive=2))


def test_evening_out_stops_where_a_move_gains_too_little() -> None:
    snapshot = group(host("h1", 0.7, 0.7), host("h2", 0.1, 0.1), *(domain(f"vm{i}", "h1", 0.1) for i in range(20)))
    one_move = 0.1 / 8  # what a move takes off the standard deviation of two hosts
    even = Imbalance(deviation_ratio=0.1, least_gain_ratio=one_move - 0.001)
    assert plan(snapshot, replace(POLICY, least_gain_ratio=0.0, imbalance=even)).moves
    gains_less = replace(even, least_gain_ratio=one_move + 0.001)
    assert not plan(snapshot, replace(POLICY, least_gain_ratio=0.0, imbalance=gains_less)).moves


def test_what_cannot_be_solved_is_relieved_by_the_domain_that_relieves_it_most() -> None:
    snapshot = group(
        host("h1", 1.0, 1.0),
        host("h2", 0.5, 0.5),  # takes one of the two
        domain("a", "h1", 1.2),
        domain("b", "h1", 1.6),
        domain("c", "h1", 5.0),
    )
    made = plan(snapshot, POLICY)
    assert where(made) == {"b": "h2"}
    assert not made.solved


def test_a_domain_that_arrives_needs_more_memory_than_it_has() -> None:
    almost_full = host("h2", 0.1, 0.1, memory_bytes=100 * GIB, memory_used_bytes=79 * GIB)
    snapshot = group(host("h1", 0.9, 0.9), almost_full, domain("a", "h1", 3.0, memory_bytes=10 * GIB))
    assert where(plan(snapshot, replace(POLICY, migration=MigrationCost(overhead_ratio=0.05)))) == {"a": "h2"}
    made = plan(snapshot, replace(POLICY, migration=MigrationCost(overhead_ratio=0.15)))  # 79 + 11.5 of 90
    assert not made.moves
    assert {one.reason for one in made.refusals if one.domain == "a"} == {Reason.DESTINATION_MEMORY}


def test_a_host_on_its_way_up_is_relieved_of_what_is_still_to_come() -> None:
    rising = host("h1", *(0.01 + 0.02 * i for i in range(41)))
    snapshot = group(rising, host("h2", *(0.1,) * 41), domain("a", "h1", 2.0))

    def goal(steps: int) -> float:
        policy = Policy(cpu=Trigger(threshold=0.8, consecutive=1), trend=Trend(steps=steps))
        made = Group(snapshot, policy)
        (source,) = sources_of(made, find(snapshot, policy, made.overloads).attempt, made.overloads)
        return source.goals[Resource.CPU]

    assert goal(0) == pytest.approx(0.75)
    assert goal(3) == pytest.approx(0.75 - 3 * 0.02)


@pytest.mark.parametrize(
    "rule",
    [
        Rule(name="pair", kind="apart", domains=("a", "b")),
        Rule(name="licence", kind="only_on", domains=("a",), hosts=("h2",)),
    ],
    ids=["about-domains", "about-hosts"],
)
def test_a_domain_between_two_hosts_breaks_no_rule(rule: Rule) -> None:
    hosts = host("h1", 0.2, 0.2), host("h2", 0.2, 0.2), host("h3", 0.2, 0.2)
    policy = replace(POLICY, repair_rules=True, rules=(rule,))
    made = plan(group(*hosts, domain("a", "h1"), domain("b", "h1")), policy)
    assert len(made.moves) == 1
    made = plan(group(*hosts, domain("a", "h1", migrating_to="h2"), domain("b", "h1")), policy)
    assert not made.moves
    assert not [one for one in made.refusals if one.reason is Reason.RULE_BROKEN]


def test_the_memory_that_leaves_is_between_what_is_resident_and_what_is_assigned() -> None:
    snapshot = group(
        host("h1", 0.9, 0.9, memory_bytes=10 * GIB, memory_used_bytes=6 * GIB),
        host("h2", 0.1, 0.1, memory_bytes=10 * GIB, memory_used_bytes=1 * GIB),
        domain("a", "h1", 3.0, memory_bytes=4 * GIB, memory_resident_bytes=1 * GIB),
    )
    (move,) = plan(snapshot, POLICY).moves
    left, there = move.predicted.source, move.predicted.destination
    assert (left.memory_ratio_lower, left.memory_ratio_upper) == pytest.approx((0.2, 0.5))
    assert (there.memory_ratio_lower, there.memory_ratio_upper) == pytest.approx((0.2, 0.5))


def test_together_is_kept_only_where_all_others_are() -> None:
    snapshot = group(
        *(host(f"h{i}", 0.2, 0.2) for i in range(1, 4)),
        domain("a", "h1", 0.5),
        domain("b", "h2", 0.5),
        domain("c", "h3", 0.5),
    )
    policy = replace(POLICY, rules=(Rule(name="all", kind="together", domains=("a", "b", "c")),))
    asked = consider(snapshot, policy, "uuid-of-a")
    assert asked is not None
    assert [rule.kept for one in asked.hosts for rule in one.rules] == [False, False]
    both = replace(snapshot, domains=tuple(replace(d, host="h2") if d.name == "c" else d for d in snapshot.domains))
    asked = consider(both, policy, "uuid-of-a")
    assert asked is not None
    assert {one.host: [rule.kept for rule in one.rules] for one in asked.hosts} == {"h2": [True], "h3": [False]}


@pytest.mark.parametrize(("times_as_fast", "destination"), [(1.2, "h3"), (1.3, "h2")])
def test_a_link_that_is_a_little_faster_does_not_outweigh_room(times_as_fast: float, destination: str) -> None:
    snapshot = group(host("h1", 0.85, 0.85), host("h2", 0.4, 0.4), host("h3", 0.1, 0.1), domain("a", "h1", 1.5))
    links = (
        LinkSpeed(source="h1", destination="h2", bytes_per_second=1e9 * times_as_fast),
        LinkSpeed(source="h1", destination="h3", bytes_per_second=1e9),
    )
    assert where(plan(replace(snapshot, links=links), POLICY)) == {"a": destination}


def test_a_domain_that_dirties_its_memory_faster_than_it_is_sent_costs_ten_times_its_memory() -> None:
    busy = domain("a", "h1", 1.0, memory_bytes=GIB, dirty_bytes_per_second=1e12)
    assert transfer_bytes(busy, POLICY) == pytest.approx(10 * GIB)
    assert transfer_bytes(replace(busy, dirty_bytes_per_second=50e6), POLICY) == pytest.approx(2 * GIB)


@pytest.mark.parametrize(
    ("run", "remembered"),
    [
        (1.0, True),
        (1.09, True),  # the same work takes up to a tenth more time beside others
        (1.12, True),  # and a window differs from the next by 0.015 cores a vCPU
        (1.14, False),  # this domain wants more than it did
    ],
)
def test_what_a_domain_ran_on_a_calm_host_is_believed_while_it_runs_about_as_much(run: float, remembered: bool) -> None:
    one = Domain(
        name="a",
        uuid="a",
        host="h1",
        vcpus=2,
        cpu_cores=run,
        cpu_delay_cores=0.8,
        cpu_cores_unsaturated=1.0,
        cpu_delay_cores_unsaturated=0.0,
    )
    demands = estimate([[one]], cpus=2, load=np.array([1.0]), saturated=np.array([True]))
    assert bool(demands.cores[0] == pytest.approx(max(run, 1.0))) is remembered
