"""The exporter under floods: a scraper gets in, and memory stays below three quarters of the unit's limit."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import bcrypt
import pytest

from hostile import flood, flooding
from hostile.units import memory_max_mib

pytestmark = [pytest.mark.hostile, pytest.mark.alone]

MOST_MIB = memory_max_mib("exporter")
DOMAINS = 300
DOMAIN = """<domain type='test'><name>domain-{0}</name><uuid>178a5bcc-0000-4000-8000-{0:012d}</uuid>
<memory>1024</memory><os><type>hvm</type></os></domain>"""
DAEMON = """
from virtpoise_exporter.web import admission
admission.place_of = str
from virtpoise_exporter.cli import main
main()
"""


@dataclass(frozen=True, slots=True)
class Victim:
    pid: int
    port: int


@contextmanager
def daemon(folder: Path, config: str) -> Iterator[Victim]:
    """The exporter of a host of libvirt's test driver, all collectors included."""
    folder.mkdir()
    (folder / "host.xml").write_text(f"<node>{''.join(map(DOMAIN.format, range(DOMAINS)))}</node>")
    (folder / "web.yml").write_text(config)
    (folder / "web.yml").chmod(0o600)
    key = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "s.key", "-out", "s.crt"]
    subprocess.run([*key, "-subj", "/CN=x", "-days", "2"], cwd=folder, check=True, capture_output=True)
    flags = {
        "libvirt.uri": f"test://{folder}/host.xml",
        "web.listen-address": "127.0.0.1:0",
        "web.config.file": str(folder / "web.yml"),
        "path.state": str(folder),
        "cpu.speed": "1",
    }
    log = folder / "log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", DAEMON, *(f"--{flag}={value}" for flag, value in flags.items())], stderr=errors
        )
    try:
        yield Victim(process.pid, _port(process, log))
    finally:
        process.terminate()
        process.wait(30)


def _port(process: subprocess.Popen[bytes], log: Path) -> int:
    end = time.monotonic() + 30
    while not (found := re.search(r" serves .* port (\d+)", log.read_text())):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.02)
    return int(found[1])


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Victim]]:
    """The exporter with this configuration, which each flood finds as the one before has left it."""
    folder, running = tmp_path_factory.mktemp("exporters"), dict[str, Victim]()
    with ExitStack() as ending:

        def run(config: str) -> Victim:
            if config not in running:
                running[config] = ending.enter_context(daemon(folder / f"{len(running)}", config))
            return running[config]

        yield run


TLS = "tls_server_config: {cert_file: s.crt, key_file: s.key}\n"
# Each scrape comes from another user: none of their passwords was verified before.
HASH = bcrypt.hashpw(b"secret", bcrypt.gensalt(8)).decode()
USERS = "basic_auth_users:\n" + "".join(f"  user{number}: {HASH}\n" for number in range(flooding.SCRAPES))


@pytest.mark.parametrize("kind", flood.KINDS)
def test_every_scrape_is_answered_under_a_flood_from_other_addresses(
    kind: str, victim: Callable[[str], Victim], record_property: Callable[[str, object], None]
) -> None:
    tls, users = flood.with_tls(kind), kind == "guess passwords"
    attacked = victim(TLS if tls else USERS if users else "")
    if not users:
        flooding.scrape(attacked.port, tls=tls)
    flooding.peak_mib(attacked.pid, anew=True)
    with flooding.flooded(kind, attacked.port, "/metrics"):
        found = flooding.scrapes(attacked.port, tls=tls, users=users)
    peak = flooding.peak_mib(attacked.pid)
    record_property("flood", flooding.row("exporter", kind, found, peak, MOST_MIB))
    assert found.answered == flooding.SCRAPES, found.errors
    assert peak < MOST_MIB * 3 / 4
