"""Domains whose disks would have to be copied: moved on a drain, and otherwise only where nothing else helps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from builders import GIB, domain, group, host, thesis_policy, where
from virtpoise_balancer.analyse.facts import with_facts
from virtpoise_balancer.explain.explain import explain
from virtpoise_balancer.explain.wording import copying
from virtpoise_balancer.formats import read_snapshot, write_snapshot
from virtpoise_balancer.model import (
    DiskCopy,
    Domain,
    Facts,
    Hold,
    Holder,
    HostState,
    Need,
    Policy,
    Problem,
    Reason,
    Refusal,
    Requirement,
    Trigger,
)
from virtpoise_balancer.plan import plan, refusal

POLICY = Policy(cpu=Trigger(threshold=0.8, consecutive=2))
BOTH = pytest.mark.parametrize("policy", [POLICY, thesis_policy(0.8)], ids=lambda policy: policy.strategy)
PLACE = Requirement(kind=Need.STORAGE, name="a place for a copy in a storage pool at /srv with 20 GiB free")


def disk(device: str = "vda", stored: int = 10 * GIB) -> DiskCopy:
    return DiskCopy(device=device, path=f"/srv/{device}", format="raw", capacity_bytes=20 * GIB, stored_bytes=stored)


def local(name: str, on: str, cores: float, *disks: DiskCopy) -> Domain:
    return domain(name, on, cores, copies=disks or (disk(),))


def reasons(refusals: Sequence[Refusal]) -> dict[str | None, Reason]:
    return {one.domain: one.reason for one in refusals if one.domain}


HOSTS = (host("h1", 0.9, 0.9), host("h2", 0.1, 0.1), host("h3", 0.2, 0.2))


@BOTH
def test_a_domain_with_shared_storage_is_moved_instead(policy: Policy) -> None:
    made = plan(group(*HOSTS, local("a", "h1", 3.0), domain("b", "h1", 2.5)), policy)
    assert (set(where(made)), made.solved) == ({"b"}, True)
    assert made.moves[0].copies == ()
    why = next(one for one in made.refusals if one.domain == "a")
    assert (why.reason, why.detail) == (
        Reason.HELD_STORAGE,
        {"why": "its disks would have to be copied (vda: 10.0 GiB)"},
    )


@BOTH
def test_where_nothing_else_helps_its_disks_are_copied(policy: Policy) -> None:
    made = plan(group(*HOSTS, local("a", "h1", 3.0)), policy)
    assert (set(where(made)), made.solved) == ({"a"}, True)
    assert [one.device for one in made.moves[0].copies] == ["vda"]
    assert made.moves[0].why.endswith("its disks are copied (vda: 10.0 GiB)")


def test_the_bytes_of_disks_are_its_price() -> None:
    fuller, emptier = local("a", "h1", 2.5, disk(), disk("vdb", 2 * GIB)), local("b", "h1", 2.5)
    made = plan(group(*HOSTS, fuller, emptier), POLICY)
    (move,) = made.moves
    assert move.domain == "b"
    assert move.cost_bytes == emptier.memory_bytes + 10 * GIB
    assert "to copy, with its disks (vda)" in copying(move)


def test_a_plan_that_copying_does_not_help_either_copies_nothing() -> None:
    full = (host("h1", 0.99, 0.99), host("h2", 0.78, 0.78))
    made = plan(group(*full, local("a", "h1", 3.0), domain("b", "h2", 6.0)), POLICY)
    assert (made.moves, made.solved) == ((), False)


def test_another_hosts_domains_are_not_copied_to_make_room() -> None:
    """Only those of the host that nothing else helps: h2 would have room if its own domain went to h3."""
    hosts = (host("h1", 0.9, 0.9), host("h2", 0.6, 0.6))
    made = plan(group(*hosts, local("a", "h1", 1.5), local("b", "h2", 4.0)), POLICY)
    assert set(where(made)) <= {"a"}


@BOTH
def test_a_drain_copies_what_is_not_shared(policy: Policy) -> None:
    hosts = (replace(host("h1", 0.3, 0.3), state=HostState.DRAINING), *HOSTS[1:])
    made = plan(group(*hosts, local("a", "h1", 1.0), domain("b", "h1", 1.0)), policy)
    if policy.strategy == "default":
        assert {move.domain: bool(move.copies) for move in made.moves} == {"a": True, "b": False}
        assert {move.problem for move in made.moves} == {Problem.DRAIN}


def test_neither_a_balance_nor_a_rule_copies() -> None:
    held = local("a", "h1", 3.0)
    made = plan(group(host("h1", 0.5, 0.5), host("h2", 0.1, 0.1), held), replace(POLICY, repair_rules=True))
    assert made.moves == ()


def test_a_host_without_a_place_for_the_copy_takes_none() -> None:
    cold = replace(HOSTS[1], lacks=(PLACE,))
    held = replace(local("a", "h1", 3.0), requires=(PLACE,))
    assert where(plan(group(HOSTS[0], cold, HOSTS[2], held), POLICY)) == {"a": "h3"}
    made = plan(group(HOSTS[0], cold, held), POLICY)
    assert made.moves == ()


def test_what_else_holds_a_domain_holds_it_with_copies_too() -> None:
    held = replace(local("a", "h1", 3.0), holds=(Hold(kind=Holder.DEVICE, why="a device"),))
    made = plan(group(*HOSTS, held), POLICY)
    assert (made.moves, reasons(made.refusals)["a"]) == ((), Reason.HELD_DEVICE)


def test_a_move_that_was_planned_without_the_copy_is_refused_at_the_last_look() -> None:
    before = group(*HOSTS, domain("a", "h1", 3.0))
    (move,) = plan(before, POLICY).moves
    now = replace(before, domains=tuple(replace(one, copies=(disk(),)) for one in before.domains))
    found = refusal(now, POLICY, move)
    assert found is not None
    assert found.reason is Reason.HELD_STORAGE
    assert refusal(now, POLICY, replace(move, copies=(disk(),))) is None


def test_why_it_stays_is_explained() -> None:
    seen = group(*HOSTS, local("a", "h1", 3.0), domain("b", "h1", 2.5))
    (said,) = explain(seen, POLICY, plan(seen, POLICY), "a")
    assert "its disks would have to be copied (vda: 10.0 GiB)" in " ".join((said.verdict, *said.reasons))


@pytest.mark.parametrize(("free", "moves"), [(39, 1), (40, 2), (None, 2)])
def test_the_room_of_one_pool_is_not_given_away_twice(free: int | None, moves: int) -> None:
    """Each copy may come to take 20 GiB. An unknown room is no obstacle: the host is asked before a move."""
    drained = host("h1", 0.2, 0.2, state=HostState.DRAINING)
    snapshot = group(drained, host("h2", 0.1, 0.1), local("a", "h1", 0.5), local("b", "h1", 0.5, disk("vdb")))
    known = with_facts(snapshot, Facts(room={} if free is None else {"h2": {"/srv": free * GIB}}))
    made = plan(known, POLICY)
    assert len(made.moves) == moves
    assert read_snapshot(write_snapshot(known), "x") == known
    if moves == 1:
        (why,) = (one for one in made.refusals if one.domain == "b" and one.host == "h2")
        assert why.reason is Reason.LACKS_STORAGE
        assert (why.detail["needs"], why.detail["free_bytes"]) == ("room for copies of disks at /srv", 19 * GIB)


def test_what_is_on_its_way_takes_its_room() -> None:
    drained = host("h1", 0.2, 0.2, state=HostState.DRAINING)
    coming = replace(local("b", "h3", 0.5, disk("vdb")), migrating_to="h2")
    hosts = drained, host("h2", 0.1, 0.1, copy_room={"/srv": 39 * GIB}), replace(drained, name="h3")
    assert plan(group(*hosts, local("a", "h1", 0.5), coming), POLICY).moves == ()
