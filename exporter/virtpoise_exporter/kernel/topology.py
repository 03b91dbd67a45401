"""Which network devices lead out of the host, and which of them is behind each domain's own device.

``/sys/class/net`` (Documentation/ABI/testing/sysfs-class-net) shows which device is built on which: ``lower_X`` are a
bridge's ports, a bond's members, the base of a VLAN or macvtap. Some of its files wait for the kernel's network lock,
which a stuck driver may hold. So a thread of its own reads them, and a scrape uses what that thread read last.
"""

import os
import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from virtpoise_exporter.clock import SYSTEM, Clock
from virtpoise_exporter.kernel.netdev import parse_default_route, parse_default_route6
from virtpoise_exporter.kernel.openvswitch import Switches, read_switches
from virtpoise_exporter.kernel.rtnetlink import vxlan_leaves_by
from virtpoise_exporter.log import log
from virtpoise_exporter.virt.model import Forward, Nic

_REFRESH_SECONDS = 15.0
BYTES_PER_MEGABIT = 1_000_000 / 8
_UNKNOWN_SPEEDS = (0xFFFF, 0xFFFFFFFF)


@dataclass(frozen=True, slots=True)
class Device:
    """A network device. ``lowers`` are the devices it stands on, ``uppers`` those that stand on it, such as the bridge
    it is a port of. ``peer`` is the other end of a veth pair whose ends are both here.
    """

    name: str
    lowers: tuple[str, ...] = ()
    uppers: tuple[str, ...] = ()
    peer: str = ""
    physical: bool = False
    bond: bool = False  # or a team, or a bond of Open vSwitch
    bridge: bool = False
    tunnel: bool = False  # its packets leave by the host's routes
    leaves_by: str | None = None  # of a tunnel: the device of its route, "" without one; None: not known
    outside: bool = False  # its other end is in another network namespace: the veth of a container or lab host
    speed_bytes: float | None = None  # per second and direction; None if the device has no speed


@dataclass(frozen=True)
class Topology:
    """The host's network devices at one moment."""

    devices: Mapping[str, Device] = field(default_factory=dict)
    default_route: str = ""

    @cached_property
    def uplinks(self) -> tuple[str, ...]:
        """The devices through which traffic leaves the host, each counted once: bonds instead of their members, no
        bridges, no VLANs. On a host without hardware of its own (a container, a lab host) these are its veth devices.
        """
        devices = self.devices.values()
        bonds = [device for device in devices if device.bond]
        members = {lower for bond in bonds for lower in bond.lowers}
        single = [device for device in devices if device.physical] or [
            device for device in devices if device.outside and not device.lowers
        ]
        return tuple(sorted({device.name for device in (*single, *bonds)} - members))

    def uplink_of(self, nic: Nic, forward: Forward | None) -> str:
        """The uplink behind a domain's device, empty if there is none.

        Below the bridge that holds the device now, below the bridge or macvtap of the XML; for a libvirt network that
        routes or translates, by the device that the network names or else by the default route.
        """
        nearest = self._nearest
        below = nearest.get(nic.device) or nearest.get(nic.lower or nic.bridge)
        if not below and forward is not None and forward.mode in ("nat", "route", "open"):
            below = nearest.get(forward.device or self.default_route)
        return below or ""

    @cached_property
    def _nearest(self) -> Mapping[str, str]:
        """By device, the nearest uplink behind it; devices without one are left out.

        Found from the uplinks on, all at once: a bridge may have a thousand taps.
        """
        before: dict[str, list[str]] = defaultdict(list)
        for name, device in self.devices.items():
            for following in self._behind(device):
                before[following].append(name)
        found = {uplink: uplink for uplink in self.uplinks}
        todo = deque(found)
        while todo:
            name = todo.popleft()
            for other in before[name]:
                if other not in found:
                    found[other] = found[name]
                    todo.append(other)
        return found

    def _behind(self, device: Device) -> Iterator[str]:
        """Where a device's traffic goes on: down to what it stands on, up to the bridge that holds it, along a veth
        pair, and out of a tunnel by its route, which may be the default one.
        """
        yield from device.lowers
        yield from (upper for upper in device.uppers if upper in self.devices and self.devices[upper].bridge)
        yield device.peer
        if device.tunnel and not device.lowers:
            yield self.default_route if device.leaves_by is None else device.leaves_by


def read_topology(procfs: Path, sysfs: Path, speeds: Mapping[str, float]) -> Topology:
    """The devices below ``sysfs``; ``speeds`` (bytes per second) stand in for what the devices say."""
    devices = {device.name: device for device in _read_links(sysfs / "class/net", speeds)}
    _add_switches(devices, read_switches(), speeds)
    route = parse_default_route(_text(procfs / "net/route")) or parse_default_route6(_text(procfs / "net/ipv6_route"))
    return Topology(devices, route)


def _add_switches(devices: dict[str, Device], switches: Switches, speeds: Mapping[str, float]) -> None:
    """Adds the bonds of Open vSwitch and the ports of its bridges."""
    for name, bond in switches.bonds.items():
        known = [devices[member] for member in bond.members if member in devices]
        if known:  # members that a program drives without the kernel are no devices
            carried = [member.speed_bytes for member in known if member.speed_bytes is not None]
            speed = (sum(carried) if bond.all_carry else max(carried)) if len(carried) == len(bond.members) else None
            devices[name] = Device(name, lowers=bond.members, bond=True, speed_bytes=speeds.get(name) or speed)
    for name, ports in switches.bridges.items():
        if name in devices:
            devices[name] = Device(name, lowers=ports, bridge=True)
            for port in ports:
                if port in devices:
                    devices[port] = replace(devices[port], uppers=(*devices[port].uppers, name))


def _read_links(folder: Path, speeds: Mapping[str, float]) -> Iterable[Device]:
    found: dict[str, Device] = {}
    indexes: dict[str, tuple[str, str]] = {}  # by name: its own, and that of its other end
    for name in os.listdir(folder):  # noqa: PTH208 - with hundreds of taps, paths cost more than the reads
        try:
            entries = frozenset(os.listdir(folder / name))  # noqa: PTH208
        except OSError:  # bonding_masters is a file; a device may be gone by now
            continue
        lowers, uppers = _linked(entries, "lower_"), _linked(entries, "upper_")
        if "tun_flags" in entries or "macvtap" in entries:
            found[name] = Device(name, lowers, uppers)
            continue
        indexes[name] = _text(folder / name / "ifindex"), _text(folder / name / "iflink")
        found[name] = Device(
            name=name,
            lowers=lowers,
            uppers=uppers,
            physical="device" in entries,
            bond="bonding" in entries or ("bridge" not in entries and _is_team(folder, name, lowers, indexes[name])),
            bridge="bridge" in entries,
            tunnel="DEVTYPE=vxlan" in _text(folder / name / "uevent").splitlines() if not lowers else False,
            speed_bytes=speeds.get(name) or parse_speed(_text(folder / name / "speed")),
        )
    ends = {pair: name for name, pair in indexes.items()}
    for name, device in found.items():
        own, other = indexes.get(name, ("", ""))
        if device.tunnel:
            yield replace(device, leaves_by=vxlan_leaves_by(name))
            continue
        if own == other:
            yield device
            continue
        peer = ends.get((other, own), "")
        yield replace(device, peer=peer, outside=not peer)


def _linked(entries: Iterable[str], prefix: str) -> tuple[str, ...]:
    return tuple(sorted(entry.removeprefix(prefix) for entry in entries if entry.startswith(prefix)))


def _is_team(folder: Path, name: str, lowers: Iterable[str], indexes: tuple[str, str]) -> bool:
    """Whether a device with members is a team: it has the address of one of them. A VRF and Open vSwitch's device for
    all ports have their own; a VLAN or macvlan names the device below it as its other end.
    """
    own, other = indexes
    address = _text(folder / name / "address")
    return own == other and bool(address) and any(_text(folder / lower / "address") == address for lower in lowers)


def parse_speed(text: str) -> float | None:
    """Bytes per second; None for a device without speed, where the kernel has an error, -1, or -1 in 16 or 32 bits."""
    try:
        megabits = int(text)
    except ValueError:
        return None
    return None if megabits <= 0 or megabits in _UNKNOWN_SPEEDS else megabits * BYTES_PER_MEGABIT


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="surrogateescape").strip()
    except OSError:
        return ""


class TopologyKeeper:
    """Keeps the topology fresh, in a thread of its own."""

    def __init__(self, procfs: Path, sysfs: Path, speeds: Mapping[str, float], clock: Clock = SYSTEM) -> None:
        self._procfs = procfs
        self._sysfs = sysfs
        self._speeds = speeds
        self._clock = clock
        self._wanted = threading.Event()
        self._first = threading.Event()
        self._topology = Topology()
        self._read_at = float("-inf")

    def start(self) -> None:
        """Starts to read in the background."""
        threading.Thread(target=self._run, name="topology", daemon=True).start()

    def wait_for_first(self, seconds: float) -> None:
        """Waits for the first reading, but not longer than ``seconds``."""
        self._first.wait(seconds)

    def topology(self) -> Topology | None:
        """The last topology; None if it is too old because reading hangs."""
        fresh = self._clock.monotonic() - self._read_at <= 2 * _REFRESH_SECONDS
        return self._topology if fresh else None

    def want(self) -> None:
        """Asks for a new reading soon: a device has been seen that is not in the topology."""
        self._wanted.set()

    def _run(self) -> None:
        while True:
            self.refresh()
            self._first.set()
            time.sleep(0.2)  # domains that start one after the other bring a device each
            self._wanted.wait(_REFRESH_SECONDS)
            self._wanted.clear()

    def refresh(self) -> None:
        """Reads the devices now. If this fails, the last topology stays and ages."""
        began = self._clock.monotonic()
        try:
            self._topology = read_topology(self._procfs, self._sysfs, self._speeds)
        except Exception as error:  # this thread must not end: the next reading may succeed
            log.warning("the network devices cannot be read: %r", error)
        else:
            self._read_at = began
