"""What the domains' QEMUs themselves do, over time. It asks no libvirt, so it sees on when all of them hang."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from virtpoise_lab.host import Host
from virtpoise_lab.lab import Lab
from virtpoise_lab.qmp import Guest

_LOOK_SECONDS = 0.03
# A QEMU that is stopped must not hold up the looks at the others for long.
_PATIENCE_SECONDS = 0.25
_SILENT = "silent"

# (domain, host) and the QEMU's own word for its state; "silent" for one that does not answer.
States = Mapping[tuple[str, str], str]


@dataclass
class Watch:
    """A thread that looks. ``changes``: Unix seconds and the states from then on; the newest is last."""

    lab: Lab
    changes: list[tuple[float, States]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._guests: dict[tuple[str, str], Guest] = {}
        self._domains: dict[int, str] = {}
        self._stop = threading.Event()
        self._look()
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self._thread.start()

    @property
    def now(self) -> States:
        return self.changes[-1][1]

    def state(self, domain: str, host: str) -> str | None:
        return self.now.get((domain, host))

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        for guest in self._guests.values():
            guest.close()

    def _loop(self) -> None:
        while not self._stop.wait(_LOOK_SECONDS):
            self._look()

    def _look(self) -> None:
        now: dict[tuple[str, str], str] = {}
        for host in self.lab.hosts:
            for domain in qemus(host, self._domains):
                known = self._guests.setdefault((domain, host.name), Guest(host.monitor(domain), _PATIENCE_SECONDS))
                now[domain, host.name] = known.state() or _SILENT
        if not self.changes or self.changes[-1][1] != now:
            self.changes.append((time.time(), now))


def qemus(host: Host, known: dict[int, str] | None = None) -> dict[str, int]:
    """The QEMUs that run on a host: domain and process number. ``known``: names by number, kept between calls."""
    names = {} if known is None else known
    found: dict[str, int] = {}
    for pid in host.group.pids():
        if pid not in names:
            with suppress(OSError):
                names.update(_named(pid))
        if pid in names:
            found[names[pid]] = pid
    return found


def _named(pid: int) -> dict[int, str]:
    words = Path("/proc", str(pid), "cmdline").read_bytes().split(b"\0")
    if b"qemu" not in words[0]:
        return {}
    name = next((word for word in words if word.startswith(b"guest=")), b"")
    return {pid: name.decode().removeprefix("guest=").partition(",")[0]} if name else {}
