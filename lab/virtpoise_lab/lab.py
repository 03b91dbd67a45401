"""The lab as a whole: ``Lab.up`` starts it, ``Lab.attach`` finds it again, ``down`` ends it."""

import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import libvirt

from virtpoise_lab import acceleration, artefacts, cgroups, console, domain, model, processes, requirements, state
from virtpoise_lab import host as hosts_
from virtpoise_lab.cgroups import Group
from virtpoise_lab.ending import BASE, MANAGER, MANAGER_LINK, alive, clean_up, down
from virtpoise_lab.errors import LabError
from virtpoise_lab.host import Host, HostProcess
from virtpoise_lab.model import DomainSpec, HostSpec, Kind, Load
from virtpoise_lab.processes import Process
from virtpoise_lab.state import HostState, Started, State
from virtpoise_lab.status import HostStatus, status_of

MIB = 1 << 20
# A first boot of many guests on two busy CPUs takes its time when they are emulated.
_BOOT_SECONDS = 120.0


class Lab:
    """A running lab. As a context manager it ends with the block."""

    def __init__(self) -> None:
        self._mounts = cgroups.mounted()
        self._hosts: dict[str, Host] = {}
        self._children: list[subprocess.Popen[bytes]] = []

    # ---- life

    @classmethod
    def up(
        cls,
        hosts: int = 2,
        domains: Iterable[DomainSpec] = (),
        *,
        capacity: int | None = None,
        spare: float = 0.0,
        host_memory_mib: int | None = None,
        replace_live: bool = False,
        background: bool = False,
        say: Callable[[str], None] = lambda _line: None,
    ) -> "Lab":
        """Starts a lab of hosts h1, h2, ... and waits until every guest has answered.

        capacity: for how many hosts the machine's CPUs are divided (default: ``hosts``), so that hosts that join later
        leave the first ones as they are. spare: the part of its CPU time that each host is expected to leave idle. What
        others take of that part is no loss to guests that catch up, and is not shown as steal.
        host_memory_mib: each host's memory (default: enough for what starts).
        background: whatever else runs on this machine goes before the lab; without it a host's CPU is its own.
        A lab that crashed is cleaned up first; one that lives is refused unless replace_live.
        Raises LabError, with nothing left behind, if something is missing or does not start.
        """
        requirements.check()
        if not 1 <= hosts <= 200:
            raise LabError(f"hosts {hosts}: expected 1 to 200")
        names = tuple(HostSpec(number).name for number in range(1, hosts + 1))
        specs = model.placed(tuple(domains), names)
        with state.locked(artefacts.CACHE):
            old = state.read()
            if old is not None:
                if alive(old) and not replace_live:
                    raise LabError("a lab is up already: `down` ends it, `up --replace` puts a new one in its place")
                say("cleaning up the lab that was")
                clean_up(old)
            lab = cls()
            try:
                lab._start(hosts, specs, max(capacity or hosts, hosts), spare, host_memory_mib, background, say)
            except BaseException:
                clean_up(state.read() or State())
                lab._reap()
                raise
        return lab

    @classmethod
    def attach(cls) -> "Lab":
        """The lab that is up; raises LabError if none is."""
        requirements.check()
        now = state.read()
        if now is None:
            raise LabError("no lab is up: `python -m virtpoise_lab up` starts one")
        if not alive(now):
            raise LabError("the lab has crashed: `down` cleans it up, `up` starts a new one")
        return cls()

    def down(self) -> None:
        """Ends everything the lab has started."""
        for host in self._hosts.values():
            host.disconnect()
        down()
        self._reap()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    # ---- what is there

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

    # ---- what can be changed

    def load(
        self,
        name: str,
        cpu: float | None = None,
        *,
        kind: Kind | None = None,
        dirty: float | None = None,
        traffic: float | None = None,
        seconds: float = 30,
    ) -> Load:
        """Changes the load of a running domain, wherever it is now; returns when the guest has taken it.

        What is not given stays as it was. Units: see ``Load``. Raises LabError if the guest has not answered in time.
        """
        now = self.state
        spec = now.domain(name)
        if spec.paused:
            raise LabError(f"domain {name} is paused: it takes no load")
        load = spec.load.changed(cpu, kind, dirty, traffic)
        model.check_load(name, load, spec.vcpus)
        self._tell(spec, load, now, seconds)
        self._edit(lambda s: s.with_load(name, load))
        return load

    def migrate(self, name: str, destination: str) -> str:
        """Moves a domain live and peer to peer, as the balancer does; returns the name of the host it left."""
        target = self.host(destination)
        source = self.where(name)
        if source is None:
            raise LabError(f"domain {name} runs nowhere")
        if source == destination:
            raise LabError(f"domain {name} runs on {destination} already")
        flags = (
            libvirt.VIR_MIGRATE_LIVE
            | libvirt.VIR_MIGRATE_PEER2PEER
            | libvirt.VIR_MIGRATE_PERSIST_DEST
            | libvirt.VIR_MIGRATE_UNDEFINE_SOURCE
        )
        try:
            moving = self.host(source).connection().lookupByUUIDString(self.state.domain(name).uuid)
            moving.migrateToURI3(target.uri, {}, flags)
        except libvirt.libvirtError as error:
            raise LabError(f"domain {name} does not move from {source} to {destination}: {error}") from None
        return source

    def add_host(self) -> Host:
        """Boots one more host, with no domain on it.

        Where the CPUs were divided for fewer hosts they are divided again, and the guests keep their percentage.
        """
        with state.locked(artefacts.CACHE):
            now = self.state
            number = max(h.number for h in now.hosts) + 1
            capacity = max(now.capacity, len(now.hosts) + 1)
            share = _divided(capacity)[1]
            self._edit(lambda s: replace(s, capacity=capacity, share=share))
            self._write_names([*(h.spec for h in now.hosts), HostSpec(number)])
            self._boot_host(HostSpec(number), now.host_memory)
            if share != now.share:
                for known in now.hosts:
                    self._limit(known.spec)
                for spec in now.domains:
                    if not spec.paused:
                        self._tell(spec, spec.load, self.state, _BOOT_SECONDS)
        return self.host(HostSpec(number).name)

    def add_domains(self, specs: Iterable[DomainSpec]) -> None:
        """Starts more domains and waits until each guest has answered."""
        now = self.state
        names = tuple(h.spec.name for h in now.hosts)
        placed = model.placed((*now.domains, *specs), names)[len(now.domains) :]
        self._edit(lambda s: replace(s, domains=(*s.domains, *placed)))
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(self._start_domain, placed))
            list(pool.map(self._await_guest, placed))

    def remove_domain(self, name: str) -> None:
        """Ends a domain, wherever it runs, and undefines it on every host."""
        uuid = self.state.domain(name).uuid
        for host in self.hosts:
            try:
                found = host.connection().lookupByUUIDString(uuid)
            except libvirt.libvirtError:
                continue
            if found.isActive():
                found.destroy()
            if found.isPersistent():
                found.undefine()
        self._edit(lambda s: replace(s, domains=tuple(known for known in s.domains if known.name != name)))

    def expect_spare(self, spare: float) -> None:
        """Changes what each host is expected to leave idle: see ``up``."""
        self._edit(lambda s: replace(s, spare=spare))

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

    # ---- how

    def _reap(self) -> None:
        for child in self._children:
            child.wait()

    def _start(
        self,
        count: int,
        specs: tuple[DomainSpec, ...],
        capacity: int,
        spare: float,
        memory_mib: int | None,
        background: bool,
        say: Callable[[str], None],
    ) -> None:
        artefacts.initramfs()
        state.FOLDER.mkdir()
        made = tuple(str(f) for f in _libvirt_folders() if not f.exists())
        share = _divided(capacity)[1]
        memory = (memory_mib or model.memory_for(specs)) * MIB
        state.write(State(capacity=capacity, spare=spare, share=share, host_memory=memory, folders_made=made))
        for folder in made:
            Path(folder).mkdir(parents=True)
        for name in (BASE, MANAGER):
            Group(self._mounts, name).create()
        # As much as 128 processes on each CPU: others, booted machines too, get what the hosts leave.
        cgroups.weigh(self._mounts, 3 if background else 128 * len(os.sched_getaffinity(0)))
        all_hosts = [HostSpec(number) for number in range(1, count + 1)]
        self._write_names(all_hosts)
        with ThreadPoolExecutor(8) as pool:
            kind = pool.submit(acceleration.found)
            self._mount_lxcfs()
            self._make_switch()
            list(pool.map(lambda spec: self._boot_host(spec, memory), all_hosts))
            say(f"{count} host{'s' * (count > 1)}: {', '.join(spec.name for spec in all_hosts)}")
            self._edit(lambda s: replace(s, acceleration=kind.result()))
            say(f"guests run with {'KVM' if kind.result() == 'kvm' else 'TCG: KVM runs no guest on this machine'}")
        self.add_domains(specs)
        self._edit(lambda s: replace(s, complete=True))

    def _mount_lxcfs(self) -> None:
        mount = hosts_.LXCFS_MOUNT
        mount.mkdir()
        options = ["--foreground", "--enable-cfs", "--enable-loadavg", "--pidfile", str(state.FOLDER / "lxcfs.pid")]
        environment = {**os.environ, "LD_LIBRARY_PATH": ":".join(map(str, requirements.LXCFS_LIBRARIES))}
        command = [str(requirements.LXCFS), *options, str(mount)]
        self._spawn_base("lxcfs", command, env=environment)
        processes.wait_until((mount / "proc" / "stat").exists, 10, f"lxcfs mounted at {mount}")

    def _serve_stat(self, spec: HostSpec) -> None:
        file = hosts_.folder_of(spec) / "stat"
        file.touch()
        server = [sys.executable, "-m", "virtpoise_lab.procstat", spec.name, str(file)]
        self._spawn_base("procstat", server, log=f"{spec.name}-procstat")
        processes.wait_until(lambda: bool(file.read_text()), 10, f"the figures of {spec.name} at {file}")

    def _make_switch(self) -> None:
        """The switch that connects the hosts, in a network namespace of its own: no firewall of this machine
        meddles.
        """
        switch = self._spawn_base("switch", ["unshare", "--net", "sleep", "infinity"])
        ours = Path("/proc/self/ns/net").readlink()
        theirs = Path(f"/proc/{switch.pid}/ns/net")
        processes.wait_until(lambda: theirs.readlink() != ours, 10, "the switch's network namespace")
        hosts_.ip(switch, "link add switch type bridge", "link set switch up")
        hosts_.ip(
            None,
            f"link add {MANAGER_LINK} address 02:76:70:00:00:fe type veth peer name manager netns {switch.pid}",
            f"addr add {model.MANAGER_ADDRESS}/24 dev {MANAGER_LINK}",
            f"link set {MANAGER_LINK} up",
        )
        hosts_.ip(switch, "link set manager master switch up")

    def _boot_host(self, spec: HostSpec, memory: int) -> None:
        group = Group(self._mounts, spec.name)
        group.create()
        self._limit(spec)
        group.limit_memory(memory)
        hosts_.prepare(spec)
        self._serve_stat(spec)
        init, child = hosts_.boot(spec, group)
        self._children.append(child)
        switch = next(p.process for p in self.state.processes if p.name == "switch")
        hosts_.plug_in(spec, init, switch)
        self._edit(
            lambda s: replace(s, hosts=tuple(sorted((*s.hosts, HostState(spec.number, init)), key=lambda h: h.number)))
        )
        self.host(spec.name).start_libvirtd()

    def _limit(self, spec: HostSpec) -> None:
        cpus, share = _divided(self.state.capacity)
        # One CPU, never parts of several: lxcfs counts what a host uses per CPU, and loses track of one that wanders.
        Group(self._mounts, spec.name).limit_cpu(cpus[(spec.number - 1) % len(cpus)], share if share < 1 else None)

    def _start_domain(self, spec: DomainSpec) -> None:
        assert spec.host is not None
        now = self.state
        try:
            defined = self.host(spec.host).connection().defineXML(domain.xml(spec, now.acceleration, now.share))
            defined.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED if spec.paused else 0)
        except libvirt.libvirtError as error:
            raise LabError(f"domain {spec.name} does not start on {spec.host}: {error}") from None

    def _await_guest(self, spec: DomainSpec) -> None:
        if not spec.paused:
            self._tell(spec, spec.load, self.state, _BOOT_SECONDS)

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

    def _write_names(self, specs: list[HostSpec]) -> None:
        """Names every host to every host. Written in place: the hosts have this very file mounted as /etc/hosts."""
        lines = ["127.0.0.1 localhost", f"{model.MANAGER_ADDRESS} manager", *(f"{s.address} {s.name}" for s in specs)]
        (state.FOLDER / "hosts").write_text("\n".join(lines) + "\n")

    def _spawn_base(self, name: str, command: list[str], *, log: str | None = None, **options: Any) -> Process:
        process = processes.process(self._spawn(Group(self._mounts, BASE), command, log or name, **options).pid)
        self._record(Started(name, None, process))
        return process

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


def _libvirt_folders() -> tuple[Path, ...]:
    return Path("/var/lib/libvirt"), Path("/var/log/libvirt"), Path("/var/cache/libvirt")


def _divided(capacity: int) -> tuple[list[int], float]:
    """The CPUs this machine has, and the part of one that each host gets: the same for all, so that guests may move."""
    cpus = sorted(os.sched_getaffinity(0))
    return cpus, 1 / math.ceil(capacity / len(cpus))
