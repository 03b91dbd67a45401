"""What a domain's QEMU itself reports, by a monitor of its own beside libvirt's."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any


class Guest:
    """The run state of a domain's QEMU on one host; None where no QEMU answers. One thread at a time asks."""

    def __init__(self, path: Path, patience_seconds: float = 2.0) -> None:
        self._path = path
        self._patience_seconds = patience_seconds
        self._socket: socket.socket | None = None
        self._file: Any = None

    def state(self) -> str | None:
        """The state as QEMU names it: running, paused, inmigrate, postmigrate, finish-migrate and others."""
        try:
            if self._socket is None:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                self._socket.settimeout(self._patience_seconds)
                self._socket.connect(str(self._path))
                self._file = self._socket.makefile("r")
                self._file.readline()
                self._ask("qmp_capabilities")
            return str(self._ask("query-status")["status"])
        except (OSError, ValueError, KeyError):
            self.close()
            return None

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket = self._file = None

    def _ask(self, what: str) -> Any:
        assert self._socket is not None
        self._socket.sendall(json.dumps({"execute": what}).encode() + b"\n")
        while True:
            reply = json.loads(self._file.readline())
            if "return" in reply:
                return reply["return"]
