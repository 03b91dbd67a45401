"""Opens the database and brings its tables up to date."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Row, column, create_engine, event, inspect, select, table
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from virtpoise_balancer.errors import BadInput

_MIGRATIONS = Path(__file__).with_name("migrations")
_VERSION = table("alembic_version", column("version_num"))
_WAIT_SECONDS = 30


class Database:
    """Transactions on one database. Safe to use from several threads."""

    def __init__(self, url: str) -> None:
        self.engine = _engine(url)

    @classmethod
    def open(cls, url: str, *, upgrade: bool) -> Database:
        """The database at ``url``, a SQLAlchemy address. An empty one gets its tables.

        Older tables are upgraded with ``upgrade``, which only the balancer that acts may set: another process must not change
        them under a balancer that runs. BadInput when the database cannot be opened or its tables are not usable.
        """
        try:
            database = cls(url)
            try:
                database._bring_up_to_date(url, upgrade=upgrade)
            except BaseException:
                database.close()
                raise
        except (
            SQLAlchemyError,
            OSError,
            ImportError,
            ValueError,
        ) as error:  # also a malformed address, a missing driver
            reason = getattr(error, "orig", None) or error
            raise BadInput(f"state.url: {url}: cannot be opened: {str(reason).splitlines()[0]}") from None
        return database

    def _bring_up_to_date(self, url: str, *, upgrade: bool) -> None:
        with self.reading() as connection:
            if _check(connection, url, upgrade=upgrade):
                return
        with self.writing() as connection:
            if not _check(connection, url, upgrade=upgrade):  # another process may have been faster
                _upgrade(connection)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """One transaction that only reads: all of it sees the database as it was at one moment."""
        with self.engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """One transaction that writes. It waits for other writers when it begins, so it never fails half way because of one."""
        with self.engine.connect() as connection:
            connection = connection.execution_options(writes=True)
            with connection.begin():
                yield connection

    def close(self) -> None:
        self.engine.dispose()


def _engine(url: str) -> Engine:
    address = make_url(url)
    is_sqlite = address.get_backend_name() == "sqlite"
    engine = create_engine(address, connect_args={"timeout": _WAIT_SECONDS} if is_sqlite else {})
    if is_sqlite:
        # The driver begins a transaction only at the first write, and never for reads or for changes of tables. So SQLAlchemy
        # begins each one itself.
        @event.listens_for(engine, "connect")
        def _prepare(connection: Any, _record: Any) -> None:
            connection.isolation_level = None
            connection.execute("PRAGMA journal_mode=WAL")  # readers do not block the balancer, nor it them
            connection.execute("PRAGMA foreign_keys=ON")

        @event.listens_for(engine, "begin")
        def _begin(connection: Connection) -> None:
            writes = connection.get_execution_options().get("writes", False)
            connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _check(connection: Connection, url: str, *, upgrade: bool) -> bool:
    """Whether the tables are up to date; False where they may be brought up to date. BadInput where they may not."""
    tables = inspect(connection).get_table_names()
    if not tables:
        return False
    found = connection.scalar(select(_VERSION.c.version_num)) if _VERSION.name in tables else None
    known = _revisions()
    if found is None:
        raise BadInput(f"state.url: {url}: expected tables of virtpoise, got {', '.join(sorted(tables)[:5])}")
    if found not in known:
        raise BadInput(
            f"state.url: {url}: was written by a newer virtpoise (tables {found}, this version knows up to {known[-1]}): "
            "upgrade virtpoise"
        )
    if found == known[-1]:
        return True
    if not upgrade:
        raise BadInput(
            f"state.url: {url}: was written by an older virtpoise (tables {found}, this version needs {known[-1]}): "
            "restart the balancer, which upgrades them"
        )
    return False


def _upgrade(connection: Connection) -> None:
    # Imported only where it is needed, since commands must answer at once.
    from alembic import command
    from alembic.config import Config as AlembicConfig

    config = AlembicConfig()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _revisions() -> list[str]:
    """All revisions, oldest first. The name of a revision's file begins with the revision."""
    return sorted(path.name.partition("_")[0] for path in (_MIGRATIONS / "versions").glob("[0-9]*.py"))


def fields_of(row: Row[*tuple[Any, ...]], kind: type) -> dict[str, Any]:
    """The row's columns that are fields of the dataclass."""
    return {field.name: row._mapping[field.name] for field in fields(kind)}
