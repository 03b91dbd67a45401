"""Orders of people: followed or refused in words, and written down either way."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from builders import FakeClock, domain, group, host
from storing import record
from virtpoise_balancer.analyse.brake import Brake, BrakeCause, judge
from virtpoise_balancer.control.orders import By, Orders, Unforeseen
from virtpoise_balancer.errors import MonitorError, NotKnown, Refused, VirtpoiseError
from virtpoise_balancer.knowledge.records import Action, Changes
from virtpoise_balancer.knowledge.store import Store
from virtpoise_balancer.model import (
    BlackoutWindow,
    BrakeBounds,
    DrainLimit,
    Host,
    HostState,
    MigrationOutcome,
    Move,
    Plan,
    Policy,
    PredictedLoads,
    Prediction,
    Result,
    Snapshot,
)

ALICE = By("alice", "127.0.0.1")
GROUP = group(
    host("h1", 0.5), host("h2", 0.1), host("h3", state=HostState.UNKNOWN), domain("a", "h1"), domain("b", "h2")
)

LOADS = PredictedLoads(source=Prediction.exact(0.5), destination=Prediction.exact(0.5))
MOVES = Plan(
    strategy="default",
    solved=True,
    summary="",
    overloaded=(),
    moves=tuple(
        Move(domain=name, uuid=f"uuid-of-{name}", source="h1", destination="h2", predicted=LOADS) for name in "ab"
    ),
    refusals=(),
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(Store.open(f"sqlite:///{tmp_path}/state.db")) as opened:
        yield opened


def orders(store: Store, snapshot: Snapshot = GROUP, **more: object) -> Orders:
    return Orders(**{"store": store, "look": lambda: snapshot, "mode": lambda: "recommend"} | more)  # type: ignore[arg-type]


BRAKE = Brake(at=100.0, cause=BrakeCause.MIGRATIONS, why="3 of 3 failed")


def test_a_brake_is_released_once_and_each_answer_says_why_it_was_on(store: Store) -> None:
    take = orders(store, mode=lambda: "automatic")
    assert take.release(ALICE) == "The brake is not on."
    store.commit(Changes(brake=BRAKE), 100.0)
    assert take.drain("h1", ALICE).endswith("Its moves are only recommended now: see the plan.")
    assert take.release(ALICE) == "The brake is released; it was on because 3 of 3 failed."
    assert take.release(ALICE) == "The brake is not on."
    assert [one.action for one in store.actions(10)] == ["release", "release", "drain", "release"]


def test_a_drain_in_a_window_says_until_when_it_waits_and_how_to_go_ahead(store: Store) -> None:
    day = BlackoutWindow(name="day", cron="0 8 * * *", duration_seconds=36000.0)
    take = orders(store, mode=lambda: "automatic", policy=lambda: Policy(windows=(day,)), clock=FakeClock(9 * 3600.0))
    answer = "It waits: no migration begins until 1970-01-01 18:00 UTC (window day). Go ahead with virtpoise apply."
    assert take.drain("h1", ALICE) == f"h1 drains from the next cycle on. {answer}"


def test_a_drain_says_that_its_moves_are_only_recommended_where_the_configuration_names_no_host(store: Store) -> None:
    take = orders(store, mode=lambda: "automatic", only_recommends=lambda: "libvirt.pattern: expected one")
    assert take.drain("h1", ALICE).endswith("Its moves are only recommended now: see the plan.")


def test_a_drain_while_the_balancer_is_paused_says_who_paused_it_and_how_to_go_on(store: Store) -> None:
    take = orders(store, mode=lambda: "automatic")
    take.pause(ALICE)
    assert take.drain("h1", ALICE).endswith("It waits: paused by alice. Go on with virtpoise resume.")


def test_a_release_counts_for_what_was_written_while_the_clock_was_ahead(store: Store) -> None:
    clock = store.clock = FakeClock(at=1120.0)
    for migration_id, _ in record(store, MOVES, 1120.0, acted=True):
        store.begin(migration_id)
        store.end(migration_id, MigrationOutcome(result=Result.FAILED, why="no"))
    store.commit(Changes(brake=replace(BRAKE, at=1121.0)), 1121.0)
    clock.at = 1010.0
    take = orders(store, clock=clock)
    assert take.release(ALICE).startswith("The brake is released")
    assert take.release(ALICE) == "The brake is not on."
    memory = store.recall(moved_since=0.0, ended_since=0.0, judged_since=0.0)
    bounds = BrakeBounds(failed_domains=2)
    assert judge(memory.track_record, bounds, None, 1020.0) is not None
    assert judge(memory.track_record, bounds, memory.orders.overrides.released_at, 1020.0) is None


def test_whoever_switches_to_automatic_is_told_of_the_brake(store: Store) -> None:
    take = orders(store)
    store.commit(Changes(brake=BRAKE), 100.0)
    answer = take.set_mode("automatic", ALICE)
    assert answer.endswith("The brake is on, so moves are only recommended: see virtpoise release.")
    assert "brake" not in take.set_mode("recommend", ALICE)


def test_drain_and_undrain(store: Store) -> None:
    take = orders(store)
    assert (
        take.drain("h1", ALICE) == "h1 drains from the next cycle on. Its moves are only recommended now: see the plan."
    )
    assert take.drain("h1", ALICE) == "h1 is draining already."
    assert store.standing_orders().drains["h1"].draining
    assert take.undrain("h1", ALICE) == "h1 is back in the group."
    assert take.undrain("h1", ALICE) == "h1 is not draining."
    assert not store.standing_orders().drains["h1"].draining


@pytest.mark.parametrize(
    ("name", "kind", "says"),
    [
        ("h9", NotKnown, "h9: no such host is scraped; there are: h1, h2, h3"),
        ("h3", Refused, "h3: Prometheus has no fresh figures of it, so nothing can be moved off it"),
    ],
)
def test_a_drain_that_makes_no_sense_is_refused_and_journalled(
    store: Store, name: str, kind: type[VirtpoiseError], says: str
) -> None:
    with pytest.raises(kind, match=says):
        orders(store).drain(name, ALICE)
    (action,) = store.actions(5)
    assert (action.who, action.origin, action.action, action.target) == ("alice", "127.0.0.1", "drain", name)
    assert (action.accepted, action.answer) == (False, says)
    assert store.standing_orders().drains == {}


def test_the_last_host_is_not_drained(store: Store) -> None:
    with pytest.raises(Refused, match="h1: it is the last host of the group"):
        orders(store, group(host("h1", 0.5), domain("a", "h1"))).drain("h1", ALICE)


def test_a_host_that_drains_is_nowhere_to_move_to(store: Store) -> None:
    orders(store).drain("h1", ALICE)
    with pytest.raises(Refused, match="h2: it is the last host of the group"):
        orders(store).drain("h2", ALICE)


def test_a_pause_and_a_mode_outlive_the_process(store: Store, tmp_path: Path) -> None:
    orders(store).pause(ALICE)
    orders(store).set_mode("automatic", ALICE)
    store.close()
    with closing(Store.open(f"sqlite:///{tmp_path}/state.db")) as reopened:
        again = reopened.overrides()
    assert again.paused is not None
    assert again.paused.who == "alice"
    assert again.mode_over("recommend") == "automatic"


def test_a_mode_holds_until_the_configuration_says_something_new(store: Store) -> None:
    orders(store).set_mode("automatic", ALICE)
    assert store.overrides().mode_over("automatic") == "automatic"  # the file was changed to what had been set
    orders(store).set_mode("recommend", ALICE)
    assert store.overrides().mode is None


def test_applying_is_for_a_balancer_that_runs_and_is_not_paused(store: Store) -> None:
    plan = Plan(strategy="default", solved=True, summary="")
    carried: list[object] = []

    def carry_out(wanted: object) -> Plan:
        carried.append(wanted)
        return plan

    take = orders(store, carry_out=carry_out)
    with pytest.raises(Refused, match="no move was chosen"):
        take.apply(set(), ALICE)
    take.pause(ALICE)
    with pytest.raises(Refused, match="paused by alice: resume first"):
        take.apply({("u", "h2")}, ALICE)
    assert carried == []
    with closing(Store.open("sqlite://")) as other, pytest.raises(Refused, match="only a running balancer makes moves"):
        orders(other).apply({("u", "h2")}, ALICE)


def test_an_unforeseen_error_is_journalled_as_refused_and_logged_in_one_line(store: Store) -> None:
    def fail() -> Snapshot:
        raise KeyError("h1")

    with pytest.raises(Unforeseen, match="unforeseen: KeyError: 'h1'"):
        Orders(store=store, look=fail, mode=lambda: "recommend").drain("h1", ALICE)
    (action,) = store.actions(5)
    assert (action.who, action.action, action.accepted) == ("alice", "drain", False)
    assert action.answer == "unforeseen: KeyError: 'h1'"


def test_every_order_is_announced_once_it_is_written_down(store: Store) -> None:
    told: list[Action] = []

    def fail() -> Snapshot:
        raise MonitorError("Prometheus cannot be asked")

    take = Orders(store=store, look=fail, mode=lambda: "recommend", on_order=told.append)
    take.pause(ALICE)
    with pytest.raises(MonitorError):
        take.drain("h1", ALICE)
    assert [(action.action, action.accepted) for action in told] == [("pause", True), ("drain", False)]
    assert tuple(reversed(told)) == store.actions(5)


def test_a_person_accounts_for_a_lost_domain_and_for_a_migration_without_an_end(store: Store) -> None:
    first, second = record(store, MOVES, 1000.0, acted=True)
    for migration_id, _ in (first, second):
        store.begin(migration_id)
    store.end(first[0], MigrationOutcome(result=Result.FAILED, why="absent on both", lost=True))
    take = orders(store)
    with pytest.raises(
        NotKnown, match="c: no such domain is lost or has a migration without a known end; there are: a, b"
    ):
        take.acknowledge("c", ALICE)
    told = "a is accounted for: its hosts take part again from the next cycle on."
    assert take.acknowledge("a", ALICE) == told
    assert take.acknowledge("uuid-of-b", ALICE).startswith("b is accounted for")
    assert [entry.id for entry in store.watched() if entry.is_open or entry.lost] == []
    assert [record.why for record in store.history(5)] == ["reported as ended by alice", "absent on both"]
    assert store.actions(1)[0].action == "acknowledge"


def test_no_more_hosts_of_a_rack_drain_at_once_than_their_share(store: Store) -> None:
    def racked(name: str, rack: str) -> Host:
        return replace(host(name, 0.1), labels={"rack": rack} if rack else {})

    names = {"a1": "a", "a2": "a", "a3": "a", "b1": "b", "c1": "", "c2": ""}
    seen = group(*(racked(name, rack) for name, rack in names.items()))
    limit = DrainLimit(label="rack", most_ratio=2 / 3)
    take = orders(store, seen, policy=lambda: Policy(drains=limit))
    assert take.drain("a1", ALICE).startswith("a1 drains")
    assert take.drain("a2", ALICE).startswith("a2 drains")
    assert take.drain("a2", ALICE) == "a2 is draining already."
    with pytest.raises(Refused) as refused:
        take.drain("a3", ALICE)
    assert str(refused.value) == (
        "a3: of the 3 hosts with rack=a at most 2 may drain at once (policy.drains), and a1, a2 do"
    )
    assert take.drain("b1", ALICE).startswith("b1 drains"), "one always may"
    assert take.drain("c1", ALICE).startswith("c1 drains")
    with pytest.raises(Refused, match="of the 2 hosts without the label rack at most 1 may drain at once"):
        take.drain("c2", ALICE)
    take.undrain("a1", ALICE)
    assert take.drain("a3", ALICE).startswith("a3 drains")


def test_a_domain_that_is_named_like_the_uuid_of_another_does_not_stand_in_its_way(store: Store) -> None:
    first, second = MOVES.moves
    named = replace(first, domain=second.uuid)
    for migration_id, _ in record(store, replace(MOVES, moves=(named, second)), 1000.0, acted=True):
        store.begin(migration_id)
    assert orders(store).acknowledge(second.uuid, ALICE).startswith("b is accounted for")
    assert [entry.move.uuid for entry in store.watched() if entry.is_open] == [named.uuid]
