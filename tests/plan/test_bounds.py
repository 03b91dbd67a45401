"""How many moves are made, and which domains go last."""

from __future__ import annotations

from dataclasses import replace

import pytest

from builders import GIB, domain, group, host, where
from virtpoise_balancer.explain import wording
from virtpoise_balancer.model import Domain, Host, HostState, Imbalance, Limits, Policy, Reason, Rule, Snapshot
from virtpoise_balancer.plan import plan

LAST = Rule(name="critical", kind="last", domains=("db*",))


def sixteen(name: str, load: float, state: HostState = HostState.ACTIVE) -> Host:
    return host(name, load, load, load, cpus=16, memory_bytes=64 * GIB, memory_used_bytes=16 * GIB, state=state)


def hot(*more: Domain, time: float = 1e6) -> Snapshot:
    """h1 needs to lose three of its eight domains."""
    eight = (domain(f"w{number}", "h1", 1.8, memory_bytes=4 * GIB) for number in range(8))
    return group(sixteen("h1", 0.95), sixteen("h2", 0.2), sixteen("h3", 0.2), *eight, *more, time=time)


def bound(**limits: int) -> Policy:
    return Policy(limits=Limits(**limits))


@pytest.mark.parametrize("most", [1, 2])
def test_a_plan_has_no_more_moves_than_it_may(most: int) -> None:
    free = plan(hot(), Policy())
    made = plan(hot(), bound(per_plan=most))
    assert len(free.moves) == 3
    assert [move.domain for move in made.moves] == [move.domain for move in free.moves][:most]
    assert not made.solved
    left = [one for one in made.refusals if one.reason is Reason.MOVE_LIMIT]
    assert {one.domain for one in left} == {move.domain for move in free.moves[most:]}
    assert "as many domains as the policy allows are moved already" in wording.refusal(left[0])
    assert where(plan(hot(), bound(per_plan=3))) == where(free)


def test_an_hour_has_no_more_moves_than_it_may() -> None:
    moved = [
        domain(f"m{number}", "h2", 0.1, last_moved=1e6 - ago, recent_moves=1)
        for number, ago in enumerate((60, 3500, 3700))
    ]
    assert len(plan(hot(*moved), bound(per_hour=6)).moves) == 3
    assert len(plan(hot(*moved), bound(per_hour=4)).moves) == 2
    none = plan(hot(*moved), bound(per_hour=2))
    assert none.moves == ()
    assert none.summary == (
        "h1 is overloaded (CPU load 95%, 3 consecutive samples) and as many domains as the policy allows are moved already"
    )
    assert len(plan(hot(*moved, time=1e6 + 3600), bound(per_hour=2)).moves) == 2


def test_what_is_under_way_counts_within_the_hour() -> None:
    coming = domain("coming", "h2", 0.1, migrating_to="h3")
    assert len(plan(hot(coming), bound(per_hour=3)).moves) == 2


def test_a_drain_is_not_bounded() -> None:
    drained = replace(hot(), hosts=(sixteen("h1", 0.5, state=HostState.DRAINING), *hot().hosts[1:]))
    made = plan(drained, bound(per_plan=1, per_hour=1))
    assert len(made.moves) == 8
    assert made.solved


def test_repair_and_balancing_are_bounded_as_well() -> None:
    apart = Rule(name="apart", kind="apart", domains=("w0", "w1", "w2"))
    calm = replace(hot(), hosts=(sixteen("h1", 0.5), *hot().hosts[1:]))
    policy = Policy(rules=(apart,), repair_rules=True)
    assert len(plan(calm, policy).moves) == 2
    made = plan(calm, replace(policy, limits=Limits(per_plan=1)))
    assert len(made.moves) == 1
    assert not made.solved
    uneven = Policy(imbalance=Imbalance(deviation_ratio=0.05))
    assert len(plan(calm, uneven).moves) > 1
    assert len(plan(calm, replace(uneven, limits=Limits(per_plan=1))).moves) == 1


def test_a_bundle_is_moved_whole_or_not_at_all() -> None:
    pair = Rule(name="pair", kind="together", domains=("w0", "w1"))
    bundled = replace(bound(per_plan=1), rules=(pair, Rule(name="stay", kind="ignore", domains=("w[2-7]",))))
    assert plan(hot(), bundled).moves == ()
    assert len(plan(hot(), replace(bundled, limits=Limits(per_plan=2))).moves) == 2


def critical(*others: Domain) -> Snapshot:
    """The database alone would relieve h1, and is the cheapest in bytes."""
    return group(sixteen("h1", 0.9), sixteen("h2", 0.2), domain("db", "h1", 3.6, memory_bytes=GIB), *others)


def test_a_critical_domain_moves_last() -> None:
    others = tuple(domain(f"w{number}", "h1", 1.8, memory_bytes=16 * GIB) for number in range(4))
    assert where(plan(critical(*others), Policy())) == {"db": "h2"}
    made = plan(critical(*others), Policy(rules=(LAST,)))
    assert where(made) == {"w0": "h2", "w1": "h2"}
    (one,) = [refusal for refusal in made.refusals if refusal.domain == "db"]
    assert "moved last" in wording.refusal(one)


def test_it_moves_where_nothing_else_helps_or_its_host_is_drained() -> None:
    others = (domain("pinned", "h1", 8.0), domain("tiny", "h1", 0.1))
    policy = Policy(rules=(LAST, Rule(name="stay", kind="ignore", domains=("pinned",))))
    assert where(plan(critical(*others), policy)) == {"db": "h2"}
    drained = replace(critical(), hosts=(sixteen("h1", 0.3, state=HostState.DRAINING), sixteen("h2", 0.2)))
    assert where(plan(drained, Policy(rules=(LAST,)))) == {"db": "h2"}


def test_one_that_was_moved_lately_goes_before_it() -> None:
    lately = domain("lately", "h1", 3.6, memory_bytes=8 * GIB, last_moved=900.0, recent_moves=1)
    assert where(plan(critical(lately), Policy(rules=(LAST,)))) == {"lately": "h2"}


def test_balancing_leaves_it_where_it_is() -> None:
    uneven = replace(critical(), hosts=(sixteen("h1", 0.7), sixteen("h2", 0.2)))
    policy = Policy(imbalance=Imbalance())
    assert where(plan(uneven, policy)) == {"db": "h2"}
    assert where(plan(uneven, replace(policy, rules=(LAST,)))) == {}
