"""Debian's node_exporter and libvirt exporter, scraped by a real Prometheus, as a source of figures.

The libvirt exporter reads libvirt's test driver, whose domains use one CPU each by its clock.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from filled_prometheus import free_address, prometheus_server
from virtpoise_balancer.config import parse_config
from virtpoise_balancer.errors import MonitorError
from virtpoise_balancer.model import DomainState, Snapshot
from virtpoise_balancer.monitor.observe import Observer
from virtpoise_balancer.service.wiring import make_observer

CACHE = Path(os.environ.get("VIRTPOISE_CACHE", "/var/cache/virtpoise-lab"))
NODE_EXPORTER = CACHE / "prometheus-node-exporter/usr/bin/prometheus-node-exporter"
LIBVIRT_EXPORTER = CACHE / "prometheus-libvirt-exporter/usr/bin/prometheus-libvirt-exporter"
READY_SECONDS = 120
GIB = 2**30
UUIDS = {name: f"00000000-0000-4000-8000-00000000000{number}" for number, name in enumerate(("on", "paused", "off"), 1)}
STATES = {"on": 1, "paused": 3, "off": 5}

DOMAIN = """
<domain type='test' xmlns:test='http://libvirt.org/schemas/domain/test/1.0'>
  <name>{name}</name><uuid>{uuid}</uuid><memory unit='GiB'>2</memory><currentMemory unit='GiB'>1</currentMemory>
  <vcpu>2</vcpu><os><type>hvm</type></os>
  <devices><interface type='bridge'><source bridge='br0'/><target dev='vnet0'/></interface></devices>
  <test:runstate>{state}</test:runstate>
</domain>
"""
CONFIGURATION = """
global: {{scrape_interval: 1s, scrape_timeout: 1s}}
scrape_configs:
- job_name: node
  static_configs: [{{targets: ['{node}'], labels: {{rack: r1}}}}]
- job_name: libvirt
  static_configs: [{{targets: ['{libvirt}'], labels: {{rack: r1}}}}]
"""


@pytest.fixture(scope="module")
def observer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observer]:
    folder = tmp_path_factory.mktemp("exporters")
    node = folder / "node.xml"
    domains = "".join(DOMAIN.format(name=name, uuid=uuid, state=STATES[name]) for name, uuid in UUIDS.items())
    node.write_text(f"<node>{domains}</node>")
    at = {"node": free_address()}
    at["libvirt"] = free_address()
    commands: dict[str, list[str | Path]] = {
        "node": [NODE_EXPORTER],
        "libvirt": [LIBVIRT_EXPORTER, f"--libvirt.uri=test://{node}"],
    }
    running = []
    for name, command in commands.items():
        with (folder / f"{name}.log").open("wb") as log:
            running.append(
                subprocess.Popen([*command, f"--web.listen-address={at[name]}"], stdout=log, stderr=subprocess.STDOUT)
            )
    try:
        with prometheus_server(folder, configuration=CONFIGURATION.format(**at)) as url:
            yield make_observer(
                parse_config(f"interval_seconds: 1\nprometheus: {{url: 'http://{url}', source: debian}}", "x")
            )
    finally:
        for one in running:
            one.terminate()
            one.wait()


@pytest.fixture(scope="module")
def seen(observer: Observer) -> Snapshot:
    """The first look in which the host is known and its domains have rates."""
    deadline = time.monotonic() + READY_SECONDS
    why: object = "no look was made"
    while time.monotonic() < deadline:
        try:
            found = observer.observe(time.time()).snapshot
        except MonitorError as error:
            why = error
            continue
        why = [host.why_unknown for host in found.hosts]
        if any(host.known for host in found.hosts) and any(one.state is DomainState.RUNNING for one in found.domains):
            return found
    raise AssertionError(f"no host was known: {why}")


def test_the_host_has_this_machines_figures(seen: Snapshot) -> None:
    (host,) = seen.hosts
    assert (host.name, host.cpus, host.labels) == ("127.0.0.1", os.cpu_count(), {"rack": "r1"})
    (total,) = (
        int(line.split()[1]) * 1024
        for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        if line.startswith("MemTotal:")
    )
    assert host.memory_bytes == total
    assert 0 < host.memory_used_bytes < total
    assert 0 <= host.load <= 1


def test_domains_are_those_that_are_active(seen: Snapshot) -> None:
    assert {domain.name: (domain.uuid, domain.state) for domain in seen.domains} == {
        "on": (UUIDS["on"], DomainState.RUNNING),
        "paused": (UUIDS["paused"], DomainState.PAUSED),
    }
    (domain,) = (one for one in seen.domains if one.name == "on")
    assert (domain.vcpus, domain.memory_bytes, domain.memory_maximum_bytes) == (2, GIB, 2 * GIB)
    assert domain.cpu_cores == pytest.approx(1.0, rel=0.3)
    assert domain.cpu_delay_cores is None
