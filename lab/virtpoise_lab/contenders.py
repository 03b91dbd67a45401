"""Balancers that contend for one store: whole processes, as on machines of their own, without hosts."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote_plus

from virtpoise_lab.apart import Machine
from virtpoise_lab.errors import LabError

_PATIENCE_SECONDS = 150.0
_LOOK_SECONDS = 0.02
ACTS, WAITS, ACTS_NO_LONGER = "this balancer acts now", "another balancer acts (", "this balancer no longer acts"


class _NoHosts(BaseHTTPRequestHandler):
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

    def log_message(self, *_words: Any) -> None:
        """Nothing is logged."""


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_about: Any) -> None:
        """A balancer that was killed in mid-request is no news."""


@contextmanager
def no_hosts(on: Machine | None = None) -> Iterator[str]:
    """The URL of a Prometheus without targets. ``on``: the machine that it is for; this one without."""
    with _inside(on):
        server = _Server(("127.0.0.1", 0), _NoHosts)
    with server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def _inside(on: Machine | None) -> AbstractContextManager[None]:
    return nullcontext() if on is None else on.inside()


class Contender:
    """`virtpoise run` in a process of its own.

    state: that section of its configuration. on: the machine that it runs on; this one without.
    """

    def __init__(
        self,
        folder: Path,
        prometheus: str,
        state: Mapping[str, str],
        interval_seconds: float,
        on: Machine | None = None,
    ) -> None:
        folder.mkdir()
        self._on = on
        with _inside(on), socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        settings = {
            "prometheus": {"url": prometheus},
            "state": state,
            "interval_seconds": interval_seconds,
            "web": {"listen_address": self.address, "socket": str(folder / "socket")},
        }
        (folder / "virtpoise.yml").write_text(json.dumps(settings))
        self._log = folder / "log"
        with self._log.open("wb") as log, _inside(on):
            self._process = subprocess.Popen(
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
            with (
                _inside(self._on),
                urllib.request.urlopen(f"http://{self.address}/metrics", timeout=_PATIENCE_SECONDS) as answer,
            ):
                return b"virtpoise_leader 1.0" in answer.read()
        except OSError:
            return False

    def wait_until_it_leads(self) -> float:
        """How many seconds it took to begin; the first cycle of its own may still run then."""
        seconds = self.wait_for_log(ACTS)
        self.wait_for(self.leads)
        return seconds

    def wait_for_log(self, text: str, times: int = 1) -> float:
        """How many seconds it took until it had logged that so often."""
        return self.wait_for(lambda: self.log.count(text) >= times)

    def wait_for(self, there: Callable[[], object]) -> float:
        """How many seconds that took. LabError with its log when it ends, or when it takes too long."""
        began = time.monotonic()
        while not there():
            if self._process.poll() is not None or time.monotonic() - began > _PATIENCE_SECONDS:
                raise LabError(self.log)
            time.sleep(_LOOK_SECONDS)
        return time.monotonic() - began

    def send(self, sent: signal.Signals) -> None:
        self._process.send_signal(sent)

    def wait_for_end(self) -> int:
        """Its exit status, once it has ended by itself."""
        return self._process.wait(_PATIENCE_SECONDS)

    def end(self) -> None:
        if self._process.poll() is None:
            self.send(signal.SIGCONT)
            self._process.kill()
        self._process.wait(_PATIENCE_SECONDS)
