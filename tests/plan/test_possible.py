"""A move that libvirt would refuse for a known reason is not planned, and the reason given. Unknown stops nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from builders import GIB, domain, group, host, thesis_policy, where
from virtpoise_balancer.analyse.drains import DrainOrder, with_drains
from virtpoise_balancer.analyse.facts import refuse, with_facts
from virtpoise_balancer.explain import wording
from virtpoise_balancer.formats import read_snapshot, write_plan, write_snapshot
from virtpoise_balancer.model import (
    DiskCopy,
    Facts,
    Hold,
    Holder,
    HostState,
    Limits,
    MemoryCell,
    Move,
    Need,
    Policy,
    PredictedLoads,
    Prediction,
    Reason,
    Requirement,
    Snapshot,
    Trigger,
)
from virtpoise_balancer.plan import plan, refusal
from virtpoise_balancer.plan.default.consider import consider

POLICY = Policy(cpu=Trigger(threshold=0.8, consecutive=2))
POLICIES = [POLICY, thesis_policy(0.8)]
BRIDGE = Requirement(kind=Need.NETWORK, name="bridge br1")
LOADS = PredictedLoads(source=Prediction.exact(0.5), destination=Prediction.exact(0.5))


def hot() -> Snapshot:
    """h1 is overloaded; h2 is emptier than h3."""
    return group(
        host("h1", 0.9, 0.9), host("h2", 0.1, 0.1), host("h3", 0.2, 0.2), domain("a", "h1", 3.0), domain("b", "h1", 0.5)
    )


def lacks(what: Requirement, *hosts: str, by: str = "uuid-of-a") -> Facts:
    return Facts(requires={by: (what,)}, lacks=dict.fromkeys(hosts, (what,)))


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.strategy)
def test_a_host_without_a_free_card_of_its_network_takes_it_not(policy: Policy) -> None:
    cards = {"uuid-of-a": {"sriov": 2}}
    seen = with_facts(hot(), Facts(cards=cards, cards_free={"h2": {"sriov": 1}, "h3": {"sriov": 2}}))
    assert where(plan(seen, policy)) == {"a": "h3"}
    assert read_snapshot(write_snapshot(seen), "x") == seen
    made = plan(with_facts(hot(), Facts(cards=cards, cards_free={name: {"sriov": 0} for name in ("h2", "h3")})), policy)
    assert "a" not in where(made)
    why = next(one for one in made.refusals if one.domain == "a" and one.host in ("h2", None))
    assert why.reason is Reason.LACKS_NETWORK
    assert "2 free network cards of network sriov" in wording.refusal(why)
    unknown = with_facts(hot(), Facts(cards=cards, cards_free={"h1": {"sriov": 0}}))
    assert where(plan(unknown, policy)) == {"a": "h2"}


def test_a_card_is_not_given_away_twice_in_a_plan() -> None:
    drained = host("h1", 0.2, 0.2, state=HostState.DRAINING)
    snapshot = group(drained, host("h2", 0.1, 0.1), *(domain(name, "h1", 0.5) for name in "abc"))
    cards = {f"uuid-of-{name}": {"sriov": 1} for name in "abc"}
    known = with_facts(snapshot, Facts(cards=cards, cards_free={"h2": {"sriov": 2}}))
    moves = plan(known, POLICY).moves
    assert len(moves) == 2
    assert not refuse(Facts(cards=cards, cards_free={"h2": {"sriov": 2}}), moves, Facts())
    assert refuse(Facts(cards=cards, cards_free={"h2": {"sriov": 1}}), moves, Facts())  # one was given away since
    coming = replace(domain("d", "h3", 0.1), migrating_to="h2", cards={"sriov": 1})
    busy = replace(
        known, hosts=(*known.hosts, host("h3", 0.1, 0.1, cards_free={"sriov": 0})), domains=(*known.domains, coming)
    )
    at_once = replace(POLICY, limits=Limits(per_destination=3))
    assert [move.destination for move in plan(busy, at_once).moves] == ["h2"]


def test_nodes_that_a_domain_turns_out_to_be_bound_to_let_the_group_be_planned_again() -> None:
    moves = plan(hot(), POLICY).moves
    bound = Facts(nodes={"uuid-of-a": (1,)})
    assert refuse(bound, moves, Facts())
    assert not refuse(bound, moves, bound)
    assert refuse(Facts(cells={"uuid-of-a": (MemoryCell(share=1.0, nodes=(1,)),)}), moves, Facts())
    assert not refuse(Facts(nodes={"uuid-of-b": (1,)}), moves, Facts())


def test_room_that_was_taken_since_is_too_little_for_both_copies() -> None:
    disk = DiskCopy(device="vda", path="/srv/a", format="raw", capacity_bytes=2 * GIB, stored_bytes=GIB)
    domains = (replace(domain(name, "h1", 0.5), copies=(disk,)) for name in "ab")
    drained = host("h1", 0.2, 0.2, state=HostState.DRAINING)
    moves = plan(group(drained, host("h2", 0.1, 0.1), *domains), POLICY).moves
    copied = {move.uuid: move.copies for move in moves}
    assert len(copied) == 2
    assert not refuse(Facts(copies=copied, room={"h2": {"/srv": 4 * GIB}}), moves, Facts())
    assert refuse(Facts(copies=copied, room={"h2": {"/srv": 3 * GIB}}), moves, Facts())


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.strategy)
@pytest.mark.parametrize("kind", [*Need])
def test_a_host_that_lacks_what_it_needs_takes_it_not(policy: Policy, kind: Need) -> None:
    what = Requirement(kind=kind, name="this")
    assert where(plan(hot(), policy)) == {"a": "h2"}
    assert where(plan(with_facts(hot(), lacks(what, "h2")), policy)) == {"a": "h3"}
    made = plan(with_facts(hot(), lacks(what, "h2", "h3")), policy)
    assert "a" not in where(made)
    refusals = [one for one in made.refusals if one.domain == "a"]
    assert {one.reason for one in refusals} == {Reason(f"lacks_{kind}")}
    assert refusals[0].detail["needs"] == "this"
    assert "this" in wording.refusal(refusals[0])


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.strategy)
@pytest.mark.parametrize("kind", [*Holder])
def test_what_libvirt_migrates_nowhere_stays_and_another_goes(policy: Policy, kind: Holder) -> None:
    snapshot = group(*hot().hosts, domain("a", "h1", 3.0), domain("b", "h1", 2.5))
    held = with_facts(snapshot, Facts(holds={"uuid-of-a": (Hold(kind=kind, why="it has 2 snapshots"),)}))
    made = plan(held, policy)
    assert where(made) == {"b": "h2"}
    (one,) = (one for one in made.refusals if one.domain == "a")
    assert one.reason is Reason(f"held_{kind}")
    assert wording.refusal(one).endswith("(it has 2 snapshots)")


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.strategy)
def test_a_drain_says_what_holds_the_host(policy: Policy) -> None:
    held = with_facts(hot(), Facts(holds={"uuid-of-a": (Hold(kind=Holder.DEVICE, why="hostdev"),)}))
    drained = with_drains(held, {"h1": DrainOrder(host="h1", draining=True, at=0.0)})
    made = plan(drained, policy)
    assert not made.solved
    assert where(made) == {"b": "h2"}
    assert Reason.HELD_DEVICE in {one.reason for one in made.refusals}


def test_the_last_look_before_a_move_knows_it() -> None:
    to_h2 = Move(domain="a", uuid="uuid-of-a", source="h1", destination="h2", predicted=LOADS)
    for policy in POLICIES:
        assert refusal(hot(), policy, to_h2) is None
        why = refusal(with_facts(hot(), lacks(BRIDGE, "h2")), policy, to_h2)
        assert why is not None
        assert why.reason is Reason.LACKS_NETWORK
        held = Facts(holds={"uuid-of-a": (Hold(kind=Holder.JOB, why="a job"),)})
        why = refusal(with_facts(hot(), held), policy, to_h2)
        assert why is not None
        assert why.reason is Reason.HELD_JOB


def test_explain_knows_the_reason_of_each_host() -> None:
    found = consider(with_facts(hot(), lacks(BRIDGE, "h2")), POLICY, "uuid-of-a")
    assert found is not None
    assert {one.host: one.reason for one in found.hosts} == {"h2": Reason.LACKS_NETWORK, "h3": None}


def test_what_rules_keep_together_goes_where_none_of_it_lacks_anything() -> None:
    from virtpoise_balancer.model import Rule

    policy = replace(POLICY, rules=(Rule(name="pair", kind="together", domains=("a", "b")),))
    assert where(plan(hot(), policy)) == {"a": "h2", "b": "h2"}
    facts = lacks(BRIDGE, "h2", by="uuid-of-b")
    assert where(plan(with_facts(hot(), facts), policy)) == {"a": "h3", "b": "h3"}


def test_a_refusal_counts_the_hosts_that_lack_something() -> None:
    facts = lacks(BRIDGE, "h2", "h3")
    (one,) = (one for one in plan(with_facts(hot(), facts), POLICY).refusals if one.domain == "a")
    assert one.detail["hosts_lacks_network"] == 2


def test_a_saved_snapshot_gives_the_same_plan() -> None:
    known = with_facts(hot(), lacks(BRIDGE, "h2"))
    again = read_snapshot(write_snapshot(known), "test")
    assert again == known
    assert write_plan(plan(again, POLICY)) == write_plan(plan(known, POLICY))


def test_a_snapshot_of_before_there_were_facts_can_be_read() -> None:
    import json

    document = json.loads(write_snapshot(hot()))
    for one in document["hosts"]:
        del one["lacks"]
    for one in document["domains"]:
        del one["requires"], one["holds"]
    assert read_snapshot(json.dumps(document), "test") == hot()


def test_facts_of_others_change_nothing() -> None:
    """A requirement that no host lacks, a lack that no domain minds, an unknown host."""
    facts = Facts(
        requires={"uuid-of-a": (BRIDGE,)}, lacks={"h2": (replace(BRIDGE, name="bridge br2"),), "h9": (BRIDGE,)}
    )
    assert where(plan(with_facts(hot(), facts), POLICY)) == {"a": "h2"}
    assert with_facts(hot(), Facts()) is not None
    unknown = group(host("h2", state=HostState.UNKNOWN), *hot().hosts[:1], *hot().domains)
    assert not plan(with_facts(unknown, facts), POLICY).moves


def test_no_swap_sends_a_domain_where_it_cannot_be() -> None:
    """h2 could take a only if it gave away c, which h3 alone could take and lacks something for."""
    hosts = host("h1", 0.95, 0.95), host("h2", 0.6, 0.6), host("h3", 0.1, 0.1)
    a, c = domain("a", "h1", 3.0, memory_bytes=GIB), domain("c", "h2", 2.5, memory_bytes=GIB)
    facts = Facts(requires={"uuid-of-a": (BRIDGE,), "uuid-of-c": (BRIDGE,)}, lacks={"h3": (BRIDGE,)})
    made = plan(with_facts(group(*hosts, a, c), facts), POLICY)
    assert all(move.destination != "h3" for move in made.moves)
