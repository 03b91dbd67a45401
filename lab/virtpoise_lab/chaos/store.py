"""The balancer's store, read and harmed from outside, as SQLite alone."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from virtpoise_lab.floors import JOURNAL, Entry

_BLOCK = bytes(4096)


class StoreFile:
    """An SQLite file with the balancer's tables."""

    def __init__(self, path: Path) -> None:
        self.path = path

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
        return bool(self._rows("SELECT 1 FROM drains WHERE draining AND host = ?", host))

    def _rows(self, query: str, *values: str) -> list[tuple[Any, ...]]:
        """What it finds; nothing where there is no such table yet, or someone locks it."""
        with suppress(sqlite3.Error), closing(sqlite3.connect(f"file:{self.path}?mode=ro", uri=True, timeout=0)) as it:
            return it.execute(query, values).fetchall()
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
