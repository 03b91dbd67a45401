"""What memory a plan may count on: less what is reserved, within what may be promised, and no relief for nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import GIB, domain, group, host, thesis_policy, where
from virtpoise_balancer.analyse.reserve import with_reserve
from virtpoise_balancer.model import (
    Detail,
    Domain,
    DomainState,
    Host,
    HugePages,
    Overcommit,
    Policy,
    Reason,
    Refusal,
    Reserve,
    Snapshot,
    SpaceTrigger,
    Trigger,
)
from virtpoise_balancer.plan import plan
from virtpoise_balancer.plan.unmatched import notes

POLICY = Policy(cpu=Trigger(threshold=0.8, consecutive=2), memory=SpaceTrigger(threshold=0.9, consecutive=2))
OVERCOMMIT = replace(POLICY, overcommit=Overcommit(memory_ratio=1.5))
MIB = 1 << 20


def full(name: str, ratio: float, *, reserved: int = 0) -> Host:
    """A host of 8 GiB whose memory was in use to this share in both samples."""
    seen = host(name, 0.2, 0.2, memory_ratio=ratio, memory_ratio_window=(ratio, ratio))
    return replace(seen, memory_reserved_bytes=reserved)


class TestReserve:
    """A host of 8 GiB that keeps one for itself."""

    def kept(self, snapshot: Snapshot, *entries: Reserve) -> list[int]:
        found = with_reserve(snapshot, replace(POLICY, reserve=entries))
        return [one.memory_reserved_bytes for one in found.hosts]

    def test_the_first_entry_that_fits_a_host_counts(self) -> None:
        hosts = host("db1", 0.1, labels={"rack": "a"}), host("web1", 0.1, labels={"rack": "a"}), host("web2", 0.1)
        entries = (
            Reserve(memory_bytes=3, hosts=("db*", "mail")),
            Reserve(memory_bytes=2, hosts=("rack=a",)),
            Reserve(memory_bytes=1),
        )
        assert self.kept(group(*hosts), *entries) == [3, 2, 1]

    def test_a_host_fits_by_its_name_or_by_a_label(self) -> None:
        either = Reserve(memory_bytes=3, hosts=("db1", "rack=b*"))
        hosts = host("db1", 0.1, labels={"rack": "a"}), host("db2", 0.1, labels={"rack": "b2"}), host("db3", 0.1)
        assert self.kept(group(*hosts), either) == [3, 3, 0]

    def test_what_a_snapshot_has_stays_where_no_entry_fits(self) -> None:
        snapshot = group(host("h1", 0.1, memory_reserved_bytes=5), host("h2", 0.1, memory_reserved_bytes=5))
        assert self.kept(snapshot, Reserve(memory_bytes=0, hosts=("h2",))) == [5, 0]
        assert self.kept(snapshot) == [5, 5]

    def test_it_is_the_same_when_it_is_applied_again(self) -> None:
        policy = replace(POLICY, reserve=(Reserve(memory_bytes=GIB),))
        once = with_reserve(group(full("h1", 0.5)), policy)
        assert with_reserve(once, policy) == once

    def test_it_counts_as_used_now_and_in_every_sample(self) -> None:
        kept = full("h1", 0.5, reserved=GIB)
        assert kept.memory_ratio == pytest.approx(0.625)
        assert kept.memory_ratios == pytest.approx((0.625, 0.625))
        beyond = full("h1", 0.95, reserved=GIB)
        assert (beyond.memory_ratio, *beyond.memory_ratios) == pytest.approx((1.075, 1.075, 1.075))

    def test_a_destination_must_keep_it(self) -> None:
        """Without it the domain fits: 0.7 and an eighth stay below 0.9."""
        source = host("h1", 0.95, 0.95, memory_ratio=0.5)
        snapshot = group(source, full("h2", 0.7), domain("a", "h1", 3.0, memory_bytes=GIB))
        assert where(plan(snapshot, POLICY)) == {"a": "h2"}
        made = plan(with_reserve(snapshot, replace(POLICY, reserve=(Reserve(memory_bytes=GIB),))), POLICY)
        assert where(made) == {}
        (refusal,) = (one for one in made.refusals if one.domain == "a")
        assert refusal.reason is Reason.DESTINATION_MEMORY

    def test_a_destination_must_keep_it_in_its_highest_sample_too(self) -> None:
        """Now 0.7 and what is reserved make 0.83; a sample before they made 0.98."""
        before = host("h2", 0.1, 0.1, memory_ratio=0.7, memory_ratio_window=(0.85, 0.7), memory_reserved_bytes=GIB)
        small = domain("a", "h1", 3.0, memory_bytes=GIB // 4)
        assert where(plan(group(host("h1", 0.95, 0.95), before, small), POLICY)) == {}
        calm = replace(before, memory_ratio_window=(0.7, 0.7))
        assert where(plan(group(host("h1", 0.95, 0.95), calm, small), POLICY)) == {"a": "h2"}

    def test_a_host_that_cannot_keep_it_is_relieved(self) -> None:
        guest = domain("a", "h1", 0.1, memory_bytes=GIB, memory_resident_bytes=GIB)
        snapshot = group(full("h1", 0.85), full("h2", 0.2), guest)
        assert where(plan(snapshot, POLICY)) == {}
        kept = replace(POLICY, reserve=(Reserve(memory_bytes=GIB // 2, hosts=("h1",)),))
        assert where(plan(with_reserve(snapshot, kept), kept)) == {"a": "h2"}

    def test_a_relief_counts_from_what_is_missing_to_the_reserve(self) -> None:
        """7 of 8 GiB are in use and 2 are reserved: 112 %. Two guests of 1 GiB would leave 88 %, which is too much."""
        guests = [domain(f"g{n}", "h1", 0.1, memory_bytes=GIB, memory_resident_bytes=GIB) for n in range(4)]
        large = replace(full("h2", 0.1), memory_bytes=64 * GIB)
        made = plan(group(full("h1", 7 / 8, reserved=2 * GIB), large, *guests), POLICY)
        assert made.solved
        assert len(made.moves) == 3
        assert made.moves[-1].predicted.source.memory_ratio == pytest.approx(6 / 8)

    def test_a_reserve_that_no_relief_can_keep_is_never_said_to_be_kept(self) -> None:
        guests = [domain(f"g{n}", "h1", 0.1, memory_bytes=GIB, memory_resident_bytes=GIB) for n in range(4)]
        policy = replace(POLICY, reserve=(Reserve(memory_bytes=12 * GIB, hosts=("h1",)),))
        made = plan(with_reserve(group(full("h1", 0.5), full("h2", 0.1), *guests), policy), policy)
        assert not made.solved
        assert made.notes == ("12.0 GiB are reserved on 'h1', and it has 8.0 GiB of memory",)

    def test_an_entry_that_fits_no_host_is_noted(self) -> None:
        entries = Reserve(memory_bytes=1, hosts=("h*",)), Reserve(memory_bytes=1, hosts=("x*", "rack=z"))
        assert notes(group(host("h1", 0.1)), replace(POLICY, reserve=entries)) == (
            "the reserve for x*, rack=z fits no host",
        )


def figures(refusal: Refusal) -> Detail:
    """The figures of a refusal, without how many hosts refused for which reason."""
    return {key: value for key, value in refusal.detail.items() if not key.startswith("hosts_")}


class TestOvercommit:
    """Hosts of 8 GiB that may promise 12."""

    @pytest.mark.parametrize("policy", [OVERCOMMIT, replace(thesis_policy(0.8), overcommit=OVERCOMMIT.overcommit)])
    @pytest.mark.parametrize(("promised", "moves"), [(8, {"a": "h2"}), (9, {})])
    def test_a_host_takes_what_it_may_still_promise(self, policy: Policy, promised: int, moves: dict[str, str]) -> None:
        snapshot = group(
            host("h1", 0.95, 0.95),
            host("h2", 0.1, 0.1, memory_ratio=0.1),
            domain("a", "h1", 3.0, memory_bytes=GIB, memory_maximum_bytes=4 * GIB),
            domain("b", "h2", 0.1, memory_bytes=GIB, memory_maximum_bytes=promised * GIB),
        )
        made = plan(snapshot, policy)
        assert where(made) == moves
        refused = [one for one in made.refusals if one.reason is Reason.DESTINATION_OVERCOMMIT]
        assert [(one.domain, one.host, one.detail["need_bytes"], one.detail["free_bytes"]) for one in refused] == (
            [] if moves else [("a", "h2", 4 * GIB, 3 * GIB)]
        )

    def test_without_a_limit_only_what_is_used_counts(self) -> None:
        guests = [domain(f"b{n}", "h2", 0.01, memory_bytes=GIB, memory_maximum_bytes=64 * GIB) for n in range(3)]
        snapshot = group(host("h1", 0.95, 0.95), host("h2", 0.1, 0.1), domain("a", "h1", 3.0), *guests)
        assert where(plan(snapshot, POLICY)) == {"a": "h2"}

    @pytest.mark.parametrize(("state", "moves"), [(DomainState.PAUSED, {}), (DomainState.SHUTOFF, {"a": "h2"})])
    def test_a_paused_domain_was_promised_its_memory_and_one_that_is_shut_off_was_not(
        self, state: DomainState, moves: dict[str, str]
    ) -> None:
        there = domain("b", "h2", state=state, memory_bytes=12 * GIB)
        snapshot = group(host("h1", 0.95, 0.95), host("h2", 0.1, 0.1), domain("a", "h1", 3.0), there)
        assert where(plan(snapshot, OVERCOMMIT)) == moves

    @pytest.mark.parametrize("policy", [OVERCOMMIT, replace(thesis_policy(0.8), overcommit=OVERCOMMIT.overcommit)])
    @pytest.mark.parametrize(("maximum", "moves"), [(None, {}), (0, {}), (GIB, {"a": "h2"})])
    def test_a_host_promised_nobody_knows_how_much_to_a_domain_whose_memory_is_not_known(
        self, policy: Policy, maximum: int | None, moves: dict[str, str]
    ) -> None:
        there = domain("b", "h2", state=DomainState.PAUSED, memory_bytes=0, memory_maximum_bytes=maximum)
        made = plan(group(host("h1", 0.95, 0.95), host("h2", 0.1, 0.1), domain("a", "h1", 3.0), there), policy)
        assert where(made) == moves
        refused = [one for one in made.refusals if one.reason is Reason.DESTINATION_OVERCOMMIT]
        assert [figures(one) for one in refused] == (
            [] if moves else [{"need_bytes": GIB // 4, "unknown": "the memory of a domain there is not known"}]
        )

    @pytest.mark.parametrize("policy", [OVERCOMMIT, replace(thesis_policy(0.8), overcommit=OVERCOMMIT.overcommit)])
    def test_no_host_takes_a_domain_whose_memory_is_not_known(self, policy: Policy) -> None:
        snapshot = group(host("h1", 0.95, 0.95), host("h2", 0.1, 0.1), domain("a", "h1", 3.0, memory_bytes=0))
        made = plan(snapshot, policy)
        assert where(made) == {}
        refused = [one for one in made.refusals if one.reason is Reason.DESTINATION_OVERCOMMIT]
        assert [figures(one) for one in refused] == [{"free_bytes": 12 * GIB, "unknown": "its own memory is not known"}]

    def test_huge_pages_are_not_promised_but_held(self) -> None:
        pages = (HugePages(page_bytes=2 * MIB, memory_bytes=12 * GIB),)
        there = domain("b", "h2", 0.1, memory_bytes=12 * GIB, hugepages=pages)
        snapshot = group(host("h1", 0.95, 0.95), host("h2", 0.1, 0.1), domain("a", "h1", 3.0), there)
        assert where(plan(snapshot, OVERCOMMIT)) == {"a": "h2"}

    def test_what_is_reserved_cannot_be_promised(self) -> None:
        there = domain("b", "h2", 0.1, memory_bytes=GIB, memory_maximum_bytes=10 * GIB)
        moved = domain("a", "h1", 3.0, memory_bytes=GIB, memory_maximum_bytes=2 * GIB)
        kept = host("h2", 0.1, 0.1, memory_ratio=0.1, memory_reserved_bytes=GIB)
        assert where(plan(group(host("h1", 0.95, 0.95), kept, moved, there), OVERCOMMIT)) == {}

    def test_more_than_is_allowed_already_is_no_problem_to_solve(self) -> None:
        """It is a limit for what comes, and no reason to move."""
        there = domain("b", "h2", 0.1, memory_bytes=GIB, memory_maximum_bytes=100 * GIB)
        assert where(plan(group(host("h1", 0.1, 0.1), host("h2", 0.1, 0.1), there), OVERCOMMIT)) == {}


class TestLeastGain:
    """A host of 134 GB at 93 %, whose own programs hold nearly all of it: no set of moves relieves it."""

    HELD = 134 * 10**9

    def snapshot(self, resident: int, guests: int = 8) -> Snapshot:
        source = host(
            "h1",
            0.2,
            0.2,
            memory_bytes=self.HELD,
            memory_used_bytes=int(0.93 * self.HELD),
            memory_ratio_window=(0.93, 0.93),
        )
        idle = [
            domain(f"vm{n}", "h1", 0.05, memory_bytes=max(resident, 256 * MIB), memory_resident_bytes=resident)
            for n in range(guests)
        ]
        return group(source, host("h2", 0.1, 0.1, memory_bytes=self.HELD, memory_used_bytes=0), *idle)

    def test_eight_guests_are_not_evacuated_for_three_tenths_of_a_point(self) -> None:
        made = plan(self.snapshot(50 * 10**6), POLICY)
        assert where(made) == {}
        assert not made.solved
        refused = {one.domain: one for one in made.refusals if one.domain}
        assert {one.reason for one in refused.values()} == {Reason.LEAST_GAIN}
        assert refused["vm0"].detail == {"gain_ratio": pytest.approx(50e6 / 134e9, abs=1e-6), "least_gain_ratio": 0.01}

    def test_a_partial_relief_is_made_where_each_move_gains_something(self) -> None:
        """Two of 2 GB take 1.5 points each off 93 %, which does not reach the 85 % that are wanted."""
        made = plan(self.snapshot(2 * 10**9, guests=2), POLICY)
        assert where(made) == {"vm0": "h2", "vm1": "h2"}
        assert not made.solved

    def test_many_small_ones_are_moved_where_that_solves_it(self) -> None:
        """Each of 0.9 GB takes less than a point. Twelve of them take the eight points that are wanted."""
        made = plan(self.snapshot(900 * 10**6, guests=13), POLICY)
        assert made.solved
        assert len(where(made)) == 12


@st.composite
def groups(draw: st.DrawFn) -> Snapshot:
    """Three hosts, the first hot, with pools of two sizes and domains in them or not."""
    sizes = (2 * MIB, GIB)
    hosts = [
        host(
            f"h{n}",
            *([0.95] * 2 if n == 0 else [draw(st.sampled_from((0.1, 0.4)))] * 2),
            memory_ratio=0.1,
            memory_reserved_bytes=draw(st.integers(0, 2)) * GIB,
            hugepages_free=tuple(HugePages(page_bytes=s, memory_bytes=draw(st.integers(0, 8)) * GIB) for s in sizes),
        )
        for n in range(3)
    ]
    domains = []
    for n in range(draw(st.integers(1, 6))):
        gib = draw(st.integers(1, 3))
        size = draw(st.sampled_from((None, *sizes)))
        domains.append(
            domain(
                f"d{n}",
                draw(st.sampled_from(("h0", "h0", "h1"))),
                draw(st.sampled_from((0.5, 1.5))),
                memory_bytes=gib * GIB,
                memory_maximum_bytes=draw(st.integers(gib, 6)) * GIB,
                hugepages=() if size is None else (HugePages(page_bytes=size, memory_bytes=gib * GIB),),
            )
        )
    return group(*hosts, *domains)


@given(groups())
def test_no_prefix_of_a_plan_takes_more_than_a_host_has(snapshot: Snapshot) -> None:
    """Counted by itself: pages by size, and promised memory; what leaves frees nothing until the next look."""
    policy = replace(OVERCOMMIT, cpu=Trigger(threshold=0.6, consecutive=2))
    by_uuid: dict[str, Domain] = {one.uuid: one for one in snapshot.domains}
    free = {(one.name, p.page_bytes): p.memory_bytes for one in snapshot.hosts for p in one.hugepages_free or ()}
    promised = {one.name: 0 for one in snapshot.hosts}
    for one in snapshot.domains:
        promised[one.host] += one.promised_bytes or 0
    for move in plan(snapshot, policy).moves:
        moved, destination = by_uuid[move.uuid], snapshot.host(move.destination)
        assert destination is not None
        for pages in moved.hugepages:
            free[move.destination, pages.page_bytes] -= pages.memory_bytes
            assert free[move.destination, pages.page_bytes] >= 0
        promised[move.destination] += moved.promised_bytes or 0
        assert promised[move.destination] <= 1.5 * (destination.memory_bytes - destination.memory_reserved_bytes)
