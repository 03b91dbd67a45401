"""The straight way of the model's store to SQLite: it writes and reads what SQLAlchemy does."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest

from builders import FakeClock, domain, group, host
from storing import fill
from virtpoise_balancer.errors import StoreError
from virtpoise_balancer.knowledge.database import Database
from virtpoise_balancer.knowledge.leader import FileLock
from virtpoise_balancer.knowledge.store import Store
from virtpoise_lab.campaign.disk import Disk, ModelDatabase
from virtpoise_lab.campaign.kernel import Kernel, VirtualProcess

SEEN = group(
    host("h1", 1.0, 1.0), host("h2", 0.05, 0.05), host("h3", 0.05), domain("a", "h1", 3.6), domain("b", "h1", 0.4)
)


@pytest.fixture
def disk() -> Iterator[Disk]:
    database = Database.open("sqlite://", upgrade=True)
    with database.engine.connect() as connection:
        driver: Any = connection.connection.driver_connection
    yield Disk(Kernel(Random(0), 0.0), database, driver)
    database.close()


@contextmanager
def _filled(database: Database, folder: Path) -> Iterator[Store]:
    store, lock = Store(database, FakeClock()), FileLock(folder / "store")
    folder.mkdir()
    assert lock.take()
    try:
        fill(store, lock, SEEN)
        yield store
    finally:
        lock.release()


def _dump(driver: sqlite3.Connection) -> list[str]:
    return sorted(driver.iterdump())


def _all(store: Store) -> list[object]:
    """All that can be read from it."""
    return [
        store.recall(moved_since=0.0, ended_since=0.0, judged_since=0.0),
        store.recall_for_look(ended_since=0.0, judged_since=0.0),
        store.leader(),
        store.watched(),
        store.brake(),
        store.actions(100),
        store.others(100),
        store.history(100),
        store.history(1, host="h1"),
        store.cycles(100),
        store.plans(100),
        store.plan(1),
        store.inputs(1),
        store.open_predictions(),
    ]


def test_it_writes_and_reads_what_sqlalchemy_does(disk: Disk, tmp_path: Path) -> None:
    file = tmp_path / "state.db"
    with (
        closing(Database.open(f"sqlite:///{file}", upgrade=True)) as database,
        closing(sqlite3.connect(file)) as driver,
        _filled(database, tmp_path / "plain") as theirs,
        _filled(ModelDatabase(disk, VirtualProcess("one")), tmp_path / "straight") as ours,
    ):
        assert _dump(disk.driver) == _dump(driver)
        assert _all(ours) == _all(theirs)
        for store in (ours, theirs):
            for entry in store.watched():
                store.reopen(entry.id, "seen elsewhere")
            store.acknowledge("uuid-a", "by hand")
            store.override("mode", None)
            store.order_drain("h3", draining=False)
            store.forget(10.0**9, keep_days=1, keep_bytes=1)
        assert _dump(disk.driver) == _dump(driver)


def test_a_transaction_that_fails_on_a_full_disk_leaves_nothing(disk: Disk, tmp_path: Path) -> None:
    with _filled(ModelDatabase(disk, VirtualProcess("one")), tmp_path / "store") as store:
        before = _dump(disk.driver)
        disk.fault = "full"
        with pytest.raises(StoreError, match="disk is full"):
            store.order_drain("h2", draining=True)
        assert _dump(disk.driver) == before


def test_what_sqlite_refuses_is_an_error_of_the_store(disk: Disk, tmp_path: Path) -> None:
    with _filled(ModelDatabase(disk, VirtualProcess("one")), tmp_path / "store") as store:
        disk.driver.execute("DROP TABLE drains")
        with pytest.raises(StoreError, match="no such table: drains"):
            store.standing_orders()
