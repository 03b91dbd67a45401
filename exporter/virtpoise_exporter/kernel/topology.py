"""Which network devices lead out of the host, and which of them is behind each domain's own device.

``/sys/class/net`` (Documentation/ABI/testing/sysfs-class-net) shows which device is built on which: ``lower_X`` are a
bridge's ports, a bond's members, the base of a VLAN or macvtap. Some of its files wait for the kernel's network lock,
which a stuck driver may hold. So a thread of its own reads them, and a scrape uses what that thread read last.
"""

import os
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from virtpoise_exporter.kernel.netdev import parse_default_route
from virtpoise_exporter.kernel.openvswitch import bridge_ports
from virtpoise_exporter.log import log
from virtpoise_exporter.virt.model import Forward, Nic

_REFRESH_SECONDS = 15.0
_BYTES_PER_MEGABIT = 1_000_000 / 8


@dataclass(frozen=True, slots=True)
class Device:
    """A network device. ``lowers`` are the devices it stands on."""

    name: str
    lowers: tuple[str, ...] = ()
    physical: bool = False
    bond: bool = False
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
        members = {lower for device in self.devices.values() if device.bond for lower in device.lowers}
        real = {device.name for device in self.devices.values() if device.physical or device.bond} - members
        outside = {device.name for device in self.devices.values() if device.outside and not device.lowers}
        return tuple(sorted(real or outside))

    def uplink_of(self, nic: Nic, forward: Forward | None) -> str:
        """The uplink behind a domain's device, empty if there is none.

        Below its bridge or macvtap; for a libvirt network that routes or translates, by the device that the network
        names or else by the default route.
        """
        below = self._below(nic.lower or nic.bridge)
        if not below and forward is not None and forward.mode in ("nat", "route", "open"):
            below = self._below(forward.device or self.default_route)
        return below

    def _below(self, device: str) -> str:
        seen, todo = set(), [device]
        while todo:
            name = todo.pop(0)
            if name in self.uplinks:
                return name
            if name not in seen and name in self.devices:
                seen.add(name)
                todo.extend(self.devices[name].lowers)
        return ""


def read_topology(procfs: Path, sysfs: Path, speeds: Mapping[str, float]) -> Topology:
    """The devices below ``sysfs``; ``speeds`` (bytes per second) stand in for what the devices say."""
    devices = dict(_read_links(sysfs / "class/net", speeds))
    for bridge, ports in bridge_ports().items():
        if bridge in devices:
            devices[bridge] = Device(bridge, lowers=ports)
    try:
        route = parse_default_route((procfs / "net/route").read_text(errors="surrogateescape"))
    except OSError:  # a kernel without IPv4
        route = ""
    return Topology(devices, route)


def _read_links(folder: Path, speeds: Mapping[str, float]) -> Iterable[tuple[str, Device]]:
    for name in os.listdir(folder):  # noqa: PTH208 - with hundreds of taps, paths cost more than the reads
        try:
            entries = frozenset(os.listdir(folder / name))  # noqa: PTH208
        except OSError:  # bonding_masters is a file; a device may be gone by now
            continue
        lowers = tuple(sorted(entry.removeprefix("lower_") for entry in entries if entry.startswith("lower_")))
        if "tun_flags" in entries or "macvtap" in entries:
            yield name, Device(name, lowers)
            continue
        yield (
            name,
            Device(
                name=name,
                lowers=lowers,
                physical="device" in entries,
                bond="bonding" in entries,
                outside=_text(folder / name / "iflink") != _text(folder / name / "ifindex"),
                speed_bytes=speeds.get(name) or _speed(_text(folder / name / "speed")),
            ),
        )


def _speed(text: str) -> float | None:
    """Bytes per second; None for a device without speed, where the kernel has -1 or an error."""
    try:
        megabits = int(text)
    except ValueError:
        return None
    return megabits * _BYTES_PER_MEGABIT if megabits > 0 else None


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="surrogateescape").strip()
    except OSError:
        return ""


class TopologyKeeper:
    """Keeps the topology fresh, in a thread of its own."""

    def __init__(self, procfs: Path, sysfs: Path, speeds: Mapping[str, float]) -> None:
        self._procfs = procfs
        self._sysfs = sysfs
        self._speeds = speeds
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
        fresh = time.monotonic() - self._read_at <= 2 * _REFRESH_SECONDS
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
        began = time.monotonic()
        try:
            self._topology = read_topology(self._procfs, self._sysfs, self._speeds)
        except Exception as error:  # this thread must not end: the next reading may succeed
            log.warning("the network devices cannot be read: %r", error)
        else:
            self._read_at = began
