"""Counters of network devices from ``/proc/net/dev``: one read for all, without a lock that a stuck driver could
hold.
"""

from pathlib import Path
from typing import NamedTuple

from virtpoise_exporter.usage import Flow


class Counters(NamedTuple):
    """What went through a device as the host sees it: what a domain sends, its tap device receives."""

    received: Flow
    sent: Flow


def parse_netdev(text: str) -> dict[str, Counters]:
    """Parses ``/proc/net/dev``. A line that is not as expected is left out."""
    counters = {}
    for line in text.split("\n")[2:]:  # a name may hold what splitlines() takes for the end of a line
        name, _, numbers = line.rpartition(":")
        try:
            fields = [int(field) for field in numbers.split()]
            counters[name.strip(" ")] = Counters(Flow(*fields[:4]), Flow(*fields[8:12]))
        except (TypeError, ValueError):
            continue
    return counters


def read_netdev(procfs: Path) -> dict[str, Counters]:
    """The counters of all devices. Raises OSError, also where it lists none: each host has a loopback device."""
    if not (counters := parse_netdev((procfs / "net/dev").read_text(errors="surrogateescape"))):
        raise OSError(f"{procfs / 'net/dev'} lists no device")
    return counters


def parse_default_route(text: str) -> str:
    """The device of the IPv4 default route with the least metric in ``/proc/net/route``; empty if there is none."""
    routes = []
    for line in text.split("\n")[1:]:
        fields = line.split()
        if len(fields) >= 8 and fields[1] == "00000000" and fields[7] == "00000000" and fields[6].isdecimal():
            routes.append((int(fields[6]), fields[0]))
    return min(routes)[1] if routes else ""


def parse_default_route6(text: str) -> str:
    """The device of the IPv6 default route with the least metric in ``/proc/net/ipv6_route``; empty if there is none.

    The kernel has one to ``lo`` that refuses what no other route takes.
    """
    routes = []
    for line in text.split("\n"):
        fields = line.split()
        if len(fields) >= 10 and fields[0] == "0" * 32 and fields[1] == "00" and fields[9] != "lo":
            routes.append((int(fields[5], 16), fields[9]))
    return min(routes)[1] if routes else ""
