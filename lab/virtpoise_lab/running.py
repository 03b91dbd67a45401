"""A lab that runs: its hosts, where its domains are, and the processes that it has started."""

import signal
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import libvirt

from virtpoise_lab import cgroups, console, processes, state
from virtpoise_lab import host as hosts_
from virtpoise_lab.cgroups import Group
from virtpoise_lab.ending import MANAGER
from virtpoise_lab.errors import LabError
from virtpoise_lab.host import Host, HostProcess
from virtpoise_lab.model import DomainSpec, Load
from virtpoise_lab.state import Started, State
from virtpoise_lab.status import HostStatus, status_of


class Running:
    """What is there of a lab, and what it runs."""

    def __init__(self) -> None:
        self._mounts = cgroups.mounted()
        self._hosts: dict[str, Host] = {}
        self._children: list[subprocess.Popen[bytes]] = []

    @property
    def state(self) -> State:
        now = state.read()
        if now is None:
            raise LabError("the lab is down")
        return now

    @property
    def hosts(self) -> tuple[Host, ...]:
        return tuple(self.host(h.spec.name) for h in self.state.hosts)

    def host(self, name: str) -> Host:
        if name not in self._hosts:
            known = self.state.host(name)
            self._hosts[name] = Host(known.spec, known.init, Group(self._mounts, name), self._started_in)
        return self._hosts[name]

    def where(self, name: str) -> str | None:
        """The host that this domain runs on now (or is paused on, in bulk mode); None if it runs nowhere."""
        spec = self.state.domain(name)
        wanted = libvirt.VIR_DOMAIN_PAUSED if spec.paused else libvirt.VIR_DOMAIN_RUNNING
        for host in self.hosts:
            try:
                if host.connection().lookupByUUIDString(spec.uuid).state()[0] == wanted:
                    return host.name
            except libvirt.libvirtError:  # not there, or just leaving
                continue
        return None

    def status(self) -> tuple[HostStatus, ...]:
        """Every host with what it reads of itself over half a second, and the domains that run on it."""
        with ThreadPoolExecutor(16) as pool:
            return tuple(pool.map(status_of, self.hosts))

    def spawn(self, command: Sequence[str], name: str | None = None, **options: Any) -> subprocess.Popen[bytes]:
        """Starts a process on the manager's side and records it; ``down`` ends it. Output as with ``Host.popen``."""
        name = name or Path(command[0]).name
        process = self._spawn(Group(self._mounts, MANAGER), command, name, **options)
        self._record(Started(name, None, processes.process(process.pid)))
        return process

    def stop(self, name: str, host: str | None = None, seconds: float = 10) -> None:
        """Ends the process that was started under this name (on that host) and waits for its end."""
        now = self.state
        found = [p for p in now.processes if p.name == name and p.host == host]
        if not found:
            raise LabError(f"no process {name!r} was started on {host or 'the manager’s side'}")
        for started in found:
            group = Group(self._mounts, host or MANAGER)
            inner = processes.child_of(started.process.pid, group.pids()) if host else None
            (processes.process(inner) if inner else started.process).signal(signal.SIGTERM)
        processes.wait_until(lambda: not any(p.process.alive() for p in found), seconds, f"the end of {name}")
        self._edit(lambda s: replace(s, processes=tuple(p for p in s.processes if p not in found)))

    def pid(self, name: str, host: str | None = None) -> int:
        """The number of the process that was started last under this name (on that host), for signals."""
        found = [p.process for p in self.state.processes if p.name == name and p.host == host and p.process.alive()]
        if not found:
            raise LabError(f"no process {name!r} runs on {host or 'the manager’s side'}")
        if host is None:
            return found[-1].pid
        inner = processes.child_of(found[-1].pid, Group(self._mounts, host).pids())
        if inner is None:
            raise LabError(f"{name} of {host} has ended")
        return inner

    def _tell(self, spec: DomainSpec, load: Load, now: State, seconds: float) -> None:
        def socket() -> Path:
            host = self.where(spec.name)
            if host is None:
                raise LabError("it runs nowhere")
            return self.host(host).console(spec.name)

        words = console.words(load, now.share)
        try:
            console.tell(socket, words, seconds)
        except LabError as error:
            raise LabError(f"domain {spec.name}: {error}") from None

    def _reap(self) -> None:
        for child in self._children:
            child.wait()

    def _spawn(self, group: Group, command: Sequence[str], name: str, **options: Any) -> subprocess.Popen[bytes]:
        with hosts_.open_log(name) as log:
            options = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log, "start_new_session": True, **options}
            process = subprocess.Popen(group.joining(list(command)), **options)
        self._children.append(process)
        return process

    def _started_in(self, name: str, host: Host, process: HostProcess) -> None:
        self._children.append(process)
        self._record(Started(name, host.name, processes.process(process.pid)))

    def _record(self, started: Started) -> None:
        self._edit(lambda s: replace(s, processes=(*(p for p in s.processes if p.process.alive()), started)))

    def _edit(self, change: Callable[[State], State]) -> None:
        with state.locked(state.FOLDER):
            state.write(change(self.state))
