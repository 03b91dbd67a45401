"""Opens the database and brings its tables up to date."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, column, create_engine, event, inspect, select, table, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from virtpoise_balancer.errors import BadInput, StoreError
from virtpoise_balancer.knowledge.patience import Patience
from virtpoise_balancer.knowledge.schema import metadata
from virtpoise_balancer.secret_files import read_secret

_MIGRATIONS = Path(__file__).with_name("migrations")
_VERSION = table("alembic_version", column("version_num"))
_WAIT_SECONDS = 30
# Whoever loses the database must notice within seconds, and whoever is stopped in a transaction must not hold up the
# others.
SILENT_SECONDS = 5
_POSTGRESQL: dict[str, Any] = {
    "connect_timeout": SILENT_SECONDS,
    "keepalives_idle": 2,
    "keepalives_interval": 1,
    "keepalives_count": 3,
    "tcp_user_timeout": SILENT_SECONDS * 1000,
    "application_name": "virtpoise",
    "options": f"-c idle_in_transaction_session_timeout={SILENT_SECONDS}s -c lock_timeout={_WAIT_SECONDS}s"
    f" -c statement_timeout={_WAIT_SECONDS}s -c tcp_keepalives_idle=2 -c tcp_keepalives_interval=1"
    f" -c tcp_keepalives_count=3 -c tcp_user_timeout={SILENT_SECONDS}s",
}
# An upgrade happens once, and rewrites whole tables: on a machine that is starved that takes long, and between two
# statements as well. It is bounded so that one that hangs does not keep a standby waiting for ever.
_UPGRADE_SECONDS = 900
_MAY_TAKE_LONG = text(
    f"SET LOCAL idle_in_transaction_session_timeout = '{_UPGRADE_SECONDS}s';"
    f" SET LOCAL statement_timeout = '{_UPGRADE_SECONDS}s'"
)
# As in SQLite, one transaction at a time writes. It ends with the transaction.
_ONE_WRITER = text("SELECT pg_advisory_xact_lock(1, 0)")


class Database:
    """Transactions on one database. Safe to use from several threads."""

    def __init__(self, url: str, password_file: Path | None = None) -> None:
        self.url = url
        # The server's own limits come first: their words say more.
        self._patience = Patience(_WAIT_SECONDS + SILENT_SECONDS)
        self.engine = make_engine(url, password_file, self._patience)

    def hurry(self) -> None:
        """Wait for no server longer than a few seconds from now on: the process is to end."""
        self._patience.seconds = SILENT_SECONDS

    @classmethod
    def open(cls, url: str, *, upgrade: bool, password_file: Path | None = None) -> Database:
        """The database at ``url``, a SQLAlchemy address. An empty one gets its tables.

        Older tables are upgraded with ``upgrade``, which only the balancer that acts may set: another process must not
        change them under a balancer that runs. ``password_file``: of the database's user. BadInput when the database
        cannot be opened or its tables are not usable.
        """
        try:
            database = cls(url, password_file)
            try:
                database._bring_up_to_date(upgrade=upgrade)
            except BaseException:
                database.close()
                raise
        except ImportError:
            raise BadInput(
                f"state.url: {url}: the driver psycopg is not installed: pip install 'virtpoise[balancer]'"
            ) from None
        except (SQLAlchemyError, OSError, ValueError) as error:  # also a malformed address
            raise BadInput(f"state.url: {url}: cannot be opened: {reason(error)}") from None
        except StoreError as error:
            raise BadInput(f"state.url: {url}: cannot be opened: {str(error).removeprefix('state.url: ')}") from None
        return database

    def _bring_up_to_date(self, *, upgrade: bool) -> None:
        with self.reading() as connection:
            if _check(connection, self.url, upgrade=upgrade):
                return
        with self.writing() as connection:
            if not _check(connection, self.url, upgrade=upgrade):  # another process may have been faster
                if connection.dialect.name == "postgresql":
                    connection.execute(_MAY_TAKE_LONG)
                before, self._patience.seconds = self._patience.seconds, _UPGRADE_SECONDS + SILENT_SECONDS
                _upgrade(connection)
                self._patience.seconds = before

    def reopen(self) -> None:
        """Drop the connections, and look at the tables again. BadInput when they are not those of this version."""
        self.engine.dispose()
        with self.reading() as connection:
            if not _check(connection, self.url, upgrade=False):
                raise BadInput(
                    f"state.url: {self.url}: is empty: it was removed while the balancer ran; restart the balancer"
                )

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """One transaction that only reads: all of it sees the database as it was at one moment."""
        with in_words(), self.engine.connect() as connection:
            if connection.dialect.name == "postgresql":
                connection = connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            with connection.begin():
                yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """One transaction that writes.

        It waits for other writers when it begins, so it never fails half way because of one.
        """
        with in_words(), self.engine.connect() as connection:
            connection = connection.execution_options(writes=True)
            with connection.begin():
                if connection.dialect.name == "postgresql":
                    connection.execute(_ONE_WRITER)
                yield connection

    def close(self) -> None:
        self.engine.dispose()


@contextmanager
def in_words() -> Iterator[None]:
    """StoreError, in one line, for whatever the database says."""
    try:
        yield
    except (SQLAlchemyError, OverflowError) as error:  # OverflowError: a number that is too large for the database
        raise StoreError(f"state.url: {reason(error)}") from None


def reason(error: BaseException) -> str:
    """The database's own message (read-only, locked, full, malformed) in one line."""
    lines = str(getattr(error, "orig", None) or error).splitlines()
    return lines[0].strip() if lines else type(error).__name__


def make_engine(url: str, password_file: Path | None, patience: Patience, **options: Any) -> Engine:
    """The engine for a database.

    ``patience``: for how long a server's answer is waited for.
    ``options``: further ones of SQLAlchemy. BadInput when the password's file cannot be used.
    """
    address = make_url(url)
    is_sqlite = address.get_backend_name() == "sqlite"
    if is_sqlite:
        engine = create_engine(address, connect_args={"timeout": _WAIT_SECONDS}, **options)
    else:
        password = (
            {} if password_file is None else {"password": read_secret(password_file, "state.password_file").strip()}
        )
        engine = create_engine(
            address, connect_args=_POSTGRESQL | password, pool_pre_ping=True, hide_parameters=True, **options
        )

        @event.listens_for(engine, "do_connect")
        def _connect(_dialect: Any, _record: Any, arguments: Any, named: Any) -> Any:
            from virtpoise_balancer.knowledge.patient import PatientConnection  # PostgreSQL's driver may be missing

            connection = PatientConnection.connect(*arguments, **named)
            connection.patience = patience
            return connection

    if is_sqlite:
        # The driver begins a transaction only at the first write, and never for reads or for changes of tables. So
        # SQLAlchemy begins each one itself.
        @event.listens_for(engine, "connect")
        def _prepare(connection: Any, _record: Any) -> None:
            connection.isolation_level = None
            connection.text_factory = _text  # one text that is none must not end the reading of all others
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
    if not {*tables} - {_VERSION.name} and not _versions(connection, tables):
        return False
    found, known = next(iter(_versions(connection, tables)), None), _revisions()
    if found is None:
        raise BadInput(f"state.url: {url}: expected tables of virtpoise, got {', '.join(sorted(tables)[:5])}")
    if found not in known:
        raise BadInput(
            f"state.url: {url}: was written by a newer virtpoise (tables {found}, this version knows up to {known[-1]}): "
            "upgrade virtpoise"
        )
    if found == known[-1]:
        if missing := _missing(connection):
            raise BadInput(
                f"state.url: {url}: is incomplete, without {', '.join(missing[:5])}: restore it from a backup"
            )
        return True
    if not upgrade:
        raise BadInput(
            f"state.url: {url}: was written by an older virtpoise (tables {found}, this version needs {known[-1]}): "
            "restart the balancer, which upgrades them"
        )
    return False


def _versions(connection: Connection, tables: Sequence[str]) -> list[str]:
    """The version that the tables are marked with, if any."""
    return [*connection.scalars(select(_VERSION.c.version_num))] if _VERSION.name in tables else []


def _missing(connection: Connection) -> list[str]:
    """The tables, or the columns of tables, that are not there."""
    there = {
        name: {one["name"] for one in found} for (_, name), found in inspect(connection).get_multi_columns().items()
    }
    missing = []
    for wanted in metadata.sorted_tables:
        if wanted.name not in there:
            missing.append(wanted.name)
        else:
            missing += [f"{wanted.name}.{one.name}" for one in wanted.columns if one.name not in there[wanted.name]]
    return missing


def _text(raw: bytes) -> str:
    return raw.decode(errors="replace")


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
