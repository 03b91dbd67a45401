"""The journal and libvirt agree on real hosts, whatever a daemon or a QEMU does in mid-migration."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Any

import libvirt
import pytest
import requests

from integration.pool import BUSY, Pool, Pools, places, wait_under_way
from integration.test_silent_host import silence
from virtpoise_lab import processes

pytestmark = pytest.mark.lab

TWICE = 'virtpoise_domains_unaccounted{kind="twice"}'


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


def test_a_destination_whose_daemon_stops_over_the_hand_over_never_runs_the_domain_and_a_copy_that_is_started_is_suspended(
    pool: Pools,
) -> None:
    """Its source gives it up for silent and goes on; the destination carries out what it was sent, and holds a copy that never ran."""
    group = pool({"h1": {"vm1": 70}, "h2": {}})
    group.start(migration={"bandwidth_mib_per_second": 4})

    def is_half_sent(now: dict[str, Any]) -> bool:
        progress = now["in_flight"] and now["in_flight"][0]["progress"]
        return bool(progress and progress["remaining_bytes"] < 0.6 * progress["total_bytes"])

    group.wait("half of the memory", is_half_sent)
    hang = threading.Thread(target=silence, args=(group, "h2", 36))
    hang.start()
    group.wait_next_cycle()
    group.lab.load("vm1", 1, seconds=60)  # answered by a guest that runs: the source's, after the silence
    hang.join()
    group.wait("the copy", lambda now: metric(group, TWICE) == 1.0, 30)
    source, destination = (group.lab.host(name).connection().lookupByName("vm1") for name in ("h1", "h2"))
    assert (source.state()[0], destination.state()[0]) == (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_PAUSED)
    destination.resume()  # a person's mistake
    group.wait("suspension", lambda now: destination.state()[0] == libvirt.VIR_DOMAIN_PAUSED, 10)
    assert source.state()[0] == libvirt.VIR_DOMAIN_RUNNING
    words = ("On h1: running, resumed here after a migration that failed", "The copy on h2 is stale, and was suspended")
    group.wait("words", lambda now: all(word in (host["why_unknown"] or "") for host in now["hosts"] for word in words))
    destination.destroy()
    destination.undefine()
    group.wait("the end", lambda now: group.balancer.history()[0]["result"] == "failed", 30)
    group.wait("hosts that are known", lambda now: metric(group, TWICE) == 0.0 and not now["hosts"][0]["why_unknown"])


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
