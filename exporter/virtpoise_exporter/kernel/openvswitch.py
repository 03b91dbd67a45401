"""The bridges and bonds of Open vSwitch, from OVSDB where it runs: sysfs does not have them.

Protocol: RFC 7047, JSON-RPC over a Unix socket. Schema: ovs-vswitchd.conf.db(5).
"""

import json
import socket
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from virtpoise_exporter.log import log

SOCKET = Path("/run/openvswitch/db.sock")
_TIMEOUT_SECONDS = 2.0  # for the whole answer
_MOST_BYTES = 16 * 1024 * 1024
_MOST_COMPLAINTS = 20
_complaints: set[str] = set()
_TABLES = {
    "Bridge": ["name", "ports"],
    "Port": ["_uuid", "name", "interfaces", "bond_mode"],
    "Interface": ["_uuid", "name", "type", "options"],
}


@dataclass(frozen=True, slots=True)
class Bond:
    """Several devices that Open vSwitch uses as one; ``all_carry``: at once, not one and the others in reserve."""

    members: tuple[str, ...]
    all_carry: bool


@dataclass(frozen=True, slots=True)
class Switches:
    """The devices behind each bridge, and the bonds among them. A bond is no device of the kernel."""

    bridges: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    bonds: Mapping[str, Bond] = field(default_factory=dict)


def read_switches(path: Path = SOCKET) -> Switches:
    """The bridges and bonds; empty if Open vSwitch does not run or does not answer."""
    try:
        return parse_tables(_ask(path))
    except FileNotFoundError:
        return Switches()
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        complaint = f"Open vSwitch does not answer with its bridges at {path}: {error!r}"
        if (
            complaint not in _complaints and len(_complaints) < _MOST_COMPLAINTS
        ):  # OVSDB is asked four times a minute, and access may be denied for good
            _complaints.add(complaint)
            log.warning("%s", complaint)
        return Switches()


def parse_tables(rows: Mapping[str, Iterable[Mapping[str, Any]]]) -> Switches:
    """Bridges and bonds from the rows of the tables Bridge, Port and Interface.

    A patch port is replaced by the bridge that holds its peer.
    """
    interfaces = {row["_uuid"][1]: row for row in rows["Interface"]}
    ports = {row["_uuid"][1]: (row, [interfaces[uuid] for uuid in _uuids(row["interfaces"])]) for row in rows["Port"]}
    bridges = {row["name"]: [ports[uuid] for uuid in _uuids(row["ports"])] for row in rows["Bridge"]}
    holder = {member["name"]: bridge for bridge, held in bridges.items() for _, members in held for member in members}

    def device(member: Mapping[str, Any]) -> str:
        if member["type"] != "patch":
            return str(member["name"])
        return str(holder.get(dict(member["options"][1]).get("peer", ""), ""))

    return Switches(
        bridges={
            bridge: tuple(
                sorted(
                    port["name"] if len(members) > 1 else device(members[0])
                    for port, members in held
                    if members and members[0]["name"] != bridge
                )
            )
            for bridge, held in bridges.items()
        },
        bonds={
            port["name"]: Bond(
                tuple(sorted(member["name"] for member in members)),
                all_carry=port["bond_mode"] in ("balance-slb", "balance-tcp"),
            )
            for port, members in ports.values()
            if len(members) > 1
        },
    )


def _uuids(value: list[Any]) -> list[str]:
    """OVSDB writes a set of one as its member: ``["uuid", x]`` or ``["set", [["uuid", x], ...]]``."""
    return [value[1]] if value[0] == "uuid" else [member[1] for member in value[1]]


def _ask(path: Path) -> dict[str, list[dict[str, Any]]]:
    operations = [
        {"op": "select", "table": table, "where": [], "columns": columns} for table, columns in _TABLES.items()
    ]
    question = {"method": "transact", "params": ["Open_vSwitch", *operations], "id": 0}
    received, until = bytearray(), time.monotonic() + _TIMEOUT_SECONDS
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_TIMEOUT_SECONDS)
        connection.connect(str(path))
        connection.sendall(json.dumps(question).encode())
        while len(received) < _MOST_BYTES:
            if (left := until - time.monotonic()) <= 0:
                raise TimeoutError("no whole answer in time")
            connection.settimeout(left)
            part = connection.recv(_MOST_BYTES)
            if not part:
                raise ConnectionError("it closed the connection")
            received += part
            if not part.endswith(b"}"):  # not all of it yet
                continue
            try:
                answer = json.loads(received)
            except ValueError:  # a part ended there by chance
                continue
            return {table: result["rows"] for table, result in zip(_TABLES, answer["result"], strict=True)}
    raise ValueError("its answer is too long")
