"""The ports of Open vSwitch bridges, from OVSDB where it runs: sysfs does not have them.

Protocol: RFC 7047, JSON-RPC over a Unix socket. Schema: ovs-vswitchd.conf.db(5).
"""

import json
import socket
import time
from collections.abc import Iterable, Mapping
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
    "Port": ["_uuid", "interfaces"],
    "Interface": ["_uuid", "name", "type", "options"],
}


def bridge_ports(path: Path = SOCKET) -> dict[str, tuple[str, ...]]:
    """The devices behind each bridge; empty if Open vSwitch does not run or does not answer."""
    try:
        return parse_tables(_ask(path))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        complaint = f"Open vSwitch does not answer with its bridges at {path}: {error!r}"
        if (
            complaint not in _complaints and len(_complaints) < _MOST_COMPLAINTS
        ):  # OVSDB is asked four times a minute, and access may be denied for good
            _complaints.add(complaint)
            log.warning("%s", complaint)
        return {}


def parse_tables(rows: Mapping[str, Iterable[Mapping[str, Any]]]) -> dict[str, tuple[str, ...]]:
    """Bridges and their devices from the rows of the tables Bridge, Port and Interface.

    A patch port is replaced by the bridge that holds its peer.
    """
    interfaces = {row["_uuid"][1]: row for row in rows["Interface"]}
    ports = {row["_uuid"][1]: [interfaces[uuid] for uuid in _uuids(row["interfaces"])] for row in rows["Port"]}
    bridges = {
        row["name"]: [interface for uuid in _uuids(row["ports"]) for interface in ports[uuid]] for row in rows["Bridge"]
    }
    holder = {interface["name"]: bridge for bridge, members in bridges.items() for interface in members}
    return {
        bridge: tuple(
            sorted(
                holder.get(dict(member["options"][1]).get("peer", ""), "")
                if member["type"] == "patch"
                else member["name"]
                for member in members
                if member["name"] != bridge
            )
        )
        for bridge, members in bridges.items()
    }


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
