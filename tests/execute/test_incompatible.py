"""What libvirt says of hosts and domains, and what follows from it."""

from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest

from virtpoise_balancer.execute.facts import (
    Bound,
    Cell,
    CopyableDisk,
    Hardware,
    HardwareVerdict,
    HostFacts,
    Needs,
    Pool,
)
from virtpoise_balancer.execute.incompatible import HostRecord, judge, ranges
from virtpoise_balancer.execute.worker.needs import cards_free, needs, numbers, plain_cpu
from virtpoise_balancer.execute.worker.storage import source_of
from virtpoise_balancer.model import Hold, Holder, Need, Requirement

PC = Hardware(
    type="kvm",
    arch="x86_64",
    machine="pc-q35-7.2",
    emulator="/usr/bin/qemu-system-x86_64",
    cpu='<cpu mode="custom"><model>Skylake-Server</model><feature name="pdpe1gb" policy="require" /></cpu>',
)
FULL = HostFacts(
    libvirt_version=9_000_000,
    hypervisor_version=7_002_000,
    cpu=None,
    devices=frozenset({"eth0", "br0", "br1"}),
    networks=frozenset({"prod"}),
    filters=frozenset({"clean-traffic"}),
    pools={"images": Pool()},
    secrets=frozenset({"ceph"}),
    cpus=frozenset(range(8)),
    nodes=frozenset({0, 1}),
)
ALL = Needs(
    name="a",
    uuid="1",
    hardware=PC,
    networks=("prod",),
    filters=("clean-traffic",),
    bridges=("br1",),
    devices=("eth0",),
    pools=("images",),
    secrets=("ceph",),
    cpus=(4, 5, 6, 7),
    nodes=(1,),
)
RUNS = {PC.key: HardwareVerdict(machine=True, cpu=True)}


def records(there: HostFacts, verdicts: dict[str, HardwareVerdict] | None = None) -> dict[str, HostRecord]:
    here = HostRecord(at=1.0, facts=replace(FULL, domains=(ALL,)), verdicts=RUNS)
    return {"h1": here, "h2": HostRecord(at=2.0, facts=there, verdicts=RUNS if verdicts is None else verdicts)}


def test_a_host_that_has_all_lacks_nothing() -> None:
    found = judge(records(FULL))
    assert (found.requires, found.lacks, found.holds) == ({}, {}, {})
    assert found.nodes == {"1": (1,)}


@pytest.mark.parametrize(
    ("there", "kind", "name"),
    [
        (replace(FULL, networks=frozenset({"other"})), Need.NETWORK, "network prod"),
        (replace(FULL, filters=frozenset()), Need.NETWORK, "network filter clean-traffic"),
        (replace(FULL, devices=frozenset({"eth0", "br0"})), Need.NETWORK, "bridge br1"),
        (replace(FULL, devices=frozenset({"br0", "br1"})), Need.NETWORK, "network device eth0"),
        (replace(FULL, pools={}), Need.STORAGE, "storage pool images"),
        (replace(FULL, secrets=frozenset()), Need.STORAGE, "secret ceph of a disk"),
        (replace(FULL, cpus=frozenset(range(6))), Need.PINS, "CPUs 4-7"),
        (replace(FULL, nodes=frozenset({0})), Need.PINS, "NUMA node 1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_a_host_lacks(there: HostFacts, kind: Need, name: str) -> None:
    found = judge(records(there))
    what = Requirement(kind=kind, name=name)
    assert found.requires == {"1": (what,)}
    assert found.lacks == {"h2": (what,)}


def test_libvirts_word_on_hardware() -> None:
    found = judge(records(FULL, {PC.key: HardwareVerdict(machine=False)}))
    assert [(one.kind, one.name) for one in found.lacks["h2"]] == [
        (Need.MACHINE, "machine type pc-q35-7.2 (kvm, /usr/bin/qemu-system-x86_64)")
    ]
    found = judge(records(FULL, {PC.key: HardwareVerdict(machine=True, cpu=False)}))
    assert [(one.kind, one.name) for one in found.lacks["h2"]] == [
        (Need.CPU, f"CPU Skylake-Server with 1 feature ({PC.key[:6]})")
    ]


@pytest.mark.parametrize(
    "there",
    [
        replace(FULL, networks=None, filters=None, devices=None, pools=None, secrets=None, cpus=None, nodes=None),
        replace(FULL),
    ],
)
def test_what_is_not_known_stands_against_nothing(there: HostFacts) -> None:
    assert judge(records(there, {PC.key: HardwareVerdict()})).lacks == {}
    assert judge(records(there, {})).lacks == {}


def test_a_host_that_seems_to_lack_what_its_own_domain_has_says_nothing_of_that_domain() -> None:
    """An Open vSwitch that libvirt does not list, a comparison that fails for the CPU that runs."""
    both = records(replace(FULL, devices=frozenset({"br0"})), {PC.key: HardwareVerdict(machine=True, cpu=False)})
    here = replace(
        both["h1"], facts=replace(FULL, devices=frozenset({"br0"}), domains=(ALL,)), verdicts=both["h2"].verdicts
    )
    assert judge({**both, "h1": here}).requires == {}


def test_of_a_domain_that_two_hosts_tell_of_the_newer_counts() -> None:
    old = replace(ALL, bound=(Bound(kind="job", why="its disk vda is being copied"),))
    here = HostRecord(at=1.0, facts=replace(FULL, domains=(old,)), verdicts=RUNS)
    there = HostRecord(at=2.0, facts=replace(FULL, domains=(ALL,)), verdicts=RUNS)
    assert judge({"h1": here, "h2": there}).holds == {}
    assert judge({"h1": replace(here, at=3.0), "h2": there}).holds == {
        "1": (Hold(kind=Holder.JOB, why="its disk vda is being copied"),)
    }


# --- network cards that one domain has alone --------------------------------------------------------------------------

# As libvirt 9.0 reports it, with one card given away (the stand-in devices of the lab).
VIRTUAL_FUNCTIONS = """<network connections='1'>
  <name>sriov</name>
  <uuid>815a2983-82f1-4d04-b27f-6f927ce28b87</uuid>
  <forward mode='hostdev' managed='yes'>
    <driver name='vfio'/>
    <address type='pci' domain='0x0000' bus='0x01' slot='0x10' function='0x0'/>
    <address type='pci' domain='0x0000' bus='0x01' slot='0x10' function='0x2'/>
  </forward>
</network>
"""
PASSTHROUGH = """<network connections='1'>
  <name>pt</name>
  <uuid>b1ba5458-cc84-4a9b-9fb0-107068a57c98</uuid>
  <forward dev='eth10' mode='passthrough'>
    <interface dev='eth10' connections='1'/>
    <interface dev='eth11'/>
  </forward>
</network>
"""


@pytest.mark.parametrize(
    ("network", "free"),
    [
        (VIRTUAL_FUNCTIONS, 1),
        (VIRTUAL_FUNCTIONS.replace("connections='1'", "connections='2'"), 0),
        (VIRTUAL_FUNCTIONS.replace(" connections='1'", ""), 2),
        (PASSTHROUGH, 1),
        (PASSTHROUGH.replace("passthrough", "bridge"), None),
        ("<network><forward mode='hostdev'><pf dev='eth0'/></forward></network>", None),
        ("<network connections='3'><forward mode='nat'/></network>", None),
        ("<network><name>isolated</name></network>", None),
    ],
)
def test_the_cards_that_a_network_has_left(network: str, free: int | None) -> None:
    assert cards_free(network) == free


CARD = (
    "<interface type='{0}'><mac address='52:54:00:7b:35:94'/><source{1}>{2}</source>"
    "<teaming type='transient' persistent='ua-1'/></interface>"
)
SPARE = "<interface type='network'><mac address='52:54:00:7b:35:95'/><source network='prod'/></interface>"
LIVE = CARD.format("hostdev", "", "<address type='pci' domain='0' bus='1' slot='16' function='0'/>")


def test_a_teamed_card_is_of_the_network_that_its_definition_names() -> None:
    """The live description has the device in its place."""
    defined = DOMAIN.format(devices=SPARE + CARD.format("network", " network='sriov'", ""), top="")
    live = DOMAIN.format(devices=SPARE + LIVE, top="")
    found = needs(live, defined=lambda: defined)
    assert (found.bound, found.networks) == ((), ("prod", "sriov"))
    assert needs(live, defined=lambda: live).networks == ("prod",)  # by its address, of no network
    plain = DOMAIN.format(devices=SPARE, top="")
    assert needs(plain, defined=lambda: pytest.fail("nothing to ask")).networks == ("prod",)
    named = DOMAIN.format(devices=SPARE + CARD.format("hostdev", " network='sriov'", ""), top="")
    assert needs(named, defined=lambda: pytest.fail("nothing to ask")).networks == ("prod", "sriov")


def test_cards_are_counted_where_a_host_gives_them_away() -> None:
    both = replace(ALL, networks=("prod", "sriov", "sriov"))
    here = HostRecord(at=1.0, facts=replace(FULL, domains=(both,), networks=frozenset({"prod", "sriov"})))
    there = replace(here, facts=replace(here.facts, domains=(), cards_free={"sriov": 0}))
    found = judge({"h1": here, "h2": there})
    assert (found.cards, found.cards_free) == ({"1": {"sriov": 2}}, {"h2": {"sriov": 0}})
    assert found.lacking_what_may_come() == ("h2",)
    assert judge({"h1": here}).cards == {}


# --- the live description ---------------------------------------------------------------------------------------------

DOMAIN = """<domain type='kvm'><name>a</name><uuid>1</uuid>{top}
  <os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os>
  <devices><emulator>/usr/bin/qemu-system-x86_64</emulator>{devices}</devices></domain>"""


def described(devices: str = "", top: str = "", snapshots: int = 0) -> Needs:
    return needs(DOMAIN.format(devices=devices, top=top), None, snapshots)


@pytest.mark.parametrize(
    ("devices", "kind", "why"),
    [
        ("<hostdev mode='subsystem' type='pci'/>", "device", "hostdev, pci"),
        ("<hostdev mode='subsystem' type='mdev'/>", "device", "hostdev, mdev"),
        ("<hostdev mode='subsystem' type='scsi'/>", "device", "hostdev, scsi"),
        ("<hostdev mode='subsystem' type='usb'/>", None, ""),
        ("<hostdev mode='subsystem' type='pci'><teaming type='transient'/></hostdev>", None, ""),
        ("<interface type='hostdev'/>", "device", "interface, hostdev"),
        ("<interface type='hostdev'><teaming type='transient' persistent='ua-1'/></interface>", None, ""),
        ("<interface type='vdpa'/>", "device", "interface, vdpa"),
        ("<interface type='vhostuser'/>", None, ""),
        ("<shmem name='x' role='peer'/>", "device", "shmem"),
        ("<shmem name='x'/>", "device", "shmem"),
        ("<shmem name='x' role='master'/>", None, ""),
        ("<filesystem><driver type='virtiofs'/></filesystem>", "device", "virtiofs"),
        ("<filesystem><driver type='path'/></filesystem>", None, ""),
        ("<disk type='file'><target dev='vda'/><mirror type='file'/></disk>", "job", "vda is being copied"),
        ("<disk type='file'><target dev='vda'/><transient/></disk>", "storage", "vda is transient"),
        ("<disk type='nvme'><target dev='vda'/></disk>", "storage", "vda is an NVMe device"),
        ("<disk type='file'><target dev='vda'/></disk>", None, ""),
    ],
)
def test_what_libvirt_migrates_nowhere(devices: str, kind: str | None, why: str) -> None:
    found = described(devices).bound
    assert [one.kind for one in found] == ([kind] if kind else [])
    assert all(why in one.why for one in found)


def test_snapshots_hold_a_domain() -> None:
    assert described(snapshots=1).bound == (Bound(kind="snapshots", why="it has 1 snapshot"),)


def test_an_invariant_clock_without_a_frequency_holds_a_domain() -> None:
    cpu = "<cpu><model>EPYC</model><feature policy='require' name='invtsc'/></cpu>"
    assert [one.kind for one in described(top=cpu).bound] == ["setting"]
    clock = "<clock><timer name='tsc' frequency='2000000000'/></clock>"
    assert described(top=cpu + clock).bound == ()


def test_what_it_is_on_and_bound_to() -> None:
    found = described(
        "<interface type='bridge'><source bridge='br1'/><filterref filter='clean-traffic'/></interface>"
        "<interface type='network'><source network='prod' bridge='virbr0'/></interface>"
        "<interface type='direct'><source dev='eth1' mode='bridge'/></interface>",
        "<vcpu cpuset='0-3'>2</vcpu><cputune><vcpupin vcpu='0' cpuset='4-6,^5'/></cputune>"
        "<numatune><memory mode='strict' nodeset='1'/><memnode cellid='0' mode='preferred' nodeset='3'/></numatune>",
    )
    assert (found.networks, found.bridges, found.devices, found.filters) == (
        ("prod",),
        ("br1",),
        ("eth1",),
        ("clean-traffic",),
    )
    assert (found.cpus, found.nodes) == ((0, 1, 2, 3, 4, 6), (1,))


CELLS = "<cpu><numa><cell id='0' cpus='0' memory='3145728' unit='KiB'/><cell id='1' cpus='1' memory='1' unit='GiB'/></numa></cpu>"


@pytest.mark.parametrize(
    ("tune", "nodes", "cells"),
    [
        ("<memory mode='strict' nodeset='0-1'/>", (0, 1), ()),
        (
            "<memory mode='strict' nodeset='0-1'/><memnode cellid='1' mode='strict' nodeset='3'/>",
            (0, 1, 3),
            ((0, 1), (3,)),
        ),
        (
            "<memory mode='preferred' nodeset='0'/><memnode cellid='0' mode='restrictive' nodeset='2'/>",
            (2,),
            ((2,), ()),
        ),
        ("<memnode cellid='0' mode='preferred' nodeset='2'/>", (), ((), ())),
    ],
)
def test_the_nodes_of_all_memory_and_those_of_each_cell(
    tune: str, nodes: tuple[int, ...], cells: tuple[tuple[int, ...], ...]
) -> None:
    found = described(top=f"<numatune>{tune}</numatune>{CELLS}")
    assert found.nodes == nodes
    sizes = (3 << 30, 1 << 30)
    assert found.cells == tuple(
        Cell(memory_bytes=size, nodes=one) for size, one in zip(sizes, cells, strict=False) if cells
    )
    here = HostRecord(at=1.0, facts=replace(FULL, domains=(found,)))
    shares = tuple((one.share, one.nodes) for one in judge({"h1": here}).cells.get("1", ()))
    assert shares == tuple(zip((0.75, 0.25), cells, strict=False))


def test_automatic_placement_binds_to_nothing() -> None:
    """libvirt asks numad on each host again; what stands there is today's answer."""
    found = described(top="<vcpu placement='auto' cpuset='0-3'>2</vcpu><numatune><memory placement='auto'/></numatune>")
    assert (found.cpus, found.nodes) == ((), ())


def test_domains_with_the_same_hardware_are_of_one_kind() -> None:
    one = "<cpu mode='custom' check='full'><model>EPYC</model><topology sockets='1'/></cpu>"
    two = "<cpu mode='custom' check='partial'>\n <model>EPYC</model>\n <topology sockets='2'/></cpu>"
    other = "<cpu mode='custom'><model>EPYC</model><feature policy='disable' name='svm'/></cpu>"
    kinds = [described(top=cpu).hardware for cpu in (one, two, other)]
    assert all(kinds)
    assert kinds[0] == kinds[1] != kinds[2]
    assert len({kind.key for kind in kinds if kind}) == 2


def test_a_domain_with_its_hosts_own_cpu_needs_that_cpu() -> None:
    from xml.etree import ElementTree as ET

    text = "<cpu><arch>x86_64</arch><model>EPYC</model><microcode version='1'/><feature name='svm'/></cpu>"
    own = plain_cpu(ET.fromstring(text))
    found = needs(DOMAIN.format(devices="", top="<cpu mode='host-passthrough'/>"), own).hardware
    assert found is not None
    assert found.own_cpu
    assert found.cpu == '<cpu><arch>x86_64</arch><model>EPYC</model><feature name="svm" /></cpu>'


@pytest.mark.parametrize(
    ("text", "found"), [("0", {0}), ("0-2,5", {0, 1, 2, 5}), ("0-3,^1", {0, 2, 3}), ("x", set()), ("", set())]
)
def test_sets_of_numbers(text: str, found: set[int]) -> None:
    assert numbers(text) == found


def test_numbers_are_shown_as_ranges() -> None:
    assert ranges({0, 1, 2, 5, 7, 8}) == "0-2,5,7-8"


# --- storage ----------------------------------------------------------------------------------------------------------

GIB = 2**30
NFS = Pool(type="netfs", target="/srv/images", source="nfs1.example.org:/export/a")


@pytest.mark.parametrize(
    ("one", "other", "differs"),
    [
        (NFS, NFS, False),
        (NFS, replace(NFS, source="nfs1.example.org:/export/b"), True),
        (NFS, replace(NFS, source="nfs2.example.org:/export/a"), True),
        (NFS, replace(NFS, source="nfs1:/export/a"), False),
        (NFS, replace(NFS, source="192.0.2.7:/export/a"), False),
        (NFS, replace(NFS, source="fd00::2:/export/a"), False),
        (NFS, replace(NFS, source="192.0.2.7:/export/b"), True),
        (NFS, Pool(type="dir", target="/srv/images"), False),
        (Pool(target="/a"), Pool(target="/b"), False),
        (Pool(type="logical", source="vg0"), Pool(type="logical", source="vg1"), True),
        (Pool(type="rbd", source="ceph"), Pool(type="netfs", source="a:/ceph"), False),
    ],
    ids=[f"pair-{number}" for number in range(11)],
)
def test_pools_of_one_name_on_different_storage(one: Pool, other: Pool, differs: bool) -> None:
    assert one.differs(other) is other.differs(one) is differs


@pytest.mark.parametrize(
    ("described", "source"),
    [
        ("<pool type='netfs'><source><host name='nfs1'/><dir path='/export/a'/></source></pool>", "nfs1:/export/a"),
        ("<pool type='logical'><source><device path='/dev/sda3'/><name>vg0</name></source></pool>", "vg0"),
        ("<pool type='rbd'><source><name>vms</name><host name='m1'/></source></pool>", "vms"),
        ("<pool type='gluster'><source><name>v</name><dir path='/a'/></source></pool>", "v/a"),
        ("<pool type='iscsi'><source><host name='s'/><device path='iqn.2013-06.com:d'/></source></pool>", "iqn.2013-06.com:d"),
        ("<pool type='dir'><source/><target><path>/srv</path></target></pool>", None),
        ("<pool type='disk'><source><device path='/dev/sdb'/></source></pool>", None),
        ("<pool type='mpath'/>", None),
    ],
)  # fmt: skip
def test_what_a_pool_stands_on(described: str, source: str | None) -> None:
    assert source_of(ET.fromstring(described)) == source


def stored(*, path: str = "/srv/images/a.img", pool: str | None = None) -> Needs:
    images = (path,) if pool is None else (f"{pool}/a.img",)
    return Needs(name="a", uuid="1", disks=(path,), images=images, pools=() if pool is None else (pool,))


def pair(
    domain: Needs, here: dict[str, Pool], there: dict[str, Pool] | None, images: dict[str, bool] | None = None
) -> dict[str, HostRecord]:
    return {
        "h1": HostRecord(at=1.0, facts=replace(FULL, pools=here, domains=(domain,))),
        "h2": HostRecord(at=2.0, facts=replace(FULL, pools=there), images=images or {}),
    }


def lacking(records: dict[str, HostRecord]) -> list[str]:
    found = judge(records)
    assert set(found.lacks) <= {"h2"}
    return [one.name for one in found.lacks.get("h2", ())]


OTHER = replace(NFS, source="nfs2:/export/a")
ON_NFS1 = "storage pool images on nfs1.example.org:/export/a"


def test_a_pool_that_is_there_but_stands_on_something_else() -> None:
    volume, path = stored(pool="images"), stored()
    assert lacking(pair(volume, {"images": NFS}, {"images": OTHER})) == [ON_NFS1]
    assert lacking(pair(volume, {"images": NFS}, {"other": NFS})) == [ON_NFS1]
    # By its path a disk needs no pool; but one on other storage shows that it is not there.
    assert lacking(pair(path, {"images": NFS}, {"images": OTHER})) == [ON_NFS1]
    assert lacking(pair(path, {"images": NFS}, {"vms": OTHER})) == [ON_NFS1]
    assert lacking(pair(path, {"images": NFS}, {})) == []
    assert lacking(pair(path, {"images": NFS}, None)) == []
    assert lacking(pair(volume, {"images": NFS}, {"images": replace(NFS, source="nfs1:/export/a")})) == []


def test_an_image_that_the_destinations_pools_do_not_have() -> None:
    here = {"images": Pool(target="/srv/images")}
    path = "/srv/images/a.img"
    assert lacking(pair(stored(), here, here, {path: False})) == [f"{path} of a disk"]
    assert lacking(pair(stored(), here, here, {path: True})) == []
    assert lacking(pair(stored(), here, here)) == []
    volume = stored(pool="images")
    assert lacking(pair(volume, here, here, {"images/a.img": False})) == ["volume images/a.img of a disk"]


DISK = CopyableDisk(device="vda", path="/srv/images/a.img", format="raw", capacity_bytes=20 * GIB, stored_bytes=3 * GIB)
LOCAL = Bound(kind="storage", why="Migration without shared storage is unsafe", cured_by=("vda",))
ROOMY = {"images": Pool(target="/srv/images", free_bytes=100 * GIB)}


def held(domain: Needs, there: dict[str, Pool] | None, images: dict[str, bool] | None = None) -> dict[str, HostRecord]:
    made = pair(domain, ROOMY, there, images)
    return made | {"h1": replace(made["h1"], words={"1": LOCAL})}


def test_a_domain_whose_disks_may_be_copied_is_not_held() -> None:
    domain = replace(stored(), copyable=(DISK,))
    found = judge(held(domain, ROOMY))
    assert (found.holds, found.lacks) == ({}, {})
    assert [(one.device, one.stored_bytes) for one in found.copies["1"]] == [("vda", 3 * GIB)]
    assert found.forbid("1", "h2")
    assert not found.forbid("1", "h2", found.copies["1"])
    assert found.room["h2"] == {"/srv/images": ROOMY["images"].free_bytes}


@pytest.mark.parametrize(
    ("there", "images", "name"),
    [
        ({}, {}, "a place for a copy in a storage pool at /srv/images with 20 GiB free"),
        (
            {"images": Pool(target="/srv/images", free_bytes=19 * GIB)},
            {},
            "a place for a copy in a storage pool at /srv/images with 20 GiB free",
        ),
        (ROOMY, {DISK.path: True}, "a place for a copy at /srv/images/a.img, where nothing is yet"),
    ],
    ids=["no-pool", "no-room", "taken"],
)
def test_a_host_without_a_place_for_the_copy(there: dict[str, Pool], images: dict[str, bool], name: str) -> None:
    domain = replace(stored(), copyable=(DISK,))
    found = judge(held(domain, there, images))
    assert [one.name for one in found.lacks["h2"]] == [name]
    assert found.forbid("1", "h2", found.copies["1"])


def test_a_disk_that_may_not_be_copied_or_does_not_help_leaves_the_domain_held() -> None:
    assert judge(held(stored(), ROOMY)).copies == {}
    other = Bound(kind="snapshots", why="it has 1 snapshot")
    made = held(replace(stored(), copyable=(DISK,)), ROOMY)
    both = made | {"h1": replace(made["h1"], words={"1": other})}
    assert judge(both).copies == {}
    assert judge(both).holds["1"][0].kind is Holder.SNAPSHOTS


def test_a_device_that_no_other_host_has_is_copied() -> None:
    """libvirt says nothing of block devices when a domain is to leave; the destination's pool tells."""
    block = replace(DISK, path="/dev/vg0/a")
    domain = replace(stored(path="/dev/vg0/a"), copyable=(block,))
    pool = {"vg0": Pool(type="logical", target="/dev/vg0", source="vg0", free_bytes=50 * GIB)}
    assert judge(pair(domain, pool, pool)).copies == {}
    found = judge(pair(domain, pool, pool, {"/dev/vg0/a": False}))
    assert ([one.device for one in found.copies["1"]], found.lacks) == (["vda"], {})
    # One that some host has is shared with it.
    shared = pair(domain, pool, pool, {"/dev/vg0/a": False}) | {
        "h3": HostRecord(at=3.0, facts=replace(FULL, pools=pool), images={"/dev/vg0/a": True})
    }
    found = judge(shared)
    assert (found.copies, [one.name for one in found.lacks["h2"]]) == ({}, ["/dev/vg0/a of a disk"])


DOMAIN_WITH_DISKS = """<domain><name>a</name><uuid>1</uuid><devices>
<disk type='file' device='disk'><driver type='qcow2'/><source file='/srv/a'/><backingStore/><target dev='vda'/></disk>
<disk type='block' device='disk'><source dev='/dev/vg/b'/><target dev='vdb'/></disk>
<disk type='file' device='disk'><source file='/srv/c'/><backingStore type='file'/><target dev='vdc'/></disk>
<disk type='file' device='disk'><source file='/srv/d'/><readonly/><target dev='vdd'/></disk>
<disk type='file' device='disk'><source file='/srv/e'/><shareable/><target dev='vde'/></disk>
<disk type='file' device='disk'><source file='/srv/f'><encryption format='luks'/></source><target dev='vdf'/></disk>
<disk type='file' device='cdrom'><source file='/srv/g.iso' startupPolicy='optional'/><target dev='sda'/></disk>
<disk type='file' device='cdrom'><source file='/srv/h.iso'/><readonly/><target dev='sdb'/></disk>
<disk type='volume' device='disk'><source pool='images' volume='i'/><target dev='vdg'/></disk>
<disk type='network' device='disk'><source protocol='rbd' name='p/j'/><target dev='vdh'/></disk>
<disk type='file' device='cdrom'><target dev='sdc'/></disk>
</devices></domain>"""


def test_which_disks_can_be_copied_and_which_images_have_to_be_there() -> None:
    sizes = {"vda": (10, 4), "vdb": None}
    found = needs(DOMAIN_WITH_DISKS, sizes=lambda device: sizes[device])
    assert found.copyable == (
        CopyableDisk(device="vda", path="/srv/a", format="qcow2", capacity_bytes=10, stored_bytes=4),
    )
    assert needs(DOMAIN_WITH_DISKS).copyable == ()
    assert set(found.images) == {f"/srv/{name}" for name in ("a", "c", "d", "e", "f", "h.iso")} | {
        "/dev/vg/b",
        "images/i",
    }


def test_a_domain_that_cannot_be_read_is_held_whatever_libvirt_lets_leave() -> None:
    bound = (Bound(kind="setting", why="its description cannot be read"),)
    here = replace(FULL, domains=(Needs(name="a", uuid="1", unread=True, bound=bound), replace(ALL, uuid="2")))
    found = judge({"h1": HostRecord(at=1.0, facts=here, verdicts=RUNS, words={"1": None, "2": None})})
    assert found.holds == {"1": (Hold(kind=Holder.SETTING, why="its description cannot be read"),)}
