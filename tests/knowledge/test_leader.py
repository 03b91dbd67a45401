"""One balancer acts: the lock of a file and of a database, how a leader learns that it is none any more, and what is
refused it then.
"""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from builders import FakeClock, domain, group, host, thesis_policy
from storing import fill, record
from virtpoise_balancer.errors import BadInput, Deposed, Refused, StoreError
from virtpoise_balancer.knowledge.advisory import AdvisoryLock
from virtpoise_balancer.knowledge.leader import FileLock, LeaderLock, Mistrust, file_system
from virtpoise_balancer.knowledge.records import Changes, Leader
from virtpoise_balancer.knowledge.store import Store
from virtpoise_balancer.model import MigrationOutcome, Result
from virtpoise_balancer.plan import plan
from virtpoise_lab.postgresql import PASSWORD, Server

MADE = plan(group(host("h1", 0.9, 0.9), host("h2", 0.1, 0.1), domain("a", "h1", 3.0)), thesis_policy())


class Place:
    """A database, and what opens locks and stores in it as another process would."""

    def __init__(self, lock: Callable[[], LeaderLock], store: Callable[[], Store], opened: ExitStack) -> None:
        self._lock, self._store, self._opened = lock, store, opened

    def lock(self) -> LeaderLock:
        made = self._lock()
        self._opened.callback(made.release)
        return made

    def store(self) -> Store:
        return self._opened.enter_context(closing(self._store()))

    def leader(self, name: str) -> tuple[Store, LeaderLock]:
        lock, store = self.lock(), self.store()
        assert lock.take()
        store.lead(lock, name)
        return store, lock


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    with ExitStack() as opened:
        if request.param == "sqlite":
            path = tmp_path / "state.db"
            yield Place(lambda: FileLock(path), lambda: Store.open(f"sqlite:///{path}", upgrade=True), opened)
        else:
            server: Server = request.getfixturevalue("postgresql")
            url, password = server.new_database(), server.password_file
            yield Place(
                lambda: AdvisoryLock(url, password, 10.0),
                lambda: Store.open(url, upgrade=True, password_file=password),
                opened,
            )


def test_one_holds_the_lock_until_it_lets_go(place: Place) -> None:
    first, second = place.lock(), place.lock()
    assert first.take()
    assert first.take()
    assert first.lost() is None
    assert not second.take()
    assert second.lost() is not None
    first.release()
    assert second.take()
    assert first.lost() is not None


def test_what_an_earlier_leader_still_writes_is_refused_in_words_and_changes_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, lock = place.leader("old")
    ((migration_id, _),) = record(old, MADE, 1000.0, acted=True)
    lock.release()  # as if its session had ended without its knowledge
    new, _ = place.leader("new")
    monkeypatch.setattr(lock, "lost", lambda: None)  # it believes that it holds the lock
    for act in (
        lambda: old.begin(migration_id),
        lambda: old.check_newest(migration_id),
        lambda: old.end(migration_id, MigrationOutcome(result=Result.FAILED)),
        lambda: record(old, MADE, 1010.0, acted=True),
        lambda: old.forget(1e10, keep_days=1, keep_bytes=1),
    ):
        with pytest.raises(Deposed, match="this balancer no longer acts: new acts"):
            act()
    assert old.lost() == "new acts"
    assert [(one.began, one.result) for one in new.history(10)] == [(None, None)]
    new.begin(migration_id)
    assert [one.began is None for one in old.history(10)] == [False]


def test_a_leader_that_leads_again_begins_nothing_that_another_one_has_ended(place: Place) -> None:
    first, lock = place.leader("first")
    ((migration_id, _),) = record(first, MADE, 1000.0, acted=True)
    first.check_open(migration_id)
    lock.release()
    between, its_lock = place.leader("between")
    with pytest.raises(Deposed):
        first.check_open(migration_id)
    between.end(migration_id, MigrationOutcome(result=Result.SKIPPED, why="not begun"))
    its_lock.release()
    assert lock.take()
    first.lead(lock, "first")
    for act in (first.begin, first.check_open):
        with pytest.raises(Refused, match=r"has this migration as ended .*skipped: not begun"):
            act(migration_id)
    assert [one.began for one in first.history(10)] == [None]
    with pytest.raises(Refused, match="does not have"):
        first.begin(migration_id + 1)


def test_an_intent_bears_the_number_of_its_leader(place: Place) -> None:
    first, lock = place.leader("first")
    record(first, MADE, 1000.0, acted=True)
    lock.release()
    second, _ = place.leader("second")
    record(second, MADE, 1000.0, acted=True)
    with second.database.reading() as connection:
        assert connection.exec_driver_sql("SELECT term FROM migrations ORDER BY id").scalars().all() == [1, 2]
    leader = second.leader()
    assert leader is not None
    assert (leader.term, leader.holder) == (2, "second")


def test_orders_of_commands_need_no_leader(place: Place) -> None:
    place.leader("first")
    assert place.store().order_drain("h1", draining=True)


@contextmanager
def led(path: Path) -> Iterator[tuple[Store, FileLock]]:
    """A store in a file, and the lock with which it is led."""
    with closing(Store.open(f"sqlite:///{path}")) as store:
        lock = FileLock(path)
        assert lock.take()
        store.lead(lock, "first")
        assert store.lost() is None
        yield store, lock


def test_a_lock_file_that_was_removed_is_lost_in_words(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with led(path) as (store, lock):
        Path(lock.place).unlink()
        assert store.lost() == f"the lock file {path}.lock was removed or replaced, so another balancer may act"
        with pytest.raises(Deposed, match="was removed or replaced"):
            record(store, MADE, 1000.0, acted=True)
        lock.release()
        assert lock.take()


def test_a_store_that_was_renamed_is_lost_in_words(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with led(path) as (store, lock):
        path.rename(tmp_path / "old.db")
        assert store.lost() == f"the store {path} was removed, renamed or replaced, so another balancer may act"
        with closing(Store.open(f"sqlite:///{path}")):
            assert store.lost() == f"the store {path} was removed, renamed or replaced, so another balancer may act"
            with pytest.raises(Deposed):
                store.commit(Changes(), 1000.0)
        lock.release()


MOUNTS = r"""22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw
30 22 0:40 / /var/lib/virtpoise rw - nfs4 nas:/virtpoise rw
31 22 0:41 / /srv/with\040space rw shared:1 - fuse.glusterfs gv0 rw
a line that is none
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [("/var/lib", "ext4"), ("/var/lib/virtpoise/state", "nfs4"), ("/srv/with space", "fuse.glusterfs")],
)
def test_the_kind_of_file_system_is_that_of_the_innermost_mount(folder: str, kind: str) -> None:
    assert file_system(Path(folder), MOUNTS) == kind


def test_a_store_on_a_network_file_system_is_refused_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("virtpoise_balancer.knowledge.leader.file_system", lambda *_: "nfs4")
    with pytest.raises(BadInput, match=r"expected a file on a disk of this machine, got nfs4.*postgresql\+psycopg://"):
        FileLock(tmp_path / "state.db").take()


def test_a_lock_that_did_not_keep_another_out_is_not_taken_until_the_other_is_silent() -> None:
    mistrust = Mistrust(30.0)
    other = Leader(term=2, holder="h9, process 1", since=0.0, seen=100.0)
    assert "another balancer acts (h9, process 1)" in str(mistrust.why_wait(other, 0.0))
    later = Leader(term=2, holder="h9, process 1", since=0.0, seen=110.0)
    assert mistrust.why_wait(later, 29.0) is not None
    assert mistrust.why_wait(later, 58.0) is not None
    assert mistrust.why_wait(later, 59.0) is None


# --- PostgreSQL alone -------------------------------------------------------------------------------------------------


def test_a_session_that_the_server_ended_is_lost_in_words_and_nothing_is_written(postgresql: Server) -> None:
    url = postgresql.new_database()
    with closing(Store.open(url, upgrade=True, password_file=postgresql.password_file)) as store:
        lock = AdvisoryLock(url, postgresql.password_file, 10.0)
        assert lock.take()
        store.lead(lock, "first")
        postgresql.sql("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'", "postgres")
        with pytest.raises(Deposed, match="its session with the database has ended: "):
            record(store, MADE, 1000.0, acted=True)
        assert store.history(10) == ()
        assert lock.take()


def test_without_the_server_nothing_is_written_and_after_its_restart_one_leads_again(postgresql: Server) -> None:
    url = postgresql.new_database()
    with closing(Store.open(url, upgrade=True, password_file=postgresql.password_file)) as store:
        lock = AdvisoryLock(url, postgresql.password_file, 10.0)
        assert lock.take()
        store.lead(lock, "first")
        record(store, MADE, 1000.0, acted=True)
        postgresql.stop()
        try:
            with pytest.raises(Deposed):
                record(store, MADE, 1010.0, acted=True)
            with pytest.raises(StoreError, match=r"^state\.url: ") as refused:
                lock.take()
            assert PASSWORD not in str(refused.value)
            assert "\n" not in str(refused.value)
        finally:
            postgresql.start()
        assert lock.take()
        store.lead(lock, "first")
        assert len(store.history(10)) == 1


def test_a_server_that_is_frozen_loses_the_lock_within_seconds(postgresql: Server) -> None:
    url = postgresql.new_database()
    with closing(Store.open(url, upgrade=True, password_file=postgresql.password_file)) as store:
        lock = AdvisoryLock(url, postgresql.password_file, 60.0)
        assert lock.take()
        store.lead(lock, "first")
        store.history(1)
        store.database.hurry()
        postgresql.freeze()
        try:
            began = time.monotonic()
            assert "does not answer within 5 s" in str(lock.lost())
            with pytest.raises(StoreError, match=r"^state\.url: "):
                lock.take()
            with pytest.raises(StoreError, match=r"^state\.url: "):
                store.history(1)
            lock.release()
            assert time.monotonic() - began < 25
        finally:
            postgresql.thaw()
        assert lock.take()
        lock.release()


def test_who_waits_with_a_session_that_the_server_has_ended_asks_again_at_once(postgresql: Server) -> None:
    url = postgresql.new_database()
    first, second = (AdvisoryLock(url, postgresql.password_file, 60.0) for _ in range(2))
    assert first.take()
    assert not second.take()
    first.release()
    postgresql.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = 'virtpoise' AND pid <> pg_backend_pid()",
        "postgres",
    )
    assert second.take()
    second.release()


def test_a_silent_holder_loses_the_lock_and_a_beating_one_keeps_it(postgresql: Server) -> None:
    url = postgresql.new_database()
    holder, other = (AdvisoryLock(url, postgresql.password_file, 1.0) for _ in range(2))
    assert holder.take()
    done = threading.Event()
    for _ in range(8):
        done.wait(0.5)
        assert holder.lost() is None
    deadline = threading.Event()
    for _ in range(60):
        deadline.wait(0.1)
        if other.take():
            break
    assert other.lost() is None
    assert holder.lost() is not None
    other.release()


def test_writers_wait_for_each_other_under_load(place: Place) -> None:
    """Many writers at once, among them the leader: none fails, and nothing is lost."""
    failed: list[Exception] = []
    store, _ = place.leader("first")

    def write(number: int, own: Store) -> None:
        try:
            for turn in range(20):
                own.order_drain(f"h{turn % 3}", draining=(turn + number) % 2 == 0)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(number, place.store())) for number in range(8)]
    for thread in threads:
        thread.start()
    for turn in range(30):
        record(store, MADE, 1000.0 + turn, acted=True)
    for thread in threads:
        thread.join()
    assert failed == []
    assert len(store.history(100)) == 30
    assert store.lost() is None


@pytest.mark.parametrize("way", ["nothing", "wrong file"])
def test_a_refused_password_is_one_line_without_it(postgresql: Server, tmp_path: Path, way: str) -> None:
    wrong = tmp_path / "password"
    wrong.write_text("another-secret\n")
    wrong.chmod(0o600)
    with pytest.raises(BadInput, match=r"^state\.url: .*cannot be opened: .*password") as refused:
        Store.open(postgresql.new_database(), password_file=wrong if way == "wrong file" else None)
    assert "another-secret" not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_libpqs_own_file_of_passwords_serves(
    postgresql: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passfile = tmp_path / "pgpass"
    passfile.write_text(f"*:*:*:*:{PASSWORD}\n")
    passfile.chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(passfile))
    Store.open(postgresql.new_database()).close()


def test_without_the_driver_the_remedy_is_named(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['psycopg'] = None\n"
        "from virtpoise_balancer.knowledge.store import Store\n"
        "from virtpoise_balancer.errors import BadInput\n"
        "try: Store.open('postgresql+psycopg://u@/d')\n"
        "except BadInput as error: print(error)\n"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "pip install 'virtpoise[balancer]'" in said


def test_a_database_on_a_server_remembers_what_a_file_does(postgresql: Server, tmp_path: Path) -> None:
    """Each table, from its writing to its being forgotten."""
    seen = group(host("h1", 0.9, 0.9), host("h2", 0.1, 0.1), domain("a", "h1", 3.0), domain("b", "h1", 2.0))
    path, url = tmp_path / "state.db", postgresql.new_database()
    locks: list[LeaderLock] = [FileLock(path), AdvisoryLock(url, postgresql.password_file, 10.0)]
    found = []
    for lock, address, password in zip(
        locks, (f"sqlite:///{path}", url), (None, postgresql.password_file), strict=True
    ):
        assert lock.take()
        with closing(Store.open(address, password_file=password, clock=FakeClock(1000.0))) as store:
            fill(store, lock, seen)
            memories = []
            for now, days in ((2000.0, 90), (100 * 86400.0, 0)):
                store.forget(now, keep_days=days, keep_bytes=10**6)
                memory = store.recall(moved_since=0, ended_since=0, judged_since=0)
                look = store.recall_for_look(ended_since=0, judged_since=0)
                memories.append((memory, look, store.others(9), store.history(9), store.cycles(9), store.plans(9)))
            found.append(memories)
        lock.release()
    assert found[0] == found[1]
    kept, forgotten = found[0]
    assert (kept[0].broken, len(kept[0].others), kept[0].brake is None) == ((), 1, False)
    assert (len(kept[3]), len(forgotten[2]), len(forgotten[4])) == (4, 0, 0)
