"""Before a plan is handed over, both hosts of each move are asked; what is refused is known to the next plan, which is
made in the same cycle.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace

import pytest

from builders import FakeClock, domain, group, host, thesis_policy, where
from taking import Taking
from virtpoise_balancer.config import Measurement
from virtpoise_balancer.control.cycle import Cycle
from virtpoise_balancer.control.decide import CycleResult
from virtpoise_balancer.errors import Refused
from virtpoise_balancer.knowledge.store import Store
from virtpoise_balancer.model import (
    Cause,
    Facts,
    Hold,
    Holder,
    MigrationOutcome,
    Mode,
    Move,
    Need,
    Policy,
    Reason,
    Requirement,
    Result,
    Trigger,
)
from watching import Watching

POLICY = Policy(cpu=Trigger(threshold=0.8, consecutive=2))
BRIDGE = Requirement(kind=Need.NETWORK, name="bridge br1")
LOCAL = Hold(kind=Holder.STORAGE, why="Migration without shared storage is unsafe")
HOSTS = (host("h1", 0.9, 0.9), host("h2", 0.1, 0.1), host("h3", 0.2, 0.2))
DOMAINS = (domain("a", "h1", 3.0), domain("b", "h1", 2.5), domain("c", "h1", 0.5))


@dataclass
class World:
    """What libvirt would refuse. It is known as soon as one of the hosts that refuse has been asked."""

    held: Collection[str] = ()
    lacking: Mapping[str, Collection[str]] = field(default_factory=dict)  # domains by the hosts that lack for them
    known: Facts = field(default_factory=Facts)
    asked: list[tuple[tuple[str, ...], bool]] = field(default_factory=list)
    skipped: list[Collection[str]] = field(default_factory=list)
    soon: Collection[str] = ()

    def look_soon(self, hosts: Collection[str], /) -> None:
        self.soon = hosts

    def facts(self, _hosts: Collection[str] = (), /) -> Facts:
        return self.known

    def ask(self, moves: Sequence[Move], *, skip: Collection[str], acts: bool) -> None:
        self.asked.append((tuple(f"{move.domain} to {move.destination}" for move in moves), acts))
        self.skipped.append(skip)
        holds, requires, lacks = dict(self.known.holds), dict(self.known.requires), dict(self.known.lacks)
        for move in moves:
            if move.domain in self.held:
                holds[move.uuid] = (LOCAL,)
            if move.domain in self.lacking.get(move.destination, ()):
                requires[move.uuid] = (BRIDGE,)
                lacks[move.destination] = (BRIDGE,)
        found = Facts(holds=holds, requires=requires, lacks=lacks)
        self.known = self.known if found == self.known else found


@pytest.fixture
def store() -> Iterator[Store]:
    with closing(Store.open("sqlite://", clock=FakeClock())) as opened:
        yield opened


def made(store: Store, world: World, *, policy: Policy = POLICY, mode: Mode = "automatic") -> tuple[Cycle, Taking]:
    taking = Taking(stays_busy=True)
    cycle = Cycle(
        observer=Watching(group(*HOSTS, *DOMAINS)),
        store=store,
        executor=taking,
        policy=policy,
        measurement=Measurement(settle_seconds=20, window_seconds=60),
        clock=store.clock,
        mode=mode,
        possible=world,
    )
    return cycle, taking


@pytest.mark.parametrize("policy", [POLICY, thesis_policy(0.8)], ids=lambda policy: policy.strategy)
def test_a_domain_that_may_not_leave_is_found_in_time_and_another_is_moved(store: Store, policy: Policy) -> None:
    world = World(held={"a"})
    cycle, taking = made(store, world, policy=policy)
    report = cycle.run(1000.0)
    assert report.result is CycleResult.MOVED
    assert [[move.domain for _, move in entries] for entries in taking.taken] == [["b"]]
    assert report.plan is not None
    (why,) = (one for one in report.plan.refusals if one.domain == "a")
    assert (why.reason, why.detail["why"]) == (Reason.HELD_STORAGE, LOCAL.why)
    assert len(store.history(10)) == 1
    assert world.asked == [(("a to h2",), True), (("b to h2",), True)]


def test_a_host_that_lacks_something_is_found_in_time_and_another_is_taken(store: Store) -> None:
    cycle, taking = made(store, World(lacking={"h2": {"a"}}))
    report = cycle.run(1000.0)
    assert report.plan is not None
    assert where(report.plan) == {"a": "h3"}
    assert len(taking.taken) == 1


def test_hosts_that_lack_what_may_come_are_looked_at_soon_while_a_plan_does_not_solve_all(store: Store) -> None:
    """A network that was being restarted when its host was looked at kept that host out for an hour."""
    world = World(lacking={"h2": {"a", "b", "c"}, "h3": {"a", "b", "c"}})
    cycle, taking = made(store, world)
    cycle.run(1000.0)
    assert (taking.taken, sorted(world.soon)) == ([], ["h2", "h3"])
    world.lacking, world.known = {}, Facts()
    cycle.run(2000.0)
    assert (len(taking.taken), list(world.soon)) == (1, [])


def test_what_is_possible_is_asked_about_once(store: Store) -> None:
    world = World()
    cycle, _ = made(store, world)
    cycle.run(1000.0)
    assert world.asked == [(("a to h2",), True)]


def test_a_recommendation_is_asked_about_as_well(store: Store) -> None:
    world = World(held={"a"})
    cycle, taking = made(store, world, mode="recommend")
    report = cycle.run(1000.0)
    assert report.plan is not None
    assert where(report.plan) == {"b": "h2"}
    assert (taking.taken, {acts for _, acts in world.asked}) == ([], {False})


def test_a_plan_is_made_anew_a_bounded_number_of_times(store: Store) -> None:
    """Each answer brings another refusal; the last plan is handed over, and looked at again before it begins."""
    cycle, _ = made(store, world := World(held={"a", "b", "c"}, lacking={"h2": {"a", "b"}, "h3": {"a", "b"}}))
    report = cycle.run(1000.0)
    assert report.plan is not None
    assert len(world.asked) <= 10
    assert "a" not in where(report.plan)
    assert report.result is CycleResult.IDLE


def test_the_last_look_knows_what_was_found_since(store: Store) -> None:
    world = World()
    cycle, taking = made(store, world)
    cycle.run(1000.0)
    ((_, move),) = taking.taken[0]
    assert cycle.obstacle(move, ordered=False) is None
    world.held = {"a"}  # since the plan was made
    world.ask([move], skip=(), acts=True)  # as the executor does before
    world.asked.clear()
    assert LOCAL.why in (cycle.obstacle(move, ordered=False) or "")
    assert world.asked == [], "moves are looked at one after the other"


def test_a_person_is_told_why_a_chosen_move_is_none_any_more(store: Store) -> None:
    cycle, taking = made(store, World(held={"a"}), mode="recommend")
    with pytest.raises(Refused, match="a"):
        cycle.apply({("uuid-of-a", "h2")}, 1000.0)
    assert taking.taken == []
    assert store.history(10) == ()


def test_hosts_that_do_not_answer_are_not_asked(store: Store) -> None:
    from virtpoise_balancer.analyse.silence import Silence

    world = World()
    cycle, _ = made(store, world)
    replace(cycle, silence=lambda: Silence(silent={"h3": "hangs"}, answered=True)).run(1000.0)
    assert list(world.skipped[0]) == ["h3"]


def end(store: Store, taking: Taking, at: float, outcome: MigrationOutcome) -> None:
    for migration_id, _ in taking.taken[-1]:
        store.clock.at = at - 1  # type: ignore[attr-defined]
        store.begin(migration_id)
        store.clock.at = at  # type: ignore[attr-defined]
        store.end(migration_id, outcome)
    taking.busy = False


def test_a_migration_that_libvirt_refuses_all_the_same_sends_no_host_into_a_penalty(store: Store) -> None:
    """Another move would do, and is made as soon as the host is judged again."""
    cycle, taking = made(store, World())
    cycle.run(1000.0)
    end(store, taking, 1005.0, MigrationOutcome(result=Result.FAILED, why="no such device", cause=Cause.REFUSED))
    store.clock.at = 1040.0  # type: ignore[attr-defined]
    report = cycle.run(1040.0)
    assert report.backoffs["h1"].penalty_until is None
    assert report.result is CycleResult.MOVED
    assert report.plan is not None
    assert where(report.plan) == {"a": "h3"}


def test_where_no_other_move_would_do_the_next_plan_earns_the_penalty(store: Store) -> None:
    cycle, taking = made(store, world := World(held={"b", "c"}))
    world.known = Facts(
        holds={"uuid-of-b": (LOCAL,), "uuid-of-c": (LOCAL,)},
        requires={"uuid-of-a": (BRIDGE,)},
        lacks={"h3": (BRIDGE,)},
    )
    cycle.run(1000.0)
    end(store, taking, 1005.0, MigrationOutcome(result=Result.FAILED, why="no such device", cause=Cause.REFUSED))
    store.clock.at = 1040.0  # type: ignore[attr-defined]
    report = cycle.run(1040.0)
    assert report.result is CycleResult.IDLE
    store.clock.at = 1050.0  # type: ignore[attr-defined]
    assert cycle.run(1050.0).backoffs["h1"].penalty_until is not None


@pytest.mark.parametrize(
    ("policy", "cause"),
    [(POLICY, Cause.ERROR), (POLICY, Cause.SLOW), (thesis_policy(0.8), Cause.REFUSED)],
    ids=["broke", "slow", "thesis"],
)
def test_what_broke_or_did_not_end_earns_the_penalty_at_once_and_with_the_thesis_all_that_failed(
    store: Store, policy: Policy, cause: Cause
) -> None:
    cycle, taking = made(store, World(), policy=policy)
    cycle.run(1000.0)
    end(store, taking, 1005.0, MigrationOutcome(result=Result.FAILED, why="broke", cause=cause))
    store.clock.at = 1010.0  # type: ignore[attr-defined]
    assert cycle.run(1010.0).backoffs["h1"].penalty_until == 1195.0
