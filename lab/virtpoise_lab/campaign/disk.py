"""The store's disk, and a balancer's way to it: the one database of all virtual processes, with its faults."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from virtpoise_balancer.errors import StoreError
from virtpoise_balancer.knowledge.database import Database, in_words
from virtpoise_lab.campaign.kernel import Kernel, VirtualProcess
from virtpoise_lab.campaign.straight import Straight

_LOCK_SECONDS = 30.0


class StoreFails(OperationalError):
    """An error as SQLite's driver raises it."""

    def __init__(self, text: str) -> None:
        super().__init__("model", {}, Exception(text))


@dataclass
class Disk:
    """What the store lies on. ``driver``: the connection of SQLite's driver, which all transactions share.

    ``fault``: "", locked, full, gone or in doubt (what was written is answered by an error). ``moments``: called around
    each transaction that writes.
    """

    kernel: Kernel
    database: Database
    driver: Any
    fault: str = ""
    moments: list[Callable[[str, VirtualProcess], None]] = field(default_factory=list)


class ModelDatabase(Database):
    """A virtual process's way to the store. Transactions take turns, so none waits within one."""

    def __init__(self, disk: Disk, process: VirtualProcess) -> None:
        self.url = disk.database.url
        self.engine = disk.database.engine
        self._disk = disk
        self._process = process

    def reopen(self) -> None:
        """Nothing: a store in memory would be lost with its connection."""
        self._process.check()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        self._process.check()
        if self._disk.fault == "gone":
            raise StoreError("the store cannot be opened")
        with in_words():  # transactions take turns, so to read needs none
            yield self._straight()

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        self._wait()
        self._moment("before")
        with in_words(), self._transaction():
            yield self._straight()
            if self._disk.fault == "full":
                raise StoreFails("database or disk is full")
        self._moment("after")
        if self._disk.fault == "in doubt":
            with in_words():
                raise StoreFails("server closed the connection unexpectedly")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        driver = self._disk.driver
        driver.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            driver.execute("ROLLBACK")
            raise
        driver.execute("COMMIT")

    def _straight(self) -> Connection:
        return cast(Connection, Straight(self._disk.driver, self.engine.dialect))

    def _wait(self) -> None:
        self._process.check()
        disk = self._disk
        if disk.fault == "locked" and not disk.kernel.wait_until(lambda: disk.fault != "locked", _LOCK_SECONDS):
            raise StoreError("the store is locked")
        if disk.fault == "gone":
            raise StoreError("the store cannot be opened")

    def _moment(self, when: str) -> None:
        for act in list(self._disk.moments):
            act(when, self._process)
        self._process.check()
