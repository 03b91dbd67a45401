"""Two whole balancers on one store: whoever is killed or stopped is replaced within three intervals, and the one that
comes back waits.
"""

import json
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote_plus

import pytest

from virtpoise_lab.postgresql import Server

INTERVAL_SECONDS = 5.0
PATIENCE_SECONDS = 150.0


class NoHosts(BaseHTTPRequestHandler):
    """A Prometheus without targets."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(self.path)

    def do_POST(self) -> None:
        self._answer(self.path + "?" + self.rfile.read(int(self.headers.get("Content-Length", "0"))).decode())

    def _answer(self, asked: str) -> None:
        kind = "matrix" if "query_range" in asked else "vector"
        now = time.time()
        result = [{"metric": {}, "value": [now, str(now)]}] if "vector(time())" in unquote_plus(asked) else []
        body = json.dumps({"status": "success", "data": {"resultType": kind, "result": result}}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None: ...


class Prometheus(ThreadingHTTPServer):
    def handle_error(self, *_: Any) -> None:
        """A balancer that was killed in mid-request is no news."""


class Balancer:
    """`virtpoise run` in a process of its own, on a machine of its own as far as the lock can tell."""

    def __init__(self, folder: Path, prometheus: str, state: dict[str, str]) -> None:
        folder.mkdir()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        settings = {
            "prometheus": {"url": prometheus},
            "state": state,
            "interval_seconds": INTERVAL_SECONDS,
            "web": {"listen_address": self.address, "socket": str(folder / "socket")},
        }
        (folder / "virtpoise.yml").write_text(json.dumps(settings))
        self._log = folder / "log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "virtpoise_balancer", "run", "--config", str(folder / "virtpoise.yml")],
                stdout=log,
                stderr=log,
            )

    @property
    def log(self) -> str:
        return self._log.read_text()

    def leads(self) -> bool:
        """What it answers; a busy machine may take its time for that. False before it listens."""
        try:
            with urllib.request.urlopen(f"http://{self.address}/metrics", timeout=PATIENCE_SECONDS) as answer:
                return b"virtpoise_leader 1.0" in answer.read()
        except OSError:
            return False

    def wait_until_it_leads(self) -> float:
        """How long it took to begin; the first cycle of its own may still run then."""
        seconds = self.wait_for_log("this balancer acts now")
        self.wait_for(self.leads)
        return seconds

    def wait_for_log(self, text: str, times: int = 1) -> float:
        return self.wait_for(lambda: self.log.count(text) >= times)

    def wait_for(self, there: Any) -> float:
        began = time.monotonic()
        while not there():
            assert self.process.poll() is None, self.log
            assert time.monotonic() - began < PATIENCE_SECONDS, self.log
            time.sleep(0.02)
        return time.monotonic() - began

    def send(self, sent: signal.Signals) -> None:
        self.process.send_signal(sent)

    def end(self) -> None:
        if self.process.poll() is None:
            self.send(signal.SIGCONT)
            self.process.kill()
        self.process.wait(PATIENCE_SECONDS)


@pytest.fixture(params=["sqlite", "postgresql"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def state(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    if kind == "sqlite":
        return {"url": f"sqlite:///{tmp_path}/state.db"}
    server: Server = request.getfixturevalue("postgresql")
    return {"url": server.new_database(), "password_file": str(server.password_file)}


@contextmanager
def prometheus() -> Iterator[str]:
    """The URL of a Prometheus without hosts."""
    with Prometheus(("127.0.0.1", 0), NoHosts) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@contextmanager
def two(tmp_path: Path, state: dict[str, str]) -> Iterator[tuple[Balancer, Balancer]]:
    """The one that acts, and the one that waits."""
    with ExitStack() as opened:
        url = opened.enter_context(prometheus())
        first = Balancer(tmp_path / "first", url, state)
        opened.callback(first.end)
        first.wait_until_it_leads()
        second = Balancer(tmp_path / "second", url, state)
        opened.callback(second.end)
        second.wait_for_log("another balancer acts (")
        assert not second.leads()
        yield first, second


def test_a_killed_balancer_is_replaced_within_three_intervals(tmp_path: Path, state: dict[str, str], kind: str) -> None:
    with two(tmp_path, state) as (first, second):
        first.send(signal.SIGKILL)
        seconds = second.wait_until_it_leads()
        print(f"take-over after SIGKILL, {kind}: {seconds:.2f} s")
        assert seconds < 3 * INTERVAL_SECONDS


def test_a_stopped_balancer_is_replaced_and_waits_when_it_goes_on(tmp_path: Path, postgresql: Server) -> None:
    state = {"url": postgresql.new_database(), "password_file": str(postgresql.password_file)}
    with two(tmp_path, state) as (first, second):
        first.send(signal.SIGSTOP)
        seconds = second.wait_until_it_leads()
        print(f"take-over after SIGSTOP: {seconds:.2f} s")
        assert seconds < 3 * INTERVAL_SECONDS
        first.send(signal.SIGCONT)
        first.wait_for_log("this balancer no longer acts")
        first.wait_for_log("another balancer acts (")
        assert "Traceback" not in first.log
        assert second.leads()
        assert not first.leads()


def test_while_the_database_is_away_nobody_acts_and_afterwards_one_does(tmp_path: Path, postgresql: Server) -> None:
    state = {"url": postgresql.new_database(), "password_file": str(postgresql.password_file)}
    with two(tmp_path, state) as (first, second):
        postgresql.stop()
        try:
            first.wait_for_log("this balancer no longer acts")
            first.wait_for_log("nothing is done: state.url: ", times=2)
            assert not first.leads()
            assert not second.leads()
        finally:
            postgresql.start()
        began = time.monotonic()
        while not (first.leads() or second.leads()):
            assert time.monotonic() - began < PATIENCE_SECONDS
            time.sleep(0.02)
        print(f"after the restart of the database one acts again in {time.monotonic() - began:.2f} s")
        assert not (first.leads() and second.leads())
        assert "Traceback" not in first.log + second.log


def test_of_two_whose_lock_file_was_removed_the_earlier_one_stops_in_words(tmp_path: Path) -> None:
    with two(tmp_path, {"url": f"sqlite:///{tmp_path}/state.db"}) as (first, second):
        (tmp_path / "state.db.lock").unlink()
        one_of_both = threading.Event()
        first.wait_for_log("was removed or replaced")
        one_of_both.wait(2 * INTERVAL_SECONDS)
        first.wait_for(lambda: first.leads() != second.leads())
        assert "Traceback" not in first.log + second.log


def test_a_lock_that_keeps_nobody_out_leaves_one_that_acts(tmp_path: Path, postgresql: Server) -> None:
    """As on a network file system whose locks hold on one machine only: here the second balancer has another name for
    the store.
    """
    (tmp_path / "real").mkdir()
    with ExitStack() as opened:
        url = opened.enter_context(prometheus())
        first = Balancer(tmp_path / "first", url, {"url": f"sqlite:///{tmp_path}/real/state.db"})
        opened.callback(first.end)
        first.wait_until_it_leads()
        (tmp_path / "real" / "alias.db").symlink_to(tmp_path / "real" / "state.db")
        second = Balancer(tmp_path / "second", url, {"url": f"sqlite:///{tmp_path}/real/alias.db"})
        opened.callback(second.end)
        second.wait_until_it_leads()
        first.wait_for_log("this balancer no longer acts")
        first.wait_for_log("which the lock did not keep out; waiting for it to fall silent", times=2)
        assert not first.leads()
        assert second.leads()
        second.end()
        seconds = first.wait_for_log("this balancer acts now", times=2)
        print(f"take-over from one that the lock did not keep out: {seconds:.2f} s")
