"""The journal and libvirt agree on real hosts, whatever a daemon or a QEMU does in mid-migration."""

from __future__ import annotations

import signal

import libvirt
import pytest
import requests

from integration.pool import BUSY, Pool, Pools, places, wait_under_way
from virtpoise_lab import processes
from virtpoise_lab.chaos.truth import qemus

pytestmark = pytest.mark.lab

TWICE = 'virtpoise_domains_unaccounted{kind="twice"}'


def metric(group: Pool, series: str) -> float:
    text = requests.get(f"http://{group.balancer.address}/metrics", timeout=10).text
    (line,) = [line for line in text.splitlines() if line.startswith(f"{series} ")]
    return float(line.rpartition(" ")[2])


def kill_qemu(group: Pool, host: str, domain: str) -> None:
    processes.signal_pid(qemus(group.lab.host(host))[domain], signal.SIGKILL)


def test_a_copy_that_someone_starts_after_a_failed_hand_over_is_suspended_and_named(pool: Pools) -> None:
    group = pool({"h1": {"vm1": 70}, "h2": {}})
    group.start(migration={"bandwidth_mib_per_second": 2, "timeout_seconds": 3})
    group.wait("the failure", lambda now: [one["result"] for one in group.balancer.history()] == ["failed"])
    group.lab.load("vm1", 1)  # so that no other migration follows
    source = group.lab.host("h1").connection().lookupByName("vm1")
    copy = group.lab.host("h2").connection().createXML(source.XMLDesc(libvirt.VIR_DOMAIN_XML_MIGRATABLE))
    group.wait("suspension", lambda now: copy.state()[0] == libvirt.VIR_DOMAIN_PAUSED, 20)
    assert source.state()[0] == libvirt.VIR_DOMAIN_RUNNING
    words = ("On h1: running, ", "On h2: ", "The copy on h2 is stale, and was suspended")
    group.wait("words", lambda now: all(word in (host["why_unknown"] or "") for host in now["hosts"] for word in words))
    assert metric(group, TWICE) == 1.0
    copy.destroy()  # a person's word
    group.wait("the end", lambda now: metric(group, TWICE) == 0.0 and not any(h["why_unknown"] for h in now["hosts"]))
    assert places(group, "vm1") == {"h1": "running"}


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
