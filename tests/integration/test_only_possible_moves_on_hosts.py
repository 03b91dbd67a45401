"""On real hosts: each move that libvirt would refuse is refused beforehand with its reason, and libvirt does refuse."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import libvirt
import pytest

from builders import domain, group, host
from integration.lab_hosts import hosts_of
from integration.pool import Pools
from virtpoise_balancer.analyse.facts import with_facts
from virtpoise_balancer.execute.facts import Hardware, HardwareVerdict
from virtpoise_balancer.execute.inventory import Inventory
from virtpoise_balancer.execute.libvirt_hosts import LibvirtHosts
from virtpoise_balancer.execute.worker.needs import cards_free
from virtpoise_balancer.execute.workers import Workers
from virtpoise_balancer.model import Move, Policy, PredictedLoads, Prediction, Reason, Snapshot, Trigger
from virtpoise_balancer.plan import plan
from virtpoise_balancer.plan.default.consider import consider
from virtpoise_lab.lab import Lab
from virtpoise_lab.model import DomainSpec

pytestmark = pytest.mark.lab
NAMES = ("h1", "h2", "h3")
NETWORK = "<network><name>prod</name><forward mode='bridge'/><bridge name='br0'/></network>"
CARDS = """
<network><name>cards</name><forward mode='hostdev' managed='yes'><driver name='vfio'/>
<address type='pci' domain='0' bus='1' slot='16' function='0'/></forward></network>"""
# A virtual function, as far as libvirt looks at it when a network with it begins.
STAND_IN = """
mkdir -p /run/pci/devices/0000:01:10.0
ln -s /run /run/pci/devices/0000:01:10.0/physfn
mount --bind /run/pci /sys/bus/pci
"""
TAKEN = """
<networkport><uuid>2b1b6b3e-5f3b-4e08-8c1a-3a8f6a2a7c01</uuid>
<owner><name>other</name><uuid>4f3bf2a5-7fd0-4b5c-8d5f-0c8a5e3a1f0b</uuid></owner>
<mac address='52:54:00:7b:35:93'/></networkport>"""
SHARED_MEMORY = "<shmem name='mine'><model type='ivshmem-plain'/><size unit='M'>4</size></shmem>"
DISK = (
    "<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='/run/local.img'/>"
    "<target dev='vda' bus='virtio'/></disk>"
)
CD = (
    "<disk type='{0}' device='cdrom'><driver name='qemu' type='raw'/><source {1}/>"
    "<target dev='sda' bus='ide'/><readonly/></disk>"
)
POOL = "<pool type='dir'><name>{0}</name><target><path>/run/{0}</path></target></pool>"
IMAGE = "/run/images/cd.iso"
CPU = "<cpu mode='custom' match='exact' check='none'><model fallback='forbid'>Penryn</model></cpu>"
EMULATOR = "/run/another-qemu"
# Has a libvirt forget a model of a CPU, as an older one does not know it.
FORGET = r"""
cp -r /usr/share/libvirt/cpu_map /run/cpu_map
rm /run/cpu_map/x86_Penryn.xml
sed -i /x86_Penryn/d /run/cpu_map/index.xml
mount --bind /run/cpu_map /usr/share/libvirt/cpu_map
kill -9 $(cat /run/libvirtd.pid)
"""
# By domain: why libvirt migrates it to which hosts, and what it says then.
REFUSED = {
    "net": {"h3": (Reason.LACKS_NETWORK, "network prod", "prod")},
    "card": {"h3": (Reason.LACKS_NETWORK, "free network card of network cards", "none are available")},
    "bridge": {"h3": (Reason.LACKS_NETWORK, "bridge br1", "br1")},
    "pool": {"h3": (Reason.LACKS_STORAGE, "storage pool isos", "isos")},
    "volume": {"h3": (Reason.LACKS_STORAGE, "volume images/cd.iso", "cd.iso")},
    "file": {"h3": (Reason.LACKS_STORAGE, IMAGE, "cd.iso")},
    "cpu": {"h3": (Reason.LACKS_CPU, "Penryn", "Penryn")},
    "machine": {"h3": (Reason.LACKS_MACHINE, EMULATOR, "another-qemu")},
    "device": dict.fromkeys(("h2", "h3"), (Reason.HELD_DEVICE, "ivshmem", "ivshmem")),
    "disk": dict.fromkeys(("h2", "h3"), (Reason.HELD_STORAGE, "unsafe", "unsafe")),
    "fit": {},
}


@dataclass
class Hosts:
    lab: Lab
    hosts: LibvirtHosts
    inventory: Inventory

    def domain(self, name: str) -> Any:
        return self.lab.host("h1").connection().lookupByName(name)


def described(lab: Lab) -> str:
    """What the lab's guests are like, without what is the lab's alone."""
    text: str = lab.host("h1").connection().lookupByName("vm1").XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    for pattern in (
        r"<qemu:commandline>.*?</qemu:commandline>",
        r"<(serial|console) .*?</\1>",
        r"<(kernel|initrd|cmdline)>.*?</\1>",  # without a system it waits for one for ever
        r"<uuid>.*?</uuid>",
        r"<mac .*?/>",
    ):
        text = re.sub(pattern, "", text, flags=re.DOTALL)
    return text


def start(lab: Lab, like: str, name: str, devices: str = "", *changes: tuple[str, str]) -> None:
    text = like.replace("<name>vm1</name>", f"<name>{name}</name>").replace("</devices>", f"{devices}</devices>")
    for old, new in changes:
        assert re.search(old, text)
        text = re.sub(old, new, text)
    lab.host("h1").connection().createXML(text, 0)


@pytest.fixture(scope="module")
def scene(pool: Pools) -> Iterator[Hosts]:
    pool.close()  # one lab at a time
    with Lab.up(hosts=3, domains=[DomainSpec("vm1", "h1")]) as lab, Workers() as workers:
        for name in ("h1", "h2"):
            lab.host(name).connection().networkCreateXML(NETWORK)
            lab.host(name).run(["ln", "-s", "/usr/bin/qemu-system-x86_64", EMULATOR], check=True)
            lab.host(name).run(["ip", "link", "add", "br1", "type", "bridge"], check=True)
            lab.host(name).connection().networkCreateXML(NETWORK.replace("prod", "cards"))
        forget_a_cpu(lab, "h3")
        give_away_the_only_card(lab, "h3")
        for name in NAMES:
            lab.host(name).run(["mkdir", "/run/images", "/run/isos"], check=True)
            if name != "h3":
                lab.host(name).run(["truncate", "-s", "1M", IMAGE, "/run/isos/cd.iso"], check=True)
                lab.host(name).connection().storagePoolCreateXML(POOL.format("isos"))
            lab.host(name).connection().storagePoolCreateXML(POOL.format("images"))
        lab.host("h1").run(["truncate", "-s", "16M", "/run/local.img"], check=True)
        like = described(lab)
        start(lab, like, "fit")
        on_network = (r"<interface type=.bridge.>", "<interface type='network'>")
        start(lab, like, "net", "", on_network, (r"<source bridge=.br0./>", "<source network='prod'/>"))
        start(lab, like, "card", "", on_network, (r"<source bridge=.br0./>", "<source network='cards'/>"))
        on_br1 = (r"<source bridge=.br0./>", "<source bridge='br1'/>")
        start(lab, like, "bridge", "", on_br1)
        start(lab, like, "pool", CD.format("volume", "pool='isos' volume='cd.iso'"))
        start(lab, like, "volume", CD.format("volume", "pool='images' volume='cd.iso'"))
        start(lab, like, "file", CD.format("file", f"file='{IMAGE}'"))
        start(lab, like, "cpu", "", (r"(?s)<cpu .*?</cpu>", CPU))
        start(lab, like, "machine", "", (r"<emulator>.*?</emulator>", f"<emulator>{EMULATOR}</emulator>"))
        start(lab, like, "device", SHARED_MEMORY)
        start(lab, like, "disk", DISK)
        hosts = hosts_of(lab, workers)
        inventory = Inventory(lambda: hosts)
        for _ in range(2):  # the domains' hardware is known once their host was looked at
            for name in NAMES:
                inventory.look(name)
        inventory.ask([to(lab, name, there) for name in REFUSED for there in ("h2", "h3")], skip=(), acts=True)
        yield Hosts(lab, hosts, inventory)


def to(lab: Lab, name: str, destination: str) -> Move:
    uuid = lab.host("h1").connection().lookupByName(name).UUIDString()
    loads = PredictedLoads(source=Prediction.exact(0.5), destination=Prediction.exact(0.5))
    return Move(domain=name, uuid=uuid, source="h1", destination=destination, predicted=loads)


def give_away_the_only_card(lab: Lab, name: str) -> None:
    """A network named ``cards`` whose only virtual function another domain has."""
    lab.host(name).run(["sh", "-ec", STAND_IN], check=True)
    cards = lab.host(name).connection().networkCreateXML(CARDS)
    assert cards_free(cards.XMLDesc()) == 1
    cards.portCreateXML(TAKEN)
    lab.host(name).run(["umount", "/sys/bus/pci"], check=True)


def forget_a_cpu(lab: Lab, name: str) -> None:
    host = lab.host(name)
    host.disconnect()
    host.run(["sh", "-ec", FORGET], check=True)
    host.start_libvirtd()


def seen(scene: Hosts) -> Snapshot:
    """The group as Prometheus would have it with h1 overloaded, with what libvirt says."""
    guests = [domain(name, "h1", 1.0, uuid=scene.domain(name).UUIDString()) for name in REFUSED]
    loads = {"h1": 0.9, "h2": 0.1, "h3": 0.1}
    snapshot = group(*(host(name, load, load) for name, load in loads.items()), *guests)
    return with_facts(snapshot, scene.inventory.facts(NAMES))


@pytest.mark.parametrize("name", REFUSED)
def test_each_reason_is_known_beforehand_and_libvirt_has_the_same(scene: Hosts, name: str) -> None:
    uuid = scene.domain(name).UUIDString()
    found = consider(seen(scene), Policy(), uuid)
    assert found is not None
    for there in ("h2", "h3"):
        one = next(one for one in found.hosts if one.host == there)
        expected = REFUSED[name].get(there)
        if expected is None:
            assert (one.reason, found.held) == (None, None)
            continue
        reason, named, said = expected
        refusal = (found.held.reason, found.held.detail["why"]) if found.held else (one.reason, one.detail["needs"])
        assert refusal[0] is reason
        assert named.lower() in str(refusal[1]).lower()
        flags = libvirt.VIR_MIGRATE_LIVE | libvirt.VIR_MIGRATE_PEER2PEER
        with pytest.raises(libvirt.libvirtError, match=f"(?i){said}"):
            scene.domain(name).migrateToURI3(scene.lab.host(there).uri, {}, flags)
    assert scene.domain(name).isActive()


def test_a_plan_has_only_moves_that_libvirt_makes(scene: Hosts) -> None:
    made = plan(seen(scene), Policy(cpu=Trigger(threshold=0.7, consecutive=2)))
    moves = {move.domain: move.destination for move in made.moves}
    assert moves
    assert {name for name, there in moves.items() if there in REFUSED[name]} == set()


def test_libvirts_word_on_a_cpu_that_the_hosts_emulate_and_one_that_they_cannot(scene: Hosts) -> None:
    def hardware(model: str) -> Hardware:
        cpu = f"<cpu mode='custom' match='exact'><model fallback='forbid'>{model}</model></cpu>"
        return Hardware(
            type="qemu", arch="x86_64", machine="pc-i440fx-7.2", emulator="/usr/bin/qemu-system-x86_64", cpu=cpu
        )

    asked = [hardware("qemu64"), hardware("Skylake-Server"), hardware("no-such-cpu")]
    assert scene.hosts.verdicts("h2", asked) == (
        HardwareVerdict(machine=True, cpu=True),
        HardwareVerdict(machine=True, cpu=False),
        HardwareVerdict(machine=True, cpu=False),
    )
    old = Hardware(type="qemu", arch="x86_64", machine="pc-q35-99.9", emulator="/usr/bin/qemu-system-x86_64")
    assert scene.hosts.verdicts("h2", [old]) == (HardwareVerdict(machine=False),)


def test_a_bridge_is_listed(scene: Hosts) -> None:
    assert "br0" in (scene.hosts.facts("h1").devices or ())
