"""Stores of other versions: an older one is upgraded with its rows, by the balancer alone; a newer one is refused."""

import json
import time
from contextlib import closing
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Connection, NullPool, create_engine, text

import virtpoise_balancer.knowledge
from builders import domain, group, host, thesis_policy
from virtpoise_balancer.analyse.backoff import Backoff
from virtpoise_balancer.analyse.drains import DrainOrder
from virtpoise_balancer.errors import BadInput
from virtpoise_balancer.formats import write_plan
from virtpoise_balancer.knowledge import database
from virtpoise_balancer.knowledge.schema import metadata
from virtpoise_balancer.knowledge.store import Store
from virtpoise_balancer.plan import plan
from virtpoise_lab.postgresql import Server

MADE = plan(group(host("h1", 0.9, 0.9), host("h2", 0.1, 0.1), domain("a", "h1", 3.0)), thesis_policy())


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/state.db"


def test_an_upgrade_may_take_longer_than_any_other_transaction(
    postgresql: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine that is starved, Python may need long between two statements of an upgrade."""
    upgrade = database._upgrade
    limits = "-c idle_in_transaction_session_timeout=200ms -c statement_timeout=200ms"

    def slow(connection: Connection) -> None:
        upgrade(connection)
        time.sleep(0.6)  # nothing is under way on the server, so that it would end the connection
        connection.execute(text("SELECT pg_sleep(0.4)"))

    monkeypatch.setitem(database._POSTGRESQL, "options", limits)
    monkeypatch.setattr(database, "_upgrade", slow)
    url = postgresql.new_database()
    with closing(Store.open(url, password_file=postgresql.password_file)) as store:
        assert store.cycles(1) == ()
        with store.database.reading() as connection:
            shown = connection.scalar(text("SHOW idle_in_transaction_session_timeout"))
        assert shown == "200ms", "of all other transactions"


def of_version(url: str, version: str) -> None:
    """The tables of an earlier version, made by its own revisions, with something in each that must be kept."""
    config = Config()
    config.set_main_option("script_location", str(Path(virtpoise_balancer.knowledge.__file__).parent / "migrations"))
    with create_engine(url, poolclass=NullPool).begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, version)
        run = connection.execute
        run(
            text(
                "INSERT INTO cycles (started, seconds, mode, result, sentence) VALUES (1, 1, 'automatic', 'idle', 'x')"
            )
        )
        run(
            text(
                "INSERT INTO plans (id, made, strategy, solved, summary, document, acted, settled)"
                " VALUES (7, 1000, 'thesis', 1, 'move a', :document, 1, 0), (8, 1010, 'thesis', 1, 'odd', '{', 0, 1)"
            ),
            {"document": write_plan(MADE)},
        )
        run(
            text(
                "INSERT INTO migrations (id, plan_id, position, domain, uuid, source, destination, began, ended, result)"
                " VALUES (9, 7, 0, 'a', 'uuid-of-a', 'h1', 'h2', 1001, 1005, 'done')"
            )
        )
        run(
            text(
                "INSERT INTO standings (host, counted_from, penalty_from, penalty_until, failures, draining)"
                " VALUES ('h1', 900, 950, 1140, 2, 1), ('h2', 901, NULL, NULL, 0, 0)"
            )
        )
        run(text("INSERT INTO steering VALUES ('paused', 'yes', 'no', 1002, 'alice')"))


@pytest.mark.parametrize("version", ["0001", "0002", "0003"])
def test_an_older_store_is_upgraded_with_all_that_it_holds(url: str, version: str) -> None:
    of_version(url, version)
    with closing(Store.open(url, upgrade=True)) as store:
        memory = store.recall(moved_since=0, ended_since=0, judged_since=0)
        assert memory.backoffs == {
            "h1": Backoff(host="h1", counted_from=900, penalty_from=950, penalty_until=1140, failures=2),
            "h2": Backoff(host="h2", counted_from=901),
        }
        assert memory.orders.drains == {"h1": DrainOrder(host="h1", draining=True, at=0)}
        assert memory.orders.overrides.paused is not None
        assert memory.orders.overrides.paused.who == "alice"
        assert [(ended.id, ended.plan) for ended in memory.ended_plans] == [(7, MADE)]
        assert [(plan.id, plan.moves, plan.replayable) for plan in store.plans(5)] == [(8, 0, False), (7, 1, False)]
        assert [record.domain for record in store.history(5)] == ["a"]
    with create_engine(url, poolclass=NullPool).connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_only_the_balancer_upgrades_a_store(url: str) -> None:
    of_version(url, "0003")
    with pytest.raises(BadInput, match=r"was written by an older virtpoise \(tables 0003, .*restart the balancer"):
        Store.open(url)
    with create_engine(url, poolclass=NullPool).connect() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar() == "0003"


@pytest.mark.parametrize("upgrade", [True, False])
@pytest.mark.parametrize("version", ["0099", "abc"])
def test_a_newer_store_is_refused_in_one_line(url: str, version: str, upgrade: bool) -> None:
    Store.open(url).close()
    with create_engine(url, poolclass=NullPool).begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = :version"), {"version": version})
    with pytest.raises(BadInput, match=f"written by a newer virtpoise \\(tables {version}, .*: upgrade virtpoise$"):
        Store.open(url, upgrade=upgrade)


def test_another_programs_tables_are_refused_in_one_line(url: str) -> None:
    with create_engine(url, poolclass=NullPool).begin() as connection:
        connection.execute(text("CREATE TABLE guests (id INTEGER)"))
    with pytest.raises(BadInput, match=r"expected tables of virtpoise, got guests$"):
        Store.open(url, upgrade=True)


def test_an_upgrade_that_fails_leaves_the_store_as_it_was(url: str) -> None:
    of_version(url, "0003")
    with create_engine(url, poolclass=NullPool).begin() as connection:
        connection.execute(text("CREATE TABLE backoffs (id INTEGER)"))  # in the way of the new table
    with pytest.raises(BadInput, match="cannot be opened: table backoffs already exists"):
        Store.open(url, upgrade=True)
    with create_engine(url, poolclass=NullPool).connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM standings")).scalar() == 2
        document = connection.execute(text("SELECT document FROM plans WHERE id = 7")).scalar_one()
        assert json.loads(document)["moves"]


@pytest.mark.parametrize("upgrade", [True, False])
@pytest.mark.parametrize(
    ("change", "missing"),
    [("DROP TABLE backoffs", "backoffs"), ("ALTER TABLE migrations DROP COLUMN why", r"migrations\.why")],
)
def test_an_incomplete_store_is_refused_in_one_line(url: str, change: str, missing: str, upgrade: bool) -> None:
    Store.open(url).close()
    with create_engine(url, poolclass=NullPool).begin() as connection:
        connection.execute(text(change))
    with pytest.raises(BadInput, match=f"is incomplete, without {missing}: restore it from a backup$"):
        Store.open(url, upgrade=upgrade)


def test_a_store_that_was_only_begun_is_completed(url: str) -> None:
    with create_engine(url, poolclass=NullPool).begin() as connection:
        connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)"))
    with closing(Store.open(url)) as store:
        assert store.history(1) == ()
