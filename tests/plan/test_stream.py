"""Which moves may begin: none without what it needs, none over a limit, and none waits for an unrelated one."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import SAMPLE_TIMES
from random_groups import World, busy_network, random_group
from virtpoise_balancer.analyse.commitments import Commitment, with_commitments
from virtpoise_balancer.model import Limits, Move, Plan, Policy, PredictedLoads, Prediction, Result, Snapshot
from virtpoise_balancer.plan import plan
from virtpoise_balancer.plan.stream import Item, Stage, full, hopeless, limits_of, ready, replaceable

LOADS = PredictedLoads(source=Prediction.exact(0.5), destination=Prediction.exact(0.5))
WIDE = Limits(per_source=9, per_destination=9, total=99)


def move(domain: str, source: str, destination: str, *needs: str) -> Move:
    return Move(domain=domain, uuid=domain, source=source, destination=destination, predicted=LOADS, needs=needs)


def items(*moves: Move, of_plan: int = 1, first: int = 1) -> list[Item]:
    return [Item(id=first + at, plan=of_plan, move=one) for at, one in enumerate(moves)]


def staged(one: Item, stage: Stage) -> Item:
    return replace(one, stage=stage)


def test_moves_begin_as_the_limits_allow_in_the_order_of_the_plan() -> None:
    waiting = items(move("a", "h1", "h2"), move("b", "h1", "h3"), move("c", "h4", "h2"), move("d", "h4", "h5"))
    assert ready(waiting, Limits()) == (1, 4)
    assert ready(waiting, Limits(per_source=2)) == (1, 2, 4)
    assert ready(waiting, WIDE) == (1, 2, 3, 4)
    assert ready(waiting, replace(WIDE, total=2)) == (1, 2)
    assert ready(waiting, Limits(), others=[("h9", "h2"), ("h4", "h8")]) == (2,)


def test_the_thesis_makes_one_after_another() -> None:
    waiting = items(move("a", "h1", "h2"), move("b", "h3", "h4"))
    assert ready(waiting, limits_of(Policy(strategy="thesis", limits=WIDE))) == (1,)
    assert ready(waiting, limits_of(Policy(limits=WIDE))) == (1, 2)


def test_a_move_waits_for_those_that_make_room_and_for_nothing_else_of_its_bundle() -> None:
    out, pair = move("out", "h2", "h3"), (move("p", "h1", "h2", "out", "q"), move("q", "h1", "h2", "out", "p"))
    waiting = items(out, *pair)
    assert ready(waiting, WIDE) == (1,)
    assert ready([staged(waiting[0], Stage.BEGUN), *waiting[1:]], WIDE) == ()
    assert ready([staged(waiting[0], Stage.DONE), *waiting[1:]], WIDE) == (2, 3)
    assert hopeless([staged(waiting[0], Stage.UNDONE), *waiting[1:]]) == {2: out, 3: out}


def test_plans_take_turns() -> None:
    drain = items(*(move(f"d{n}", f"s{n}", "h1") for n in range(5)))
    drain[0] = staged(drain[0], Stage.DONE)
    drain[1] = staged(drain[1], Stage.DONE)
    relief = items(move("r", "h9", "h1"), of_plan=2, first=50)
    assert ready([*drain, *relief], Limits()) == (50,)


def test_needs_are_those_of_the_same_plan() -> None:
    failed = staged(items(move("out", "h2", "h3"))[0], Stage.UNDONE)
    anew = items(move("out", "h2", "h4"), move("in", "h1", "h2", "out"), of_plan=2, first=7)
    assert hopeless([failed, *anew]) == {}
    assert ready([failed, *anew], WIDE) == (7,)


@given(st.integers(0, 10**6))
@settings(deadline=None, max_examples=150)
def test_laws_of_the_stream(seed: int) -> None:
    """On random moves of several plans at random stages."""
    rng = random.Random(seed)
    limits = Limits(per_source=rng.randint(1, 3), per_destination=rng.randint(1, 3), total=rng.randint(1, 6))
    names = [f"h{n}" for n in range(rng.randint(2, 6))]
    found: list[Item] = []
    for number in range(rng.randint(1, 3)):
        before: list[Move] = []
        for at in range(rng.randint(1, 6)):
            source, destination = rng.sample(names, 2)
            makers = [one.uuid for one in before if one.source == destination and rng.random() < 0.5]
            before.append(move(f"{number}.{at}", source, destination, *makers))
        found += [
            Item(id=len(found) + at, plan=number, move=one, stage=rng.choice(list(Stage)))
            for at, one in enumerate(before)
        ]
    begins, cannot = set(ready(found, limits)), set(hopeless(found))
    stage_of = {one.move.uuid: one.stage for one in found}
    going = [one for one in found if one.stage is Stage.BEGUN or one.id in begins]
    was = Counter(one.move.source for one in found if one.stage is Stage.BEGUN)
    came = Counter(one.move.destination for one in found if one.stage is Stage.BEGUN)
    leaving, arriving = Counter(one.move.source for one in going), Counter(one.move.destination for one in going)
    for one in found:
        if one.id in begins:  # nothing starts whose needs are not met, and nothing over a limit
            assert one.stage is Stage.WAITING
            assert all(stage_of[uuid] is Stage.DONE for uuid in one.move.needs)
            assert leaving[one.move.source] <= max(limits.per_source, was[one.move.source])
            assert arriving[one.move.destination] <= max(limits.per_destination, came[one.move.destination])
            assert len(going) <= limits.total
        elif one.stage is Stage.WAITING and one.id not in cannot:  # and nothing waits for an unrelated one
            assert (
                any(stage_of[uuid] is not Stage.DONE for uuid in one.move.needs)
                or leaving[one.move.source] >= limits.per_source
                or arriving[one.move.destination] >= limits.per_destination
                or len(going) >= limits.total
            )


def committed(snapshot: Snapshot, moves: list[Move]) -> Snapshot:
    them = [
        Commitment(domain=one.domain, uuid=one.uuid, source=one.source, destination=one.destination) for one in moves
    ]
    return with_commitments(snapshot, them, SAMPLE_TIMES, waiting=True)


def overloaded_elsewhere(snapshot: Snapshot, made: Plan, seed: int) -> Snapshot:
    """One host that the plan does not concern is overloaded as well."""
    ends = {host for one in made.moves for host in (one.source, one.destination)}
    free = [host.name for host in snapshot.hosts if host.name not in ends and host.load < 0.8]
    if not free:
        return snapshot
    name = random.Random(seed).choice(free)
    return replace(
        snapshot,
        hosts=tuple(replace(one, cpu_ratio=(0.85,) * 3) if one.name == name else one for one in snapshot.hosts),
        domains=tuple(
            replace(one, cpu_cores=one.cpu_cores * 1.5) if one.host == name else one for one in snapshot.domains
        ),
    )


@pytest.mark.parametrize("make", [random_group, busy_network])
@given(seed=st.integers(0, 100_000))
@settings(deadline=None, max_examples=5)
def test_no_host_passes_a_limit_whatever_of_two_plans_is_made_in_whatever_order(make: object, seed: int) -> None:
    """The second plan is made while the first waits or is under way; any of its moves may then come before any of the
    first.
    """
    snapshot, policy = make(seed)  # type: ignore[operator]
    first = plan(snapshot, policy)
    then = overloaded_elsewhere(snapshot, first, seed)
    second = plan(committed(then, list(first.moves)), policy)
    assert not {one.uuid for one in first.moves} & {one.uuid for one in second.moves}
    concerned = {host for one in first.moves for host in (one.source, one.destination)}
    assert not concerned & {one.source for one in second.moves if one.problem is not None}
    rng = random.Random(seed)
    stage = dict.fromkeys((one.uuid for one in (*first.moves, *second.moves)), Stage.WAITING)
    world = World(then, policy)
    over = {name: set(world.full(name)) for name in world.hosts}
    while True:
        waiting = [*items(*first.moves), *items(*second.moves, of_plan=2, first=1000)]
        waiting = [replace(one, stage=stage[one.move.uuid]) for one in waiting]
        begins = ready(waiting, WIDE)
        if not begins:
            break
        number = rng.choice(begins)
        chosen = next(one for one in waiting if one.id == number)
        if rng.random() < 0.2 and chosen.move.bundle is None:
            stage[chosen.move.uuid] = Stage.UNDONE
            continue
        world.move(chosen.move)
        stage[chosen.move.uuid] = Stage.DONE
        assert set(world.full(chosen.move.destination)) <= over[chosen.move.destination]


@given(seed=st.integers(0, 100_000))
@settings(deadline=None, max_examples=5)
def test_an_overload_elsewhere_is_relieved_as_without_the_move_that_is_under_way(seed: int) -> None:
    """In a group of two halves the hosts that a slow migration does not concern are attempted all the same."""
    snapshot, policy = random_group(seed)
    other, _ = random_group(seed + 1)
    renamed = replace(
        snapshot,
        hosts=(*snapshot.hosts, *(replace(one, name=f"other-{one.name}") for one in other.hosts)),
        domains=(
            *snapshot.domains,
            *(
                replace(one, name=f"other-{one.name}", uuid=f"other-{one.uuid}", host=f"other-{one.host}")
                for one in other.domains
            ),
        ),
    )
    moves = plan(renamed, policy).moves
    if not moves:
        return
    slow = moves[0]
    unrelated = [
        one.host for one in plan(renamed, policy).overloaded if one.host not in (slow.source, slow.destination)
    ]
    beside = plan(committed(renamed, [slow]), policy)
    assert {one.host for one in beside.attempts} >= set(unrelated) - {
        refusal.host for refusal in beside.refusals if refusal.domain is None and "until" not in refusal.detail
    }
    assert [one.host for one in beside.refusals if one.domain is None and "until" in one.detail] == (
        [slow.source] if slow.source in {one.host for one in beside.overloaded} else []
    )


def committed_to(domain: str, source: str, destination: str, began: float | None = None) -> Commitment:
    return Commitment(domain=domain, uuid=domain, source=source, destination=destination, began=began)


SLOW = committed_to("slow", "h1", "h3", began=1000.0)
WAITS = committed_to("a", "h4", "h3")


@pytest.mark.parametrize(
    ("commitments", "found"),
    [
        ([SLOW, WAITS], {"h4": (WAITS,)}),
        ([SLOW, WAITS, b := committed_to("b", "h4", "h5")], {"h4": (WAITS, b)}),  # of one plan
        ([WAITS], {}),  # it is about to begin
        ([replace(SLOW, ended=1010.0, result=Result.DONE), WAITS], {}),
        ([SLOW, committed_to("a", "h4", "h5")], {}),
        ([SLOW, committed_to("a", "h1", "h3")], {}),  # its source has one under way
        ([SLOW, WAITS, committed_to("b", "h4", "h5", began=1000.0)], {}),
        ([SLOW, WAITS, committed_to("b", "h6", "h4")], {}),  # it may come thanks to a
        ([SLOW, WAITS, committed_to("b", "h3", "h6")], {}),  # a may come thanks to it
    ],
)
def test_a_source_is_planned_anew_where_it_has_only_moves_that_wait_and_one_for_its_turn(
    commitments: list[Commitment], found: dict[str, tuple[Commitment, ...]]
) -> None:
    assert replaceable(commitments, Limits()) == found


def test_nothing_is_planned_anew_while_no_move_at_all_may_begin() -> None:
    assert replaceable([SLOW, WAITS], Limits(total=1)) == {}


def test_a_host_is_full_while_a_move_to_it_is_under_way_or_waits() -> None:
    assert full([SLOW], Limits()) == {"h3"}
    assert full([SLOW], Limits(per_destination=2)) == set()
    assert full([WAITS], Limits(per_destination=2)) == {"h3"}
    assert full([replace(SLOW, ended=1010.0, result=Result.DONE)], Limits()) == set()
