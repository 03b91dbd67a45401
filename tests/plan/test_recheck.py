"""The last look before a planned move: it must still be wanted, and fit by the planner's own rules."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import GIB, domain, group, host
from random_groups import World, busy_network, random_group
from virtpoise_balancer.model import (
    Domain,
    Host,
    HostState,
    Imbalance,
    Move,
    Plan,
    Policy,
    Problem,
    Reason,
    Refusal,
    Rule,
    Snapshot,
    Trigger,
)
from virtpoise_balancer.plan import plan
from virtpoise_balancer.plan.recheck import obstacle

POLICY = Policy(cpu=Trigger(threshold=0.8, consecutive=2))
H1, H2, A = host("h1", 0.9, 0.9), host("h2", 0.1, 0.1), domain("a", "h1", 3.0)
FULL = (Reason.DESTINATION_CPU, Reason.DESTINATION_MEMORY, Reason.HOST_OVERLOADED)


def of_two(snapshot: Snapshot, move: Move) -> Snapshot:
    """What a look before the move sees."""
    ends = (move.source, move.destination)
    return replace(
        snapshot,
        hosts=tuple(one for one in snapshot.hosts if one.name in ends),
        domains=tuple(one for one in snapshot.domains if one.host in ends),
    )


def only_move(made: Plan) -> Move:
    (move,) = made.moves
    return move


def reason(found: Refusal | str | None) -> Reason | str | None:
    return found.reason if isinstance(found, Refusal) else found


@given(st.integers(0, 100_000), st.booleans())
@settings(deadline=None, max_examples=25)
def test_a_plan_on_unchanged_figures_may_begin_with_each_move_that_needs_no_other(seed: int, network: bool) -> None:
    snapshot, policy = (busy_network if network else random_group)(seed)
    for move in plan(snapshot, policy).moves:
        if not move.needs:
            assert obstacle(move, of_two(snapshot, move), policy) is None


@given(st.integers(0, 100_000), st.sampled_from(["cpu", "memory"]))
@settings(deadline=None, max_examples=25)
def test_no_move_begins_that_would_take_its_destination_over_a_limit(seed: int, resource: str) -> None:
    """Others fill the destination after the plan was made, a little or much."""
    snapshot, policy = random_group(seed)
    for move in plan(snapshot, policy).moves:
        for level in (0.2, 0.5, 0.7, 0.89):
            filled = replace(
                snapshot,
                hosts=tuple(
                    one
                    if one.name != move.destination
                    else replace(one, cpu_ratio=(max(level, one.load),) * 3)
                    if resource == "cpu"
                    else replace(one, memory_used_bytes=max(int(level * one.memory_bytes), one.memory_used_bytes))
                    for one in snapshot.hosts
                ),
            )
            found = obstacle(move, of_two(filled, move), policy)
            world = World(filled, policy)
            world.move(move)
            if resource in world.full(move.destination):
                assert reason(found) in FULL


@pytest.mark.parametrize("strategy", ["default", "thesis"])
@pytest.mark.parametrize(
    ("seen", "why"),
    [
        ((H1, H2, A), None),
        ((H1, host("h2", 0.55, 0.55), A), Reason.DESTINATION_CPU),
        ((H1, replace(H2, state=HostState.DRAINING), A), Reason.HOST_DRAINING),
        ((H1, H2, A, domain("a", "h2", uuid="another")), Reason.NAME_TAKEN),
        ((host("h1", 0.4, 0.4), H2, A), "h1 is no longer overloaded (its CPU load is 40%)"),
        ((H1, H2, replace(A, host="h2")), "a is no longer seen running on h1"),
        ((H1, A), "h2 has left the group"),
    ],
)
def test_what_has_changed_since_the_plan_is_found(
    strategy: str, seen: tuple[Host | Domain, ...], why: Reason | str | None
) -> None:
    policy = replace(POLICY, strategy=strategy)  # type: ignore[arg-type]
    move = only_move(plan(group(H1, H2, A), policy))
    assert move.problem is Problem.OVERLOAD
    assert reason(obstacle(move, group(*seen), policy)) == why


def test_memory_that_others_have_filled_is_found() -> None:
    """Four moves of 40 GiB went to a host after others had filled its memory."""
    big = [domain(f"vm{n}", "h1", 1.0, memory_bytes=40 * GIB) for n in range(4)]
    source = host("h1", 0.3, 0.3, memory_bytes=512 * GIB, memory_used_bytes=200 * GIB, state=HostState.DRAINING)
    empty = host("h2", 0.1, 0.1, memory_bytes=256 * GIB, memory_used_bytes=4 * GIB)
    made = plan(group(source, empty, *big), POLICY)
    assert len(made.moves) == 4
    filled = replace(empty, memory_used_bytes=200 * GIB)
    for move in made.moves:
        assert reason(obstacle(move, group(source, empty, *big), POLICY)) is None
        assert reason(obstacle(move, group(source, filled, *big), POLICY)) is Reason.DESTINATION_MEMORY


def test_a_rule_that_forbids_it_now_is_found() -> None:
    move = only_move(plan(group(H1, H2, A), POLICY))
    never = replace(POLICY, rules=(Rule(name="r", kind="never_on", domains=("a",), hosts=("h2",)),))
    assert reason(obstacle(move, group(H1, H2, A), never)) is Reason.RULE_NEVER_ON
    ignored = replace(POLICY, rules=(Rule(name="r", kind="ignore", domains=("a",)),))
    assert reason(obstacle(move, group(H1, H2, A), ignored)) is Reason.RULE_IGNORE
    apart = replace(POLICY, rules=(Rule(name="r", kind="apart", domains=("a", "b")),))
    assert reason(obstacle(move, group(H1, H2, A, domain("b", "h2")), apart)) is Reason.RULE_APART
    assert reason(obstacle(move, group(H1, H2, A), apart)) is None


def test_a_bundle_must_fit_as_a_whole() -> None:
    policy = replace(POLICY, rules=(Rule(name="pair", kind="together", domains=("a", "b")),))
    seen = group(H1, H2, domain("a", "h1", 1.0), domain("b", "h1", 1.0, memory_bytes=2 * GIB))
    first, _ = plan(seen, policy).moves
    assert obstacle(first, seen, policy) is None
    fuller = replace(seen, hosts=(H1, host("h2", 0.1, 0.1, memory_ratio=0.75)))
    assert reason(obstacle(first, fuller, policy)) is Reason.DESTINATION_MEMORY
    one_arrived = replace(fuller, domains=(replace(seen.domains[0]), replace(seen.domains[1], host="h2")))
    assert obstacle(first, one_arrived, policy) is None


@pytest.mark.parametrize("strategy", ["default", "thesis"])
def test_a_drain_that_was_taken_back_is_no_longer_wanted(strategy: str) -> None:
    policy = replace(POLICY, strategy=strategy)  # type: ignore[arg-type]
    draining = host("h1", 0.3, 0.3, state=HostState.DRAINING)
    move = only_move(plan(group(draining, H2, A), policy))
    assert move.problem is Problem.DRAIN
    assert obstacle(move, group(draining, H2, A), policy) is None
    assert obstacle(move, group(replace(draining, state=HostState.ACTIVE), H2, A), policy) == "h1 is no longer draining"


def test_an_imbalance_that_has_gone_is_no_reason_any_more() -> None:
    policy = replace(POLICY, imbalance=Imbalance(deviation_ratio=0.1))
    busier = host("h1", 0.7, 0.7)
    (move, *_) = plan(group(busier, H2, A), policy).moves
    assert move.problem is Problem.IMBALANCE
    assert obstacle(move, group(busier, H2, A), policy) is None
    assert obstacle(move, group(host("h1", 0.1, 0.1), H2, A), policy) == "h1 is no busier than h2"
