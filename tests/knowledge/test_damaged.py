"""Damaged stores: a row that cannot be is left out and named, a broken file is refused in one line, and nothing ends in
a traceback.
"""

import contextlib
import io
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path

import pytest
import typer
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine

from builders import FakeClock, domain, group, host, thesis_policy
from storing import fill
from taking import Taking
from virtpoise_balancer.command.main import main
from virtpoise_balancer.config import Measurement
from virtpoise_balancer.control.cycle import Cycle
from virtpoise_balancer.errors import BadInput, StoreError
from virtpoise_balancer.knowledge import database
from virtpoise_balancer.knowledge.leader import FileLock
from virtpoise_balancer.knowledge.patience import Patience
from virtpoise_balancer.knowledge.schema import metadata
from virtpoise_balancer.knowledge.store import Store
from virtpoise_balancer.plan import plan
from watching import Watching

SEEN = group(
    host("h1", 0.9, 0.9, 0.9),
    host("h2", 0.1, 0.1, 0.1),
    host("h3", 0.2, 0.2, 0.2),
    domain("a", "h1", 3.0),
    domain("b", "h1", 2.0),
)
NOW = 2000.0
LOADS = tuple((float(at), 0.4) for at in range(0, 3000, 10))


@pytest.fixture(scope="module", autouse=True)
def made_once() -> Iterator[None]:
    """What each case would else make itself, at a third of its cost: compiled statements, which an engine keeps, and
    the program's commands.
    """
    engines: dict[str, Engine] = {}
    make = database.make_engine

    def kept(url: str, password_file: Path | None, patience: Patience) -> Engine:
        if url not in engines:
            engines[url] = make(url, password_file, patience)
        return engines[url]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database, "make_engine", kept)
        patch.setattr(typer.main, "get_command", cache(typer.main.get_command))
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with rows in each of its tables: migrations that were done, that failed, that were lost and that are
    open.
    """
    path = tmp_path_factory.mktemp("whole") / "state.db"
    with closing(Store.open(f"sqlite:///{path}", clock=FakeClock(1000.0))) as store:
        lock = FileLock(path)
        assert lock.take()
        fill(store, lock, SEEN)
        lock.release()
    return path


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(whole, tmp_path / "state.db"))


def cycle(path: Path) -> tuple[str, ...]:
    """Run a cycle on the store; what it left out."""
    with closing(Store.open(f"sqlite:///{path}", upgrade=True, clock=FakeClock(NOW))) as store:
        made = Cycle(
            observer=Watching(SEEN, measured=LOADS),
            store=store,
            executor=Taking(),
            policy=thesis_policy(),
            measurement=Measurement(settle_seconds=20, window_seconds=60),
            clock=store.clock,
            mode="automatic",
        )
        report = made.run(NOW)
        made.obstacle(plan(SEEN, thesis_policy()).moves[0], ordered=False)
        store.forget(NOW, keep_days=90, keep_bytes=100_000)
    return report.broken


def virtpoise(path: Path, *arguments: str) -> tuple[int, str]:
    config = path.with_name("virtpoise.yml")
    config.write_text(f"state: {{url: 'sqlite:///{path}'}}\n")
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()) as err:
        code = main([*arguments, "--config", str(config)])
    return code, err.getvalue()


COMMANDS = (
    ("history",),
    ("history", "--orders"),
    ("history", "--cycles"),
    ("history", "--plans"),
    ("history", "--why", "1"),
    ("history", "--output", "json"),
    ("plan", "--replay", "1"),
    ("pause",),
    ("undrain", "h3"),
    ("acknowledge", "a"),
)


def use(path: Path, command: tuple[str, ...]) -> None:
    """Run a cycle on a damaged store, then a command."""
    with contextlib.suppress(BadInput, StoreError):  # the daemon says these in a line
        cycle(path)
    code, err = virtpoise(path, *command)
    assert code in (0, 1, 2)
    assert all(line.startswith("virtpoise: ") for line in err.splitlines())


def test_a_whole_store_is_read_whole(copy: Path) -> None:
    assert cycle(copy) == ()
    for command in COMMANDS:
        code, err = virtpoise(copy, *command)
        assert (code, err) == (0, ""), command


CELLS = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.sampled_from([float("inf"), -1.0, 0, 2, 1e300, 253402300800.0]),
    st.text(),
    st.text('[]{}":,a1'),
    st.binary(),
)
EXAMPLES = int(os.environ.get("VIRTPOISE_EXAMPLES", "40"))
PHASES = [Phase.explicit, Phase.reuse, Phase.generate]  # each example takes too long to shrink it
COLUMNS = sorted((table.name, column.name) for table in metadata.sorted_tables for column in table.columns)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("UPDATE migrations SET result = 'teleported' WHERE id = 1", "plan 1: result: expected done or"),
        ("UPDATE migrations SET ended = 'soon' WHERE id = 1", "migration 1: ended: expected a number"),
        ("UPDATE predictions SET role = 'witness' WHERE verdict IS NULL", "role: expected source or destination"),
        ("UPDATE plans SET document = '{' WHERE settled = 0", "plan 1: cannot be read"),
        ("UPDATE backoffs SET failures = 'many'", "back-off of 'h1': failures: expected a whole number, got 'many'"),
        ("UPDATE overrides SET at = x'00'", "override 'mode': at: expected a number"),
    ],
)
def test_one_broken_row_is_left_out_and_named_by_a_cycle(copy: Path, change: str, named: str) -> None:
    with closing(sqlite3.connect(copy)) as store, store:
        store.execute("PRAGMA ignore_check_constraints=ON")
        store.execute(change)
    assert any(named in row for row in cycle(copy)), cycle(copy)


def test_a_command_names_the_row_that_it_leaves_out(copy: Path) -> None:
    with closing(sqlite3.connect(copy)) as store, store:
        store.execute("UPDATE migrations SET result = 'teleported' WHERE id = 1")
    code, err = virtpoise(copy, "history")
    assert code == 0
    assert err.startswith("virtpoise: left out: state.url: migration 1: result: expected done or ")


@pytest.mark.parametrize("column", ["measured", "error"])
def test_a_prediction_with_half_a_measurement_is_shown_as_it_is(copy: Path, column: str) -> None:
    with closing(sqlite3.connect(copy)) as store, store:
        assert store.execute(f"UPDATE predictions SET {column} = NULL WHERE verdict = 'measured'").rowcount == 1
    assert virtpoise(copy, "history") == (0, "")


def test_a_pause_that_cannot_be_read_still_holds(copy: Path) -> None:
    assert virtpoise(copy, "pause")[0] == 0
    with closing(sqlite3.connect(copy)) as store, store:
        store.execute("UPDATE overrides SET at = 'x' WHERE name = 'paused'")
    with closing(Store.open(f"sqlite:///{copy}")) as opened:
        assert opened.overrides().paused is not None


@settings(max_examples=EXAMPLES, phases=PHASES, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.sampled_from(COLUMNS), st.integers(0, 8), CELLS), min_size=1, max_size=3),
    st.sampled_from(COMMANDS),
)
def test_whatever_a_cell_holds_nothing_ends_in_a_traceback(
    whole: Path, tmp_path: Path, cells: list[tuple[tuple[str, str], int, object]], command: tuple[str, ...]
) -> None:
    path = Path(shutil.copy(whole, tmp_path / "state.db"))
    with closing(sqlite3.connect(path)) as store, store:
        store.execute("PRAGMA writable_schema=ON")
        for (table, column), row, value in cells:
            rows = store.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            try:
                store.execute(
                    f"UPDATE {table} SET {column} = ? WHERE rowid = (SELECT rowid FROM {table} LIMIT 1 OFFSET ?)",
                    (value, row % max(rows, 1)),
                )
            except sqlite3.IntegrityError:
                store.execute("PRAGMA ignore_check_constraints=ON")
    use(path, command)


@settings(max_examples=EXAMPLES, phases=PHASES, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_whatever_bytes_are_flipped_nothing_ends_in_a_traceback(
    whole: Path, tmp_path: Path, data: st.DataObject
) -> None:
    raw = bytearray(whole.read_bytes())
    for place, value in data.draw(
        st.lists(st.tuples(st.integers(0, len(raw) - 1), st.integers(0, 255)), min_size=1, max_size=40)
    ):
        raw[place] = value
    path = tmp_path / "state.db"
    for left in tmp_path.glob("state.db*"):
        left.unlink()
    path.write_bytes(raw)
    use(path, data.draw(st.sampled_from(COMMANDS)))
