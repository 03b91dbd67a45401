"""What failed teaches: a failed pair of domain and destination is in back-off, a domain that does not converge moves
last.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from builders import domain, group, host
from virtpoise_balancer.analyse.drains import DrainOrder
from virtpoise_balancer.analyse.learned import attempts_after_orders
from virtpoise_balancer.explain.explain import explain
from virtpoise_balancer.formats import read_snapshot, write_snapshot
from virtpoise_balancer.model import (
    Domain,
    FailedAttempts,
    HostState,
    MigrationBackoff,
    Policy,
    Reason,
    Refusal,
    Snapshot,
    Trigger,
)
from virtpoise_balancer.plan import plan
from virtpoise_balancer.plan.recheck import obstacle

POLICY = Policy(cpu=Trigger(threshold=0.8, consecutive=2), backoff=MigrationBackoff(initial_seconds=600.0))
TO_H2 = FailedAttempts(uuid="uuid-of-a", destination="h2", failures=1, failed_at=900.0, why="the CPU lacks avx")
SLOW = FailedAttempts(uuid="uuid-of-a", failures=1, failed_at=900.0, why="aborted: longer than 600 s")


def three(*domains: Domain, attempts: tuple[FailedAttempts, ...] = (), time: float = 1000.0) -> Snapshot:
    hosts = (host("h1", 0.9, 0.9), host("h2", 0.1, 0.1), host("h3", 0.2, 0.2))
    return replace(group(*hosts, *domains, time=time), attempts=attempts)


def went(snapshot: Snapshot, policy: Policy = POLICY) -> list[tuple[str, str]]:
    return [(move.domain, move.destination) for move in plan(snapshot, policy).moves]


def test_a_domain_that_failed_to_one_host_goes_to_the_next_best() -> None:
    a = domain("a", "h1", 3.0)
    assert went(three(a)) == [("a", "h2")]
    assert went(three(a, attempts=(TO_H2,))) == [("a", "h3")]


def test_other_domains_still_go_there() -> None:
    a, b = domain("a", "h1", 3.0, memory_bytes=2**20), domain("b", "h1", 3.0)
    assert went(three(a, b)) == [("a", "h2")]
    both = (TO_H2, replace(TO_H2, destination="h3"))
    assert went(three(a, b, attempts=both)) == [("b", "h2")]


@pytest.mark.parametrize(
    ("failures", "seconds"), [(1, 600.0), (2, 1200.0), (4, 4800.0), (50, 43200.0), (5000, 43200.0)]
)
def test_the_back_off_grows_with_each_failure_and_is_bounded(failures: int, seconds: float) -> None:
    attempts = (replace(TO_H2, failures=failures, failed_at=1000.0),)
    a = domain("a", "h1", 3.0)
    assert went(three(a, attempts=attempts, time=1000.0 + seconds - 1)) == [("a", "h3")]
    assert went(three(a, attempts=attempts, time=1000.0 + seconds)) == [("a", "h2")]


def test_a_pair_that_failed_meanwhile_is_found_before_the_move_begins() -> None:
    seen = three(domain("a", "h1", 3.0))
    (move,) = plan(seen, POLICY).moves
    found = obstacle(move, replace(seen, attempts=(TO_H2,)), POLICY)
    assert isinstance(found, Refusal)
    assert (found.reason, found.detail["why"]) == (Reason.BACKOFF, "the CPU lacks avx")


def test_a_domain_that_does_not_converge_goes_nowhere_in_its_back_off_and_last_after_it() -> None:
    a, b = domain("a", "h1", 3.0), domain("b", "h1", 3.0, memory_bytes=2**30)
    assert went(three(a, b)) == [("a", "h2")]  # the cheapest
    assert went(three(a, attempts=(SLOW,))) == []
    (refusal,) = [one for one in plan(three(a, attempts=(SLOW,)), POLICY).refusals if one.uuid == "uuid-of-a"]
    assert (refusal.reason, refusal.detail["seconds_left"]) == (Reason.NOT_CONVERGING, 500.0)
    assert went(three(a, b, attempts=(SLOW,), time=2000.0)) == [("b", "h2")]
    assert went(three(a, attempts=(SLOW,), time=2000.0)) == [("a", "h2")]  # nothing else helps


def test_the_reason_is_explained_with_libvirts_own_words() -> None:
    seen = three(domain("a", "h1", 3.0), attempts=(TO_H2, replace(TO_H2, destination="h3", failures=2)))
    made = plan(seen, POLICY)
    assert not made.moves
    (told,) = explain(seen, POLICY, made, "a")
    reasons = {one.host: one.why for one in told.destinations}
    assert reasons["h2"] == (
        "it is in back-off there after a failed migration (failures in a row: 1, 8 min 20 s left, the CPU lacks avx)"
    )
    assert "failures in a row: 2" in reasons["h3"]


def test_a_drain_does_not_send_it_there_either_until_it_is_ordered_anew() -> None:
    draining = (host("h1", 0.3, 0.3, state=HostState.DRAINING), host("h2", 0.1, 0.1), domain("a", "h1", 1.0))
    seen = replace(group(*draining), attempts=(TO_H2,))
    assert went(seen) == []
    for at, kept in ((899.0, (TO_H2,)), (901.0, ())):
        orders = {"h1": DrainOrder(host="h1", draining=True, at=at)}
        assert attempts_after_orders((TO_H2,), seen, orders) == kept
    assert attempts_after_orders((TO_H2,), seen, {"h1": DrainOrder(host="h1", draining=False, at=901.0)}) == (TO_H2,)


def test_attempts_are_in_the_file_of_a_snapshot_and_a_file_without_them_is_read() -> None:
    seen = three(domain("a", "h1", 3.0), attempts=(TO_H2, SLOW))
    assert read_snapshot(write_snapshot(seen), "x.json") == seen
