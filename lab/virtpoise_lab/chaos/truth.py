"""What the domains' QEMUs themselves do, over time. It asks no libvirt, so it sees on when all of them hang."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from virtpoise_lab.chaos.plan import RENAMED
from virtpoise_lab.host import Host
from virtpoise_lab.lab import Lab
from virtpoise_lab.qmp import Guest

_LOOK_SECONDS = 0.03
# A QEMU that is stopped must not hold up the looks at the others for long.
_PATIENCE_SECONDS = 0.25
RUNNING, _SILENT = "running", "silent"

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
                if (domain, host.name) not in self._guests:
                    self._guests[domain, host.name] = Guest(host.monitor(domain), _PATIENCE_SECONDS)
                now[domain, host.name] = self._ask((domain, host.name))
        states = asked_again(now, self._ask)
        if not self.changes or self.changes[-1][1] != states:
            self.changes.append((time.time(), states))

    def _ask(self, guest: tuple[str, str]) -> str:
        return self._guests[guest].state() or _SILENT


def asked_again(states: States, ask: Callable[[tuple[str, str]], str]) -> States:
    """The states of one look, with those of a domain that seems to run twice asked for once more.

    A look takes time, more of it on a busy machine: the domain may have been handed over in the midst of it.
    """
    running = [domain for (domain, _), state in states.items() if state == RUNNING]
    return {guest: ask(guest) if running.count(guest[0]) > 1 else state for guest, state in states.items()}


def qemus(host: Host, known: dict[int, str] | None = None) -> dict[str, int]:
    """The QEMUs that run on a host: domain, by its first name, and process number. ``known``: names by number, kept
    between calls.
    """
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
    return {pid: name.decode().removeprefix("guest=").partition(",")[0].removesuffix(RENAMED)} if name else {}
