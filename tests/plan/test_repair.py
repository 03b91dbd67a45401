"""Broken rules are repaired as far as they can be: evenly, by another domain, by way of room that is made."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest

from builders import GIB, domain, group, host, where
from random_groups import carry_out, random_group, zoned_group
from virtpoise_balancer.config import parse_config
from virtpoise_balancer.errors import BadInput
from virtpoise_balancer.model import Domain, Host, Imbalance, Limits, Plan, Policy, Reason, Rule, Snapshot
from virtpoise_balancer.plan import plan

REPAIRED = Policy(repair_rules=True)
APART = Rule(name="databases", kind="apart", domains=("db*",))


def half(name: str, load: float = 0.5, rack: str = "") -> Host:
    labels = {"rack": rack} if rack else {}
    room = host(name, load, load, load, cpus=16, memory_bytes=64 * GIB, memory_used_bytes=16 * GIB)
    return replace(room, labels=labels)


def databases(*counts: int) -> tuple[Domain, ...]:
    """That many on h1, h2 and so on."""
    at = [f"h{number}" for number, count in enumerate(counts, 1) for _ in range(count)]
    return tuple(domain(f"db{number}", on, 0.5) for number, on in enumerate(at))


def ends(snapshot: Snapshot, made: Plan, policy: Policy) -> list[int]:
    """How many domains named db* each host has after the plan, falling; no beginning of it breaks a limit."""
    world, faults = carry_out(snapshot, replace(policy, rules=()), made)
    assert faults == []
    there = Counter(world.host_of[one.uuid] for one in snapshot.domains if one.name.startswith("db"))
    return sorted((there[one.name] for one in snapshot.hosts), reverse=True)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ((5, 0, 0), [2, 2, 1]),
        ((3, 1, 1), [2, 2, 1]),
        ((4, 1, 0), [2, 2, 1]),
        ((4, 0, 0), [2, 1, 1]),
        ((2, 2, 0), [2, 1, 1]),
        ((7, 0, 0, 0), [2, 2, 2, 1]),
        ((2, 2, 1), [2, 2, 1]),
    ],
)
def test_more_domains_than_hosts_are_spread_evenly(counts: tuple[int, ...], expected: list[int]) -> None:
    seen = group(*(half(f"h{number + 1}") for number in range(len(counts))), *databases(*counts))
    policy = replace(REPAIRED, rules=(APART,))
    made = plan(seen, policy)
    assert ends(seen, made, policy) == expected
    assert (
        len(made.moves)
        == (sum(abs(a - b) for a, b in zip(sorted(counts, reverse=True), expected, strict=True)) + 1) // 2
    )
    assert not made.solved
    assert "the rule databases stays broken" in made.summary


@pytest.mark.parametrize(
    ("counts", "most", "moves", "highest"), [((5, 0, 0), 2, 3, 2), ((6, 0, 0), 3, 3, 3), ((7, 0, 0), 2, 4, 3)]
)
def test_a_rule_may_allow_more_than_one(counts: tuple[int, ...], most: int, moves: int, highest: int) -> None:
    seen = group(half("h1", 0.3), half("h2", 0.1), half("h3"), *databases(*counts))
    policy = replace(REPAIRED, rules=(replace(APART, most=most),))
    made = plan(seen, policy)
    assert (len(made.moves), max(ends(seen, made, policy))) == (moves, highest)
    assert made.solved is (sum(counts) <= 3 * most)


def test_so_it_may_of_a_rack() -> None:
    racks = (half("h1", rack="a"), half("h2", rack="a"), half("h3", rack="b"), half("h4", rack="b"))
    policy = replace(REPAIRED, rules=(replace(APART, most=2, over="rack"),))
    made = plan(group(*racks, *databases(2, 2)), policy)
    assert len(made.moves) == 2
    assert {move.destination for move in made.moves} <= {"h3", "h4"}
    assert made.solved


def test_a_host_with_as_many_as_it_may_have_takes_no_more() -> None:
    there = (domain("db8", "h2", 0.1), domain("db9", "h2", 0.1))
    hot = group(half("h1", 0.9), half("h2", 0.1), half("h3", 0.4), domain("db0", "h1", 4.0), *there)
    assert where(plan(hot, Policy(rules=(replace(APART, most=2),)))) == {"db0": "h3"}
    assert where(plan(hot, Policy(rules=(replace(APART, most=3),)))) == {"db0": "h2"}


def test_how_many_are_allowed_is_for_rules_that_keep_apart() -> None:
    with pytest.raises(BadInput, match=r"policy.rules.0.most: expected none with together, got 2"):
        parse_config("policy: {rules: [{name: r, kind: together, domains: [a, b], most: 2}]}", "the test")
    with pytest.raises(BadInput, match=r"policy.rules.0.most"):
        parse_config("policy: {rules: [{name: r, kind: apart, domains: [a, b], most: 0}]}", "the test")


def test_where_the_cheapest_cannot_go_another_one_does() -> None:
    pinned = Rule(name="pin", kind="only_on", domains=("db0",), hosts=("h1",))
    policy = replace(REPAIRED, rules=(APART, pinned))
    seen = group(half("h1"), half("h2"), domain("db0", "h1", 0.5), domain("db1", "h1", 0.5, memory_bytes=4 * GIB))
    made = plan(seen, policy)
    assert where(made) == {"db1": "h2"}
    assert made.solved


def test_affinity_gathers_on_the_host_that_has_room() -> None:
    together = Rule(name="pair", kind="together", domains=("a", "b"))
    seen = group(
        half("h1", 0.75), half("h2", 0.3), domain("a", "h1", 2.0, memory_bytes=4 * GIB), domain("b", "h2", 2.0)
    )
    made = plan(seen, replace(REPAIRED, rules=(together,)))
    assert where(made) == {"a": "h2"}
    assert made.solved


def test_room_is_made_where_a_rule_wants_a_domain() -> None:
    only = Rule(name="licence", kind="only_on", domains=("a",), hosts=("h2",))
    seen = group(half("h1", 0.5), half("h2", 0.7), half("h3", 0.3), domain("a", "h1", 3.0), domain("w", "h2", 3.0))
    policy = replace(REPAIRED, rules=(only,))
    made = plan(seen, policy)
    assert [(move.domain, move.destination) for move in made.moves] == [("w", "h3"), ("a", "h2")]
    assert made.moves[0].why == "makes room for a"
    assert made.solved
    assert carry_out(seen, policy, made)[1] == []


def test_two_domains_change_places() -> None:
    """Either waits for the other: only once b has come to h1 there is room for a on h2."""
    rules = (
        Rule(name="first", kind="only_on", domains=("a",), hosts=("h2",)),
        Rule(name="second", kind="only_on", domains=("b",), hosts=("h1",)),
    )
    seen = group(half("h1", 0.4), half("h2", 0.7), domain("a", "h1", 4.0), domain("b", "h2", 4.0))
    made = plan(seen, replace(REPAIRED, rules=rules))
    assert [(move.domain, move.destination) for move in made.moves] == [("b", "h1"), ("a", "h2")]
    assert made.solved


def test_a_broken_soft_rule_is_named_and_healed_where_that_is_wanted() -> None:
    soft = replace(APART, hard=False)
    seen = group(half("h1"), half("h2"), *databases(2, 0))
    named = plan(seen, Policy(rules=(soft,)))
    assert where(named) == {}
    assert named.solved
    (one,) = [refusal for refusal in named.refusals if refusal.reason is Reason.SOFT_RULE_BROKEN]
    assert (one.domain, one.host, dict(one.detail)) == ("db0", "h1", {"rule": "databases", "kind": "apart"})
    assert where(plan(seen, replace(REPAIRED, rules=(soft,)))) == {}
    healed = plan(seen, Policy(rules=(soft,), repair_soft_rules=True))
    assert where(healed) == {"db0": "h2"}
    assert not healed.refusals


def test_healing_moves_nothing_that_heals_nothing() -> None:
    soft = (
        Rule(name="old", kind="never_on", domains=("a",), hosts=("h*",), hard=False),
        Rule(name="near", kind="prefer", domains=("b",), hosts=("h2",)),
    )
    seen = group(half("h1"), half("h2"), domain("a", "h1", 0.5), domain("b", "h1", 0.5))
    made = plan(seen, Policy(rules=soft, repair_soft_rules=True))
    assert where(made) == {}
    assert {refusal.domain for refusal in made.refusals} == {"a"}


def test_each_problem_of_a_host_has_its_own_moves_in_the_sentence() -> None:
    seen = group(
        half("h1", 0.9),
        half("h2", 0.2),
        half("h3", 0.2),
        domain("w", "h1", 3.6),
        *databases(2),
        domain("x", "h1", 6.0, memory_bytes=GIB),
    )
    made = plan(seen, replace(REPAIRED, rules=(APART,)))
    overload, rule = made.summary.split("; ")
    assert overload.startswith("h1 is overloaded (CPU load 90%, 3 consecutive samples): move w to h2 (")
    assert rule == "a rule is broken on h1: move db0 to h3"


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("make", [random_group, zoned_group])
def test_no_beginning_of_what_repairs_and_evens_out_breaks_a_limit_or_a_rule(make, seed: int) -> None:  # type: ignore[no-untyped-def]
    """Whatever the rules, the bounds, and what is to be even; and the order of the input decides nothing."""
    snapshot, policy = make(seed)
    rng = random.Random(seed)
    names, hosts = [one.name for one in snapshot.domains], [one.name for one in snapshot.hosts]
    apart = Rule(name="x1", kind="apart", domains=tuple(rng.sample(names, 5)), most=rng.choice((None, 1, 2)))
    rules = (
        Rule(name="x2", kind="together", domains=tuple(rng.sample(names, 2)), hard=rng.random() < 0.5),
        Rule(name="x3", kind="only_on", domains=(rng.choice(names),), hosts=(rng.choice(hosts),)),
    )
    last = Rule(name="x4", kind="last", domains=(rng.choice(names),))
    hard = tuple(rule for rule in (*policy.rules, *rules) if rule.hard)
    most = rng.choice((None, 1, 3))
    policy = replace(
        policy,
        rules=(*policy.rules, *rules, apart, last),
        repair_rules=True,
        repair_soft_rules=rng.random() < 0.5,
        limits=Limits(per_plan=most),
        imbalance=Imbalance(by=rng.choice(("cpu", "memory", "promised", "domains", "vcpus")), deviation_ratio=0.05),
    )
    if rng.random() < 0.5:  # so that it is evened out
        calm = tuple(replace(one, cpu_ratio=tuple(min(x, 0.7) for x in one.cpu_ratio)) for one in snapshot.hosts)
        snapshot = replace(snapshot, hosts=calm)
    made = plan(snapshot, policy)
    assert carry_out(snapshot, replace(policy, rules=hard), made)[1] == []
    assert len({move.uuid for move in made.moves}) == len(made.moves) <= (most or len(names))
    turned = replace(snapshot, hosts=snapshot.hosts[::-1], domains=snapshot.domains[::-1])
    assert replace(plan(turned, policy), notes=()) == replace(made, notes=())
