"""The memories of several groups of hosts in one store: none sees what is another's.

Nothing that must count is lost when the configuration gets groups or loses them.
"""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from builders import FakeClock, domain, group, host, thesis_policy
from storing import BY_OTHERS, SIGHTINGS, record
from virtpoise_balancer.analyse.brake import Brake, BrakeCause
from virtpoise_balancer.knowledge.leader import FileLock
from virtpoise_balancer.knowledge.records import Action, Changes, Look, Memory, NewCycle, OverrideValue
from virtpoise_balancer.knowledge.store import Store
from virtpoise_balancer.model import MigrationOutcome, Plan, Result
from virtpoise_balancer.plan import plan
from virtpoise_lab.postgresql import Server

BOTH = ("blue", "red")
DONE = MigrationOutcome(result=Result.DONE, seconds=6.0, transferred_bytes=1000)
PAUSED = OverrideValue(value="yes", instead_of="no", at=900.0, who="alice")


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    url, password_file = f"sqlite:///{tmp_path}/state.db", None
    if request.param == "postgresql":
        server: Server = request.getfixturevalue("postgresql")
        url, password_file = server.new_database(), server.password_file
    with closing(Store.open(url, clock=FakeClock(1000.0), password_file=password_file)) as opened:
        yield opened


def made_plan() -> Plan:
    made = plan(group(host("h1", 1.0, 1.0), host("h2", 0.05, 0.05), domain("a", "h1", 1.2)), thesis_policy())
    assert made.moves
    return made


def remembered(store: Store) -> Memory:
    return store.recall(moved_since=0, ended_since=0, judged_since=0)


def lead(store: Store, tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "lock")
    assert lock.take()
    store.lead(lock, "machine")


def filled(store: Store) -> None:
    """All that a cycle and a person write, in the group of the store."""
    cycle = NewCycle(at=1000.0, result="idle", sentence="calm", gist="calm")
    look = Look(sightings=SIGHTINGS, changes=(BY_OTHERS,), same=False)
    brake = Brake(at=1000.0, cause=BrakeCause.MIGRATIONS, why="3 failed")
    store.commit(Changes(cycle=cycle, look=look, brake=brake), 1000.0)
    for migration_id, _ in record(store, made_plan(), 1000.0, acted=True):
        store.begin(migration_id)
    store.override("paused", PAUSED)
    store.record_action(Action(at=1000.0, who="alice", origin="command", action="pause", accepted=True, answer="yes"))


def test_what_is_one_groups_is_not_anothers(store: Store) -> None:
    blue, red = (store.of_group(name, BOTH) for name in BOTH)
    filled(blue)
    memory = remembered(red)
    assert (memory.watched, memory.commitments, memory.due, memory.ended_plans) == ((), (), (), ())
    assert (memory.newest_plan, memory.newest_cycle, memory.sightings, memory.others) == (None, None, None, ())
    assert (memory.brake, memory.orders.overrides.paused) == (None, None)
    assert (red.history(9), red.plans(9), red.cycles(9), red.actions(9), red.others(9)) == ((), (), (), (), ())
    assert red.open_predictions() == ()
    filled(red)
    for store in (blue, red):
        memory = remembered(store)
        assert len(memory.watched) == len(memory.commitments) == len(store.history(9)) == 1
        assert len(store.plans(9)) == len(store.cycles(9)) == len(store.actions(9)) == len(store.others(9)) == 1
        assert len(store.open_predictions()) == 2
        assert memory.brake is not None
        assert memory.sightings == SIGHTINGS
    red.override("paused", None)
    assert blue.overrides().paused == PAUSED


def test_a_drain_and_a_history_follow_the_host(store: Store) -> None:
    blue, red = (store.of_group(name, BOTH) for name in BOTH)
    filled(blue)
    blue.order_drain("h1", draining=True)
    assert remembered(red).orders.drains["h1"].group == "blue"
    assert len(red.history(9, host="h1")) == 1


def test_what_was_set_before_there_were_groups_counts_for_each_of_them(store: Store, tmp_path: Path) -> None:
    filled(store)
    blue, red = (store.of_group(name, BOTH) for name in BOTH)
    blue.override("paused", OverrideValue(value="yes", instead_of="no", at=950.0, who="bob"))
    lead(blue, tmp_path)
    own, handed_down = remembered(blue), remembered(red)
    assert own.orders.overrides.paused is not None
    assert own.orders.overrides.paused.who == "bob"
    assert handed_down.orders.overrides.paused == PAUSED
    assert own.brake == handed_down.brake == Brake(at=1000.0, cause=BrakeCause.MIGRATIONS, why="3 failed")


def test_a_migration_without_an_end_goes_to_the_group_that_has_its_hosts(store: Store, tmp_path: Path) -> None:
    filled(store)
    blue, red = (store.of_group(name, BOTH) for name in BOTH)
    lead(blue, tmp_path)
    assert blue.adopt({"h8", "h9"}) == 0
    assert remembered(blue).watched == ()
    assert red.adopt({"h2", "h3"}) == 1
    (entry,) = remembered(red).watched
    red.end(entry.id, DONE)
    assert [one.result for one in red.history(9)] == ["done"]
    assert remembered(red).ended_plans == (), "its plan was another group's"


def test_a_pause_outlives_the_groups(store: Store, tmp_path: Path) -> None:
    filled(store.of_group("blue", BOTH))
    lead(store, tmp_path)
    assert store.overrides().paused == PAUSED
    assert len(store.history(9)) == 1, "without groups all of the history is shown"
    assert store.adopt({"h1", "h2"}) == 1
    assert len(store.watched()) == 1
