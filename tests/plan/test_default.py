"""What an administrator sees of the default strategy, one situation a test."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from typing import Any

import numpy as np
import pytest

from builders import GIB, domain, group, host, shut_off, where
from virtpoise_balancer.model import (
    DomainState,
    HostLimits,
    HostState,
    Imbalance,
    Limits,
    LinkSpeed,
    Placement,
    Plan,
    Policy,
    Problem,
    Reason,
    Refusal,
    Residual,
    Resource,
    Role,
    Rule,
    SpaceTrigger,
    Trigger,
)
from virtpoise_balancer.plan import plan
from virtpoise_balancer.plan.default.consider import consider
from virtpoise_balancer.plan.default.group import Group
from virtpoise_balancer.plan.default.trial import Trial
from virtpoise_balancer.plan.waves import waves
from virtpoise_balancer.rules.check import rule_problems

POLICY = Policy(cpu=Trigger(threshold=0.8, consecutive=2), memory=SpaceTrigger(threshold=0.9, consecutive=2))


def reasons(made: Plan, name: str) -> set[Reason]:
    return {refusal.reason for refusal in made.refusals if refusal.domain == name}


def refusal(made: Plan, reason: Reason) -> Refusal:
    (found,) = [one for one in made.refusals if one.reason is reason]
    return found


def rule(kind: str, *domains: str, hosts: tuple[str, ...] = (), hard: bool = True) -> Rule:
    return Rule(name="the-rule", kind=kind, domains=domains, hosts=hosts, hard=hard)


# Enough and no more
# -----------------------------------------------------------------------------------------------------------


def test_the_cheapest_domain_that_suffices_is_moved_to_the_emptiest_host() -> None:
    made = plan(
        group(
            host("h1", 0.85, 0.85),
            host("h2", 0.4, 0.4),
            host("h3", 0.2, 0.2),
            domain("big", "h1", 3.0, memory_bytes=4 * GIB),
            domain("fit", "h1", 2.0, memory_bytes=1 * GIB),
            domain("small", "h1", 0.3, memory_bytes=GIB // 4),
        ),
        POLICY,
    )
    assert where(made) == {"fit": "h3"}
    assert made.solved
    assert made.moves[0].predicted.source.cpu_ratio == pytest.approx(0.6)
    assert made.moves[0].predicted.destination.cpu_ratio == pytest.approx(0.45)
    assert made.moves[0].predicted.source.cpu_ratio_upper <= 0.75
    assert reasons(made, "big") == {Reason.COSTLIER}
    assert reasons(made, "small") == {Reason.NOT_NEEDED}


@pytest.mark.parametrize(("consecutive", "moved"), [(2, True), (5, False)])
def test_how_far_back_a_destinations_memory_counts_is_set_for_memory(consecutive: int, moved: bool) -> None:
    """A domain that left a while ago fills its host's memory no more, however long the CPU's trigger waits."""
    emptied = host("h2", *(0.2,) * 9, memory_ratio=0.3, memory_ratio_window=(0.95, 0.95, 0.3, 0.3, 0.3))
    patient = replace(
        POLICY, cpu=Trigger(threshold=0.8, consecutive=9), memory=replace(POLICY.memory, consecutive=consecutive)
    )
    made = plan(group(host("h1", *(0.9,) * 9), emptied, domain("a", "h1", 2.4)), patient)
    assert bool(made.moves) is moved


def test_one_low_sample_makes_no_room() -> None:
    members = (host("h1", 0.9, 0.9), domain("a", "h1", 4.0))
    assert not plan(group(*members, host("h2", 0.75, 0.0)), POLICY).moves
    assert plan(group(*members, host("h2", 0.0, 0.0)), POLICY).moves


def test_several_overloaded_hosts_are_relieved_together() -> None:
    made = plan(
        group(
            host("h1", 0.9, 0.9),
            host("h2", 0.85, 0.85),
            host("h3", 0.1, 0.1),
            domain("a", "h1", 2.0),
            domain("b", "h2", 2.0),
        ),
        POLICY,
    )
    assert where(made) == {"a": "h3", "b": "h3"}
    assert [attempt.solved for attempt in made.attempts] == [True, True]
    assert made.moves[1].predicted.destination.cpu_ratio == pytest.approx(0.6)


def test_what_cannot_be_cleared_is_relieved_as_far_as_it_goes_and_the_rest_is_named() -> None:
    made = plan(
        group(host("h1", 1.0, 1.0), host("h2", 0.65, 0.65), domain("a", "h1", 5.0), domain("b", "h1", 0.8, vcpus=2)),
        POLICY,
    )
    assert where(made) == {"b": "h2"}
    assert not made.solved
    missing = refusal(made, Reason.UNSOLVED)
    assert missing.detail["missing_cores"] == pytest.approx((1.0 - 0.1 + 0.03 - 0.75) * 8, abs=0.2)
    told = refusal(made, Reason.DESTINATION_CPU)
    assert (told.domain, told.host) == ("a", "h2")
    assert told.detail["missing_cores"] > 0  # type: ignore[operator]
    assert told.detail["hosts_destination_cpu"] == 1
    assert "does not solve" in made.summary


def test_room_is_made_where_no_single_move_fits() -> None:
    made = plan(
        group(
            host("h1", 0.9, 0.9),
            host("h2", 0.55, 0.55),
            host("h3", 0.55, 0.55, memory_ratio=0.86),
            domain("a", "h1", 2.4, memory_bytes=GIB),
            domain("b", "h2", 1.5, memory_bytes=GIB // 8),
            domain("c", "h3", 0.1, memory_bytes=GIB),
        ),
        POLICY,
    )
    assert [(move.domain, move.destination) for move in made.moves] == [("b", "h3"), ("a", "h2")]
    assert made.moves[1].wave > made.moves[0].wave
    assert made.moves[0].why == "makes room for a"
    assert made.solved


# Memory and uplinks
# -----------------------------------------------------------------------------------------------------------


def test_memory_triggers_and_is_relieved() -> None:
    full = host("h1", 0.2, 0.2, memory_ratio=0.95, memory_ratio_window=(0.94, 0.95))
    made = plan(
        group(
            full,
            host("h2", 0.2, 0.2, memory_ratio=0.3),
            domain("a", "h1", 0.5, memory_bytes=2 * GIB, memory_resident_bytes=GIB),
            domain("b", "h1", 0.5, memory_bytes=GIB // 2),
        ),
        POLICY,
    )
    assert [overload.resource for overload in made.overloaded] == ["memory"]
    assert where(made) == {"a": "h2"}
    predicted = made.moves[0].predicted
    assert predicted.source.memory_ratio == pytest.approx(0.95 - 1 / 8)
    assert predicted.destination.memory_ratio == pytest.approx(0.3 + 1 / 8)
    assert predicted.destination.memory_ratio_upper == pytest.approx(0.3 + 2 / 8)


def test_one_reading_of_memory_is_not_n_in_a_row() -> None:
    made = plan(group(host("h1", 0.2, 0.2, memory_ratio=0.95), host("h2", 0.2, 0.2), domain("a", "h1", 0.5)), POLICY)
    assert made.overloaded == ()


def test_an_uplink_triggers_and_the_destinations_uplink_counts() -> None:
    made = plan(
        group(
            host("h1", 0.2, 0.2, tx_ratio=0.95, tx_ratio_window=(0.95,) * 3, uplink_bytes_per_second=125e6),
            host("h2", 0.1, 0.1, uplink_bytes_per_second=12.5e6),
            host("h3", 0.3, 0.3, uplink_bytes_per_second=1250e6),
            domain("a", "h1", 0.5, tx_bytes_per_second=50e6),
            domain("b", "h1", 0.5, tx_bytes_per_second=1e6),
        ),
        POLICY,
    )
    assert where(made) == {"a": "h3"}
    assert made.moves[0].predicted.destination.tx_ratio == pytest.approx(0.04)
    assert made.moves[0].predicted.source.tx_ratio == pytest.approx(0.55)


def test_an_uplink_is_reckoned_with_at_both_ends_of_what_a_domain_may_send() -> None:
    """A domain's traffic lies within 25 % of what was measured."""
    hot = host("h1", 0.2, 0.2, tx_ratio=0.95, tx_ratio_window=(0.95,) * 3, uplink_bytes_per_second=100e6)
    near = host("h2", 0.2, 0.2, tx_ratio=0.7, uplink_bytes_per_second=100e6)
    assert plan(group(hot, near, domain("a", "h1", tx_bytes_per_second=15e6)), POLICY).moves
    assert not plan(group(hot, near, domain("a", "h1", tx_bytes_per_second=16.5e6)), POLICY).moves
    free = host("h2", 0.2, 0.2, uplink_bytes_per_second=100e6)
    made = plan(group(hot, free, domain("a", "h1", tx_bytes_per_second=12e6)), POLICY)
    assert not made.solved  # 9 % at least leave, which is less than 10 %
    assert refusal(made, Reason.UNSOLVED).detail["tx_upper_ratio"] == pytest.approx(0.86)


@pytest.mark.parametrize("way", ["rx", "tx"])
def test_an_uplink_of_unknown_use_is_no_problem_and_no_limit(way: str) -> None:
    unknown: Any = {f"{way}_ratio": None}
    traffic: Any = {f"{way}_bytes_per_second": 200e6}
    heavy = domain("a", "h1", 2.0, **traffic)
    made = plan(group(host("h1", 0.9, 0.9), host("h2", 0.2, 0.2), heavy), POLICY)
    assert not made.moves
    made = plan(group(host("h1", 0.9, 0.9), host("h2", 0.2, 0.2, **unknown), heavy), POLICY)
    assert where(made) == {"a": "h2"}
    predicted = made.moves[0].predicted.destination
    there = [getattr(predicted, f"{way}_ratio{end}") for end in ("", "_lower", "_upper")]
    assert there == [None, None, None]
    assert made.moves[0].predicted.source.rx_ratio is not None
    made = plan(group(host("h1", 0.9, 0.9, **unknown), host("h2", 0.2, 0.2), domain("a", "h1", 2.0)), POLICY)
    assert where(made) == {"a": "h2"}
    assert [one.resource for one in made.overloaded] == ["cpu"]


def test_an_uplink_of_unknown_use_is_no_room() -> None:
    """A host is worth what is known of it: its memory, and not an idle uplink."""
    hot = host("h1", 0.9, 0.9)
    unknown: Any = {"rx_ratio": None, "tx_ratio": None}
    made = plan(group(hot, host("h2", 0.2, 0.2, memory_ratio=0.7, **unknown), domain("a", "h1", 2.0)), POLICY)
    assert made.scores.hosts["h2"] == pytest.approx(0.2 / 0.9)
    relieved = host("h3", 0.2, 0.2, tx_ratio=0.95, tx_ratio_window=(0.95,) * 3)
    others = (host("h1", 0.2, 0.2, tx_ratio=0.3), host("h2", 0.2, 0.2, **unknown))
    assert Group(group(*others, relieved), POLICY).least_use[Resource.TX.row] == 0.3


def test_a_window_alone_says_what_an_uplink_carries() -> None:
    hot = host("h1", 0.2, 0.2, tx_ratio=None, tx_ratio_window=(0.95,) * 3, uplink_bytes_per_second=100e6)
    made = plan(group(hot, host("h2", 0.2, 0.2), domain("a", "h1", tx_bytes_per_second=50e6)), POLICY)
    assert where(made) == {"a": "h2"}
    assert made.moves[0].predicted.source.tx_ratio == pytest.approx(0.45)


# Rest, gain, limits
# -----------------------------------------------------------------------------------------------------------


def resting(last_moved: float, moves: int = 1) -> Plan:
    return plan(
        group(
            host("h1", 0.85, 0.85),
            host("h2", 0.2, 0.2),
            domain("a", "h1", 2.0, last_moved=last_moved, recent_moves=moves),
            domain("b", "h1", 2.0, memory_bytes=2 * GIB),
            time=10_000.0,
        ),
        POLICY,
    )


def test_a_domain_that_was_moved_very_often_rests_for_the_longest_time() -> None:
    for moves in (8, 1_026, 10**9):
        assert refusal(resting(9_000.0, moves), Reason.RESTING).detail == {"seconds_left": 85_400.0}


def test_a_moved_domain_rests() -> None:
    made = resting(9_000.0)
    assert where(made) == {"b": "h2"}
    assert refusal(made, Reason.RESTING).detail == {"seconds_left": 800.0}


def test_after_its_rest_it_may_move_again() -> None:
    assert where(resting(8_000.0)) == {"a": "h2"}


def test_each_further_move_doubles_the_rest() -> None:
    made = resting(8_000.0, moves=2)
    assert refusal(made, Reason.RESTING).detail == {"seconds_left": 1600.0}


def test_a_resting_domain_moves_if_nothing_else_helps() -> None:
    made = plan(
        group(
            host("h1", 0.85, 0.85),
            host("h2", 0.2, 0.2),
            domain("a", "h1", 2.0, last_moved=9_990.0),
            domain("b", "h1", 0.3),
            time=10_000.0,
        ),
        POLICY,
    )
    assert where(made) == {"a": "h2"}


def test_a_resting_domain_stays_where_it_would_not_solve_it_either() -> None:
    made = plan(
        group(
            host("h1", 1.0, 1.0, cpus=16),
            host("h2", 0.2, 0.2, cpus=16),
            domain("a", "h1", 1.0, last_moved=9_990.0),
            domain("b", "h1", 1.0, memory_bytes=GIB),
            time=10_000.0,
        ),
        POLICY,
    )
    assert where(made) == {"b": "h2"}
    assert not made.solved
    assert reasons(made, "a") == {Reason.RESTING}


def test_no_more_resting_domains_move_than_must() -> None:
    made = plan(
        group(
            host("h1", 0.95, 0.95),
            host("h2", 0.1, 0.1),
            host("h3", 0.1, 0.1),
            domain("a", "h1", 1.2, last_moved=9_990.0),
            domain("b", "h1", 1.2, last_moved=9_990.0),
            domain("c", "h1", 1.2, memory_bytes=GIB),
            time=10_000.0,
        ),
        POLICY,
    )
    assert set(where(made)) == {"a", "c"}
    assert reasons(made, "b") == {Reason.RESTING}


def test_a_domain_that_would_gain_nothing_stays() -> None:
    made = plan(
        group(host("h1", 0.85, 0.85), host("h2", 0.2, 0.2), domain("a", "h1", 2.0), domain("idle", "h1", 0.01)), POLICY
    )
    assert reasons(made, "idle") == {Reason.LEAST_GAIN}


def test_where_all_domains_are_small_they_move_nevertheless() -> None:
    small = [domain(f"vm{i:03d}", "h1", 0.25) for i in range(200)]
    hosts = (host(name, *[load] * 3, cpus=64, memory_bytes=512 * GIB) for name, load in (("h1", 0.85), ("h2", 0.1)))
    made = plan(group(*hosts, *small), POLICY)
    assert made.solved
    assert 20 < len(made.moves) < 40
    stayed = next(one.name for one in small if one.name not in where(made))
    assert reasons(made, stayed) == {Reason.NOT_NEEDED}


def test_limits_in_flight_make_waves() -> None:
    members = [host("h1", 0.95, 0.95)]
    members += [domain(f"vm{i}", "h1", 0.7) for i in range(6)]  # type: ignore[misc]
    members += [host(f"to{i}", 0.2, 0.2) for i in range(4)]
    made = plan(group(*members), POLICY)
    assert [move.wave for move in made.moves] == [0, 1, 2]
    wide = replace(POLICY, limits=Limits(per_source=2, per_destination=1, total=2))
    assert [move.wave for move in plan(group(*members), wide).moves] == [0, 0, 1]


def test_a_move_says_what_the_uplinks_of_its_hosts_carry_where_both_are_known() -> None:
    def link(**uplinks: float | None) -> float | None:
        hosts = [host("h1", 0.85, 0.85), host("h2", 0.2, 0.2)]
        known = [replace(one, uplink_bytes_per_second=uplinks.get(one.name)) for one in hosts]
        (move,) = plan(group(*known, domain("a", "h1", 2.0)), POLICY).moves
        return move.link_bytes_per_second

    assert link(h1=125e6, h2=1250e6) == 125e6
    assert link(h1=125e6) is None
    assert link() is None


def test_a_move_says_what_earlier_migrations_between_its_hosts_let_expect() -> None:
    snapshot = group(host("h1", 0.85, 0.85), host("h2", 0.2, 0.2), domain("a", "h1", 2.0))
    (move,) = plan(snapshot, POLICY).moves
    assert (move.seconds, move.downtime_seconds) == (None, None)
    link = LinkSpeed(source="h1", destination="h2", bytes_per_second=50e6, downtime_seconds=0.4)
    (move,) = plan(replace(snapshot, links=(link,)), POLICY).moves
    assert (move.seconds, move.downtime_seconds) == ((move.cost_bytes or 0) / 50e6, 0.4)
    (unlike,) = plan(replace(snapshot, links=(replace(link, source="h2", destination="h1"),)), POLICY).moves
    assert (unlike.seconds, unlike.downtime_seconds) == (None, None)


def test_a_slow_link_is_avoided() -> None:
    snapshot = group(host("h1", 0.85, 0.85), host("h2", 0.2, 0.2), host("h3", 0.3, 0.3), domain("a", "h1", 2.0))
    assert where(plan(snapshot, POLICY)) == {"a": "h2"}
    learned = replace(snapshot, links=(LinkSpeed(source="h1", destination="h2", bytes_per_second=10e6),))
    assert where(plan(learned, POLICY)) == {"a": "h3"}


def test_a_link_that_was_never_tried_is_no_slow_one() -> None:
    snapshot = group(host("h1", 0.85, 0.85), host("h2", 0.5, 0.5), host("h3", 0.1, 0.1), domain("a", "h1", 1.5))
    learned = replace(snapshot, links=(LinkSpeed(source="h1", destination="h2", bytes_per_second=1e9),))
    assert where(plan(learned, POLICY)) == {"a": "h3"}


def test_a_preference_counts_for_more_than_a_faster_link() -> None:
    snapshot = group(host("h1", 0.85, 0.85), host("h2", 0.1, 0.1), host("h3", 0.3, 0.3), domain("a", "h1", 2.0))
    learned = replace(snapshot, links=(LinkSpeed(source="h1", destination="h3", bytes_per_second=10e6),))
    assert where(plan(learned, POLICY)) == {"a": "h2"}
    preferred = replace(POLICY, rules=(rule("prefer", "a", hosts=("h3",)),))
    assert where(plan(learned, preferred)) == {"a": "h3"}


def test_over_fast_links_a_dirtying_domain_is_cheap() -> None:
    snapshot = group(
        host("h1", 0.85, 0.85),
        host("h2", 0.2, 0.2),
        domain("a", "h1", 2.0, memory_bytes=GIB, dirty_bytes_per_second=80e6),
        domain("b", "h1", 2.0, memory_bytes=2 * GIB),
    )
    learned = replace(snapshot, links=(LinkSpeed(source="h1", destination="h2", bytes_per_second=1e9),))
    assert where(plan(learned, POLICY)) == {"a": "h2"}


def test_a_dirtying_domain_is_dearer() -> None:
    made = plan(
        group(
            host("h1", 0.85, 0.85),
            host("h2", 0.2, 0.2),
            domain("a", "h1", 2.0, memory_bytes=GIB, dirty_bytes_per_second=80e6),
            domain("b", "h1", 2.0, memory_bytes=2 * GIB),
        ),
        POLICY,
    )
    assert where(made) == {"b": "h2"}


def test_of_two_that_cost_about_the_same_the_one_that_does_not_empty_its_host_moves() -> None:
    made = plan(
        group(
            host("h1", 0.85, 0.85),
            host("h2", 0.1, 0.1),
            domain("most", "h1", 5.0, memory_bytes=100 * GIB // 100),
            domain("some", "h1", 1.3, memory_bytes=104 * GIB // 100),
        ),
        POLICY,
    )
    assert where(made) == {"some": "h2"}


# Where it may not go
# ----------------------------------------------------------------------------------------------------------


def test_a_host_with_too_few_cpus_is_no_destination() -> None:
    made = plan(group(host("h1", 0.9, 0.9), host("h2", 0.0, 0.0, cpus=2), domain("a", "h1", 1.0, vcpus=4)), POLICY)
    assert refusal(made, Reason.DESTINATION_CPUS).detail["vcpus"] == 4


def test_a_name_that_is_taken_is_no_destination() -> None:
    made = plan(group(host("h1", 0.9, 0.9), host("h2", 0.0, 0.0), domain("a", "h1", 2.0), shut_off("a", "h2")), POLICY)
    assert not made.moves  # two domains of one name and, here, of one uuid-builder


def test_two_domains_of_one_name_do_not_meet() -> None:
    made = plan(
        group(
            host("h1", 0.9, 0.9),
            host("h2", 0.9, 0.9),
            host("h3", 0.0, 0.0),
            host("h4", 0.1, 0.1),
            domain("a", "h1", 2.0, uuid="1"),
            domain("a", "h2", 2.0, uuid="2"),
        ),
        POLICY,
    )
    assert sorted(move.destination for move in made.moves) == ["h3", "h4"]


def test_two_domains_of_one_name_do_not_meet_where_one_is_arriving() -> None:
    made = plan(
        group(
            host("h1", 0.9, 0.9),
            host("h2", 0.0, 0.0, memory_ratio=0.1),
            host("h3", 0.1, 0.1),
            host("h4", 0.2, 0.2),
            domain("a", "h1", 2.0, uuid="1"),
            domain("a", "h3", 0.1, uuid="2", migrating_to="h2"),
        ),
        POLICY,
    )
    assert where(made) == {"a": "h4"}


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (HostState.UNKNOWN, Reason.HOST_UNKNOWN),
        (HostState.DRAINING, Reason.HOST_DRAINING),
        (HostState.STANDBY, Reason.HOST_STANDBY),
    ],
)
def test_the_state_of_a_host_can_close_it(state: HostState, reason: Reason) -> None:
    made = plan(
        group(host("h1", 0.9, 0.9), host("h2", 0.7, 0.7), host("h3", 0.0, 0.0, state=state), domain("a", "h1", 2.0)),
        POLICY,
    )
    assert not made.moves
    assert any(one.host == "h3" and one.reason is reason for one in made.refusals)


def test_a_migration_under_way_counts_at_both_ends() -> None:
    made = plan(
        group(
            host("h1", 0.9, 0.9),
            host("h2", 0.3, 0.3),
            domain("a", "h1", 2.0, migrating_to="h2"),
            domain("b", "h1", 2.0),
        ),
        POLICY,
    )
    assert made.moves == ()
    assert made.solved  # by the one under way, as far as is known
    assert [(one.host, one.reason, one.detail) for one in made.refusals] == [
        ("h1", Reason.WAITING, {"until": "the migration of a"})
    ]
    full = plan(
        group(
            host("h1", 0.9, 0.9),
            host("h2", 0.5, 0.5),
            host("h3", 0.2, 0.2),
            domain("a", "h3", 1.5, migrating_to="h2"),
            domain("b", "h1", 2.0),
        ),
        POLICY,
    )
    assert where(full) == {"b": "h3"}


@pytest.mark.parametrize("more", [{"memory_bytes": 3 * GIB}, {"vcpus": 4}])
def test_what_arrives_from_an_unknown_host_takes_its_room(more: dict[str, int]) -> None:
    made = plan(
        group(
            host("h1", 0.9, 0.9),
            host("h2", 0.3, 0.3),
            host("h3", state=HostState.UNKNOWN),
            domain("a", "h1", 2.0),
            domain("b", "h3", migrating_to="h2", **more),
        ),
        POLICY,
    )
    assert not made.moves


def test_migrations_under_way_count_towards_the_limits() -> None:
    assert waves([(0, 1), (0, 2)], Limits()) == [0, 1]
    assert waves([(0, 1)], Limits(), [(3, 1)]) == [1]  # to the same host
    assert waves([(0, 1)], Limits(), [(0, None)]) == [1]  # from the same host, to one that is not in the group
    assert waves([(0, 1)], Limits(total=2), [(3, 4), (5, 6)]) == [1]
    seen = group(
        host("h1", 0.5, 0.5),
        host("h2", 0.3, 0.3),
        host("h3", 0.9, 0.9),
        host("h4", 0.3, 0.3),
        domain("a", "h1", 0.2, migrating_to="h2"),
        domain("b", "h3", 2),
    )
    for total, wave in ((2, 0), (1, 1)):
        made = plan(seen, replace(POLICY, limits=Limits(total=total)))
        assert [(move.domain, move.destination, move.wave) for move in made.moves] == [("b", "h4", wave)]


def test_a_host_that_others_are_on_their_way_to_takes_more_only_if_that_solves_more() -> None:
    seen = group(
        host("h1", 0.5, 0.5),
        host("h2", 0.1, 0.1),
        host("h3", 0.9, 0.9),
        host("h4", 0.4, 0.4),
        domain("a", "h1", 0.2, migrating_to="h2"),
        domain("b", "h3", 2),
    )
    assert where(plan(seen, POLICY)) == {"b": "h4"}
    fuller = replace(seen, hosts=(host("h1", 0.7, 0.7), *seen.hosts[1:3], host("h4", 0.7, 0.7)))
    assert where(plan(fuller, POLICY)) == {"b": "h2"}
    roomy = replace(POLICY, limits=Limits(per_destination=2))
    assert where(plan(seen, roomy)) == {"b": "h2"}


def test_the_order_of_those_under_way_decides_nothing() -> None:
    arriving = [domain(f"vm{i}", "h1", cores, migrating_to="h2") for i, cores in enumerate((0.1, 0.2, 0.3, 0.7))]
    uses = set()
    for order in permutations(arriving):
        seen = Group(group(host("h1", 0.5, 0.5), host("h2", 0.1, 0.1), *order), POLICY)
        uses.add(Trial(seen, [], np.zeros(2, dtype=np.bool_)).use.tobytes())
    assert len(uses) == 1


def test_a_host_on_its_way_up_is_no_destination() -> None:
    rising = host("h2", *(0.02 * i for i in range(36)))  # 0.70 now, above the threshold in a moment
    made = plan(group(host("h1", *(0.85,) * 36), rising, domain("a", "h1", 1.0)), POLICY)
    assert not made.moves
    flat = host("h2", *(0.5,) * 36)
    assert plan(group(host("h1", *(0.85,) * 36), flat, domain("a", "h1", 1.0)), POLICY).moves


def test_a_host_on_its_way_up_is_not_left_until_it_is_too_late() -> None:
    rising = host("h1", *(0.01 + 0.02 * i for i in range(41)))  # 0.81: the first reading at the threshold, going on up
    jump = host("h1", *(0.2,) * 40, 0.81)
    others = (host("h2", *(0.1,) * 41), domain("a", "h1", 2.0))
    policy = replace(POLICY, cpu=Trigger(threshold=0.8, consecutive=3))
    assert plan(group(rising, *others), policy).moves
    assert not plan(group(jump, *others), policy).moves


# Drains
# --------------------------------------------------------------------------------------------------------------------


def test_a_drain_moves_everything_that_runs() -> None:
    made = plan(
        group(
            host("h1", 0.5, 0.5, state=HostState.DRAINING),
            host("h2", 0.2, 0.2),
            host("h3", 0.1, 0.1),
            domain("a", "h1", 2.0),
            domain("b", "h1", 0.001),
            domain("c", "h1", 1.0, last_moved=999.0),
        ),
        POLICY,
    )
    assert set(where(made)) == {"a", "b", "c"}
    assert [(attempt.problem, attempt.solved) for attempt in made.attempts] == [(Problem.DRAIN, True)]


def test_a_drain_that_does_not_end_says_what_stays() -> None:
    made = plan(
        group(
            host("h1", 0.5, 0.5, state=HostState.DRAINING),
            host("h2", 0.5, 0.5),
            domain("a", "h1", 1.0),
            domain("paused", "h1", state=DomainState.PAUSED),
            domain("big", "h1", 2.5),
        ),
        POLICY,
    )
    assert where(made) == {"a": "h2"} or where(made) == {"big": "h2"}
    assert not made.solved
    assert reasons(made, "paused") == {Reason.NOT_RUNNING}
    assert refusal(made, Reason.UNSOLVED).host == "h1"


def test_alone_in_the_group_nothing_is_attempted() -> None:
    made = plan(group(host("h1", 0.9, 0.9), domain("a", "h1", 2.0)), POLICY)
    assert refusal(made, Reason.ALONE).host == "h1"
    assert not made.solved


# Rules
# --------------------------------------------------------------------------------------------------------------------

HOT = host("h1", 0.9, 0.9)
A, B = domain("a", "h1", 2.0), domain("b", "h1", 2.2, memory_bytes=GIB)


def ruled(*rules: Rule, members: tuple[object, ...] = (), **more: object) -> Plan:
    cold = (host("h2", 0.1, 0.1), host("h3", 0.3, 0.3))
    return plan(group(HOT, *cold, A, B, *members), replace(POLICY, rules=rules, **more))  # type: ignore[arg-type]


def test_keep_apart() -> None:
    assert where(ruled()) == {"a": "h2"}
    apart = rule("apart", "a", "c")
    assert where(ruled(apart, members=(domain("c", "h2", 0.1),))) == {"a": "h3"}


def test_keep_together_moves_a_bundle() -> None:
    hotter = plan(
        group(host("h1", 0.9, 0.9), host("h2", 0.1, 0.1), A, domain("b", "h1", 1.0)),
        replace(POLICY, rules=(rule("together", "a", "b"),)),
    )
    assert where(hotter) == {"a": "h2", "b": "h2"}
    assert {move.bundle for move in hotter.moves} == {"a"}


def test_a_bundle_with_a_domain_that_must_stay_stays() -> None:
    made = ruled(rule("together", "a", "idle"), rule("ignore", "idle"), members=(domain("idle", "h1"),))
    assert where(made) == {"b": "h2"}
    assert refusal(made, Reason.RULE_TOGETHER).detail == {"with": "idle"}
    assert refusal(made, Reason.RULE_IGNORE).domain == "idle"


@pytest.mark.parametrize(
    "one",
    [
        rule("only_on", "a", hosts=("h1", "h3")),
        rule("never_on", "a", hosts=("h2",)),
        rule("prefer", "a", hosts=("h3",)),
        rule("never_on", "?", hosts=("*2",)),
        rule("never_on", "uuid-of-a", hosts=("h2",), hard=False),
    ],
)
def test_rules_about_hosts_choose_the_destination(one: Rule) -> None:
    assert where(ruled(one)) == {"a": "h3"}


def test_a_soft_rule_gives_way_where_nothing_else_helps() -> None:
    soft = rule("never_on", "a", "b", hosts=("h2", "h3"), hard=False)
    assert where(ruled(soft)) == {"a": "h2"}
    assert not ruled(replace(soft, hard=True)).moves


def test_a_soft_bond_makes_a_domain_dearer() -> None:
    friend = domain("friend", "h1", 0.1)
    cheap_b = domain("b", "h1", 2.2, memory_bytes=int(1.5 * A.memory_bytes))
    snapshot = group(HOT, host("h2", 0.1, 0.1), A, cheap_b, friend)
    soft = replace(POLICY, rules=(rule("together", "a", "friend", hard=False),))
    assert where(plan(snapshot, POLICY)) == {"a": "h2"}
    assert where(plan(snapshot, soft)) == {"b": "h2"}


def test_a_domains_own_metadata_rules_as_well() -> None:
    shy = replace(A, placement=Placement(ignore=True))
    made = plan(group(HOT, host("h2", 0.1, 0.1), shy, B), POLICY)
    assert where(made) == {"b": "h2"}
    apart = replace(A, placement=Placement(apart=("db",)))
    db = replace(POLICY, rules=(replace(rule("apart", "c*"), name="db"),))
    snapshot = group(HOT, host("h2", 0.1, 0.1), host("h3", 0.3, 0.3), apart, domain("c", "h2", 0.1))
    assert where(plan(snapshot, db)) == {"a": "h3"}


def test_rules_that_hold_or_are_broken_cause_no_move() -> None:
    calm = group(host("h1", 0.5, 0.5), host("h2", 0.1, 0.1), A, B)
    rules = (rule("never_on", "a", hosts=("h1",)), replace(rule("apart", "a", "b"), name="other"))
    made = plan(calm, replace(POLICY, rules=rules))
    assert made.moves == ()
    assert reasons(made, "a") == {Reason.RULE_BROKEN}


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (rule("never_on", "a", hosts=("h1",)), {"a": "h2"}),
        (rule("apart", "a", "b"), {"a": "h2"}),
        (rule("together", "b", "c"), {"c": "h1"}),
    ],
)
def test_broken_rules_are_repaired_where_the_policy_says_so(one: Rule, expected: dict[str, str]) -> None:
    calm = group(host("h1", 0.4, 0.4), host("h2", 0.1, 0.1), A, B, domain("c", "h2", 0.5))
    made = plan(calm, replace(POLICY, rules=(one,), repair_rules=True))
    assert where(made) == expected
    assert [(attempt.problem, attempt.solved) for attempt in made.attempts] == [(Problem.RULE, True)]
    assert "the-rule" in made.moves[0].why


def test_a_rule_that_cannot_be_repaired_is_named_but_no_attempt() -> None:
    """An attempt in each cycle would renew the penalty of its host, and its overload would never be relieved."""
    calm = group(host("h1", 0.4, 0.4), host("h2", 0.79, 0.79), A)
    made = plan(calm, replace(POLICY, rules=(rule("never_on", "a", hosts=("h1",)),), repair_rules=True))
    assert (made.attempts, made.moves, made.solved) == ((), (), False)
    assert made.summary == "the rule the-rule stays broken"
    assert reasons(made, "a") == {Reason.RULE_BROKEN}


@pytest.mark.parametrize(
    ("policy", "summary"),
    [
        (Policy(), "3 consecutive samples at or above a threshold (CPU 80%, memory 90%, uplink 90%)"),
        (Policy(strategy="thesis"), "3 consecutive samples at or above a threshold (CPU 80%)"),
        (
            replace(POLICY, network=SpaceTrigger(threshold=0.7, consecutive=5)),
            "enough consecutive samples at or above a threshold (CPU: 2 at 80%, memory: 2 at 90%, uplink: 5 at 70%)",
        ),
        (
            Policy(strategy="thesis", cpu=Trigger(threshold=0.6, consecutive=1)),
            "1 sample at or above a threshold (CPU 60%)",
        ),
        (
            Policy(hosts=(HostLimits(hosts=("h1",), cpu=0.7),)),
            "3 consecutive samples at or above a threshold (CPU 80%, memory 90%, uplink 90%, or the host's own)",
        ),
    ],
)
def test_a_plan_of_a_calm_group_names_all_that_is_watched(policy: Policy, summary: str) -> None:
    calm = group(host("h1", 0.1, 0.1), host("h2", 0.1, 0.1))
    assert plan(calm, policy).summary == f"no host has had {summary}; nothing to do"


def test_the_summary_names_the_problem() -> None:
    calm = group(host("h1", 0.4, 0.4), host("h2", 0.1, 0.1), A)
    made = plan(calm, replace(POLICY, rules=(rule("never_on", "a", hosts=("h1",)),), repair_rules=True))
    assert made.summary == "a rule is broken on h1: move a to h2"
    uneven = group(host("h1", 0.7, 0.7), host("h2", 0.1, 0.1), A)
    made = plan(uneven, replace(POLICY, imbalance=Imbalance(deviation_ratio=0.2)))
    assert (
        made.summary == "the group is uneven and h1 its busiest host: move a to h2 (h1's CPU load is predicted at 45%)"
    )
    made = plan(group(HOT, host("h2", 0.1, 0.1), A), POLICY)
    assert made.summary == (
        "h1 is overloaded (CPU load 90%, 2 consecutive samples): move a to h2 (h1's CPU load is predicted at 65%)"
    )
    made = plan(group(replace(HOT, state=HostState.DRAINING), host("h2", 0.1, 0.1), A), POLICY)
    assert made.summary == "h1 is draining: move a to h2"


def test_each_domain_of_a_bundle_that_nobody_takes_has_a_reason() -> None:
    made = plan(group(HOT, host("h2", 0.6, 0.6), A, B), replace(POLICY, rules=(rule("together", "a", "b"),)))
    assert reasons(made, "a") == reasons(made, "b") == {Reason.DESTINATION_CPU}


def test_the_search_prefers_as_well() -> None:
    """Room must be made on h2 (see above); b goes where it would rather be, not to the emptier host."""
    snapshot = group(
        host("h1", 0.9, 0.9),
        host("h2", 0.55, 0.55),
        host("h3", 0.55, 0.55),
        host("h4", 0.56, 0.56),
        domain("a", "h1", 2.4, memory_bytes=GIB),
        domain("b", "h2", 1.5, memory_bytes=GIB // 8),
    )
    assert where(plan(snapshot, POLICY)) == {"b": "h3", "a": "h2"}
    preferred = replace(POLICY, rules=(rule("prefer", "b", hosts=("h4",)),))
    assert where(plan(snapshot, preferred)) == {"b": "h4", "a": "h2"}


def test_a_domain_that_moves_anyway_goes_where_its_broken_rule_is_kept() -> None:
    made = ruled(rule("never_on", "a", hosts=("h1", "h2")))
    assert where(made) == {"a": "h3"}


@pytest.mark.parametrize(
    "rules",
    [
        (rule("together", "a", "b"), replace(rule("apart", "a", "b"), name="other")),
        (
            rule("only_on", "a", "b", hosts=("h2",)),
            replace(rule("never_on", "a", "b", hosts=("h?",)), name="x"),
        ),
    ],
)
def test_contradictory_rules_are_named_and_their_domains_stay(rules: tuple[Rule, ...]) -> None:
    made = ruled(*rules)
    assert made.moves == ()
    assert {one.domain for one in made.refusals if one.reason is Reason.RULE_CONFLICT} == {"a", "b"}


def test_contradictory_rules_are_named_in_every_plan() -> None:
    calm = group(host("h1", 0.2, 0.2), host("h2", 0.1, 0.1), A, B)
    nowhere = replace(POLICY, rules=(rule("never_on", "a", hosts=("h?",)),))
    assert Reason.RULE_CONFLICT in reasons(plan(calm, nowhere), "a")


def test_more_domains_to_be_kept_apart_than_hosts_are_named_but_may_move() -> None:
    apart = (rule("apart", "a", "b", "c"),)
    members = (HOT, host("h2", 0.1, 0.1), A, domain("b", "h1", 0.3), domain("c", "h1", 0.3))
    made = plan(group(*members), replace(POLICY, rules=apart))
    assert where(made) == {"a": "h2"}
    told = {one.domain: one.detail for one in made.refusals if one.reason is Reason.RULE_CONFLICT}
    assert told["b"] == {"conflict": "the-rule keeps 3 domains apart, for which there are 2 hosts"}
    assert told.keys() == {"a", "b", "c"}
    fits = plan(group(*members, host("h3", 0.1, 0.1)), replace(POLICY, rules=apart))
    assert not any(one.reason is Reason.RULE_CONFLICT for one in fits.refusals)


@pytest.mark.parametrize(
    ("one", "field"),
    [
        (rule("only_on", "a"), "rules.0.hosts"),
        (rule("apart", "a", hosts=("h1",)), "rules.0.hosts"),
        (rule("apart", "a"), "rules.0.domains"),
    ],
)
def test_a_rule_that_says_nothing_is_refused(one: Rule, field: str) -> None:
    found = next(rule_problems(replace(POLICY, rules=(one,))))
    assert found.startswith(f"{field}: expected ")


# Imbalance, learning
# ----------------------------------------------------------------------------------------------------------


def test_an_uneven_group_is_evened_out_only_if_wanted() -> None:
    snapshot = group(host("h1", 0.7, 0.7), host("h2", 0.1, 0.1), *(domain(f"vm{i}", "h1", 1.0) for i in range(5)))
    assert plan(snapshot, POLICY).moves == ()
    made = plan(snapshot, replace(POLICY, imbalance=Imbalance(deviation_ratio=0.2)))
    assert set(where(made).values()) == {"h2"}
    assert len(made.moves) == 1
    assert "standard deviation" in made.moves[0].why
    assert [attempt.problem for attempt in made.attempts] == [Problem.IMBALANCE]


def test_an_on_off_domain_takes_as_much_of_a_faster_host() -> None:
    """Its vCPUs are runnable for the same share of time there: it ran more while no other domain wanted the CPUs, and
    waited less.
    """
    busy = domain(
        "a", "h1", 2.0, vcpus=4, cpu_delay_cores=1.2, cpu_cores_unsaturated=3.1, cpu_delay_cores_unsaturated=0.1
    )
    # A full host tells nothing of its guests' kind, and this one is too large to go.
    neighbour = domain("b", "h1", 5.95, vcpus=12, cpu_delay_cores=6.0)
    snapshot = group(host("h1", 1.0, 1.0), host("h2", 0.5, 0.5, cpu_speed=2.0), busy, neighbour)
    made = plan(snapshot, POLICY)
    assert not made.moves
    told = next(one for one in made.refusals if one.domain == "a")
    assert (told.reason, told.host) == (Reason.DESTINATION_CPU, "h2")
    assert float(told.detail["predicted_upper_ratio"] or 0) >= 0.5 + 0.761 * 4 / 8
    there = Group(snapshot, POLICY)
    arrives = there.residents(there.index["h1"]).demands.only([0]).at_speed(2.0)
    load = there.residents(there.index["h2"]).load(np.ones((1, 0), dtype=np.bool_), [arrives])
    assert float(load.ratio[0]) == pytest.approx(0.5 + 0.761 * 4 / 8, abs=0.01)
    considered = consider(snapshot, POLICY, "uuid-of-a")
    assert considered is not None
    assert [(one.host, one.reason) for one in considered.hosts] == [("h2", Reason.DESTINATION_CPU)]


def test_what_was_predicted_too_high_throughout_is_predicted_lower_and_stays_in_its_interval() -> None:
    snapshot = group(host("h1", 0.85, 0.85), host("h2", 0.3, 0.3), domain("a", "h1", 1.5))
    too_high = tuple(
        Residual(role=Role.DESTINATION, saturated=False, error_ratio=error, spread_ratio=0.03)
        for error in (-0.03, -0.02, -0.01) * 10
    )
    (before,) = plan(snapshot, POLICY).moves
    (after,) = plan(replace(snapshot, residuals=too_high), POLICY).moves
    assert after.predicted.source == before.predicted.source
    there, formula = after.predicted.destination, before.predicted.destination.cpu_ratio
    assert there.cpu_ratio == pytest.approx(formula - 0.02)
    assert (there.cpu_ratio_lower, there.cpu_ratio_upper) == pytest.approx((formula - 0.03, formula))


def test_wide_earlier_errors_make_the_plan_more_careful() -> None:
    snapshot = group(host("h1", 0.85, 0.85), host("h2", 0.5, 0.5), domain("a", "h1", 1.5))
    assert plan(snapshot, POLICY).moves
    wrong = tuple(
        Residual(role=Role.DESTINATION, saturated=False, error_ratio=0.2, spread_ratio=0.03) for _ in range(20)
    )
    made = plan(replace(snapshot, residuals=wrong), POLICY)
    assert not made.moves
    assert refusal(made, Reason.DESTINATION_CPU).detail["predicted_upper_ratio"] == pytest.approx(0.8875, abs=0.001)
