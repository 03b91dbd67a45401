"""Penalties: 190 s, 10 s more for each further failure, cancelled by one reading below the threshold."""

from dataclasses import replace

import pytest

from builders import GIB, domain, group, host, thesis_policy
from virtpoise_balancer.analyse.backoff import Backoff, after_attempt, after_order, after_plan, relieved, with_backoffs
from virtpoise_balancer.analyse.drains import DrainOrder, with_drains
from virtpoise_balancer.model import Attempt, HostState, Penalty, Plan, Policy, Problem, Reason, Result
from virtpoise_balancer.plan import plan
from virtpoise_balancer.plan.problems import find

PENALTY = Penalty(initial_seconds=190, step_seconds=10)
POLICY = thesis_policy()


def failed(backoff: Backoff, now: float) -> Backoff:
    return after_attempt(backoff, solved=False, now=now, counted_from=now, penalty=PENALTY)


def test_penalties_grow_by_a_step_with_each_failure() -> None:
    backoff = Backoff(host="h1")
    lengths = []
    for now in (1000.0, 2000.0, 3000.0):
        backoff = failed(backoff, now)
        lengths.append((backoff.penalty_until or 0) - now)
    assert lengths == [190, 200, 210]


def test_one_reading_below_cancels_the_penalty_and_its_growth() -> None:
    backoff = failed(failed(Backoff(host="h1"), 700.0), 960.0)
    seen = host("h1", 0.9, 0.9, 0.5, 0.9)
    after = relieved(backoff, seen, group(seen), POLICY)
    assert (after.penalty_until, after.failures) == (None, 0)
    assert (failed(after, 1000.0).penalty_until or 0) - 1000.0 == 190


def test_a_reading_below_from_before_the_penalty_cancels_nothing() -> None:
    """Time 1000, step 10: the low reading covers 970-980, the penalty began at 975."""
    backoff = failed(Backoff(host="h1"), 975.0)
    seen = host("h1", 0.5, 0.9, 0.9)
    assert relieved(backoff, seen, group(seen), POLICY) == backoff


def test_an_idle_cpu_does_not_cancel_the_penalty_of_a_full_memory_or_uplink() -> None:
    backoff = failed(Backoff(host="h1"), 960.0)
    for full in (
        {"memory_ratio": 0.95},
        {"memory_ratio_window": (0.95, 0.95)},
        {"rx_ratio_window": (0.2, 0.95)},
        {"tx_ratio_window": (0.2, 0.95)},
        {"cpu_ratio": (0.2, 0.85)},
    ):
        seen = replace(host("h1", 0.2, 0.2), **({"memory_used_bytes": 8 * GIB} if "memory_ratio" in full else full))
        assert relieved(backoff, seen, group(seen), Policy()) == backoff
    seen = host("h1", 0.2, 0.2, memory_ratio_window=(0.95, 0.85))
    assert relieved(backoff, seen, group(seen), Policy()).penalty_until is None


def test_the_thesis_looks_at_the_cpu_alone() -> None:
    backoff = failed(Backoff(host="h1"), 960.0)
    seen = host("h1", 0.2, 0.9, memory_ratio=0.99, tx_ratio_window=(0.99, 0.99))
    assert relieved(backoff, seen, group(seen), POLICY).penalty_until is None


def test_a_host_that_waits_with_a_full_memory_says_so() -> None:
    full = host("h1", 0.2, 0.2, memory_ratio_window=(0.95, 0.95), penalty_until=1100.0)
    seen = group(full, host("h2", 0.1, 0.1), domain("a", "h1", 1.0))
    assert [(one.host, one.reason) for one in find(seen, Policy(), ()).held] == [("h1", Reason.PENALTY)]
    assert find(seen, POLICY, ()).held == ()


@pytest.mark.parametrize("problem", [Problem.RULE, Problem.IMBALANCE])
def test_a_rule_or_imbalance_that_stays_leaves_the_penalty_alone(problem: Problem) -> None:
    before = {"h1": failed(Backoff(host="h1"), 700.0)}
    attempts = (Attempt(host="h1", problem=problem, solved=False),)
    made = Plan(strategy="default", solved=False, summary="", attempts=attempts)
    assert after_plan(before, ["h1", "h2"], made, (), ended=1000.0, counted_from=1005.0, penalty=PENALTY) == {}


def test_a_draining_hosts_low_load_does_not_cancel_its_penalty() -> None:
    backoff = failed(Backoff(host="h1"), 960.0)
    seen = host("h1", 0.1, 0.1, state=HostState.DRAINING)
    assert relieved(backoff, seen, group(seen), POLICY) == backoff


def test_after_a_plan_with_moves_all_hosts_count_afresh_and_only_the_unsolved_is_penalised() -> None:
    snapshot = group(host("h1", 0.9, 0.9), host("h2", 0.1, 0.1), domain("a", "h1", 3.0))
    made = plan(snapshot, POLICY)
    assert made.solved
    for results, penalised in (((Result.DONE,), False), ((Result.FAILED,), True), ((Result.SKIPPED,), False)):
        after = after_plan({}, ["h1", "h2"], made, results, ended=1010.0, counted_from=1015.0, penalty=PENALTY)
        assert {name: backoff.counted_from for name, backoff in after.items()} == {"h1": 1015.0, "h2": 1015.0}
        assert (after["h1"].penalty_until == 1200.0) is penalised
        assert after["h2"].penalty_until is None


def test_an_attempt_that_was_cut_off_earns_no_penalty_even_where_the_plan_did_not_solve_it() -> None:
    seen = group(host("h1", 0.95, 0.95), host("h2", 0.4, 0.4), domain("a", "h1", 1.0), domain("b", "h1", 4.0))
    made = plan(seen, POLICY)
    assert made.moves
    assert not made.solved
    for result, penalised in ((Result.DONE, True), (Result.FAILED, True), (Result.SKIPPED, False)):
        results = (result,) * len(made.moves)
        after = after_plan({}, ["h1"], made, results, ended=1010.0, counted_from=1015.0, penalty=PENALTY)
        assert (after["h1"].penalty_until is not None) is penalised


@pytest.mark.parametrize(
    ("result", "failures", "until"), [(Result.DONE, 0, 1010), (Result.DONE, 1, 1210), (Result.FAILED, 0, 1200)]
)
def test_a_first_attempt_that_relieved_its_host_in_part_is_followed_by_another_at_once(
    result: Result, failures: int, until: float
) -> None:
    seen = group(host("h1", 0.95, 0.95), host("h2", 0.4, 0.4), domain("a", "h1", 1.0), domain("b", "h1", 4.0))
    made = plan(seen, POLICY)
    assert not made.solved
    before = {"h1": Backoff(host="h1", failures=failures)}
    after = after_plan(
        before,
        [],
        made,
        (result,) * len(made.moves),
        ended=1010.0,
        counted_from=1015.0,
        penalty=PENALTY,
        second_try=True,
    )
    assert (after["h1"].penalty_until, after["h1"].failures) == (until, failures + 1)
    assert Policy().traits.second_try
    assert not POLICY.traits.second_try


def test_a_plan_without_moves_penalises_its_host_and_leaves_the_others_alone() -> None:
    made = plan(group(host("h1", 0.9, 0.9), host("h2", 0.55, 0.55), domain("a", "h1", 3.0)), POLICY)
    after = after_plan({}, ["h1", "h2"], made, (), ended=1000.0, counted_from=1005.0, penalty=PENALTY)
    assert list(after) == ["h1"]
    assert after["h1"].penalty_until == 1190.0


def test_what_is_remembered_goes_into_the_snapshot_so_that_it_alone_decides() -> None:
    snapshot = group(host("h1", 0.9, 0.9, 0.9), host("h2", 0.1, 0.1, 0.1), domain("a", "h1", 3.0))
    assert plan(with_backoffs(snapshot, {}), POLICY).moves
    backoff = Backoff(host="h1", counted_from=985.0)
    assert not plan(with_backoffs(snapshot, {"h1": backoff}), POLICY).attempts


def test_readings_from_before_the_group_had_a_second_host_do_not_count() -> None:
    newcomer = group(host("h1", 0.9, 0.9, 0.9), host("h2", 0.1), domain("a", "h1", 3.0))
    assert not plan(with_backoffs(newcomer, {}), POLICY).attempts
    later = group(host("h1", 0.9, 0.9, 0.9), host("h2", 0.1, 0.1), domain("a", "h1", 3.0))
    assert plan(with_backoffs(later, {}), POLICY).moves


def test_only_an_active_host_is_marked_draining() -> None:
    orders = {name: DrainOrder(host=name, draining=name != "h4", at=1.0) for name in ("h1", "h2", "h4")}
    seen = with_drains(
        group(host("h1", 0.1), host("h2", state=HostState.UNKNOWN), host("h3", 0.1), host("h4", 0.1)), orders
    )
    assert [h.state for h in seen.hosts] == [
        HostState.DRAINING,
        HostState.UNKNOWN,
        HostState.ACTIVE,
        HostState.ACTIVE,
    ]


@pytest.mark.parametrize("draining", [True, False])
def test_an_order_ends_the_penalty_that_began_before_it_and_no_later_one(draining: bool) -> None:
    backoff = failed(Backoff(host="h1"), 1000.0)
    later = DrainOrder(host="h1", draining=draining, at=1005.0)
    assert after_order(backoff, later) == Backoff(host="h1", counted_from=1000.0)
    assert after_order(backoff, replace(later, at=999.0)) == backoff
    assert after_order(backoff, None) == backoff
