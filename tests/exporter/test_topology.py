"""The uplink behind each of a domain's devices, on hosts of every build."""

import json
import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from exporter.recording import Recorded
from virtpoise_exporter.collectors.network import NetworkCollector
from virtpoise_exporter.exposition import render
from virtpoise_exporter.kernel import openvswitch
from virtpoise_exporter.kernel.openvswitch import Bond, Switches, parse_tables, read_switches
from virtpoise_exporter.kernel.topology import Device, Topology, TopologyKeeper, parse_speed, read_topology
from virtpoise_exporter.virt.model import Forward, Nic

ON_BRIDGE = Nic("vnet0", "bridge", bridge="br0")


def topology(*devices: Device, route: str = "") -> Topology:
    return Topology({device.name: device for device in devices}, route)


ETH0, ETH1 = Device("eth0", physical=True), Device("eth1", physical=True)
TAP = Device("vnet0")


@pytest.mark.parametrize(
    ("devices", "uplink"),
    [
        ((ETH0, TAP, Device("br0", ("eth0", "vnet0"))), "eth0"),
        ((ETH0, TAP, Device("br0", ("eth0.5", "vnet0")), Device("eth0.5", ("eth0",))), "eth0"),
        ((ETH0, ETH1, TAP, Device("bond0", ("eth0", "eth1"), bond=True), Device("br0", ("bond0", "vnet0"))), "bond0"),
        ((ETH0, TAP, Device("br0", ("vnet0",))), ""),  # an isolated bridge
        ((TAP, Device("eth0", outside=True), Device("br0", ("eth0", "vnet0"))), "eth0"),  # a host in a container
        ((ETH0, Device("br0", ("br0",))), ""),  # what stands on itself ends the search
        ((), ""),
    ],
)
def test_below_a_bridge(devices: tuple[Device, ...], uplink: str) -> None:
    assert topology(*devices).uplink_of(ON_BRIDGE, None) == uplink


def test_below_a_macvtap() -> None:
    assert topology(ETH0).uplink_of(Nic("macvtap0", "direct", lower="eth0"), None) == "eth0"


@pytest.mark.parametrize(
    ("forward", "uplink"),
    [
        (Forward("nat"), "eth1"),
        (Forward("route"), "eth1"),
        (Forward("nat", "eth0"), "eth0"),
        (Forward(), ""),  # an isolated network
        (None, ""),  # a network that libvirt did not tell of
    ],
)
def test_out_of_a_libvirt_network(forward: Forward | None, uplink: str) -> None:
    nic = Nic("vnet0", "network", bridge="virbr0", network="default")
    assert topology(ETH0, ETH1, Device("virbr0", ("vnet0",)), TAP, route="eth1").uplink_of(nic, forward) == uplink


def test_uplinks_are_counted_once() -> None:
    bond = Device("bond0", ("eth0", "eth1"), bond=True)
    devices = (
        ETH0,
        ETH1,
        bond,
        Device("bond0.7", ("bond0",)),
        Device("br0", ("bond0.7",)),
        Device("eth2", physical=True),
        TAP,
    )
    assert topology(*devices).uplinks == ("bond0", "eth2")


def test_a_container_leaves_by_its_veth_and_not_by_taps() -> None:
    devices = (Device("lo"), Device("eth0", outside=True), Device("br0", ("vnet0",)), TAP)
    assert topology(*devices).uplinks == ("eth0",)


def test_a_speed_that_is_configured_stands_in(recorded: Recorded) -> None:
    speeds = {
        name: link.speed_bytes
        for name, link in read_topology(recorded.procfs, recorded.sysfs, {"eth2": 125e6}).devices.items()
    }
    assert speeds["eth2"] == 125e6
    assert speeds["eth0"] == 1.25e9


def test_a_device_without_speed_says_so_by_absence(recorded: Recorded) -> None:
    assert read_topology(recorded.procfs, recorded.sysfs, {}).devices["eth2"].speed_bytes is None


@pytest.mark.parametrize("text", ["-1", "0", "65535", "4294967295", "", "fast"])
def test_a_speed_that_no_device_has_is_unknown(text: str) -> None:
    assert parse_speed(text) is None


class Links:
    """A /sys/class/net of one's own, with the entries that the kernel makes for each kind of device."""

    def __init__(self, root: Path) -> None:
        self.sysfs = root
        self.procfs = root / "proc"
        (self.procfs / "net").mkdir(parents=True)

    def add(self, name: str, index: int, *entries: str, link: int | None = None, **files: str) -> None:
        """``entries``: folders and links by their names; ``link``: the index of the other end or the device below."""
        folder = self.sysfs / "class/net" / name
        folder.mkdir(parents=True)
        for entry in entries:
            (folder / entry).mkdir()
        for file, text in {"ifindex": str(index), "iflink": str(link or index), **files}.items():
            (folder / file).write_text(text + "\n")

    def read(self, speeds: Mapping[str, float] | None = None) -> Topology:
        return read_topology(self.procfs, self.sysfs, speeds or {})


@pytest.fixture
def links(tmp_path: Path) -> Links:
    return Links(tmp_path)


def test_the_bridge_that_holds_the_tap_counts_before_that_of_the_xml(links: Links) -> None:
    """An interface of type ethernet names none, and a tap may have been moved since."""
    links.add("eth0", 2, "device", "upper_br0")
    links.add("br0", 3, "bridge", "lower_eth0", "lower_vnet0")
    links.add("br1", 5, "bridge")
    links.add("vnet0", 4, "upper_br0", "master", tun_flags="0x1002")
    assert links.read().uplink_of(Nic("vnet0", "ethernet"), None) == "eth0"
    assert links.read().uplink_of(Nic("vnet0", "bridge", bridge="br1"), None) == "eth0"


def test_a_veth_pair_joins_two_bridges_of_the_host(links: Links) -> None:
    links.add("eth0", 2, "device", "upper_br0")
    links.add("br0", 3, "bridge", "lower_eth0", "lower_out")
    links.add("br1", 4, "bridge", "lower_in", "lower_vnet0")
    links.add("in", 5, "upper_br1", "master", link=6)
    links.add("out", 6, "upper_br0", "master", link=5)
    links.add("vnet0", 7, "upper_br1", "master", tun_flags="0x1002")
    assert links.read().uplink_of(Nic("vnet0", "bridge", bridge="br1"), None) == "eth0"


def test_a_veth_pair_inside_the_host_is_no_way_out_of_it(links: Links) -> None:
    links.add("eth0", 2, link=40)  # its other end is in another namespace
    links.add("in", 5, link=6)
    links.add("out", 6, link=5)
    assert links.read().uplinks == ("eth0",)


def test_a_veth_whose_other_end_has_the_number_of_a_device_here_leads_outside(links: Links) -> None:
    links.add("lo", 1)
    links.add("eth0", 2, link=5)
    links.add("br0", 5, "bridge")
    assert links.read().uplinks == ("eth0",)


def test_a_vxlan_without_a_device_leaves_by_the_default_route(links: Links) -> None:
    links.add("eth0", 2, "device")
    links.add("vx7", 3, "upper_br0", "master", uevent="DEVTYPE=vxlan\nINTERFACE=vx7\nIFINDEX=3")
    links.add("br0", 4, "bridge", "lower_vx7", "lower_vnet0")
    (links.procfs / "net/route").write_text(
        "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n"
        "eth0\t00000000\t0100000A\t0003\t0\t0\t100\t00000000\n"
    )
    assert links.read().uplink_of(ON_BRIDGE, None) == "eth0"


def test_a_team_is_one_uplink(links: Links) -> None:
    for index, name in ((2, "eth0"), (3, "eth1")):
        links.add(name, index, "device", "upper_team0", "master", address="52:54:00:00:00:01", speed="10000")
    links.add("team0", 4, "lower_eth0", "lower_eth1", "upper_br0", address="52:54:00:00:00:01", speed="20000")
    links.add("br0", 5, "bridge", "lower_team0", "lower_vnet0", address="52:54:00:00:00:01")
    found = links.read()
    assert found.uplinks == ("team0",)
    assert found.devices["team0"].speed_bytes == 2.5e9
    assert found.uplink_of(ON_BRIDGE, None) == "team0"


def test_a_vrf_is_no_uplink_and_its_devices_are(links: Links) -> None:
    links.add("eth0", 2, "device", "upper_blue", "master", address="52:54:00:00:00:01")
    links.add("blue", 4, "lower_eth0", address="66:00:00:00:00:09")
    assert links.read().uplinks == ("eth0",)


@pytest.mark.parametrize(("mode", "speed"), [("balance-slb", 3.75e9), ("active-backup", 2.5e9), (["set", []], 2.5e9)])
def test_a_bond_of_open_vswitch_is_one_uplink_with_its_own_speed(
    links: Links, monkeypatch: pytest.MonkeyPatch, mode: Any, speed: float
) -> None:
    rows = {**ROWS, "Port": [{**row, "bond_mode": mode} for row in ROWS["Port"]]}
    monkeypatch.setattr("virtpoise_exporter.kernel.topology.read_switches", lambda: parse_tables(rows))
    links.add("eth1", 2, "device", "upper_ovs-system", "master", speed="10000")
    links.add("eth2", 3, "device", "upper_ovs-system", "master", speed="20000")
    links.add("ovs-system", 4, "lower_eth1", "lower_eth2", "lower_vnet0")
    links.add("br-int", 5)
    links.add("br-ex", 6)
    links.add("vnet0", 7, "upper_ovs-system", "master", tun_flags="0x1002")
    found = links.read()
    assert found.uplinks == ("ovsbond",)
    assert found.devices["ovsbond"].speed_bytes == speed
    assert found.uplink_of(Nic("vnet0", "ethernet"), None) == "ovsbond"
    (links.procfs / "net/dev").write_text(
        "head\nhead\n eth1: 5 1 0 0 0 0 0 0 7 1 0 0 0 0 0 0\n eth2: 6 1 0 0 0 0 0 0 8 1 0 0 0 0 0 0\n"
    )
    keeper = TopologyKeeper(links.procfs, links.sysfs, {})
    keeper.refresh()
    text = render(NetworkCollector(keeper, links.procfs).collect(1.0)).decode()
    assert 'virtpoise_host_network_receive_bytes_total{device="ovsbond"} 11\n' in text
    assert 'virtpoise_host_network_transmit_bytes_total{device="ovsbond"} 15\n' in text


def test_devices_that_cannot_be_read_leave_the_last_topology_to_age(recorded: Recorded, tmp_path: Path) -> None:
    keeper = TopologyKeeper(recorded.procfs, tmp_path, {})
    keeper.refresh()
    assert keeper.topology() is None


# What OVSDB answers for br-int with a tap and a patch to br-ex, which has eth0 and a bond of two more.
ROWS: dict[str, list[dict[str, Any]]] = {
    "Bridge": [
        {"name": "br-int", "ports": ["set", [["uuid", "p1"], ["uuid", "p2"], ["uuid", "p0"]]]},
        {"name": "br-ex", "ports": ["set", [["uuid", "p3"], ["uuid", "p4"], ["uuid", "p5"]]]},
        {"name": "br-none", "ports": ["set", []]},
    ],
    "Port": [
        {"_uuid": ["uuid", "p0"], "name": "port0", "bond_mode": ["set", []], "interfaces": ["uuid", "i0"]},
        {"_uuid": ["uuid", "p1"], "name": "port1", "bond_mode": ["set", []], "interfaces": ["uuid", "i1"]},
        {"_uuid": ["uuid", "p2"], "name": "port2", "bond_mode": ["set", []], "interfaces": ["uuid", "i2"]},
        {"_uuid": ["uuid", "p3"], "name": "port3", "bond_mode": ["set", []], "interfaces": ["uuid", "i3"]},
        {"_uuid": ["uuid", "p4"], "name": "port4", "bond_mode": ["set", []], "interfaces": ["uuid", "i4"]},
        {
            "_uuid": ["uuid", "p5"],
            "name": "ovsbond",
            "bond_mode": "balance-slb",
            "interfaces": ["set", [["uuid", "i5"], ["uuid", "i6"]]],
        },
    ],
    "Interface": [
        {"_uuid": ["uuid", "i0"], "name": "br-int", "type": "internal", "options": ["map", []]},
        {"_uuid": ["uuid", "i1"], "name": "vnet0", "type": "", "options": ["map", []]},
        {"_uuid": ["uuid", "i2"], "name": "to-ex", "type": "patch", "options": ["map", [["peer", "to-int"]]]},
        {"_uuid": ["uuid", "i3"], "name": "to-int", "type": "patch", "options": ["map", [["peer", "to-ex"]]]},
        {"_uuid": ["uuid", "i4"], "name": "eth0", "type": "", "options": ["map", []]},
        {"_uuid": ["uuid", "i5"], "name": "eth1", "type": "", "options": ["map", []]},
        {"_uuid": ["uuid", "i6"], "name": "eth2", "type": "", "options": ["map", []]},
    ],
}


def test_open_vswitch_bridges_lead_through_their_patches() -> None:
    switches = parse_tables(ROWS)
    assert switches.bridges == {"br-int": ("br-ex", "vnet0"), "br-ex": ("br-int", "eth0", "ovsbond"), "br-none": ()}
    assert switches.bonds == {"ovsbond": Bond(("eth1", "eth2"), all_carry=True)}
    devices = [Device(name, lowers) for name, lowers in switches.bridges.items()]
    assert topology(ETH0, TAP, *devices).uplink_of(Nic("vnet0", "bridge", bridge="br-int"), None) == "eth0"


def test_ovsdb_is_asked_over_its_socket(tmp_path: Path) -> None:
    path = tmp_path / "db.sock"
    asked: list[Any] = []

    def serve() -> None:
        connection, _ = listening.accept()
        with connection:
            asked.append(json.loads(connection.recv(65536)))
            answer = json.dumps({"id": 0, "error": None, "result": [{"rows": rows} for rows in ROWS.values()]}).encode()
            connection.sendall(answer[:100])
            connection.sendall(answer[100:])

    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        switches = read_switches(path)
        thread.join()
    assert switches.bridges["br-ex"] == ("br-int", "eth0", "ovsbond")
    assert asked[0]["method"] == "transact"


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"nonsense",
        b'{"result":' + b"[" * 100_000 + b"}",
        b'{"result": []}',
        b'{"result": [{"rows": [{}]}, {"rows": []}, {"rows": []}]}',
    ],
)
def test_an_ovsdb_that_answers_nonsense_is_done_without(tmp_path: Path, answer: bytes) -> None:
    path = tmp_path / "db.sock"

    def serve() -> None:
        connection, _ = listening.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(answer)

    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        assert read_switches(path) == Switches()
        thread.join()


def test_an_ovsdb_that_trickles_is_given_up_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvswitch, "_TIMEOUT_SECONDS", 0.3)
    path, given_up = tmp_path / "db.sock", threading.Event()

    def serve() -> None:
        connection, _ = listening.accept()
        with connection, suppress(OSError):
            while not given_up.wait(0.05):
                connection.sendall(b"[")

    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        assert read_switches(path) == Switches()  # returns while the other still sends
        given_up.set()
        thread.join()


def test_a_host_without_open_vswitch_asks_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert read_switches(tmp_path / "none.sock") == Switches()
    assert caplog.messages == []


def test_an_ovsdb_that_may_not_be_asked_is_done_without_and_told_once(
    recorded: Recorded, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for an unprivileged user: its folder is root's. The other devices are read as ever."""

    def refuse(*_arguments: object, **_options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(openvswitch, "SOCKET", Path("/run/openvswitch/db.sock"))
    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr(Path, "exists", refuse)
    for _ in range(2):
        assert "eth0" in read_topology(recorded.procfs, recorded.sysfs, {}).devices
    assert len(caplog.messages) == 1
    assert "Permission denied" in caplog.messages[0]


def test_devices_that_hang_hold_up_the_start_no_longer_than_asked(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, go_on = threading.Event(), threading.Event()

    def hang(*_arguments: object) -> Topology:
        entered.set()
        go_on.wait(30)
        return Topology()

    monkeypatch.setattr("virtpoise_exporter.kernel.topology.read_topology", hang)
    keeper = TopologyKeeper(recorded.procfs, recorded.sysfs, {})
    keeper.start()
    try:
        keeper.wait_for_first(0.01)
        assert entered.wait(30)
        assert keeper.topology() is None
    finally:
        go_on.set()
    keeper.wait_for_first(30)
    assert keeper.topology() == Topology()


def test_a_bond_of_a_container_hides_no_other_device_of_it() -> None:
    """Open vSwitch can bond veth devices, which are all that a container has."""
    ends = [Device(name, outside=True) for name in ("eth0", "eth1", "eth2")]
    bond = Device("bond1", lowers=("eth1", "eth2"), bond=True)
    assert topology(*ends, bond).uplinks == ("bond1", "eth0")


def test_the_veth_of_a_container_is_no_uplink_of_a_host_with_hardware() -> None:
    assert topology(Device("eth0", physical=True), Device("veth1", outside=True)).uplinks == ("eth0",)
