"""A kind of placement rule that only this file defines takes part in planning, refusals, repairs and explanations."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from builders import domain, group, host, where
from invariants import check_search_state
from virtpoise_balancer.config import parse_config
from virtpoise_balancer.errors import BadInput
from virtpoise_balancer.explain import wording
from virtpoise_balancer.explain.explain import of_domain
from virtpoise_balancer.model import Domain, HostState, Policy, Reason, Rule, Snapshot, Trigger
from virtpoise_balancer.plan import plan
from virtpoise_balancer.plan.default.consider import consider
from virtpoise_balancer.plan.default.group import Group
from virtpoise_balancer.plan.default.search_state import SearchState
from virtpoise_balancer.plan.default.strategy import sources_of
from virtpoise_balancer.plan.default.trial import Trial
from virtpoise_balancer.plan.problems import find
from virtpoise_balancer.rules import KINDS
from virtpoise_balancer.rules.base import GroupKind

MOST = 2
POLICY = Policy(cpu=Trigger(consecutive=2))


class Spread(GroupKind):
    name = "spread"
    wording = f"a rule allows at most {MOST} of its domains on one host"

    def allows(self, there: int, arriving: int = 1) -> bool:
        return there + arriving <= MOST


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, "spread", Spread())


def spread(*names: str, hard: bool = True) -> Policy:
    return replace(POLICY, rules=(Rule(name="web", kind="spread", domains=names, hard=hard),))


def hot(*there: Domain, third: bool = False) -> Snapshot:
    """h1 is relieved by moving ``a`` to h2, which has most room, or to h3."""
    others = (host("h2", 0.1, 0.1), *((host("h3", 0.4, 0.4),) if third else ()))
    return group(host("h1", 0.9, 0.9), *others, domain("a", "h1", 2.0), *there)


TWO = (domain("b", "h2", 0.1), domain("c", "h2", 0.1))


def test_a_full_host_is_passed_over() -> None:
    assert where(plan(hot(*TWO, third=True), POLICY)) == {"a": "h2"}
    assert where(plan(hot(*TWO, third=True), spread("a", "b", "c"))) == {"a": "h3"}
    assert where(plan(hot(TWO[0], third=True), spread("a", "b"))) == {"a": "h2"}  # one is there, and two may be


def test_a_soft_rule_is_kept_where_that_costs_nothing() -> None:
    assert where(plan(hot(*TWO, third=True), spread("a", "b", "c", hard=False))) == {"a": "h3"}
    assert where(plan(hot(*TWO), spread("a", "b", "c", hard=False))) == {"a": "h2"}


def test_a_host_that_is_full_refuses_in_the_kinds_words_with_its_numbers() -> None:
    made = plan(hot(*TWO), spread("a", "b", "c"))
    (refusal,) = [one for one in made.refusals if one.domain == "a"]
    assert (refusal.host, refusal.reason) == ("h2", Reason.RULE)
    assert {"kind": "spread", "rule": "web", "there": 2, "hosts_rule": 1}.items() <= refusal.detail.items()
    assert wording.refusal(refusal).startswith(
        "a rule allows at most 2 of its domains on one host (spread, rule web, 2 of its domains are there"
    )
    assert all(map(wording.is_worded, refusal.detail))


def test_an_explanation_names_the_rule_and_whether_it_is_kept() -> None:
    snapshot, policy = hot(*TWO, third=True), spread("a", "b", "c")
    asked = consider(snapshot, policy, "uuid-of-a")
    assert asked is not None
    assert {one.host: [(rule.kind, rule.kept) for rule in one.rules] for one in asked.hosts} == {
        "h2": [("spread", False)],
        "h3": [("spread", True)],
    }
    told = of_domain(snapshot, policy, plan(snapshot, policy), snapshot.domains[0])
    assert {one.host: one.why for one in told.destinations}["h2"] == (
        "a rule allows at most 2 of its domains on one host "
        "(spread, rule web, 2 of its domains are there, rule web broken)"
    )


def test_a_broken_rule_is_named_and_repaired_only_if_wanted() -> None:
    four = [domain(name, "h1", 0.1, memory_bytes=1000 + number) for number, name in enumerate("abcd")]
    calm = group(host("h1", 0.3, 0.3), host("h2", 0.1, 0.1), *four)
    named = plan(calm, spread(*"abcd"))
    assert where(named) == {}
    assert {one.domain for one in named.refusals if one.reason is Reason.RULE_BROKEN} == {"a", "b"}
    assert where(plan(calm, replace(spread(*"abcd"), repair_rules=True))) == {"a": "h2", "b": "h2"}


def test_more_domains_than_the_hosts_may_hold_are_a_conflict() -> None:
    five = [domain(name, "h1", 0.1) for name in "abcde"]
    calm = group(host("h1", 0.3, 0.3), host("h2", 0.1, 0.1), *five)
    made = plan(calm, spread(*"abcde"))
    conflicts = {one.detail["conflict"] for one in made.refusals if one.reason is Reason.RULE_CONFLICT}
    assert conflicts == {"web has 5 domains, too many for 2 hosts"}


def test_domains_kept_together_arrive_together_and_count_as_many() -> None:
    pair = Rule(name="pair", kind="together", domains=("a", "b"))
    two = domain("b", "h1", 0.2), domain("c", "h2", 0.1)
    policy = spread("a", "b", "c")
    both = replace(policy, rules=(pair, *policy.rules))
    assert set(where(plan(hot(*two, third=True), both)).values()) == {"h3"}
    three = Rule(name="pair", kind="together", domains=("a", "b", "c"))
    made = plan(hot(domain("b", "h1", 1.0), domain("c", "h1", 0.1)), replace(policy, rules=(three, *policy.rules)))
    assert "web keeps apart what other rules keep together" in {
        one.detail.get("conflict") for one in made.refusals if one.domain == "a"
    }


@pytest.mark.parametrize(("names", "expected"), [("abcd", {"h2": 2, "h3": 2}), ("abcde", {"h2": 2, "h3": 2})])
def test_a_drained_host_is_emptied_as_far_as_the_rule_allows(names: str, expected: dict[str, int]) -> None:
    """A fifth domain stays: the emptier host takes no third."""
    members = [domain(name, "h1", 0.1) for name in names]
    draining = replace(host("h1", 0.3, 0.3), state=HostState.DRAINING)
    made = plan(group(draining, host("h2", 0.1, 0.1), host("h3", 0.5, 0.5), *members), spread(*names))
    assert Counter(where(made).values()) == expected
    assert made.solved is (len(names) == 4)


def test_the_configuration_takes_the_kind_and_says_what_a_rule_of_it_lacks() -> None:
    rule = "policy: {{rules: [{{name: web, kind: {}, domains: [{}]{}}}]}}"
    assert parse_config(rule.format("spread", "a, b", ""), "x").policy.rules[0].kind == "spread"
    for kind, domains, more, problem in (
        ("spread", "a", "", "policy.rules.0.domains: expected at least two, or a pattern, got a"),
        ("spread", "a, b", ", hosts: [h1]", "policy.rules.0.hosts: expected none with spread, got h1"),
        ("spraed", "a, b", "", f"policy.rules.0.kind: expected one of {', '.join(KINDS)}, got 'spraed'"),
    ):
        with pytest.raises(BadInput, match=problem.replace(".", r"\.")):
            parse_config(rule.format(kind, domains, more), "x")


def test_the_search_counts_the_domains_on_each_host_as_the_plan_does() -> None:
    """After a and b went to h3 together, d may go only to h2, where c is; taken back, it may go to both."""
    pair = Rule(name="pair", kind="together", domains=("a", "b"))
    policy = spread(*"abcd")
    policy = replace(policy, rules=(pair, *policy.rules))
    more = domain("b", "h1", 0.2), domain("c", "h2", 0.1), domain("d", "h1", 0.2)
    made = Group(hot(*more, third=True), policy)
    sources = sources_of(made, find(made.snapshot, policy, made.overloads).attempt, made.overloads)
    state = SearchState(Trial(made, sources, ~made.takers), sources)
    bundle, single = sorted(sources[0].candidates, key=lambda candidate: candidate.name)

    def allowed() -> list[str]:
        bonds = state.hard_bonds(single)
        return [made.hosts[host].name for host in state.hosts if state.allowed(single, host, bonds)]

    assert (bundle.name, single.name) == ("a", "d")
    state.put(bundle, made.index["h3"])
    check_search_state(state)
    assert allowed() == ["h2"]
    state.take_back()
    check_search_state(state)
    assert allowed() == ["h2", "h3"]
