"""The loop around the cycles: when they begin, what a reload changes, what is told of one that is slow, of hosts that do not answer."""

from __future__ import annotations

import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partialmethod
from pathlib import Path

import pytest
from apscheduler.events import EVENT_JOB_SUBMITTED

from builders import domain, group, host
from virtpoise_balancer.errors import BadInput
from virtpoise_balancer.execute.executor import Entries, InFlight, Recheck
from virtpoise_balancer.monitor.observe import Observation
from virtpoise_balancer.service import daemon as daemon_module
from virtpoise_balancer.service import wiring
from virtpoise_balancer.service.daemon import Daemon

PATIENCE_SECONDS = 5.0
SEEN = group(host("h1", 0.7, 0.7, 0.7), host("h2", 0.1, 0.1, 0.1), domain("a", "h1", 3.0))
CALM = "no host is at or above 80% 3 times in a row"


def event(*, is_set: bool) -> threading.Event:
    made = threading.Event()
    if is_set:
        made.set()
    return made


@dataclass
class Hosts:
    """In the place of Prometheus, of the migrator and of the executor. The events: what is asked there is answered once they are set."""

    prometheus: threading.Event = field(default_factory=lambda: event(is_set=True))
    libvirt: threading.Event = field(default_factory=lambda: event(is_set=True))
    deaf: dict[str, str] = field(default_factory=dict)
    reach_back_seconds: float = 0.0
    acts: bool = True
    busy: bool = False
    in_flight: tuple[InFlight, ...] = ()
    migrator: object = None

    def observe(self, now: float) -> Observation:
        self.prometheus.wait(PATIENCE_SECONDS)
        return Observation(snapshot=replace(SEEN, time=now), age_seconds=1.0)

    def load_between(self, host: str, start: float, end: float) -> tuple[tuple[float, float], ...]:
        return ()

    def unreachable(self, hosts: Sequence[str]) -> dict[str, str]:
        self.libvirt.wait(PATIENCE_SECONDS)
        return {name: self.deaf[name] for name in hosts if name in self.deaf}

    def carry_out(self, entries: Entries, recheck: Recheck) -> None: ...

    def adopt(self, unfinished: Entries) -> None: ...

    def close(self) -> None: ...


class Log:
    """What is told, as it comes."""

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
        raise AssertionError(f"nobody said {text!r} as {level}")


@pytest.fixture
def hosts(monkeypatch: pytest.MonkeyPatch) -> Hosts:
    made = Hosts()
    monkeypatch.setattr(wiring, "make_observer", lambda _config: made)
    monkeypatch.setattr(wiring, "make_migrator", lambda _config: made)
    monkeypatch.setattr(wiring, "make_executor", lambda *_: made)
    return made


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    made = Log()
    monkeypatch.setattr(daemon_module, "log", made)
    return made


def write(folder: Path, *, threshold: float = 0.8, interval_seconds: float = 0.1, mode: str = "recommend") -> Path:
    path = folder / "virtpoise.yml"
    path.write_text(
        f"mode: {mode}\n"
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
            daemon._stop.set()

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
        assert log.wait_for("result=").startswith("h1 is overloaded (cpu 70%, 3 times in a row): move a to h2")

    while_it_runs(Daemon(write(tmp_path)), act)


def test_a_broken_file_is_told_and_what_was_holds_on(tmp_path: Path, hosts: Hosts, log: Log) -> None:
    def act() -> None:
        log.wait_for(CALM)
        write(tmp_path, threshold=6)
        reload()
        assert "policy.cpu.threshold: expected less than or equal to 1" in log.wait_for("is kept as it was", "warning")
        assert log.wait_for("result=").startswith(CALM)

    while_it_runs(Daemon(write(tmp_path)), act)


def test_a_cycle_that_takes_longer_than_the_interval_is_counted_and_told(
    tmp_path: Path, hosts: Hosts, log: Log
) -> None:
    made = Daemon(write(tmp_path))

    def overruns() -> float:
        return made._metrics.registry.get_sample_value("virtpoise_cycle_overruns_total") or 0.0

    def act() -> None:
        log.wait_for(CALM)
        before = overruns()
        hosts.prometheus.clear()
        log.wait_for("a cycle was left out: the one before had not ended", "warning")
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


def test_where_moves_are_only_recommended_deaf_hosts_are_told_without_waiting_for_them(
    tmp_path: Path, hosts: Hosts, log: Log
) -> None:
    hosts.deaf = {"h1": "Connection refused", "h2": "No route to host"}
    hosts.libvirt.clear()

    def act() -> None:
        log.wait_for(CALM)  # a cycle ran though no host has answered yet
        hosts.libvirt.set()
        for name, why in hosts.deaf.items():
            assert f"host={name} why={why}" in log.wait_for("libvirt does not answer", "warning")

    while_it_runs(Daemon(write(tmp_path)), act)


def test_where_moves_are_made_one_deaf_host_is_told_and_nothing_begins_where_all_are(
    tmp_path: Path, hosts: Hosts, log: Log
) -> None:
    path = write(tmp_path, mode="automatic")
    hosts.deaf = dict.fromkeys(("h1", "h2"), "Connection refused")
    with pytest.raises(BadInput, match=r"^libvirt\.uri: no host answers; Connection refused$"):
        Daemon(path)
    assert list(tmp_path.iterdir()) == [path]
    del hosts.deaf["h2"]
    made = Daemon(path)
    assert "host=h1 why=Connection refused" in log.wait_for("libvirt does not answer", "warning")
    while_it_runs(made, lambda: log.wait_for(CALM))
