"""What libvirt's XML and statistics are read as."""

import pytest

from builders import FakeClock
from exporter.recording import Recorded
from virtpoise_exporter.usage import Flow, Traffic, Usage, VcpuSums
from virtpoise_exporter.virt import link
from virtpoise_exporter.virt.model import Facts, Forward, HostFacts, Inventory, Nic
from virtpoise_exporter.virt.source import LibvirtSource, usage
from virtpoise_exporter.virt.stats import Answer
from virtpoise_exporter.virt.xml import domain_facts, host_cpu, network_forward

STATS = {  # as libvirt 9.0 with QEMU 7.2 tells them
    "cpu.time": 10980000000,
    "cpu.user": 9820000000,
    "balloon.current": 16384,
    "balloon.rss": 41296,
    "vcpu.current": 2,
    "vcpu.0.time": 7990000000,
    "vcpu.0.wait": 0,
    "vcpu.0.delay": 1423354720,
    "vcpu.1.time": 10000000,
    "vcpu.1.delay": 76645280,
    "net.count": 1,
    "net.0.name": "vnet0",
    "net.0.rx.bytes": 90,
    "net.0.tx.bytes": 7,
}


def test_a_full_answer() -> None:
    assert usage(STATS, VcpuSums(), running=True) == Usage(
        10.98, 8.0, 1.5, 41296 * 1024, {"vnet0": Traffic(Flow(90), Flow(7))}
    )


def test_packets_errors_and_drops_of_a_network_device() -> None:
    """A counter that libvirt leaves out is unknown."""
    counted = {"net.0.rx.pkts": 3, "net.0.rx.errs": 1, "net.0.rx.drop": 2, "net.0.tx.pkts": 4, "net.0.tx.errs": 0}
    traffic = usage({**STATS, **counted}, VcpuSums(), running=True).traffic
    assert traffic == {"vnet0": Traffic(Flow(90, 3, 1, 2), Flow(7, 4, 0, None))}


def test_what_is_missing_while_a_domain_is_busy_is_unknown_and_not_zero() -> None:
    busy = {"vcpu.current": 1, "net.count": 1, "net.0.name": "vnet0"}
    assert usage(busy, VcpuSums(), running=True) == Usage(None, None, None, None, {})


def test_no_wait_at_all_is_no_statistic() -> None:
    """A kernel without scheduler statistics: libvirt reports 0."""
    without = {key: 0 if key.endswith(".delay") else value for key, value in STATS.items()}
    figures = usage(without, VcpuSums(), running=True)
    assert (figures.vcpu_seconds, figures.cpu_delay_seconds) == (8.0, None)


def test_a_domain_that_has_not_run_yet_has_not_waited() -> None:
    idle = {key: 0 if key.startswith("vcpu.") else value for key, value in STATS.items()}
    figures = usage(idle, VcpuSums(), running=False)
    assert (figures.vcpu_seconds, figures.cpu_delay_seconds) == (0.0, 0.0)


def test_cpu_time_below_that_of_its_vcpus_is_of_another_process() -> None:
    """A wrapper, and libvirt without cgroups."""
    figures = usage({**STATS, "cpu.time": 10_000_000}, VcpuSums(), running=True)
    assert (figures.cpu_seconds, figures.vcpu_seconds) == (None, 8.0)


def test_vcpus_that_never_ran_are_not_believed_of_a_domain_that_runs() -> None:
    zero = {key: 0 if key.startswith("vcpu.") else value for key, value in STATS.items()}
    assert usage(zero, VcpuSums(), running=True).vcpu_seconds is None


def test_the_sums_of_a_domain_go_on_over_an_unplugged_vcpu(recorded: Recorded) -> None:
    domain = recorded.domain("web")
    answers = [
        STATS,
        {**STATS, "vcpu.1.delay": 80_000_000},
        {key: value for key, value in STATS.items() if "vcpu.1" not in key},
    ]
    source = LibvirtSource(lambda _domains, _seconds: Answer({domain.uuid: answers.pop(0)}))
    usages = [source.read([domain], 1.0)[domain.uuid] for _ in range(3)]
    delays = [usage.cpu_delay_seconds or 0.0 for usage in usages]
    assert delays[0] > 0.0
    assert delays == sorted(delays)
    assert [usage.vcpu_seconds for usage in usages] == [8.0] * 3


def test_a_domain_that_was_not_answered_for_is_left_out(recorded: Recorded) -> None:
    source = LibvirtSource(lambda _domains, _seconds: Answer())
    assert source.read(recorded.inventory.domains, 1.0) == {}


def domain(devices: str = "", vcpu: str = "<vcpu>2</vcpu>", memory: str = "<memory unit='KiB'>1024</memory>") -> Facts:
    return domain_facts(f"<domain>{memory}{vcpu}<devices>{devices}</devices></domain>")


@pytest.mark.parametrize(
    ("interface", "nics"),
    [
        (
            "<interface type='bridge'><source bridge='br0'/><target dev='vnet0'/></interface>",
            (Nic("vnet0", "bridge", bridge="br0"),),
        ),
        (
            "<interface type='network'><source network='n' bridge='virbr0'/><target dev='vnet1'/></interface>",
            (Nic("vnet1", "network", bridge="virbr0", network="n"),),
        ),
        (
            "<interface type='direct'><source dev='eth0' mode='vepa'/><target dev='macvtap0'/></interface>",
            (Nic("macvtap0", "direct", lower="eth0"),),
        ),
        ("<interface type='ethernet'><target dev='tap7'/></interface>", (Nic("tap7", "ethernet"),)),
        ("<interface type='user'><model type='virtio'/></interface>", ()),
        ("<interface type='hostdev'><source><address type='pci'/></source></interface>", ()),
        ("<interface type='bridge'><source bridge='br0'/></interface>", ()),  # of a domain that is shut off
    ],
)
def test_network_devices(interface: str, nics: tuple[Nic, ...]) -> None:
    assert domain(interface).nics == nics


@pytest.mark.parametrize(
    ("memory", "size"),
    [
        ("<memory unit='KiB'>1024</memory><currentMemory unit='KiB'>512</currentMemory>", 512 * 1024),
        ("<memory unit='KiB'>1024</memory>", 1024 * 1024),
        ("<memory>1024</memory>", 1024 * 1024),
        ("<memory unit='GiB'>2</memory>", 2 << 30),
        ("", 0),
    ],
)
def test_assigned_memory(memory: str, size: int) -> None:
    assert domain(memory=memory).memory_bytes == size


@pytest.mark.parametrize(("vcpu", "count"), [("<vcpu>4</vcpu>", 4), ("<vcpu current='2'>4</vcpu>", 2), ("", 0)])
def test_vcpus_that_are_there_now(vcpu: str, count: int) -> None:
    assert domain(vcpu=vcpu).vcpus == count


@pytest.mark.parametrize(
    ("inner", "placement"),
    [
        ("<apart>db</apart><only-on>rack1-*</only-on>", (("apart", "db"), ("only-on", "rack1-*"))),
        ("<v:apart>db</v:apart><v:apart> db </v:apart>", (("apart", "db"),)),
        ("<ignore/>", (("ignore", ""),)),
        ("<ignore>why</ignore>", (("ignore", ""),)),
        ("<unheard-of>x</unheard-of><apart/>", ()),
        (f"<apart>{'x' * 129}</apart><together>{'x' * 128}</together>", (("together", "x" * 128),)),
        ("".join(f"<apart>{n:02}</apart>" for n in range(99)), tuple(("apart", f"{n:02}") for n in range(16))),
    ],
)
def test_what_a_domains_metadata_asks_for(inner: str, placement: tuple[tuple[str, str], ...]) -> None:
    metadata = f"<metadata><v:placement xmlns:v='urn:virtpoise:1'>{inner}</v:placement></metadata>"
    assert domain_facts(f"<domain>{metadata}<devices/></domain>").placement == placement


def test_somebody_elses_metadata_is_not_ours() -> None:
    xml = "<domain><metadata><o:placement xmlns:o='urn:other'><apart>db</apart></o:placement></metadata></domain>"
    assert domain_facts(xml).placement == ()


@pytest.mark.parametrize(
    ("xml", "forward"),
    [
        ("<network><forward mode='nat'/></network>", Forward("nat")),
        ("<network><forward/></network>", Forward("nat")),  # libvirt's default
        (
            "<network><forward dev='eth1' mode='route'><interface dev='eth1'/></forward></network>",
            Forward("route", "eth1"),
        ),
        ("<network><forward mode='bridge'/><bridge name='br0'/></network>", Forward("bridge")),
        ("<network/>", Forward()),
    ],
)
def test_how_a_network_leaves_the_host(xml: str, forward: Forward | None) -> None:
    assert network_forward(xml) == forward


def test_a_host_by_its_capabilities() -> None:
    xml = (
        "<capabilities><host><uuid>u</uuid><cpu><arch>x86_64</arch><model>Broadwell</model></cpu></host></capabilities>"
    )
    assert host_cpu(xml) == ("u", "Broadwell", "x86_64")
    assert host_cpu("<capabilities/>") == ("", "", "")


def test_a_drive_without_a_medium_has_nothing_to_tell() -> None:
    disk = "<disk device='cdrom'><source file='x.iso'/><target dev='sda'/></disk>"
    assert domain(disk + "<disk device='cdrom'><target dev='sdb'/></disk>").disks == ("sda",)


@pytest.mark.parametrize(
    ("balloon", "seconds"),
    [
        ("<memballoon><stats period='10'/></memballoon>", 10),
        ("<memballoon><stats period='0'/></memballoon>", 0),
        ("<memballoon/>", 0),
    ],
)
def test_how_often_a_guest_reports_its_memory(balloon: str, seconds: float) -> None:
    assert domain(balloon).balloon_period_seconds == seconds


def test_a_list_of_domains_is_trusted_for_ten_seconds() -> None:
    """libvirt is asked every 5 s, so two lists may be missed; then libvirt no longer stands behind the last one."""
    clock = FakeClock()
    kept = link.Link("qemu:///system", lambda _domains: None, clock)
    inventory = Inventory(HostFacts("h", "u", "m", "a", "q", "v"), (), {}, taken_at=1000.0)
    kept._take(inventory, {})
    for age, known in ((9.9, inventory), (10.1, None)):
        clock.at = 1000.0 + age
        assert kept.inventory() is known
        assert kept.last_inventory() is inventory


@pytest.mark.parametrize(
    ("interface", "nic"),
    [
        (
            "<interface type='hostdev' managed='yes'><mac address='52:54:00:6d:90:02'/><driver name='vfio'/><source>"
            "<address type='pci' domain='0x0000' bus='0x00' slot='0x07' function='0x0'/></source></interface>",
            Nic("52:54:00:6d:90:02", "hostdev"),
        ),
        (
            "<interface type='vdpa'><mac address='52:54:00:6d:90:03'/><source dev='/dev/vhost-vdpa-0'/></interface>",
            Nic("52:54:00:6d:90:03", "vdpa", lower="/dev/vhost-vdpa-0"),
        ),
        (
            "<interface type='vhostuser'><mac address='52:54:00:3b:83:1a'/>"
            "<source type='unix' path='/tmp/vhost1.sock' mode='server'/><target dev='vhost1'/></interface>",
            Nic("vhost1", "vhostuser"),
        ),
        (
            "<interface type='user'><backend type='passt'/><mac address='52:54:00:3b:83:1b'/></interface>",
            Nic("52:54:00:3b:83:1b", "passt"),
        ),
        ("<interface type='user'><mac address='52:54:00:3b:83:1c'/></interface>", Nic("52:54:00:3b:83:1c", "user")),
    ],
)
def test_a_network_device_that_the_kernel_does_not_carry_is_known(interface: str, nic: Nic) -> None:
    """The examples of formatdomain.html."""
    facts = domain_facts(f"<domain><devices>{interface}</devices></domain>")
    assert facts.nics == (nic,)


GIB = 1 << 30
CELLS = """<cpu><numa><cell id='0' cpus='0' memory='3' unit='GiB'/><cell id='1' cpus='1' memory='1' unit='GiB'/>
</numa></cpu>"""


@pytest.mark.parametrize(
    ("backing", "hugepages"),
    [
        ("", ()),
        ("<hugepages/>", ((0, 4 * GIB),)),
        ("<hugepages><page size='1048576' unit='KiB'/></hugepages>", ((GIB, 4 * GIB),)),
        ("<hugepages><page size='2' unit='M' nodeset='1'/></hugepages>", ((2 << 20, GIB),)),  # the rest is ordinary
        (
            "<hugepages><page size='1' unit='G' nodeset='0-3,^1'/><page size='2048' unit='KiB'/></hugepages>",
            ((2 << 20, GIB), (GIB, 3 * GIB)),
        ),
    ],
)
def test_memory_in_huge_pages_is_known_by_their_size(backing: str, hugepages: tuple[tuple[int, int], ...]) -> None:
    """The notations of formatdomain.html."""
    memory = f"<memory unit='GiB'>4</memory><memoryBacking>{backing}</memoryBacking>"
    assert domain_facts(f"<domain>{memory}{CELLS}</domain>").hugepages == hugepages
