"""A worker process: reads requests, calls libvirt, writes replies, one after another, over the socket that is its
standard input.

A request is one line of JSON, ``{"do": NAME, "uri": URI, "arguments": [...]}``; its reply is one line, ``{"value":
...}`` or ``{"error": LINE}``. Before the first request it writes ``{}``: it is ready. A worker leads its own process
group. When the other end of the socket is closed, it kills that group: itself, in the midst of whatever call, and the
ssh that libvirt may have started.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, is_dataclass
from typing import Any
from xml.etree import ElementTree

import libvirt

from virtpoise_balancer.execute.worker import domains, leaving, migration, probe, storage
from virtpoise_balancer.execute.worker.connection import LibvirtConnection, hidden_message, message, prepare

_CALLS: Mapping[str, Callable[..., object]] = {
    "connect": lambda _connection: None,
    "active_domains": domains.active_domains,
    "presence": domains.presence,
    "between_hosts": domains.between_hosts,
    "migration_job": domains.migration_job,
    "is_worked_on": domains.is_worked_on,
    "completed_job": domains.completed_job,
    "migrate": migration.migrate,
    "dirty_rate": migration.dirty_rate,
    "set_bandwidth": migration.set_bandwidth,
    "switch": migration.switch,
    "abort": domains.abort,
    "undefine": domains.undefine,
    "resume": domains.resume,
    "suspend": domains.suspend,
    "describe": domains.describe,
    "facts": probe.facts,
    "reaches": probe.reaches,
    "leaving": leaving.leaving,
    "verdicts": probe.verdicts,
    "runs_cpu": probe.runs_cpu,
    "unseen": probe.unseen,
    "present": storage.present,
    "make_room": storage.make_room,
    "discard": storage.discard,
}


_MOST_SHOWN = 300


def main() -> None:
    """Serve until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    prepare()
    requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    with socket.socket(fileno=0) as wire:
        threading.Thread(target=_read, args=(wire, requests), name="requests", daemon=True).start()
        connection = LibvirtConnection()
        reply = b"{}"
        while True:
            try:
                wire.sendall(reply + b"\n")
            except OSError:
                _end()
            reply = _reply(connection, json.loads(requests.get()))


def _read(wire: socket.socket, requests: queue.SimpleQueue[bytes]) -> None:
    # An error: the other end was closed with a reply unread.
    with suppress(OSError), wire.makefile("rb") as lines:
        for line in lines:
            requests.put(line)
    _end()


def _end() -> None:
    os.killpg(0, signal.SIGKILL)


def _reply(connection: LibvirtConnection, request: Mapping[str, Any]) -> bytes:
    try:
        value = _CALLS[request["do"]](connection.to(request["uri"]), *request["arguments"])
        return json.dumps({"value": value}, default=_plain).encode()
    except libvirt.libvirtError as error:
        return json.dumps({"error": message(error), "lost": connection.lost}).encode()
    except (storage.StorageError, domains.LeftAlone) as error:
        return json.dumps({"error": str(error)}).encode()
    except ElementTree.ParseError as error:
        return json.dumps({"error": f"libvirt's XML cannot be read: {error}"}).encode()
    except Exception as error:  # one host's odd answer ends no worker
        unforeseen = f"unforeseen: {type(error).__name__}: {str(error)[:_MOST_SHOWN]}"
        return json.dumps({"error": hidden_message(error) or unforeseen}).encode()


def _plain(value: object) -> object:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else list(value)  # type: ignore[call-overload]


if __name__ == "__main__":
    main()
