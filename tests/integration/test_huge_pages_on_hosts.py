"""A domain in static huge pages on real hosts: where too few are free it is refused beforehand, and QEMU cannot start;
where enough are free it is migrated. The hosts of a lab have one kernel, and so one pool.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import libvirt
import pytest

from builders import domain, group, host
from integration.pool import Pools
from integration.test_only_possible_moves_on_hosts import described
from virtpoise_balancer.model import HugePages, Plan, Policy, Reason, Trigger
from virtpoise_balancer.plan import plan
from virtpoise_lab.lab import Lab
from virtpoise_lab.model import DomainSpec

pytestmark = pytest.mark.lab
POLICY = Policy(cpu=Trigger(threshold=0.7, consecutive=2))
WANTED = Path("/proc/sys/vm/nr_hugepages")
POOL = Path("/sys/kernel/mm/hugepages/hugepages-2048kB")
PAGE = 2 << 20
PAGES = 16  # of one domain
# libvirtd looks for the mount when it starts.
MOUNT = "mkdir -p /dev/hugepages; mount -t hugetlbfs none /dev/hugepages; kill -9 $(cat /run/libvirtd.pid)"
FLAGS = libvirt.VIR_MIGRATE_LIVE | libvirt.VIR_MIGRATE_PEER2PEER


def pages(named: str) -> int:
    return int((POOL / named).read_text())


@pytest.fixture
def small_pool() -> Iterator[None]:
    """Huge pages for one domain, and as many as before afterwards."""
    if not POOL.exists():
        pytest.skip("this kernel has no huge pages of 2 MiB")
    before = WANTED.read_text()
    try:
        WANTED.write_text(str(PAGES + pages("nr_hugepages") - pages("free_hugepages")))
        if pages("free_hugepages") != PAGES:
            pytest.skip("this machine has no memory for 16 huge pages")
        yield
    finally:
        WANTED.write_text(before)


@pytest.fixture
def lab(small_pool: None, pool: Pools) -> Iterator[Lab]:
    pool.close()  # one lab at a time
    with Lab.up(hosts=2, domains=[DomainSpec("vm1", "h1")]) as running:
        text = described(running)
        for one in running.hosts:
            one.disconnect()
            one.run(["sh", "-ec", MOUNT])
            one.start_libvirtd()
        for old, new in (
            (r"<name>vm1</name>", "<name>huge</name>"),
            (r"<memory .*?</memory>", "<memory unit='MiB'>32</memory>"),
            (r"<currentMemory .*?</currentMemory>", "<memoryBacking><hugepages/></memoryBacking>"),
        ):
            assert re.search(old, text)
            text = re.sub(old, new, text)
        running.host("h1").connection().createXML(text, 0)
        yield running


def planned(guest: Any) -> Plan:
    """The plan for h1 overloaded by the domain, with the huge pages that are free now."""
    free = (HugePages(page_bytes=PAGE, memory_bytes=pages("free_hugepages") * PAGE),)
    mine = (HugePages(page_bytes=PAGE, memory_bytes=PAGES * PAGE),)
    hosts = [host(name, load, load, hugepages_free=free) for name, load in (("h1", 0.9), ("h2", 0.1))]
    one = domain("huge", "h1", 3.0, uuid=guest.UUIDString(), memory_bytes=PAGES * PAGE, hugepages=mine)
    return plan(group(*hosts, one), POLICY)


def test_a_domain_in_huge_pages_goes_where_enough_are_free(lab: Lab) -> None:
    guest, uri = lab.host("h1").connection().lookupByName("huge"), lab.host("h2").uri
    assert pages("free_hugepages") == 0
    refused = planned(guest)
    assert refused.moves == ()
    (why,) = (one for one in refused.refusals if one.domain == "huge")
    assert (why.reason, why.detail["need_bytes"]) == (Reason.DESTINATION_HUGEPAGES, PAGES * PAGE)
    with pytest.raises(libvirt.libvirtError, match=r"(?i)memory"):
        guest.migrateToURI3(uri, {}, FLAGS)
    assert guest.isActive()
    WANTED.write_text(str(int(WANTED.read_text()) + PAGES))
    assert [move.destination for move in planned(guest).moves] == ["h2"]
    guest.migrateToURI3(uri, {}, FLAGS)
    assert lab.host("h2").connection().lookupByName("huge").isActive()
