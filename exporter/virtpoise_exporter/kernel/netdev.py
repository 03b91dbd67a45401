"""Network devices: their counters and what lies beneath them.

Counters come from `/proc/net/dev`, which is one read for all devices and takes no lock that a stuck driver could hold.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_BITS_PER_MEGABIT: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Counters:
    """Bytes as the host sees them: what a domain sends, its tap device receives."""

    received: int
    sent: int


@dataclass(frozen=True, slots=True)
class Link:
    """A network device of the host. `lowers` are those it stands on: a bridge's ports, a bond's members, a VLAN's base."""

    name: str
    lowers: tuple[str, ...] = ()
    master: str = ""
    physical: bool = False
    bond: bool = False
    bridge: bool = False
    tap: bool = False
    outside: bool = False  # its other end is in another network namespace, as of a container's or a lab host's veth
    speed_bytes: float | None = None


def parse_netdev(text: str) -> dict[str, Counters]:
    """Parses `/proc/net/dev`."""
    counters = {}
    for line in text.splitlines()[2:]:
        name, _, numbers = line.rpartition(":")
        fields = numbers.split()
        counters[name.strip()] = Counters(int(fields[0]), int(fields[8]))
    return counters


def parse_default_route(text: str) -> str:
    """The device of the IPv4 default route with the least metric in `/proc/net/route`; empty if there is none."""
    routes = []
    for line in text.splitlines()[1:]:
        fields = line.split()
        if len(fields) >= 8 and fields[1] == "00000000" and fields[7] == "00000000":
            routes.append((int(fields[6]), fields[0]))
    return min(routes)[1] if routes else ""


def read_links(sysfs: Path) -> dict[str, Link]:
    """All network devices below `sysfs`."""
    links = {}
    for folder in sorted((sysfs / "class/net").iterdir()):
        if not folder.is_dir():  # bonding_masters is a file
            continue
        links[folder.name] = Link(
            name=folder.name,
            lowers=tuple(sorted(entry.name.removeprefix("lower_") for entry in folder.glob("lower_*"))),
            master=(folder / "master").resolve().name if (folder / "master").exists() else "",
            physical=(folder / "device").exists(),
            bond=(folder / "bonding").exists(),
            bridge=(folder / "bridge").exists(),
            tap=(folder / "tun_flags").exists() or (folder / "macvtap").exists(),
            outside=_text(folder / "iflink") != _text(folder / "ifindex"),
            speed_bytes=_speed(folder / "speed"),
        )
    return links


def uplinks(links: Mapping[str, Link]) -> tuple[str, ...]:
    """The devices by which traffic leaves the host, none counted twice: bonds instead of their members, no bridges,
    no VLANs. A host without hardware of its own (a container, a lab host) leaves by its veth devices."""
    members = {lower for link in links.values() if link.bond for lower in link.lowers}
    real = [link.name for link in links.values() if (link.physical or link.bond) and link.name not in members]
    outside = [link.name for link in links.values() if link.outside and not link.lowers and not link.tap]
    return tuple(sorted(real or outside))


def uplink_below(device: str, links: Mapping[str, Link], among: Iterable[str]) -> str:
    """The uplink that `device` (a bridge, a VLAN, a bond, an uplink itself) stands on; empty if on none."""
    candidates, seen, todo = set(among), set(), [device]
    while todo:
        name = todo.pop(0)
        if name in candidates:
            return name
        if name in seen or name not in links:
            continue
        seen.add(name)
        todo.extend(links[name].lowers)
    return ""


def _speed(path: Path) -> float | None:
    """Bytes per second; None for a device that has no speed (the kernel says -1 or refuses to say)."""
    try:
        megabits = int(path.read_text())
    except (OSError, ValueError):
        return None
    return megabits * _BITS_PER_MEGABIT / 8 if megabits > 0 else None


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
