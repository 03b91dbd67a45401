"""The real balancer, as its user runs it: ``virtpoise run`` with a configuration file, on the manager's side of a
lab.
"""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import requests
import yaml

from virtpoise_balancer.tokens import USER_HEADER
from virtpoise_lab import state
from virtpoise_lab.errors import LabError
from virtpoise_lab.lab import Lab
from virtpoise_lab.model import HostSpec

ADDRESS = "127.0.0.1:9808"
NAME = "balancer"
_POLL_SECONDS = 0.1
_MOST_HOSTS = 20


class _Socket(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=60)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Balancer:
    """A balancer over a lab.

    ``folder`` holds its configuration, its store and its log (in the lab's own folder by default). ``environment``:
    variables that it has beside those of this process.
    """

    def __init__(
        self,
        lab: Lab,
        folder: Path | None = None,
        address: str = ADDRESS,
        name: str = NAME,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.lab = lab
        self._environment = {**os.environ, **(environment or {})}
        self.name = name
        self.address = address
        self.folder = folder or state.FOLDER / name
        self.folder.mkdir(exist_ok=True)
        self.config = self.folder / "virtpoise.yml"
        self.log = self.folder / "balancer.log"
        self._process: subprocess.Popen[bytes] | None = None

    def configure(self, prometheus_url: str, **sections: Any) -> None:
        """Write the configuration: sections of the file, over what a lab needs."""
        values: dict[str, Any] = {
            "prometheus": {"url": prometheus_url, "scrape_interval_seconds": 1},
            # This machine's own /etc/hosts stays as it is, so hosts are reached by address; those that join later too.
            "libvirt": {"hosts": {spec.name: spec.uri for spec in map(HostSpec, range(1, _MOST_HOSTS + 1))}},
            "state": {"url": f"sqlite:///{self.folder}/virtpoise.db"},
            "web": {"listen_address": self.address, "socket": str(self.folder / f"{self.name}.sock")},
            "mode": "automatic",
            "interval_seconds": 2,
            "migration": {"timeout_seconds": 60, "stop_grace_seconds": 20},
            "measurement": {"settle_seconds": 6, "window_seconds": 20},
        }
        self.config.write_text(yaml.safe_dump(_merged(values, sections)), encoding="utf-8")

    def start(self) -> None:
        """Start it and wait until it has run its first cycle. LabError with its last words when it ends instead."""
        self.launch()
        self.wait_for("its first cycle", lambda status: status["cycle_at"] is not None)

    def launch(self) -> None:
        """Start it, and wait for nothing."""
        with self.log.open("ab") as log:
            self._process = self.lab.spawn(
                self._command("run"), name=self.name, stdout=log, stderr=log, env=self._environment
            )

    def stop(self) -> int:
        """Send it SIGTERM and wait; its exit status."""
        if self._process is None:
            raise LabError("the balancer was not started")
        self._process.terminate()
        code = self._process.wait(60)
        self._process = None
        return code

    def kill(self) -> None:
        """End it without warning."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @property
    def ended(self) -> int | None:
        """Its exit status if it has ended by itself."""
        return None if self._process is None else self._process.poll()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise LabError("the balancer was not started")
        return self._process

    def status(self) -> dict[str, Any] | None:
        """Its status as the API returns it; None while it does not answer."""
        try:
            found: dict[str, Any] = self._ask("status")
        except requests.RequestException:
            return None
        return found

    def host(self, name: str) -> dict[str, Any]:
        """One host of its status; empty if the balancer does not answer or does not know the host."""
        status = self.status() or {"hosts": []}
        found: dict[str, Any] = next((host for host in status["hosts"] if host["name"] == name), {})
        return found

    def history(self) -> list[dict[str, Any]]:
        """The migrations with their predictions, oldest first."""
        found: list[dict[str, Any]] = self._ask("history?limit=1000")
        return found[::-1]

    def others(self) -> list[dict[str, Any]]:
        """What others did, oldest first."""
        found: list[dict[str, Any]] = self._ask("others?limit=1000")
        return found[::-1]

    def _ask(self, path: str) -> Any:
        return requests.get(f"http://{self.address}/api/v1/{path}", timeout=5).json()

    def order(self, path: str) -> str:
        """Give an order by its path in the API, such as hosts/h1/drain, as root's commands do; the answer.

        A command takes a second of CPU time to start. LabError when the balancer does not answer.
        """
        with closing(_Socket(self.folder / f"{self.name}.sock")) as connection:
            headers = {"Content-Type": "application/json", USER_HEADER: "root"}
            try:
                connection.request("POST", f"/api/v1/{path}", "{}", headers)
                return connection.getresponse().read().decode()
            except (OSError, http.client.HTTPException) as error:
                raise LabError(f"no order to {self.name}: {error}") from None

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """One command of ``virtpoise`` with this configuration."""
        return subprocess.run(self._command(*arguments), capture_output=True, text=True, timeout=120, check=False)

    def wait_for(self, what: str, reached: Callable[[dict[str, Any]], object], seconds: float = 60) -> dict[str, Any]:
        """Wait until its status is as wanted; the status. LabError with its last words past the deadline."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self._process is not None and self._process.poll() is not None:
                raise LabError(f"the balancer ended: {self.last_words()}")
            status = self.status()
            if status is not None and reached(status):
                return status
            time.sleep(_POLL_SECONDS)
        raise LabError(f"no {what} within {seconds:g} s; the balancer's last words:\n{self.last_words()}")

    def last_words(self, lines: int = 15) -> str:
        return "\n".join(self.log.read_text(encoding="utf-8").splitlines()[-lines:])

    def _command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "virtpoise_balancer", *arguments, "--config", str(self.config)]


def _merged(values: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(values)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = _merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged
