"""Rules that name a label of the hosts: apart over racks, and hosts as groups by label."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import domain, group, host
from virtpoise_balancer.analyse.drains import DrainOrder, with_drains
from virtpoise_balancer.analyse.reserve import with_reserve
from virtpoise_balancer.config import parse_config
from virtpoise_balancer.errors import BadInput
from virtpoise_balancer.model import Host, Placement, Plan, Policy, Reason, Reserve, Rule, Snapshot
from virtpoise_balancer.plan import plan

APART = Rule(name="db", kind="apart", domains=("db*",), over="rack")


def racked(name: str, rack: str | None, *ratios: float) -> Host:
    return replace(host(name, *ratios), labels={} if rack is None else {"rack": rack})


def drained(seen: Snapshot, name: str) -> Snapshot:
    return with_drains(seen, {name: DrainOrder(host=name, draining=True, at=0.0)})


def moved(made: Plan) -> dict[str, str]:
    return {move.domain: move.destination for move in made.moves}


RACKS = (
    racked("h1", "r1", 0.2, 0.2, 0.2),
    racked("h2", "r1", 0.1, 0.1, 0.1),
    racked("h3", "r2", 0.5, 0.5, 0.5),
    racked("h4", "r2", 0.6, 0.6, 0.6),
)


def test_a_domain_stays_out_of_the_rack_of_one_it_is_kept_apart_from() -> None:
    seen = drained(group(*RACKS, domain("db1", "h3", 0.5), domain("db2", "h1", 0.5)), "h3")
    assert moved(plan(seen, Policy()))["db1"] in ("h1", "h2"), "the emptiest"
    made = plan(seen, Policy(rules=(APART,)))
    assert moved(made) == {"db1": "h4"}, "in its own rack, since the other has db2"


def test_with_no_rack_left_the_refusal_names_the_rule() -> None:
    hosts = (RACKS[0], RACKS[1], racked("h3", "r2", 0.5, 0.5, 0.5))
    seen = drained(group(*hosts, domain("db1", "h3", 0.5), domain("db2", "h1", 0.5)), "h3")
    made = plan(seen, Policy(rules=(APART,)))
    assert not made.moves
    assert [(one.reason, one.detail["rule"]) for one in made.refusals if one.domain == "db1"] == [
        (Reason.RULE_APART, "db")
    ]


def test_a_broken_rule_over_racks_is_repaired() -> None:
    seen = group(*RACKS, domain("db1", "h1", 0.5), domain("db2", "h2", 0.5))
    assert not plan(seen, Policy(rules=(APART,))).moves
    made = plan(seen, Policy(rules=(APART,), repair_rules=True))
    assert set(moved(made).values()) <= {"h3", "h4"}
    assert len(made.moves) == 1


def test_hosts_without_the_label_are_no_rack_of_their_own() -> None:
    hosts = (*RACKS[2:], racked("h5", None, 0.1, 0.1, 0.1), racked("h6", None, 0.2, 0.2, 0.2))
    seen = drained(group(*hosts, domain("db1", "h3", 0.5), domain("db2", "h5", 0.5)), "h3")
    made = plan(seen, Policy(rules=(APART,)))
    assert moved(made) == {"db1": "h4"}
    assert "the rule 'db' counts by the label 'rack', and 'h5' has none" in made.notes
    alone = plan(group(host("h1", 0.1), host("h2", 0.1), domain("db1", "h1")), Policy(rules=(APART,)))
    assert "the rule 'db' counts by the label 'rack', and no host has it" in alone.notes


def test_more_domains_than_racks_contradict_the_rule() -> None:
    seen = group(*RACKS, *(domain(f"db{n}", f"h{n}", 0.5) for n in (1, 2, 3)))
    made = plan(seen, Policy(rules=(APART,), repair_rules=True))
    said = {one.detail.get("conflict") for one in made.refusals if one.reason is Reason.RULE_CONFLICT}
    assert said == {"db keeps 3 domains apart, for which there are 2 hosts, counted by their label rack"}


@pytest.mark.parametrize(("kind", "to"), [("only_on", {"h1", "h2"}), ("never_on", {"h4"}), ("prefer", {"h1", "h2"})])
def test_hosts_are_named_by_a_label(kind: str, to: set[str]) -> None:
    seen = drained(group(*RACKS, domain("vm", "h3", 0.5)), "h3")
    rule = Rule(name="x", kind=kind, domains=("vm",), hosts=("rack=r1*",))
    (destination,) = moved(plan(seen, Policy(rules=(rule,)))).values()
    assert destination in to
    nothing = Rule(name="x", kind=kind, domains=("vm",), hosts=("rack=r9", "room=*"))
    notes = plan(seen, Policy(rules=(nothing,))).notes
    assert "the rule 'x' names 'rack=r9', and no host has this label" in notes


def test_a_group_of_the_metadata_counts_by_racks_as_its_rule_does() -> None:
    asks = Placement(apart=("db",))
    seen = group(*RACKS, domain("vm", "h3", 0.5, placement=asks), domain("db2", "h1", 0.5))
    assert moved(plan(drained(seen, "h3"), Policy(rules=(APART,)))) == {"vm": "h4"}


@pytest.mark.hostile
@pytest.mark.parametrize("pattern", ["rack=*", "rack=", "rack=?*", "rack=[!r]*", "rack=r1*"])
def test_a_host_without_the_label_fits_no_pattern(pattern: str) -> None:
    """An exporter's label that is lost moves nothing to a host that has no rack."""
    hosts = RACKS[2], racked("h5", None, 0.1, 0.1, 0.1), racked("h6", "", 0.1, 0.1, 0.1)
    seen = drained(group(*hosts, domain("vm", "h3", 0.5)), "h3")
    only_there = Rule(name="x", kind="only_on", domains=("vm",), hosts=(pattern,))
    assert moved(plan(seen, Policy(rules=(only_there,)))) == {}
    never_there = replace(only_there, kind="never_on")
    assert set(moved(plan(seen, Policy(rules=(never_there,)))).values()) <= {"h5", "h6"}
    asks = Placement(only_on=(pattern,))
    assert moved(plan(drained(group(*hosts, domain("vm", "h3", 0.5, placement=asks)), "h3"), Policy())) == {}
    reserve = Policy(reserve=(Reserve(memory_bytes=1, hosts=(pattern,)),))
    kept = [one.memory_used_bytes for one in with_reserve(seen, reserve).hosts[1:]]
    assert kept == [one.memory_used_bytes for one in seen.hosts[1:]]


def test_a_group_of_the_metadata_takes_hosts_without_the_label_for_one_zone() -> None:
    hosts = (*RACKS[2:], racked("h5", None, 0.1, 0.1, 0.1), racked("h6", None, 0.2, 0.2, 0.2))
    asks = Placement(apart=("db",))
    seen = group(*hosts, domain("vm", "h3", 0.5, placement=asks), domain("db2", "h5", 0.5))
    assert moved(plan(drained(seen, "h3"), Policy(rules=(APART,)))) == {"vm": "h4"}


def test_only_what_keeps_apart_counts_by_a_label() -> None:
    rules = "policy: {rules: [{name: a, kind: together, domains: [x, y], over: rack}]}"
    with pytest.raises(BadInput, match=r"policy\.rules\.0\.over: expected none with together, got 'rack'"):
        parse_config(rules, "x")


def zones_of(seen: Snapshot, places: Mapping[str, str]) -> list[str]:
    rack_of = {one.name: one.labels.get("rack", "") for one in seen.hosts}
    return [rack_of[places[one.uuid]] for one in seen.domains if one.name.startswith("db")]


@given(
    racks=st.lists(st.sampled_from(["r1", "r2", "r3", None]), min_size=3, max_size=8),
    loads=st.lists(st.sampled_from([0.1, 0.5, 0.9]), min_size=8, max_size=8),
    homes=st.lists(st.integers(0, 7), min_size=1, max_size=9),
    repair=st.booleans(),
)
def test_no_move_makes_two_of_a_rack(
    racks: list[str | None], loads: list[float], homes: list[int], repair: bool
) -> None:
    """After any first moves of a plan, no rack has more domains too many than it had before."""
    hosts = tuple(racked(f"h{n}", rack, *[loads[n]] * 3) for n, rack in enumerate(racks))
    names = [f"{'db' if n % 2 else 'vm'}{n}" for n in range(len(homes))]
    seen = group(*hosts, *(domain(one, f"h{home % len(hosts)}", 1.0) for one, home in zip(names, homes, strict=True)))
    made = plan(drained(seen, "h0"), Policy(rules=(APART,), repair_rules=repair))
    places = {one.uuid: one.host for one in seen.domains}

    def crowding() -> int:
        found = zones_of(seen, places)
        return len(found) - len(set(found))

    for move in made.moves:
        before = crowding()
        places[move.uuid] = move.destination
        assert crowding() <= before
