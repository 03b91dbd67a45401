"""Names that fit nothing, and what else in a usable configuration is likely a mistake."""

from __future__ import annotations

from dataclasses import replace

import pytest

from builders import domain, group, host
from virtpoise_balancer.advice import warnings
from virtpoise_balancer.command.doctor import judge_common_rules, judge_hosts, judge_names
from virtpoise_balancer.config import parse_config
from virtpoise_balancer.model import Placement, Policy, Rule
from virtpoise_balancer.monitor.observe import Observation
from virtpoise_balancer.plan import plan
from virtpoise_balancer.service.common_notes import CommonNotes

UUID = "178a5bcc-3f4e-4f4e-9a3e-0123456789ab"


def rules(rule: str, rest: str = "") -> str:
    return f"policy: {{rules: [{{name: r, {rule}}}]{rest}}}\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("libvirt: {pattern: h*}", None),
        ("", 'libvirt.pattern: not set, so every target with job="virtpoise-exporter" is taken for a host'),
        ("libvirt: {pattern: h*}\nprometheus: {queries: {host_cpus: 'x{$matchers}'}}", None),
        (
            "libvirt: {pattern: h*}\nprometheus: {queries: {host_cpus: x}}",
            "prometheus.queries.host_cpus: has no $matchers",
        ),
        ("libvirt: {pattern: h*}\nprometheus: {matchers: '', queries: {host_cpus: x}}", None),
        (
            "libvirt: {pattern: h*, uri: 'qemu+ssh://{host}/system?no_verify=1'}",
            "libvirt.uri: no_verify lets any machine",
        ),
        ("libvirt: {pattern: h*, uri: 'qemu+ssh://{host}/system?no_verify=0'}", None),
        (rules("kind: never_on, domains: [a], hosts: [h1]") + "libvirt: {pattern: h*}", None),
        (rules("kind: never_on, domains: [a], hosts: ['k*']") + "libvirt: {pattern: h*}", None),  # cannot be known here
        (
            rules("kind: never_on, domains: [a], hosts: [k1]") + "libvirt: {pattern: h*}",
            "policy.rules.0.hosts: 'k1' fits no",
        ),
        (
            rules("kind: never_on, domains: [a], hosts: [h1]") + "libvirt: {hosts: {h1.lan: 'qemu:///system'}}",
            "policy.rules.0.hosts: 'h1' fits no host of libvirt.hosts and libvirt.pattern (there is 'h1.lan')",
        ),
        (
            rules("kind: apart, domains: ['db-*']", ", repair_rules: true") + "libvirt: {pattern: h*}",
            "policy.rules.0.domains: ",
        ),
        (rules(f"kind: apart, domains: [{UUID}]", ", repair_rules: true") + "libvirt: {pattern: h*}", None),
    ],
)
def test_a_likely_mistake_is_one_line_that_names_the_key(text: str, says: str | None) -> None:
    found = warnings(parse_config(text, "x"))
    assert len(found) == (says is not None)
    assert says is None or found[0].startswith(says)


def test_the_plan_and_the_doctor_name_what_fits_no_host_and_no_domain() -> None:
    seen = group(
        host("kvm1.lan", 0.1),
        host("kvm2.lan", 0.1),
        domain("a", "kvm1.lan", placement=Placement(apart=("\x1bx",), only_on=("z",))),
    )
    never = Rule(name="r", kind="never_on", domains=("a", "b-*", "uuid-of-a"), hosts=("kvm1", "kvm2*"))
    policy = Policy(rules=(never,))
    notes = (
        "the rule 'r' names 'kvm1', and no host is called so (there is 'kvm1.lan')",
        "the rule 'r' names 'b-*', and no domain is called so",
        r"the metadata of 'a' names the group '\x1bx': the policy has no apart rule of this name",
    )
    for strategy in ("default", "thesis"):
        assert plan(seen, replace(policy, strategy=strategy)).notes == notes
    config = parse_config("libvirt: {hosts: {kvm2: 'qemu:///system'}, pattern: kvm*}", "x").model_copy(
        update={"policy": policy}
    )
    found = [one.text for one in judge_names(config, Observation(snapshot=seen, age_seconds=1.0))]
    assert found[:3] == list(notes)
    (unknown,) = judge_hosts([config], ["kvm1.lan", "kvm2.lan"])
    assert unknown.text == "no target is called 'kvm2' (there is 'kvm2.lan')"


def test_a_host_that_is_configured_for_all_groups_may_be_in_any_of_them() -> None:
    every = parse_config(
        "{libvirt: {hosts: {kvm1: 'qemu:///system', kvm2: 'qemu:///system', kvm3: 'qemu:///system'}}, "
        "groups: {blue: {matchers: 'rack=\"b\"'}, red: {matchers: 'rack=\"r\"'}}}",
        "x",
    ).each_group
    assert [one.text for one in judge_hosts(list(every.values()), ["kvm1", "kvm2"])] == ["no target is called 'kvm3'"]


GROUPS = (
    "policy: {reserve: [{memory_bytes: 1, hosts: [b1]}, {memory_bytes: 1, hosts: [x]}], rules: ["
    "{name: r, kind: never_on, domains: ['db-*', 'web-*'], hosts: [b1, r1, nowhere]}, "
    "{name: racks, kind: apart, domains: ['db-*'], over: rack}]}\n"
    "libvirt: {pattern: '*'}\n"
    "groups: {blue: {matchers: 'c=\"b\"', libvirt: {pattern: 'b*'}}, red: {matchers: 'c=\"r\"', libvirt: {pattern: 'r*'}}, "
    "own: {matchers: 'c=\"o\"', policy: {reserve: [], rules: [{name: q, kind: ignore, domains: [gone]}]}}}"
)
BLUE_AND_RED = (
    group(host("b1", 0.1), domain("db-1", "b1")),
    group(host("r1", 0.1), host("r2", 0.1), domain("x", "r1")),
    group(host("o1", 0.1)),
)


def test_what_groups_share_is_noted_only_where_it_fits_nothing_in_any_of_them() -> None:
    every = parse_config(GROUPS, "x").each_group
    shown, kept = CommonNotes(), {}
    for _ in range(2):  # the second time, the plans of all are known
        for config, seen in zip(every.values(), BLUE_AND_RED, strict=True):
            kept[config.group] = shown.of(config, plan(seen, config.policy)).notes
            assert _ or config.group == "own" or not any("nowhere" in note for note in kept[config.group])
    of_all = (
        "the rule 'r' names 'nowhere', and no host is called so",
        "the rule 'r' names 'web-*', and no domain is called so",
        "the reserve for x fits no host",
    )
    racks = "the rule 'racks' counts by the label 'rack', and no host has it"
    assert kept["blue"] == (*of_all[:2], racks, of_all[2])
    assert kept["red"] == of_all
    assert kept["own"] == ("the rule 'q' names 'gone', and no domain is called so",)
    observations = [Observation(snapshot=seen, age_seconds=1.0) for seen in BLUE_AND_RED]
    assert [one.text for one in judge_common_rules(list(every.values()), observations)] == list(of_all)
    of_groups = [
        one.text
        for config, seen in zip(every.values(), observations, strict=True)
        for one in judge_names(config, seen)
        if one.subject == "policy.rules"
    ]
    assert of_groups == [racks, *kept["own"]]


def test_a_rule_of_all_groups_is_warned_of_only_where_none_may_have_its_hosts() -> None:
    found = [line for line in warnings(parse_config(GROUPS, "x")) if "rules" in line]
    assert found == ["policy.rules.0.hosts: 'nowhere' fits no host of libvirt.hosts and libvirt.pattern"]


def test_a_plan_carries_few_notes_however_many_there_are() -> None:
    many = tuple(domain(f"d{i}", "h1", placement=Placement(apart=("x",) * 1)) for i in range(200))
    assert len(plan(group(host("h1", 0.1), *many), Policy()).notes) == 50
