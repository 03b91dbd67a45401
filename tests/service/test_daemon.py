"""The loop around the cycles: when they begin, what a reload changes, what is logged of one that is slow, of hosts that
do not answer.
"""

from __future__ import annotations

import os
import queue
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partialmethod
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from apscheduler.events import EVENT_JOB_SUBMITTED

from builders import SAMPLE_TIMES, domain, group, host
from storing import record
from virtpoise_balancer.analyse.habits import Readings
from virtpoise_balancer.config import read_config
from virtpoise_balancer.errors import BadInput, ClockError, LibvirtError, MonitorError
from virtpoise_balancer.execute.executor import InFlight, Recheck
from virtpoise_balancer.knowledge.leader import FileLock
from virtpoise_balancer.knowledge.records import OverrideValue
from virtpoise_balancer.knowledge.store import Store
from virtpoise_balancer.model import Entries, Plan, Policy, SampleTimes, Snapshot
from virtpoise_balancer.monitor.observe import HostWindow, MeasuredLoads, Observation
from virtpoise_balancer.monitor.targets import RefusedTarget, RefusedTargets, TargetRefusal
from virtpoise_balancer.plan import plan
from virtpoise_balancer.service import changes, turns, wiring
from virtpoise_balancer.service import daemon as daemon_module
from virtpoise_balancer.service.daemon import Daemon
from virtpoise_balancer.service.leading import Leadership

PATIENCE_SECONDS = 60.0
HELD_SECONDS = 5.0  # for which Prometheus and libvirt hang at most
SEEN = group(host("h1", 0.7, 0.7, 0.7), host("h2", 0.1, 0.1, 0.1), domain("a", "h1", 3.0))
CALM = "no host has had 3 consecutive samples at or above a threshold"


def event(*, is_set: bool) -> threading.Event:
    made = threading.Event()
    if is_set:
        made.set()
    return made


@dataclass
class Hosts:
    """In the place of Prometheus, of the migrator and of the executor.

    The events: what is asked there is answered once they are set.
    """

    prometheus: threading.Event = field(default_factory=lambda: event(is_set=True))
    libvirt: threading.Event = field(default_factory=lambda: event(is_set=True))
    deaf: dict[str, str] = field(default_factory=dict)
    clock_error: str = ""
    prometheus_error: str = ""
    sample_times: SampleTimes = SAMPLE_TIMES
    acts: bool = True
    busy: bool = False
    in_flight: tuple[InFlight, ...] = ()
    migrator: object = None
    refused: RefusedTargets = field(default_factory=RefusedTargets)
    seen: Snapshot = SEEN
    carried_out: list[Entries] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    closed: list[bool] = field(default_factory=list)  # whether it led

    def observe(self, now: float) -> Observation:
        if self.clock_error:
            raise ClockError(self.clock_error)
        if self.prometheus_error:
            raise MonitorError(self.prometheus_error)
        self.prometheus.wait(HELD_SECONDS)
        return Observation(snapshot=replace(self.seen, time=now), age_seconds=1.0, refused=self.refused)

    def past(self, _seen: Snapshot, _since: float) -> Iterator[tuple[float, Readings]]:
        return iter(())

    def observe_hosts(self, hosts: Collection[str], now: float) -> Observation:
        return self.observe(now)

    def loads(self, windows: Collection[HostWindow]) -> MeasuredLoads:
        return MeasuredLoads({})

    def active_domains(self, host: str) -> int:
        self.libvirt.wait(HELD_SECONDS)
        if host in self.deaf:
            raise LibvirtError(self.deaf[host])
        return 1

    def progress(self, host: str, uuid: str) -> None:
        raise LibvirtError("Connection refused")

    def carry_out(self, entries: Entries, recheck: Recheck) -> None:
        self.carried_out.append(entries)

    def go_on(self) -> None: ...

    def drop(self, why: str) -> None:
        self.dropped.append(why)

    def close(self, *, leads: bool) -> None:
        self.closed.append(leads)


class Log:
    """The log's lines, as they come."""

    def __init__(self) -> None:
        self._lines: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()

    def _tell(self, level: str, line: str, **figures: object) -> None:
        self._lines.put((level, " ".join([line, *(f"{name}={value}" for name, value in figures.items())])))

    info = partialmethod(_tell, "info")
    warning = partialmethod(_tell, "warning")
    error = partialmethod(_tell, "error")
    exception = partialmethod(_tell, "error")

    def wait_for(self, text: str, level: str = "info") -> str:
        """The next line of this level with this text in it."""
        deadline = time.monotonic() + PATIENCE_SECONDS  # of all: each cycle tells something
        while time.monotonic() < deadline:
            found, line = self._lines.get(timeout=max(deadline - time.monotonic(), 0))
            if found == level and text in line:
                return line
        raise AssertionError(f"no line had {text!r} as {level}")

    def until(self, text: str) -> list[tuple[str, str]]:
        """The lines up to the next with this text in it."""
        found = [self._lines.get(timeout=PATIENCE_SECONDS)]
        while text not in found[-1][1]:
            found.append(self._lines.get(timeout=PATIENCE_SECONDS))
        return found

    def rest(self) -> list[str]:
        """The lines that are left."""
        return [self._lines.get()[1] for _ in range(self._lines.qsize())]


@pytest.fixture
def hosts(monkeypatch: pytest.MonkeyPatch) -> Hosts:
    made = Hosts()
    monkeypatch.setattr(wiring, "make_observer", lambda _config: made)
    monkeypatch.setattr(wiring, "make_hosts", lambda *_: made)
    monkeypatch.setattr(wiring, "make_migrator", lambda *_: made)
    monkeypatch.setattr(wiring, "make_executor", lambda *_: made)
    return made


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    made = Log()
    monkeypatch.setattr(daemon_module, "log", made)
    monkeypatch.setattr(turns, "log", made)
    monkeypatch.setattr(changes, "log", made)
    return made


def write(folder: Path, *, threshold: float = 0.8, interval_seconds: float = 0.1, mode: str = "recommend") -> Path:
    path = folder / "virtpoise.yml"
    path.write_text(
        f"mode: {mode}\n"
        "libvirt: {pattern: 'h*'}\n"
        f"interval_seconds: {interval_seconds}\n"
        f"policy: {{cpu: {{threshold: {threshold}}}}}\n"
        f"state: {{url: 'sqlite:///{folder}/state.db'}}\n"
        "web: {listen_address: '127.0.0.1:0'}\n"
    )
    return path


def while_it_runs(daemon: Daemon, act: Callable[[], object]) -> None:
    """Run the daemon here, since signals come to the main thread, and what the test does beside it."""

    def and_stop() -> None:
        try:
            act()
        finally:
            daemon.stop()

    with ThreadPoolExecutor(1) as pool:
        acted = pool.submit(and_stop)
        daemon.run()
    acted.result()


def reload() -> None:
    os.kill(os.getpid(), signal.SIGHUP)


def test_a_reload_takes_the_new_threshold_from_the_next_cycle_on(tmp_path: Path, hosts: Hosts, log: Log) -> None:
    def act() -> None:
        log.wait_for(CALM)
        write(tmp_path, threshold=0.6)
        reload()
        log.wait_for("the configuration was read again")
        assert hosts.dropped == ["policy of the configuration changed after it was planned"]
        assert log.wait_for("result=").startswith(
            "h1 is overloaded (CPU load 70%, 3 consecutive samples): move a to h2"
        )

    while_it_runs(Daemon(write(tmp_path)), act)


@pytest.mark.parametrize("another_acts", [False, True])
def test_only_a_balancer_that_acts_ends_what_it_watches_when_it_is_stopped(
    tmp_path: Path, hosts: Hosts, log: Log, another_acts: bool
) -> None:
    Store.open(f"sqlite:///{tmp_path}/state.db").close()
    lock = FileLock(tmp_path / "state.db")
    if another_acts:
        assert lock.take()
    while_it_runs(Daemon(write(tmp_path)), lambda: log.wait_for("another balancer acts" if another_acts else CALM))
    lock.release()
    assert hosts.closed == [not another_acts]


def test_a_broken_file_is_logged_and_the_former_configuration_holds_on(tmp_path: Path, hosts: Hosts, log: Log) -> None:
    def act() -> None:
        log.wait_for(CALM)
        write(tmp_path, threshold=6)
        reload()
        assert "policy.cpu.threshold: expected less than or equal to 1" in log.wait_for(
            "the present configuration stays", "warning"
        )
        assert log.wait_for("result=").startswith(CALM)

    while_it_runs(Daemon(write(tmp_path)), act)


def test_a_cycle_that_takes_longer_than_the_interval_is_counted_and_logged(
    tmp_path: Path, hosts: Hosts, log: Log
) -> None:
    made = Daemon(write(tmp_path))

    def overruns() -> float:
        return made._groups[0].metrics.registry.get_sample_value("virtpoise_cycle_overruns_total") or 0.0

    def act() -> None:
        log.wait_for(CALM)
        before = overruns()
        hosts.prometheus.clear()
        log.wait_for("a cycle was left out: the one before it was still running", "warning")
        assert overruns() > before
        hosts.prometheus.set()
        log.wait_for(CALM)

    while_it_runs(made, act)


def test_cycles_begin_at_whole_multiples_of_the_interval_also_of_a_new_one(
    tmp_path: Path, hosts: Hosts, log: Log
) -> None:
    made = Daemon(write(tmp_path, interval_seconds=0.2))
    starts: list[datetime] = []
    made._scheduler.add_listener(lambda submitted: starts.extend(submitted.scheduled_run_times), EVENT_JOB_SUBMITTED)

    def off_grid(step_seconds: float) -> list[datetime]:
        step = round(step_seconds * 1e6)
        return [at for at in starts if round(at.timestamp() * 1e6) % step]

    def act() -> None:
        for _ in range(3):
            log.wait_for(CALM)
        assert starts
        assert off_grid(0.2) == []
        write(tmp_path, interval_seconds=0.25)
        reload()
        log.wait_for("the configuration was read again")
        log.wait_for(CALM)  # the cycle that read it
        starts.clear()
        for _ in range(3):
            log.wait_for(CALM)
        assert starts
        assert off_grid(0.25) == []

    while_it_runs(made, act)


@pytest.mark.parametrize("set_by", [-120.0, 120.0])
def test_cycles_go_on_when_the_clock_is_set(tmp_path: Path, hosts: Hosts, log: Log, set_by: float) -> None:
    """A clock that is set leaves the next cycle of the schedule far ahead, or long past."""
    made = Daemon(write(tmp_path))

    def act() -> None:
        log.wait_for(CALM)
        made._scheduler.modify_job("cycle", next_run_time=datetime.now(UTC) - timedelta(seconds=set_by))
        if set_by < 0:
            log.wait_for("this machine's clock was set back; the schedule is restarted", "warning")
        log.wait_for(CALM)
        log.wait_for(CALM)

    while_it_runs(made, act)


def test_a_clock_that_is_wrong_at_the_start_keeps_nobody_from_starting(tmp_path: Path, hosts: Hosts, log: Log) -> None:
    hosts.clock_error = "this machine's clock is 600 s behind that of Prometheus"

    def act() -> None:
        assert hosts.clock_error in log.wait_for("nothing is done", "error")
        hosts.clock_error = ""
        log.wait_for(CALM)

    while_it_runs(Daemon(write(tmp_path, mode="automatic")), act)


def test_without_prometheus_a_balancer_starts_only_to_look_after_migrations_without_an_end(
    tmp_path: Path, hosts: Hosts, log: Log
) -> None:
    """A domain may wait on its destination to be started, and has no other way to go on."""
    path = write(tmp_path, mode="automatic")
    hosts.prometheus_error = "Prometheus cannot be asked: Connection refused"
    refused = rf"^prometheus\.url: {hosts.prometheus_error}$"
    with pytest.raises(BadInput, match=refused):
        Daemon(path).run()
    assert list(tmp_path.iterdir()) == [path]
    with closing(wiring.make_store(read_config(path), lambda _row: None, upgrade=True)) as store:
        busy = group(host("h1", 0.95, 0.95, 0.95), host("h2", 0.1, 0.1, 0.1), domain("a", "h1", 2.0, vcpus=4))
        ((migration_id, _),) = record(store, plan(busy, Policy()), 1000.0, acted=True)
        with pytest.raises(BadInput, match=refused):
            Daemon(path).run()
        store.begin(migration_id)

    def act() -> None:
        assert hosts.prometheus_error in log.wait_for("without a known end", "warning")
        assert hosts.prometheus_error in log.wait_for("nothing is done", "error")
        hosts.prometheus_error = ""
        log.wait_for("result=")

    while_it_runs(Daemon(path), act)


def test_where_moves_are_only_recommended_deaf_hosts_are_told_without_waiting_for_them(
    tmp_path: Path, hosts: Hosts, log: Log
) -> None:
    hosts.deaf = {"h1": "Connection refused", "h2": "No route to host"}
    hosts.libvirt.clear()

    def act() -> None:
        log.wait_for(CALM)  # a cycle ran though no host has answered yet
        hosts.libvirt.set()
        told = {log.wait_for("libvirt does not answer", "warning") for _ in hosts.deaf}
        assert told == {f"a host's libvirt does not answer host={name} why={why}" for name, why in hosts.deaf.items()}

    while_it_runs(Daemon(write(tmp_path)), act)


def test_where_moves_are_made_one_deaf_host_is_told_and_nothing_begins_where_all_are(
    tmp_path: Path, hosts: Hosts, log: Log
) -> None:
    path = write(tmp_path, mode="automatic")
    hosts.deaf = dict.fromkeys(("h1", "h2"), "Connection refused")
    with pytest.raises(BadInput, match=r"^libvirt\.uri: no host answers; Connection refused$"):
        Daemon(path).run()
    assert list(tmp_path.iterdir()) == [path]
    del hosts.deaf["h2"]

    def act() -> None:
        assert "unknown: h1" in log.wait_for(CALM)  # from the first cycle on
        assert "host=h1 why=Connection refused" in log.wait_for("libvirt does not answer", "warning")

    while_it_runs(Daemon(path), act)


def test_making_a_daemon_does_nothing(tmp_path: Path, hosts: Hosts) -> None:
    Daemon(tmp_path / "missing.yml")
    path = write(tmp_path)
    Daemon(path)
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(BadInput, match=r"missing\.yml: cannot be read"):
        Daemon(tmp_path / "missing.yml").run()


def test_a_store_of_a_newer_version_is_refused_at_the_start_in_one_line(tmp_path: Path, hosts: Hosts) -> None:
    path = write(tmp_path)
    Store.open(f"sqlite:///{tmp_path}/state.db").close()
    with closing(sqlite3.connect(tmp_path / "state.db")) as database, database:
        database.execute("UPDATE alembic_version SET version_num = '0099'")
    with pytest.raises(BadInput, match=r"was written by a newer virtpoise .*: upgrade virtpoise$"):
        Daemon(path).run()


def test_an_unforeseen_failure_of_a_cycle_is_logged_and_written_down_and_the_next_cycle_runs(
    tmp_path: Path, hosts: Hosts, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_now: float) -> Observation:
        raise KeyError("h9")

    def act() -> None:
        log.wait_for(CALM)
        with monkeypatch.context() as patched:
            patched.setattr(hosts, "observe", fail)
            log.wait_for("unforeseen: KeyError: 'h9'", "error")
        log.wait_for(CALM)

    while_it_runs(Daemon(write(tmp_path)), act)
    with closing(Store.open(f"sqlite:///{tmp_path}/state.db")) as store:
        said = [(row.result, row.sentence) for row in store.cycles(10)]
    assert ("failed", "unforeseen: KeyError: 'h9'") in said
    assert [result for result, _ in said] == ["idle", "failed", "idle"]


def test_a_broken_row_of_the_store_is_named_once_and_counted(tmp_path: Path, hosts: Hosts, log: Log) -> None:
    path = write(tmp_path)
    store = Store.open(f"sqlite:///{tmp_path}/state.db")
    record(store, Plan(strategy="default", solved=True, summary=""), 1000.0, acted=True)
    store.close()
    with closing(sqlite3.connect(tmp_path / "state.db")) as database, database:
        database.execute("UPDATE plans SET document = x'00'")
    made = Daemon(path)

    def act() -> None:
        assert "plan 1: cannot be read" in log.wait_for("a row of the store cannot be read", "error")
        for _ in range(3):
            log.wait_for(CALM)
        assert made._groups[0].metrics.registry.get_sample_value("virtpoise_store_broken_rows") == 1

    while_it_runs(made, act)
    assert not any("a row of the store" in line for line in log.rest())


def test_a_store_that_cannot_be_read_fails_cycles_in_words_until_it_can(tmp_path: Path, hosts: Hosts, log: Log) -> None:
    made = Daemon(write(tmp_path))

    def act() -> None:
        log.wait_for(CALM)
        with closing(sqlite3.connect(tmp_path / "state.db")) as database, database:
            database.execute("ALTER TABLE drains RENAME TO elsewhere")
        line = log.wait_for("nothing is done: state.url: no such table: drains", "error")
        assert "unforeseen" not in line
        assert made._groups[0].metrics.registry.get_sample_value("virtpoise_leader") == 1
        with closing(sqlite3.connect(tmp_path / "state.db")) as database, database:
            database.execute("ALTER TABLE elsewhere RENAME TO drains")
        log.wait_for(CALM)

    while_it_runs(made, act)


def test_targets_that_are_no_hosts_are_logged_once_whenever_they_change(tmp_path: Path, hosts: Hosts, log: Log) -> None:
    stranger = RefusedTarget(instance="x?netcat=1", reason=TargetRefusal.NOT_A_HOST, why="expected a DNS name")
    refused = RefusedTargets(counts={TargetRefusal.NOT_A_HOST: 1}, named=(stranger,))

    def act() -> None:
        log.wait_for(CALM)
        hosts.refused = refused
        assert "targets='x?netcat=1' (expected a DNS name)" in log.wait_for("targets are refused", "warning")
        for _ in range(3):  # no cycle after it tells it again
            assert "targets are refused" not in "".join(line for _, line in log.until(CALM))
        hosts.refused = RefusedTargets()
        log.wait_for("no target is refused any more")

    while_it_runs(Daemon(write(tmp_path)), act)


def test_without_names_of_hosts_nothing_is_moved_whoever_set_the_mode(tmp_path: Path, hosts: Hosts, log: Log) -> None:
    path = write(tmp_path)
    path.write_text(path.read_text().replace("libvirt: {pattern: 'h*'}\n", ""))
    with closing(
        wiring.make_store(read_config(path), lambda _row: None)
    ) as store:  # by an order, of before there was the key
        store.override("mode", OverrideValue(value="automatic", instead_of="recommend", at=0.0, who="alice"))
    hosts.seen = group(host("h1", 0.9, 0.9, 0.9), host("h2", 0.1, 0.1, 0.1), domain("a", "h1", 1.0))

    def act() -> None:
        assert "only recommends, libvirt.pattern: expected, for mode automatic" in log.wait_for("move a")
        assert not hosts.carried_out

    while_it_runs(Daemon(path), act)
    with pytest.raises(BadInput, match=r"virtpoise\.yml: libvirt\.pattern: expected, for mode automatic, patterns"):
        Daemon(write_without_pattern(tmp_path)).run()


def write_without_pattern(folder: Path) -> Path:
    path = write(folder, mode="automatic")
    path.write_text(path.read_text().replace("libvirt: {pattern: 'h*'}\n", ""))
    return path


def test_what_fails_between_two_cycles_ends_neither_the_balancer_nor_the_rest(tmp_path: Path) -> None:
    kept: list[str] = []

    def fail() -> None:
        raise ZeroDivisionError("x")

    daemon = Daemon(tmp_path / "virtpoise.yml")
    daemon._follow_clock = fail  # type: ignore[method-assign]
    daemon._leadership = cast(Leadership, SimpleNamespace(keep=lambda: kept.append("the lock")))
    daemon._between_cycles()
    daemon._between_cycles()
    assert kept == ["the lock", "the lock"]
