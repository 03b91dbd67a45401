"""The exporter's listener under floods: a scraper gets in, and memory stays far below the unit's limit."""

import contextlib
import http.client
import json
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hostile import flood

pytestmark = [pytest.mark.hostile, pytest.mark.alone]

MIB = 1 << 20
MOST_MIB = 128  # half of the unit's MemoryMax
SCRAPES = 15
# The listener as it is, with the page of a host of 300 domains, which takes 20 ms to make.
SERVER = """
import asyncio, sys, time
from pathlib import Path
from virtpoise_exporter.log import configure
from virtpoise_exporter.web.config import Watched
from virtpoise_exporter.web.server import Server, open_socket

configure("error", "logfmt")
line = b'virtpoise_domain_cpu_seconds_total{domain="domain-%d",uuid="178a5bcc-0000-4000-8000-%012d"} 12.5\\n'

def scrape(seconds):
    time.sleep(0.02)
    return b"".join(line % (number, number) for number in range(10_000))

listening = open_socket("127.0.0.1", 0)
print(listening.getsockname()[1], flush=True)
asyncio.run(Server(scrape, Watched(Path(sys.argv[1]))).serve(listening))
"""


class Victim:
    """The listener in a process of its own."""

    def __init__(self, config: Path, *, tls: bool) -> None:
        self._process = subprocess.Popen([sys.executable, "-c", SERVER, str(config)], stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        self._tls = tls

    def scrape(self) -> float:
        """Seconds that a scrape took, as Prometheus makes it."""
        began = time.monotonic()
        connection: http.client.HTTPConnection
        if self._tls:
            connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=10, context=flood._ANYBODY)
        else:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        with contextlib.closing(connection):
            connection.request("GET", "/metrics", headers={"Accept-Encoding": "gzip"})
            response = connection.getresponse()
            assert response.status == 200
            assert len(response.read()) > 10_000
        return time.monotonic() - began

    def peak_mib(self) -> float:
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / MIB

    def end(self) -> None:
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process.kill()
        self._process.wait()


@contextmanager
def attacked(kind: str, address: str, folder: Path) -> Iterator[Victim]:
    tls = "hand" in kind or "TLS" in kind
    (folder / "web.yml").write_text("tls_server_config: {cert_file: s.crt, key_file: s.key}\n" if tls else "")
    key = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "s.key", "-out", "s.crt"]
    if tls:
        subprocess.run([*key, "-subj", "/CN=x", "-days", "2"], cwd=folder, check=True, capture_output=True)
    victim = Victim(folder / "web.yml", tls=tls)
    attacker = None
    try:
        victim.scrape()
        command = [sys.executable, flood.__file__, kind, str(victim.port), address]
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        attacker = subprocess.Popen(
            command, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
        )
        _await_attack(victim.port, address)
        yield victim
        assert attacker.poll() is None, "the attacker gave up"
    finally:
        if attacker is not None:
            attacker.kill()
            attacker.wait()
        victim.end()


def _await_attack(port: int, address: str) -> None:
    """Waits until the attacker has thirty connections, in whatever state."""
    want = f"{int.from_bytes(socket.inet_aton(address), 'little'):08X}:"
    end = time.monotonic() + 20
    while time.monotonic() < end:
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        if sum(row[1].startswith(want) and row[2].endswith(f":{port:04X}") for row in rows) >= 30:
            return
        time.sleep(0.02)
    pytest.fail("the attack did not begin")


def scrapes_under(victim: Victim) -> tuple[int, float, list[str]]:
    answered, slowest, errors = 0, 0.0, []
    for _ in range(SCRAPES):
        began = time.monotonic()
        try:
            slowest = max(slowest, victim.scrape())
            answered += 1
        except (OSError, http.client.HTTPException) as error:
            errors.append(repr(error))
        time.sleep(max(0.0, 0.1 - (time.monotonic() - began)))
    return answered, slowest, errors


def record(name: str, **figures: object) -> None:
    """Appends to the file that VIRTPOISE_FIGURES names, for reports."""
    if os.environ.get("VIRTPOISE_FIGURES"):
        with Path(os.environ["VIRTPOISE_FIGURES"]).open("a") as file:
            file.write(json.dumps({"attack": name, **figures}) + "\n")


@pytest.mark.parametrize("kind", flood.KINDS)
def test_every_scrape_is_answered_under_a_flood_from_another_address(kind: str, tmp_path: Path) -> None:
    with attacked(kind, "127.0.0.2", tmp_path) as victim:
        answered, slowest, errors = scrapes_under(victim)
        peak = victim.peak_mib()
    record(kind, answered=answered, of=SCRAPES, slowest=round(slowest, 2), peak_mib=round(peak), errors=errors)
    assert answered == SCRAPES, errors
    assert peak < MOST_MIB
