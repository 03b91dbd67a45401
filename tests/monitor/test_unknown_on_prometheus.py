"""What a real Prometheus makes of exporters that contradict themselves or each other, and of clocks that differ."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from virtpoise_balancer.errors import ClockError, MonitorError
from virtpoise_balancer.model import Host, UnknownKind
from virtpoise_balancer.monitor.client import PrometheusClient
from virtpoise_balancer.monitor.observe import Observer

PROMETHEUS = Path(os.environ.get("VIRTPOISE_CACHE", "/var/cache/virtpoise-lab")) / "prometheus/usr/bin/prometheus"
PATIENCE_SECONDS = 60.0
SCRAPE_SECONDS = 0.5

pytestmark = [pytest.mark.early, pytest.mark.skipif(not PROMETHEUS.exists(), reason=f"no {PROMETHEUS}")]


@dataclass
class Exporter:
    """What a host's exporter says, as lines without their values' history; ``extra`` are further lines."""

    up: str = "virtpoise_libvirt_up 1"
    active: int = 1
    inactive: int = 0
    domains: tuple[str, ...] = (
        'virtpoise_domain_running{domain="a",uuid="u"} 0',
        'virtpoise_domain_state{domain="a",uuid="u",state="suspended",reason="unknown"} 1',
    )
    extra: tuple[str, ...] = ()
    _began: float = field(default_factory=time.monotonic)

    def exposition(self) -> str:
        busy = time.monotonic() - self._began
        lines = [
            "virtpoise_host_cpus 2",
            "virtpoise_host_memory_total_bytes 8e9",
            "virtpoise_host_memory_available_bytes 4e9",
            f'virtpoise_host_cpu_seconds_total{{mode="user"}} {busy}',
            f'virtpoise_host_cpu_seconds_total{{mode="idle"}} {busy}',
            self.up,
            f'virtpoise_domains{{state="active"}} {self.active}',
            f'virtpoise_domains{{state="inactive"}} {self.inactive}',
            *self.domains,
            *self.extra,
        ]
        return "\n".join([*lines, ""])


@contextmanager
def served(exporter: Exporter) -> Iterator[int]:
    """The exporter's port while it is served."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = exporter.exposition().encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def prometheus(folder: Path, *ports: int) -> Iterator[Observer]:
    """What the balancer sees through a Prometheus that scrapes these ports of this machine, which is one host to it.

    When it ends, Prometheus is killed. One that begins in the same folder goes on with what was stored.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    targets = ", ".join(f"'127.0.0.1:{one}'" for one in ports)
    config = folder / "prometheus.yml"
    config.write_text(
        f"global: {{scrape_interval: {SCRAPE_SECONDS * 1000:.0f}ms, scrape_timeout: {SCRAPE_SECONDS * 1000:.0f}ms}}\n"
        f"scrape_configs: [{{job_name: exporters, static_configs: [{{targets: [{targets}]}}]}}]\n"
    )
    command = [
        str(PROMETHEUS),
        f"--config.file={config}",
        f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (folder / "log").open("ab") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    client = PrometheusClient(url=f"http://127.0.0.1:{port}", timeout_seconds=5)
    try:
        yield Observer(
            client=client,
            step_seconds=SCRAPE_SECONDS * 2,
            scrape_interval_seconds=SCRAPE_SECONDS * 2,
            consecutive=2,
            saturation_ratio=0.9,
            queries={},
            matchers="",
            admits=lambda _name: True,
        )
    finally:
        client.close()
        server.kill()
        server.wait()


def wait_for(observer: Observer, reached: Callable[[Host], bool], domains: list[str] | None = None) -> Host:
    """The one host, once it is as wanted. ``domains``: the states that its domains must have; None for any."""
    deadline, seen = time.monotonic() + PATIENCE_SECONDS, None
    while time.monotonic() < deadline:
        try:
            seen = observer.observe(time.time()).snapshot
        except ClockError:
            raise
        except MonitorError:  # it is starting
            seen = None
        host = None if seen is None else seen.host("127.0.0.1")
        if seen and host and reached(host) and domains in (None, [one.state for one in seen.domains]):
            return host
        time.sleep(SCRAPE_SECONDS / 2)
    raise AssertionError(f"last seen: {seen}")


def is_unknown(kind: UnknownKind) -> Callable[[Host], bool]:
    return lambda host: host.why_unknown is not None and host.why_unknown.kind is kind


def test_a_host_is_known_as_long_as_its_list_of_domains_stands(tmp_path: Path) -> None:
    exporter = Exporter()
    with served(exporter) as port, prometheus(tmp_path, port) as observer:
        wait_for(observer, lambda host: host.known)
        (domain,) = observer.observe(time.time()).snapshot.domains
        assert domain.state == "paused"  # suspended to memory: it is there
        exporter.active = 3
        host = wait_for(observer, is_unknown(UnknownKind.DOMAINS))
        assert host.why_unknown is not None
        assert host.why_unknown.text == "its list of domains contradicts libvirt's count: 3 active, 1 listed"
        exporter.active = 1
        wait_for(observer, lambda host: host.known)
        for silent in ("virtpoise_libvirt_up 0", ""):
            exporter.up = silent
            wait_for(observer, is_unknown(UnknownKind.LIBVIRT))
        exporter.up = "virtpoise_libvirt_up 1"
        wait_for(observer, lambda host: host.known)
        exporter.extra = ("virtpoise_host_cpu_speed_ratio 1e9",)
        wait_for(observer, is_unknown(UnknownKind.FIGURES))


def test_a_host_that_two_targets_claim_to_be_is_unknown_until_one_is_left(tmp_path: Path) -> None:
    with served(Exporter()) as one, served(Exporter()) as other, prometheus(tmp_path, one, other) as observer:
        host = wait_for(observer, is_unknown(UnknownKind.TARGETS))
        assert host.why_unknown is not None
        named = ", ".join(sorted(f"127.0.0.1:{port}" for port in (one, other)))
        assert host.why_unknown.text == f"2 targets of Prometheus claim to be it: {named}"


def test_a_balancer_that_is_behind_or_ahead_of_prometheus_sees_nothing(tmp_path: Path) -> None:
    with served(Exporter()) as port, prometheus(tmp_path, port) as observer:
        wait_for(observer, lambda host: host.known)
        for ahead, words in ((-600, "600 s behind"), (600, "600 s ahead of")):
            with pytest.raises(ClockError, match=words):
                observer.observe(time.time() + ahead)


@pytest.mark.parametrize(
    ("exporter", "left"),
    [
        (Exporter(active=0, domains=()), []),
        (Exporter(active=0, inactive=1, domains=('virtpoise_domain_running{domain="a",uuid="u"} 0',)), ["shutoff"]),
    ],
    ids=["a domain leaves its host", "a suspended domain is shut off"],
)
def test_what_ended_while_prometheus_was_away_does_not_count(
    tmp_path: Path, exporter: Exporter, left: list[str]
) -> None:
    """Prometheus returns such a series for five minutes more; patience ends before that."""
    before = Exporter()
    with served(before) as port:
        with prometheus(tmp_path, port) as observer:
            wait_for(observer, lambda host: host.known, ["paused"])
        before.active, before.inactive, before.domains = exporter.active, exporter.inactive, exporter.domains
        with prometheus(tmp_path, port) as observer:
            wait_for(observer, lambda host: host.known, left)
