"""The balancer's store, read and harmed from outside, as the database alone."""

from __future__ import annotations

import sqlite3
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg

from virtpoise_lab.floors import JOURNAL, Entry
from virtpoise_lab.postgresql import Server

_BLOCK = bytes(4096)


class Store(ABC):
    """A database with the balancer's tables. ``section``: what the balancer's configuration has of it."""

    section: Mapping[str, str]

    def entries(self) -> list[Entry]:
        """The journal, oldest first."""
        return [Entry(*row) for row in self._rows(JOURNAL)]

    def term(self) -> int:
        """The number of the newest leader; 0 before the first."""
        return int(next(iter(self._rows("SELECT max(term) FROM leaders")), (0,))[0] or 0)

    def cycle_at(self) -> float:
        """When the newest cycle began."""
        return float(next(iter(self._rows("SELECT max(last) FROM cycles")), (0,))[0] or 0)

    def drains(self, host: str) -> bool:
        return (host,) in self._rows("SELECT host FROM drains WHERE draining")

    @abstractmethod
    def _rows(self, query: str) -> list[tuple[Any, ...]]:
        """What it finds; nothing where there is no such table yet, or the database does not answer."""


class StoreFile(Store):
    """An SQLite file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.section = {"url": f"sqlite:///{path}"}

    def _rows(self, query: str) -> list[tuple[Any, ...]]:
        with suppress(sqlite3.Error), closing(sqlite3.connect(f"file:{self.path}?mode=ro", uri=True, timeout=0)) as it:
            return it.execute(query).fetchall()
        return []

    @contextmanager
    def locked(self) -> Iterator[None]:
        """In the block, no one else can write."""
        with closing(sqlite3.connect(self.path, timeout=5, isolation_level=None)) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            try:
                yield
            finally:
                connection.execute("ROLLBACK")

    @contextmanager
    def refuses_beginnings(self) -> Iterator[None]:
        """In the block, it takes plans and ends, but not that a migration begins: a disk may fill up in between."""
        self._change(
            "CREATE TRIGGER refused BEFORE UPDATE OF began ON migrations BEGIN SELECT RAISE(ABORT, 'full'); END"
        )
        try:
            yield
        finally:
            self._change("DROP TRIGGER refused")

    def _change(self, statement: str) -> None:
        with closing(sqlite3.connect(self.path, timeout=5, isolation_level=None)) as connection:
            connection.execute(statement)

    @contextmanager
    def full(self) -> Iterator[None]:
        """In the block, its disk has no room."""
        filler = self.path.with_name("filler")
        try:
            with suppress(OSError), filler.open("wb", buffering=0) as file:
                while True:
                    file.write(_BLOCK)
            yield
        finally:
            filler.unlink(missing_ok=True)

    @contextmanager
    def gone(self) -> Iterator[None]:
        """In the block, it has another name. Whatever is then made under its own is removed again."""
        away = {path: path.with_name(f"away-{path.name}") for path in self._files()}
        for path, elsewhere in away.items():
            path.rename(elsewhere)
        try:
            yield
        finally:
            for path in self._files():
                path.unlink()
            for path, elsewhere in away.items():
                elsewhere.rename(path)

    def _files(self) -> list[Path]:
        """Its own, and those that SQLite keeps beside it."""
        return [path for path in (self.path, *map(self._beside, ("-wal", "-shm"))) if path.exists()]

    def _beside(self, ending: str) -> Path:
        return self.path.with_name(self.path.name + ending)


class StoreServer(Store):
    """A database of a PostgreSQL server."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.section = {"url": server.new_database(), "password_file": str(server.password_file)}
        self._name = self.section["url"].partition("@/")[2].partition("?")[0]
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None
        self._asking = threading.Lock()

    def _rows(self, query: str) -> list[tuple[Any, ...]]:
        with self._asking:
            for _ in range(2):  # the connection may be one from before a restart
                with suppress(psycopg.Error):
                    if self._connection is None or self._connection.closed:
                        self._connection = self._server.connect(self._name)
                    return self._connection.execute(query.encode()).fetchall()
        return []

    @contextmanager
    def restarted(self) -> Iterator[None]:
        """In the block, the server is down. It ends as if its machine lost power."""
        self._server.stop()
        try:
            yield
        finally:
            self._server.start()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
