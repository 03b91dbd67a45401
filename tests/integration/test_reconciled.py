"""The journal and libvirt agree on real hosts, whatever a daemon or a QEMU does in mid-migration."""

from __future__ import annotations

import signal
from pathlib import Path

import libvirt
import pytest
import requests

from integration.pool import BUSY, Pool, Pools, places, wait_under_way
from virtpoise_lab import processes

pytestmark = pytest.mark.lab


def metric(group: Pool, series: str) -> float:
    text = requests.get(f"http://{group.balancer.address}/metrics", timeout=10).text
    (line,) = [line for line in text.splitlines() if line.startswith(f"{series} ")]
    return float(line.rpartition(" ")[2])


def kill_qemu(group: Pool, host: str, domain: str) -> None:
    name = f"guest={domain},".encode()
    (pid,) = [
        pid for pid in group.lab.host(host).group.pids() if name in Path("/proc", str(pid), "cmdline").read_bytes()
    ]
    processes.signal_pid(pid, signal.SIGKILL)


def test_a_domain_whose_qemu_dies_in_mid_migration_is_lost_until_it_runs_again(pool: Pools) -> None:
    group = pool(BUSY)
    group.start(migration={"bandwidth_mib_per_second": 2})
    domain = wait_under_way(group)
    kill_qemu(group, "h1", domain)
    group.wait("the end", lambda now: group.balancer.history()[0]["result"] is not None, 60)
    for _ in range(5):  # samples from before its death still come in
        group.wait_next_cycle()
        assert metric(group, "virtpoise_domain_vanished") == 1.0
    assert metric(group, 'virtpoise_domains_unaccounted{kind="nowhere"}') == 1.0
    (first,) = group.balancer.history()  # and nothing is moved from or to its hosts
    assert (first["result"], places(group, domain)) == ("failed", {"h1": "defined"})
    group.lab.host("h1").connection().lookupByName(domain).create()
    group.wait("the domain", lambda now: metric(group, "virtpoise_domain_vanished") == 0.0, 30)


def test_a_domain_that_a_person_shuts_down_after_a_failure_is_not_lost_for_ever(pool: Pools) -> None:
    group = pool(BUSY)
    group.start(migration={"bandwidth_mib_per_second": 2})
    domain = wait_under_way(group)
    connection = group.lab.host("h1").connection()
    connection.lookupByName(domain).destroy()
    group.wait("the loss", lambda now: metric(group, "virtpoise_domain_vanished") == 1.0, 60)
    known = connection.lookupByName(domain)
    known.create()
    group.wait("the domain", lambda now: metric(group, "virtpoise_domain_vanished") == 0.0, 30)
    assert known.state()[0] == libvirt.VIR_DOMAIN_RUNNING
