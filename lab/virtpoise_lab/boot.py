"""How a lab comes up: what its hosts share, each host, and the domains."""

import math
import os
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import libvirt

from virtpoise_lab import acceleration, artefacts, cgroups, domain, folders, model, processes, requirements, state
from virtpoise_lab import host as hosts_
from virtpoise_lab.cgroups import Group
from virtpoise_lab.ending import BASE, MANAGER, MANAGER_LINK
from virtpoise_lab.errors import LabError
from virtpoise_lab.model import DomainSpec, HostSpec
from virtpoise_lab.processes import Process
from virtpoise_lab.running import Running
from virtpoise_lab.state import HostState, Started, State

MIB = 1 << 20
# A first boot of many guests on two busy CPUs takes its time when they are emulated.
BOOT_SECONDS = 120.0


class Boot(Running):
    """Boots hosts and starts domains."""

    def add_domains(self, specs: Iterable[DomainSpec]) -> None:
        """Starts more domains and waits until each guest has answered."""
        now = self.state
        names = tuple(h.spec.name for h in now.hosts)
        placed = model.placed((*now.domains, *specs), names)[len(now.domains) :]
        self._edit(lambda s: replace(s, domains=(*s.domains, *placed)))
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(self._start_domain, placed))
            list(pool.map(self._await_guest, placed))

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
        made = tuple(str(folder) for folder in folders.claim(folders.LIBVIRT, state.NAME))
        share = divided(capacity)[1]
        memory = (memory_mib or model.memory_for(specs)) * MIB
        state.write(State(capacity=capacity, spare=spare, share=share, host_memory=memory, folders_made=made))
        for name in (BASE, MANAGER):
            Group(self._mounts, name).create()
        cgroups.weigh(self._mounts, 3 if background else _weight() * len(os.sched_getaffinity(0)))
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
        cpus, share = divided(self.state.capacity)
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
            self._tell(spec, spec.load, self.state, BOOT_SECONDS)

    def _write_names(self, specs: list[HostSpec]) -> None:
        """Names every host to every host. Written in place: the hosts have this very file mounted as /etc/hosts."""
        lines = ["127.0.0.1 localhost", f"{model.MANAGER_ADDRESS} manager", *(f"{s.address} {s.name}" for s in specs)]
        (state.FOLDER / "hosts").write_text("\n".join(lines) + "\n")

    def _spawn_base(self, name: str, command: list[str], *, log: str | None = None, **options: Any) -> Process:
        process = processes.process(self._spawn(Group(self._mounts, BASE), command, log or name, **options).pid)
        self._record(Started(name, None, process))
        return process


def _weight() -> int:
    """The lab's share of each CPU, as a number of busy processes.

    Others, booted machines too, get what the first lab leaves, and a lab beside it as well.
    """
    return 128 if state.NAME == state.FIRST else 4


def divided(capacity: int) -> tuple[list[int], float]:
    """The machine's CPUs in the order in which hosts take them, and the part of one that each host gets.

    The part is the same for all, so that guests may move. A lab beside the first one takes the last CPU first: the
    first host of a lab is most often the busy one.
    """
    cpus = sorted(os.sched_getaffinity(0), reverse=state.NAME != state.FIRST)
    return cpus, 1 / math.ceil(capacity / len(cpus))
