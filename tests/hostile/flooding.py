"""A flood from several addresses, and what an honest client gets during it."""

from __future__ import annotations

import base64
import contextlib
import http.client
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from hostile import flood

# Each takes all the places that one address has. The daemons that are attacked take these for three machines
# (`place_of = str`); else all of loopback is one address.
ADDRESSES = ("127.0.0.2", "127.0.0.3", "127.0.0.4")
SCRAPES = 15
# On a machine that is busy with other things; how long the slowest took is in the table.
PATIENCE_SECONDS = 30


@contextmanager
def flooded(kind: str, port: int, path: str) -> Iterator[None]:
    """While it lasts, an attacker of this kind has thirty connections or more, in whatever state."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    attacker = subprocess.Popen(
        [sys.executable, flood.__file__, kind, f"127.0.0.1:{port}", path, *ADDRESSES],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit)),
    )
    try:
        _await_attack(port)
        yield
        assert attacker.poll() is None, "the attacker gave up"
    finally:
        attacker.kill()
        attacker.wait()


def _await_attack(port: int) -> None:
    wanted = {f"{int.from_bytes(socket.inet_aton(address), 'little'):08X}" for address in ADDRESSES}
    end = time.monotonic() + 20
    while time.monotonic() < end:
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        if sum(row[1].partition(":")[0] in wanted and row[2].endswith(f":{port:04X}") for row in rows) >= 30:
            return
        time.sleep(0.02)
    pytest.fail("the attack did not begin")


@dataclass(slots=True)
class Scrapes:
    """How an honest client fared from an address of its own."""

    answered: int = 0
    slowest_seconds: float = 0.0
    errors: list[str] = field(default_factory=list)


def scrape(port: int, *, tls: bool, user: str | None = None) -> float:
    """Seconds that a scrape took, as Prometheus makes it."""
    began = time.monotonic()
    connection = (
        http.client.HTTPSConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS, context=flood.ANYBODY)
        if tls
        else http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)
    )
    headers = {"Accept-Encoding": "gzip", "Host": "localhost"}
    if user is not None:
        headers["Authorization"] = "Basic " + base64.b64encode(f"{user}:secret".encode()).decode()
    with contextlib.closing(connection):
        connection.request("GET", "/metrics", headers=headers)
        response = connection.getresponse()
        body = response.read()
    assert response.status == 200, f"{response.status}"
    assert body
    return time.monotonic() - began


def scrapes(port: int, *, tls: bool, users: bool = False) -> Scrapes:
    """One after the other, each over a connection of its own and, with ``users``, with a password never sent before."""
    found = Scrapes()
    for number in range(SCRAPES):
        began = time.monotonic()
        try:
            seconds = scrape(port, tls=tls, user=f"user{number}" if users else None)
            found.slowest_seconds = max(found.slowest_seconds, seconds)
            found.answered += 1
        except (OSError, http.client.HTTPException, AssertionError) as error:
            found.errors.append(repr(error))
        time.sleep(max(0.0, 0.1 - (time.monotonic() - began)))
    return found


def peak_mib(pid: int, *, anew: bool = False) -> float:
    """The most memory that the process had. With ``anew`` it counts from the last call on."""
    status = Path(f"/proc/{pid}/status").read_text()
    if anew:
        Path(f"/proc/{pid}/clear_refs").write_text("5")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


Row = tuple[str, str, str, str, str, str]


def row(daemon: str, kind: str, found: Scrapes, peak: float, limit: int) -> Row:
    """A line of the table that the session ends with."""
    answered, slowest = f"{found.answered} of {SCRAPES}", f"{found.slowest_seconds:.2f}"
    return daemon, kind, answered, slowest, f"{peak:.0f}", f"{limit}"
