"""What the lab floor's faults do, without a host."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path

import pytest

import storing
from builders import domain, group, host
from virtpoise_balancer.knowledge.store import Store
from virtpoise_balancer.model import Policy
from virtpoise_balancer.plan import plan
from virtpoise_lab.chaos import between
from virtpoise_lab.chaos.between import Answer
from virtpoise_lab.chaos.clock import Clock
from virtpoise_lab.chaos.images import Images
from virtpoise_lab.chaos.store import StoreFile, StoreServer
from virtpoise_lab.postgresql import Server

MADE = plan(group(host("h1", 0.95, 0.95, 0.95), host("h2", 0.1, 0.1, 0.1), domain("a", "h1", 2.0)), Policy())
EXPOSED = """\
# HELP virtpoise_host_cpus CPUs.
virtpoise_host_cpus 4
virtpoise_domains{state="active"} 2
virtpoise_domain_running{domain="vm1"} 1
"""
SHOW_CLOCKS = "import time\nwhile input(): print(time.time(), time.monotonic(), flush=True)"


def test_a_stepped_clock_is_that_of_the_processes_with_its_environment_and_of_no_other_clock(tmp_path: Path) -> None:
    clock = Clock(tmp_path / "clock")
    process = subprocess.Popen(
        [sys.executable, "-c", SHOW_CLOCKS],
        env={**os.environ, **clock.environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin
    assert process.stdout

    def ahead() -> tuple[float, float]:
        assert process.stdin
        assert process.stdout
        print("show", file=process.stdin, flush=True)
        shown, monotonic = map(float, process.stdout.readline().split())
        return round((shown - time.time()) / 10) * 10, round((monotonic - time.monotonic()) / 10) * 10

    assert ahead() == (0, 0)
    with clock.stepped(-120.0):
        assert ahead() == (-120, 0)
    with clock.stepped(600.0):
        assert ahead() == (600, 0)
    assert ahead() == (0, 0)
    process.stdin.close()
    process.stdout.close()
    process.wait()


@pytest.mark.parametrize("step", [-120.0, 600.0])
def test_what_a_stepped_clock_has_shown_is_told_as_the_true_time(tmp_path: Path, step: float) -> None:
    clock = Clock(tmp_path / "clock")
    before = time.time()
    with clock.stepped(step):
        during = time.time()
    after = time.time()
    assert [clock.true(at) for at in (before, during + step, after)] == pytest.approx([before, during, after])


def test_a_store_that_is_gone_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "virtpoise.db"
    with closing(Store.open(f"sqlite:///{path}")) as store:
        storing.record(store, MADE, 1000.0, acted=True)
    file = StoreFile(path)
    before = file.entries()
    with file.gone():
        assert not path.exists()
        assert file.entries() == []
        path.write_bytes(b"another one")
    assert file.entries() == before != []


def test_a_store_on_a_server_is_read_before_and_after_a_restart_and_not_in_between(postgresql: Server) -> None:
    store = StoreServer(postgresql)
    try:
        assert store.entries() == [], "without tables"
        with closing(Store.open(store.section["url"], password_file=Path(store.section["password_file"]))) as written:
            ((first, _),) = storing.record(written, MADE, 1000.0, acted=True)
            written.begin(first)
        before = store.entries()
        assert [(entry.source, entry.is_open) for entry in before] == [("h1", True)]
        assert not store.drains("h1")
        with store.restarted():
            assert store.entries() == []
        assert store.entries() == before
    finally:
        store.close()


def test_held_images_are_locked_for_whoever_would_write() -> None:
    images = Images(["vm1"])
    try:
        with images.paths["vm1"].open("r+b") as file:
            with images.held(), pytest.raises(BlockingIOError):
                _lock(file.fileno(), fcntl.F_WRLCK)
            _lock(file.fileno(), fcntl.F_WRLCK)
    finally:
        images.close()
    assert not images.paths["vm1"].exists()


def _lock(file: int, kind: int) -> None:
    fcntl.fcntl(file, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", kind, os.SEEK_SET, 201, 1, 0))


def test_a_prometheus_that_is_behind_is_asked_for_an_hour_ago() -> None:
    asked: list[Mapping[str, str]] = []

    def plain(_path: str, form: Mapping[str, str]) -> bytes:
        asked.append(form)
        return b""

    answer = between.behind(plain)
    answer("/api/v1/query", {"query": "up", "time": "10000.000"})
    answer("/api/v1/query_range", {"query": "up", "start": "10000", "end": "10060", "step": "5"})
    answer("/api/v1/query", {"query": "vector(time())"})
    answer("/api/v1/targets", {})
    assert asked[:2] == [
        {"query": "up", "time": "6400.000"},
        {"query": "up", "start": "6400.000", "end": "6460.000", "step": "5"},
    ]
    assert float(asked[2]["time"]) == pytest.approx(time.time() - 3600, abs=60)
    assert asked[3] == {}


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        (between.without_domains, ["virtpoise_host_cpus 4"]),
        (between.miscounted, ["virtpoise_host_cpus 4", 'virtpoise_domains{state="active"} 2']),
        (
            between.lies,
            [
                "virtpoise_host_cpus 65536",
                'virtpoise_domains{state="active"} 2',
                'virtpoise_domain_running{domain="vm1"} 1',
            ],
        ),
    ],
    ids=["empty", "miscounting", "lying"],
)
def test_an_exporter_of_one_host_is_changed_alone(change: Callable[[str, Answer], Answer], kept: list[str]) -> None:
    answer = change("h1", lambda _path, _form: EXPOSED.encode())
    assert [line for line in answer("/h1", {}).decode().splitlines() if line[0] != "#"] == kept
    assert answer("/h2", {}).decode() == EXPOSED
