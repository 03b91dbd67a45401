"""Random groups whose hosts and domains differ in what libvirt looks at, and a referee that knows what it would refuse.

Shares no code with the product's rules: the referee goes by what was drawn, and the balancer sees only what libvirt
would say of it.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from random_groups import random_group
from virtpoise_balancer.errors import LibvirtError
from virtpoise_balancer.execute.facts import Bound, Hardware, HardwareVerdict, HostFacts, Pool
from virtpoise_balancer.execute.worker.needs import needs
from virtpoise_balancer.model import Policy, Rule, Snapshot

_KINDS = {
    "snapshots": "cannot migrate domain with 1 snapshots",
    "job": "domain has active block job",
    "storage": "Unsafe migration: Migration without shared storage is unsafe",
    "device": "cannot migrate domain: VFIO device doesn't support migration",
}


@dataclass
class Equipment:
    """A host.

    ``level``: of its CPU; ``answers``: the balancer reaches its libvirt; ``tells``: that says of a domain whether it
    may leave; ``store``: the file server that is mounted where images are; ``pooled``: a storage pool tells of them.
    """

    bridges: set[str]
    networks: set[str]
    pools: set[str]
    machines: set[str]
    level: int
    cpus: int
    nodes: int
    store: str = "a"
    pooled: bool = True
    answers: bool = True
    tells: bool = True


@dataclass
class Guest:
    """A domain.

    ``own``: it has its host's own CPU; ``file``: it has a disk by its path; ``held``: what libvirt says when it is to
    leave, by the kind.
    """

    host: str
    name: str
    bridge: str
    machine: str
    level: int
    network: str | None = None
    pool: str | None = None
    own: bool = False
    pins: tuple[int, ...] = ()
    node: int | None = None
    usb: bool = False
    file: bool = False
    held: str | None = None


@dataclass
class Libvirt:
    """The hosts' daemons, as far as the balancer asks them. ``looks``: how often a host was looked at."""

    hosts: dict[str, Equipment]
    guests: dict[str, Guest]
    looks: list[str] = field(default_factory=list)

    def facts(self, host: str) -> HostFacts:
        self.looks.append(host)
        there = self._at(host)
        own = f"<cpu><model>level{there.level}</model></cpu>"
        return HostFacts(
            libvirt_version=9_000_000,
            hypervisor_version=7_002_000,
            cpu=own,
            devices=frozenset(there.bridges | {"eth0"}),
            networks=frozenset(there.networks),
            pools={name: Pool() for name in there.pools},
            cpus=frozenset(range(there.cpus)),
            nodes=frozenset(range(there.nodes)),
            domains=tuple(
                needs(_description(uuid, guest), own, 1 if guest.held == "snapshots" else 0)
                for uuid, guest in self.guests.items()
                if guest.host == host
            ),
        )

    def verdicts(self, host: str, kinds: Sequence[Hardware]) -> tuple[HardwareVerdict, ...]:
        there = self._at(host)
        return tuple(
            HardwareVerdict(
                machine=kind.machine in there.machines,
                cpu=None if kind.cpu is None else int(kind.cpu.partition("level")[2][0]) <= there.level,
            )
            for kind in kinds
        )

    def leaving(
        self, host: str, uuids: Sequence[str], _copyable: Mapping[str, Sequence[str]]
    ) -> dict[str, Bound | None]:
        if not self._at(host).tells:
            return {}
        held = {uuid: self.guests[uuid].held for uuid in uuids}
        return {uuid: Bound(kind=kind, why=_KINDS[kind]) if kind else None for uuid, kind in held.items()}

    def present(self, host: str, images: Sequence[str]) -> dict[str, bool]:
        there = self._at(host)
        store_of = {f"/srv/images/{uuid}": self.hosts[guest.host].store for uuid, guest in self.guests.items()}
        return {one: store_of[one] == there.store for one in images if one in store_of} if there.pooled else {}

    def _at(self, host: str) -> Equipment:
        if not self.hosts[host].answers:
            raise LibvirtError(f"{host}: Connection refused")
        return self.hosts[host]

    # --- the referee --------------------------------------------------------------------------------------------------

    def refuses(self, uuid: str, destination: str) -> str | None:
        """Why a migration of the domain would be refused, or None. Images in no pool's folder count as there."""
        guest, there = self.guests[uuid], self.hosts[destination]
        here = self.hosts[guest.host]
        for refused, why in (
            (guest.held is not None, guest.held),
            (guest.bridge not in there.bridges, "bridge"),
            (guest.network is not None and guest.network not in there.networks, "network"),
            (guest.pool is not None and guest.pool not in there.pools, "pool"),
            (guest.machine not in there.machines, "machine"),
            ((here.level if guest.own else guest.level) > there.level, "cpu"),
            (any(number >= there.cpus for number in guest.pins), "pins"),
            (guest.node is not None and guest.node >= there.nodes, "node"),
            (guest.file and here.store != there.store and there.pooled, "image"),
        ):
            if refused:
                return str(why)
        return None

    def can_know(self, uuid: str, destination: str) -> bool:
        """Whether both hosts answer, so that the reason can be known."""
        return self.hosts[self.guests[uuid].host].answers and self.hosts[destination].answers

    def as_rules(self, snapshot: Snapshot) -> tuple[Rule, ...]:
        """What it refuses, as placement rules for a solver that knows nothing else."""
        rules = []
        for domain in snapshot.domains:
            away = [host for host in self.hosts if host != domain.host and self.refuses(domain.uuid, host)]
            if away:
                rules.append(Rule(name=f"r{domain.name}", kind="never_on", domains=(domain.name,), hosts=tuple(away)))
        return tuple(rules)


def _description(uuid: str, guest: Guest) -> str:
    cpu = (
        "<cpu mode='host-passthrough'/>" if guest.own else f"<cpu mode='custom'><model>level{guest.level}</model></cpu>"
    )
    cards = f"<interface type='bridge'><source bridge='{guest.bridge}'/></interface>"
    if guest.network:
        cards += f"<interface type='network'><source network='{guest.network}'/></interface>"
    disks = f"<disk type='volume'><source pool='{guest.pool}' volume='{uuid}'/></disk>" if guest.pool else ""
    pins = ",".join(map(str, guest.pins))
    tune = f"<cputune><vcpupin vcpu='0' cpuset='{pins}'/></cputune>" if pins else ""
    numa = "" if guest.node is None else f"<numatune><memory mode='strict' nodeset='{guest.node}'/></numatune>"
    if guest.file:
        disks += f"<disk type='file'><source file='/srv/images/{uuid}'/><target dev='vdb'/></disk>"
    devices = "<hostdev mode='subsystem' type='usb'/>" if guest.usb else ""
    if guest.held == "device":
        devices += "<hostdev mode='subsystem' type='pci'/>"
    if guest.held == "job":
        disks += "<disk type='file'><target dev='vda'/><mirror type='file'/></disk>"
    return (
        f"<domain type='kvm'><name>{guest.name}</name><uuid>{uuid}</uuid>{tune}{numa}"
        f"<os><type arch='x86_64' machine='{guest.machine}'>hvm</type></os>{cpu}"
        f"<devices><emulator>/usr/bin/qemu-system-x86_64</emulator>{cards}{disks}{devices}</devices></domain>"
    )


def unequal_group(seed: int) -> tuple[Snapshot, Policy, Libvirt]:
    """A random group, and what libvirt has on its hosts. Each domain has what its own host has."""
    snapshot, policy = random_group(seed)
    rng = random.Random(f"equipment {seed}")
    evenness = rng.random()

    def some(names: Sequence[str], chance: float) -> set[str]:
        return {name for name in names if rng.random() < chance}

    hosts = {
        host.name: Equipment(
            bridges={"br0"} | some(("br1", "br2"), 0.5 + evenness / 2),
            networks=some(("default", "prod"), 0.5 + evenness / 2),
            pools=some(("images", "fast"), 0.5 + evenness / 2),
            machines={"pc-7.2"} | some(("pc-9.0",), 0.6),
            level=3 if rng.random() < evenness else rng.randint(1, 3),
            cpus=host.cpus,
            nodes=rng.randint(1, 2),
            answers=rng.random() > 0.04,
            tells=rng.random() > 0.2,
        )
        for host in snapshot.hosts
    }
    guests = {}
    for domain in snapshot.domains:
        here = hosts[domain.host]
        kinds = [*_KINDS] if here.tells else [kind for kind in _KINDS if kind != "storage"]
        last = here.cpus - 1
        guests[domain.uuid] = Guest(
            host=domain.host,
            name=domain.name,
            bridge=rng.choice(sorted(here.bridges)),
            machine=rng.choice(sorted(here.machines)),
            level=rng.randint(1, here.level),
            network=rng.choice([None, *sorted(here.networks)]),
            pool=rng.choice([None, *sorted(here.pools)]),
            own=rng.random() < 0.1,
            pins=(last - 1, last) if rng.random() < 0.1 else (),
            node=rng.randrange(here.nodes) if rng.random() < 0.1 else None,
            usb=rng.random() < 0.1,
            held=rng.choice(kinds) if rng.random() < 0.15 else None,
        )
    rng = random.Random(f"stores {seed}")
    for host in hosts.values():
        host.store, host.pooled = rng.choice("aaab"), rng.random() < 0.8
    for guest in guests.values():
        guest.file = rng.random() < 0.2
    return snapshot, policy, Libvirt(hosts, guests)


def with_referees_rules(policy: Policy, snapshot: Snapshot, libvirt: Libvirt) -> Policy:
    return replace(policy, rules=(*policy.rules, *libvirt.as_rules(snapshot)))
