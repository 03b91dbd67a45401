"""Odd replies of libvirt to both programs: figures that nothing has, lists with an item that fails or stands twice."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import libvirt
import pytest

from execute.test_storage import Connection, FakePool, failed
from hostile.test_exporter_items import XML, Libvirtd, Listed, libvirtd, page  # noqa: F401 - a fixture
from virtpoise_balancer.execute import incompatible
from virtpoise_balancer.execute.facts import HostFacts, Pool
from virtpoise_balancer.execute.worker import __main__ as worker
from virtpoise_balancer.execute.worker import probe, storage
from virtpoise_balancer.execute.worker.connection import LibvirtConnection
from virtpoise_exporter.collectors import block
from virtpoise_exporter.usage import VcpuSums
from virtpoise_exporter.virt import source
from virtpoise_exporter.virt.xml import domain_facts, host_cpu, network_forward

pytestmark = pytest.mark.hostile

BOMB = (
    "<!DOCTYPE d [<!ENTITY a '"
    + "a" * 1000
    + "'>"
    + "".join(f"<!ENTITY {name} '{f'&{of};' * 100}'>" for of, name in zip("abcd", "bcde", strict=True))
    + "]>"
)


@pytest.mark.parametrize(
    "xml",
    [
        f"<domain><vcpu>2</vcpu><memory>{'9' * 4300}</memory></domain>",
        f"<domain><vcpu>2</vcpu><memory>{2**64}</memory></domain>",
        "<domain><vcpu>2</vcpu><memory>-1</memory></domain>",
        f"<domain><vcpu>{'9' * 400}</vcpu><memory>4</memory></domain>",
        "<domain><vcpu>-2</vcpu><memory>4</memory></domain>",
        "<domain><vcpu>2</vcpu><memory>4</memory><memoryBacking><hugepages><page size='-1'/></hugepages>"
        "</memoryBacking></domain>",
        f"{BOMB}<domain><vcpu>2</vcpu><memory>4</memory><title>&e;</title></domain>",
    ],
    ids=[
        "memory-endless",
        "memory-2^64",
        "memory-negative",
        "vcpu-endless",
        "vcpu-negative",
        "page",
        "bomb",
    ],
)
def test_a_figure_that_no_domain_has_takes_that_domains_facts_alone(
    libvirtd: Libvirtd,  # noqa: F811
    caplog: pytest.LogCaptureFixture,
    xml: str,
) -> None:
    libvirtd.xml["01"] = xml
    listed = Listed().list(1.0)
    shown = page(listed)
    assert shown.count("virtpoise_domain_vcpus{") == 3
    assert 'virtpoise_domain_info{domain="b",uuid="01"} 1' in shown
    assert 'virtpoise_domain_facts_age_seconds{domain="b",uuid="01"}' in shown
    (line,) = [record.getMessage() for record in caplog.records if "cannot be read" in record.getMessage()]
    assert line.startswith("the XML of domain b cannot be read: ")
    assert len(line) < 300


def test_a_uuid_that_libvirt_lists_twice_is_one_domain(libvirtd: Libvirtd, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    connection = libvirtd.connection()
    once = connection.getAllDomainStats()
    connection.getAllDomainStats = lambda *_: [*once, once[1]]
    monkeypatch.setattr(libvirt, "openReadOnly", lambda _uri: connection)
    assert [domain.name for domain in Listed().list(1.0).domains] == ["a", "b", "c", "d"]


@pytest.mark.parametrize("read", [host_cpu, network_forward, domain_facts])
def test_megabytes_in_place_of_a_description_are_not_parsed(read: Callable[[str], object]) -> None:
    with pytest.raises((SyntaxError, ValueError), match="more than"):
        read(f"<capabilities>{'<a/>' * 2**20}</capabilities>")


@pytest.mark.parametrize("count", [2**32 - 1, -1, 2])
def test_a_count_beyond_what_a_domain_has_does_not_hold_up_the_reader(count: int) -> None:
    stats = {"block.count": count, "block.0.name": "vda", "block.0.rd.bytes": 7, "net.count": count}
    stats |= {"net.0.name": "vnet0", "net.0.rx.bytes": 1, "net.0.tx.bytes": 2}
    with bounded():
        disks = block._parse(stats)
        traffic = source.usage(stats, VcpuSums(), running=True).traffic
    assert disks == ({} if count < 0 else {("rd.bytes", "vda"): 7})
    assert list(traffic) == ([] if count < 0 else ["vnet0"])


@contextmanager
def bounded() -> Iterator[None]:
    """Fails a loop without end after ten seconds of CPU time."""

    def give_up(*_: object) -> None:
        raise AssertionError("it goes on and on")

    before = signal.signal(signal.SIGVTALRM, give_up)
    signal.setitimer(signal.ITIMER_VIRTUAL, 10)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def broken(_flags: int = 0) -> Any:
    raise failed(libvirt.VIR_ERR_NO_STORAGE_POOL, "Storage pool not found")


ODD_POOLS: dict[str, dict[str, Any]] = {
    "gone": {"XMLDesc": broken},
    "no-free": {"info": broken},
    "no-volumes": {"numOfVolumes": broken},
    "no-xml": {"XMLDesc": lambda: "<pool><"},
    "decoding": {"info": lambda: b"\xff".decode()},
}


@pytest.mark.parametrize("odd", ODD_POOLS.values(), ids=ODD_POOLS)
def test_a_pool_that_fails_takes_no_other(odd: dict[str, Any]) -> None:
    bad, good = FakePool("/srv/odd", "b"), FakePool("/srv/images", "a")
    for name, how in odd.items():
        setattr(bad, name, how)
    connection = Connection(bad, good)
    found = storage.pools(connection, free=True)
    assert found is not None
    assert found["srv-images"].free_bytes == 1 << 40
    assert storage.present(connection, ["/srv/images/a"]) == {"/srv/images/a": True}
    if "srv-odd" in found:  # what it has free is not known, and it is there
        assert found["srv-odd"].free_bytes is None


def test_where_a_pool_is_not_described_no_folder_is_known_to_be_missing() -> None:
    def lacks(*pools: Pool) -> bool | None:
        facts = HostFacts(
            libvirt_version=9_000_000,
            hypervisor_version=None,
            cpu=None,
            devices=None,
            pools={str(number): one for number, one in enumerate(pools)},
        )
        return incompatible._lacks_place("/srv/images", 1, incompatible.HostRecord(facts=facts, at=0.0))

    assert lacks(Pool(target="/srv/other")) is True
    assert lacks(Pool(target="/srv/other"), Pool(type="")) is None


def test_a_pool_and_a_disk_of_more_than_there_is_are_bounded() -> None:
    pool = FakePool("/srv/images")
    pool.free = 2**64 - 1
    found = storage.pools(Connection(pool), free=True)
    assert found is not None
    assert found["srv-images"].free_bytes == 2**63 - 1
    disk = "<disk type='file'><source file='/srv/{0}'/><target dev='{0}'/></disk>"
    domain = SimpleNamespace(
        XMLDesc=lambda _=0: f"<domain><devices>{disk.format('vda')}{disk.format('vdb')}</devices></domain>",
        snapshotNum=lambda: 0,
        blockInfo=lambda device: (2**64 - 1, 2**64 - 1, 0) if device == "vda" else (10, 5, 5),
    )
    (one,) = probe._needs([domain], None, copies=True)
    assert [disk.device for disk in one.copyable] == ["vdb"]


def test_a_network_whose_count_is_none_takes_no_fact_of_its_host() -> None:
    def network(name: str, connections: str) -> Any:
        described = (
            f"<network connections='{connections}'><forward mode='hostdev'><address/><address/></forward></network>"
        )
        return SimpleNamespace(name=lambda: name, XMLDesc=lambda _flags: described)

    networks = [network("odd", "many"), network("good", "1")]
    for one in networks:
        one.XMLDesc = lambda flags=0, of=one.XMLDesc: of(flags)
    connection: Any = SimpleNamespace(listAllNetworks=lambda _flags: networks)
    assert probe._cards_free(connection) == {"good": 1}


@pytest.mark.parametrize("memory", ["9" * 4300, "-5", str(2**64)])
def test_a_cell_of_a_size_that_nothing_has_leaves_its_domain_where_it_is(memory: str) -> None:
    bound = "<numatune><memnode cellid='0' mode='strict' nodeset='0'/></numatune>"
    odd = f"<domain><name>odd</name><cpu><numa><cell id='0' memory='{memory}'/></numa></cpu>{bound}</domain>"
    domains = [
        SimpleNamespace(name=lambda: "odd", UUIDString=lambda: "1", XMLDesc=lambda _=0: odd, snapshotNum=lambda: 0),
        SimpleNamespace(
            name=lambda: "b",
            UUIDString=lambda: "2",
            XMLDesc=lambda _=0: "<domain><name>b</name></domain>",
            snapshotNum=lambda: 0,
        ),
    ]
    found = list(probe._needs(domains, None))
    assert [(one.name, one.unread) for one in found] == [("odd", True), ("b", False)]


def test_an_answer_that_cannot_be_written_is_an_error_and_ends_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_CALLS", {"facts": lambda _: int("9" * 4300) * 1024})
    monkeypatch.setattr(LibvirtConnection, "to", lambda *_: None)
    reply = json.loads(worker._reply(LibvirtConnection(), {"do": "facts", "uri": "test", "arguments": []}))
    assert reply["error"].startswith("unforeseen: ValueError: ")
