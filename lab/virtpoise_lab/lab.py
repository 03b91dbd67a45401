"""The lab as a whole: ``Lab.up`` starts it, ``Lab.attach`` finds it again, ``down`` ends it."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from types import TracebackType
from typing import Self

import libvirt

from virtpoise_lab import artefacts, model, requirements, state
from virtpoise_lab.boot import BOOT_SECONDS, Boot, divided
from virtpoise_lab.ending import alive, clean_up, down
from virtpoise_lab.errors import LabError
from virtpoise_lab.host import Host
from virtpoise_lab.model import DomainSpec, HostSpec, Kind, Load
from virtpoise_lab.state import State


class Lab(Boot):
    """A running lab. As a context manager it ends with the block."""

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
            share = divided(capacity)[1]
            self._edit(lambda s: replace(s, capacity=capacity, share=share))
            self._write_names([*(h.spec for h in now.hosts), HostSpec(number)])
            self._boot_host(HostSpec(number), now.host_memory)
            if share != now.share:
                for known in now.hosts:
                    self._limit(known.spec)
                for spec in now.domains:
                    if not spec.paused:
                        self._tell(spec, spec.load, self.state, BOOT_SECONDS)
        return self.host(HostSpec(number).name)

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
