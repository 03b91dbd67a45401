"""The kinds of placement rules: what holds for each, and that whoever lists them lists the same."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from pathlib import Path

import pytest

import virtpoise_balancer
from builders import domain, group, host
from virtpoise_balancer.errors import BadInput
from virtpoise_balancer.explain import wording
from virtpoise_balancer.knowledge.documents import pack_inputs, unpack_inputs
from virtpoise_balancer.knowledge.records import Inputs
from virtpoise_balancer.model import Placement, Policy, Reason, Rule, Trigger
from virtpoise_balancer.plan import plan
from virtpoise_balancer.rules import KINDS, GroupKind, HoldKind, Kind, kinds, of_shape
from virtpoise_exporter.virt.xml import domain_facts

EXAMPLE = Path(__file__).parents[2] / "balancer/virtpoise.example.yml"
POLICY = Policy(cpu=Trigger(consecutive=2))


def test_the_example_explains_each_kind() -> None:
    lines = EXAMPLE.read_text(encoding="utf-8").split("#- name: databases-apart")[1].split("#kind:")[0]
    assert [name for name in KINDS if name not in lines] == []


def test_each_file_is_a_kind_and_takes_effect_by_being_there() -> None:
    files = {path.stem for path in Path(next(iter(kinds.__path__))).glob("*.py")} - {"__init__"}
    assert set(KINDS) == files


@pytest.mark.parametrize("wing", ["plan", "monitor", "explain", "web", "command", "config"])
def test_no_wing_names_a_kind(wing: str) -> None:
    """So that a kind is planned, read and worded by what it answers, and a new one as the others."""
    names = re.compile("|".join([r"rules\.kinds", *(f'"{name}"' for name in KINDS)]))
    files = (Path(virtpoise_balancer.__path__[0]) / wing).rglob("*.py")
    assert [path.name for path in files if names.search(path.read_text(encoding="utf-8"))] == []


def test_what_a_domains_metadata_asks_for_arrives_from_the_exporter_in_the_plan() -> None:
    """The exporter, the snapshot and the kinds use the same names. A kind need not have a form for metadata."""
    names = [one.name for one in fields(Placement)]
    elements = "".join(f"<{name.replace('_', '-')}>x</{name.replace('_', '-')}>" for name in (*names, *KINDS))
    placement = f"<metadata><placement xmlns='urn:virtpoise:1'>{elements}</placement></metadata>"
    facts = domain_facts(f"<domain><name>a</name><uuid>u</uuid>{placement}</domain>")
    assert {rule.replace("-", "_") for rule, _ in facts.placement} == set(names)
    kinds_asked = {name: KINDS[name] for name in names}
    asked = Placement(**{name: True if isinstance(kind, HoldKind) else ("x",) for name, kind in kinds_asked.items()})  # type: ignore[arg-type]
    assert all(
        kind.asks(asked) if isinstance(kind, HoldKind) else kind.asked(asked) == ("x",) for kind in kinds_asked.values()
    )


@pytest.mark.parametrize("kind", of_shape(GroupKind), ids=lambda kind: kind.name)
def test_an_empty_host_takes_any_one_domain_and_more_are_never_easier(kind: GroupKind) -> None:
    """The planner counts on both: it looks only at hosts that have some of the domains, and stops at the first too
    many.
    """
    assert kind.allows(0)
    answers = [kind.allows(there) for there in range(10)]
    assert answers == sorted(answers, reverse=True)


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_a_refusal_by_a_rule_has_the_words_of_its_kind(kind: Kind) -> None:
    detail = kind.why("the-rule")
    assert detail["rule"] == "the-rule"
    if kind.reason is not Reason.RULE:
        assert wording.reason(kind.reason, detail) == kind.wording


def test_of_two_hosts_the_one_that_keeps_more_soft_rules_is_taken() -> None:
    """h2 breaks two rules, h3 one of them; h2 has more room."""
    rules = (
        Rule(name="db", kind="apart", domains=("a", "b"), hard=False),
        Rule(name="web", kind="apart", domains=("a", "c"), hard=False),
        Rule(name="old", kind="apart", domains=("a", "d"), hard=False),
    )
    friends = domain("b", "h2", 0.1), domain("c", "h2", 0.1), domain("d", "h3", 0.1)
    hosts = host("h1", 0.9, 0.9), host("h2", 0.1, 0.1), host("h3", 0.4, 0.4)
    snapshot = group(*hosts, domain("a", "h1", 2.0), *friends)
    assert [move.destination for move in plan(snapshot, POLICY).moves] == ["h2"]
    assert [move.destination for move in plan(snapshot, replace(POLICY, rules=rules)).moves] == ["h3"]


def test_a_stored_policy_with_a_kind_of_a_newer_version_is_refused_in_one_line() -> None:
    policy = replace(POLICY, rules=(Rule(name="r", kind="newer", domains=("a",)),))
    with pytest.raises(BadInput, match=r"^plan 7: policy\.rules\.0\.kind: expected one of apart, .*, got 'newer'$"):
        unpack_inputs(pack_inputs(Inputs(snapshot=group(host("h1", 0.1)), policy=policy, version="9")), "plan 7")
