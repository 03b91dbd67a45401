"""What libvirt says of hosts and domains, and what follows from it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from virtpoise_balancer.execute.facts import Bound, Hardware, HardwareVerdict, HostFacts, Needs
from virtpoise_balancer.execute.incompatible import HostRecord, judge, ranges
from virtpoise_balancer.execute.worker.needs import needs, numbers, plain_cpu
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
    pools=frozenset({"images"}),
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


@pytest.mark.parametrize(
    ("there", "kind", "name"),
    [
        (replace(FULL, networks=frozenset({"other"})), Need.NETWORK, "network prod"),
        (replace(FULL, filters=frozenset()), Need.NETWORK, "network filter clean-traffic"),
        (replace(FULL, devices=frozenset({"eth0", "br0"})), Need.NETWORK, "bridge br1"),
        (replace(FULL, devices=frozenset({"br0", "br1"})), Need.NETWORK, "network device eth0"),
        (replace(FULL, pools=frozenset()), Need.STORAGE, "storage pool images"),
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


def test_a_domain_that_cannot_be_read_is_held_whatever_libvirt_lets_leave() -> None:
    bound = (Bound(kind="setting", why="its description cannot be read"),)
    here = replace(FULL, domains=(Needs(name="a", uuid="1", unread=True, bound=bound), replace(ALL, uuid="2")))
    found = judge({"h1": HostRecord(at=1.0, facts=here, verdicts=RUNS, words={"1": None, "2": None})})
    assert found.holds == {"1": (Hold(kind=Holder.SETTING, why="its description cannot be read"),)}
