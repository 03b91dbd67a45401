"""What a plan carries for its readers: what each move needs, whose refusal it is, the destination's score after each
move.
"""

from __future__ import annotations

import json
import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import domain, group, host
from random_groups import carry_out, random_group, varied_group
from virtpoise_balancer.formats import read_plan, write_plan
from virtpoise_balancer.model import Policy, Reason, Rule, Trigger
from virtpoise_balancer.plan import plan, predict
from virtpoise_balancer.plan.subset import choice_of, part, why_not_alone

GIB = 2**30


def test_a_move_needs_those_that_leave_its_destination_before_it_and_its_bundle() -> None:
    seen = 0
    for seed in range(20):
        snapshot, policy = random_group(seed)
        made = plan(snapshot, policy)
        before: list[str] = []
        for move in made.moves:
            leaving = {one.uuid for one in made.moves if one.uuid in before and one.source == move.destination}
            bundle = {one.uuid for one in made.moves if move.bundle is not None and one.bundle == move.bundle}
            assert set(move.needs) >= bundle - {move.uuid}
            assert set(move.needs) <= leaving | bundle
            before.append(move.uuid)
            seen += len(move.needs)
    assert seen


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), chance=st.integers(0, 10**6), varied=st.booleans())
def test_moves_that_have_what_they_need_are_legal_without_the_others(seed: int, chance: int, varied: bool) -> None:
    snapshot, policy = (varied_group if varied else random_group)(seed)
    made = plan(snapshot, policy)
    rng = random.Random(chance)
    wanted = {move.uuid for move in made.moves if rng.random() < 0.5}
    by_uuid = {move.uuid: move for move in made.moves}
    while more := {uuid for one in wanted for uuid in by_uuid[one].needs} - wanted:
        wanted |= more
    choices = {choice_of(move) for move in made.moves if move.uuid in wanted}
    assert why_not_alone(made, choices) is None
    assert carry_out(snapshot, policy, part(made, choices, snapshot, policy))[1] == []


def test_what_makes_room_is_needed() -> None:
    made = plan(
        group(
            host("h1", 0.9, 0.9),
            host("h2", 0.55, 0.55),
            host("h3", 0.55, 0.55, memory_ratio=0.86),
            domain("a", "h1", 2.4, memory_bytes=GIB),
            domain("b", "h2", 1.5, memory_bytes=GIB // 8),
            domain("c", "h3", 0.1, memory_bytes=GIB),
        ),
        Policy(cpu=Trigger(threshold=0.8, consecutive=2)),
    )
    assert {move.domain: move.needs for move in made.moves} == {"b": (), "a": ("uuid-of-b",)}
    assert why_not_alone(made, {("uuid-of-a", "h2")}) == "a to h2 needs b to h3, which comes before it"
    assert why_not_alone(made, {("uuid-of-b", "h3")}) is None


@pytest.mark.parametrize("strategy", ["default", "thesis"])
def test_a_part_is_predicted_without_the_rest(strategy: str) -> None:
    snapshot = group(
        host("h1", 1.0, 1.0, 1.0), host("h2", 0.05, 0.05, 0.05), *(domain(name, "h1", 1.2) for name in "abc")
    )
    policy = Policy(strategy=strategy, cpu=Trigger(threshold=0.6))  # type: ignore[arg-type]
    made = plan(snapshot, policy)
    first, second, *_ = made.moves
    (alone,) = part(made, {choice_of(second)}, snapshot, policy).moves
    assert alone.predicted.source.cpu_ratio > second.predicted.source.cpu_ratio + 0.05
    assert alone.predicted.destination.cpu_ratio < second.predicted.destination.cpu_ratio - 0.05
    assert alone.destination_score == pytest.approx(first.destination_score, abs=1e-6)
    assert predict(snapshot, policy, made.moves) == made.moves


@pytest.mark.parametrize("strategy", ["default", "thesis"])
def test_every_refusal_of_a_domain_has_its_uuid(strategy: str) -> None:
    seen: set[Reason] = set()
    for seed in range(24):
        snapshot, policy = random_group(seed)
        of = {one.uuid: one.name for one in snapshot.domains}
        for refusal in plan(snapshot, Policy(strategy=strategy, rules=policy.rules)).refusals:  # type: ignore[arg-type]
            assert (refusal.domain is None) is (refusal.uuid is None)
            if refusal.uuid is not None:
                assert of[refusal.uuid] == refusal.domain
                seen.add(refusal.reason)
    assert len(seen) >= (5 if strategy == "default" else 2)


def test_of_two_domains_of_one_name_each_refusal_is_of_one() -> None:
    made = plan(
        group(
            host("h1", 0.9, 0.9, 0.9),
            host("h2", 0.75, 0.75, 0.75),
            domain("a", "h1", 3.0, uuid="1"),
            domain("b", "h1", 1.0),
            domain("a", "h2", 1.0, uuid="2"),
        ),
        Policy(),
    )
    assert {refusal.uuid for refusal in made.refusals if refusal.domain == "a"} == {"1"}


@pytest.mark.parametrize("strategy", ["default", "thesis"])
def test_the_destinations_score_falls_with_each_move_to_it(strategy: str) -> None:
    snapshot = group(
        host("h1", 1.0, 1.0, 1.0), host("h2", 0.05, 0.05, 0.05), *(domain(name, "h1", 1.2) for name in "abc")
    )
    made = plan(snapshot, Policy(strategy=strategy, cpu=Trigger(threshold=0.6)))  # type: ignore[arg-type]
    scores = [made.scores.hosts["h2"], *(move.destination_score for move in made.moves)]
    assert len(scores) > 2
    assert [move.destination_score_before for move in made.moves] == scores[:-1]
    assert [move.domain_score for move in made.moves] == [made.scores.domains[move.domain] for move in made.moves]
    assert all(after is not None and before is not None and after < before for before, after in pairwise(scores))


def test_the_thesis_score_after_a_move_is_that_of_the_group_as_it_is_then() -> None:
    snapshot = group(host("h1", 0.9, 0.9, 0.9), host("h2", 0.1, 0.1, 0.1), domain("a", "h1", 3.0, memory_bytes=10**9))
    made = plan(snapshot, Policy(strategy="thesis"))
    (move,) = made.moves
    use = move.predicted.destination
    assert use.memory_ratio is not None
    then = group(
        host("h2", *(use.cpu_ratio,) * 3, memory_used_bytes=round(use.memory_ratio * snapshot.hosts[1].memory_bytes)),
        domain("a", "h2", 3.0),
    )
    expected = plan(then, Policy(strategy="thesis")).scores.hosts["h2"]
    assert move.destination_score == pytest.approx(expected)


def test_a_bundle_is_needed_as_a_whole() -> None:
    made = plan(
        group(
            host("h1", 0.9, 0.9, 0.9),
            host("h2", 0.1, 0.1, 0.1),
            domain("a", "h1", 1.0),
            domain("b", "h1", 1.0),
        ),
        Policy(rules=(Rule(name="pair", kind="together", domains=("a", "b")),)),
    )
    assert {move.domain: move.needs for move in made.moves} == {"a": ("uuid-of-b",), "b": ("uuid-of-a",)}
    assert why_not_alone(made, {("uuid-of-a", "h2")}) == "a to h2 goes together with b to h2"


def test_a_plan_of_an_earlier_version_is_read() -> None:
    made = plan(*random_group(1))
    written = json.loads(write_plan(made))
    for move in written["moves"]:
        del move["needs"], move["destination_score"], move["destination_score_before"], move["domain_score"]
    for refusal in written["refusals"]:
        del refusal["uuid"]
    read = read_plan(json.dumps(written), "old.json")
    assert [move.needs for move in read.moves] == [()] * len(made.moves)
    assert read_plan(write_plan(made), "new.json") == made
