"""Random groups whose hosts and domains differ in what libvirt looks at, and a referee that knows what it would refuse.

Shares no code with the product's rules: the referee goes by what was drawn, and the balancer sees only what libvirt
would say of it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

from optimum import Supply
from random_groups import GIB, PAGE, random_group
from virtpoise_balancer.errors import LibvirtError
from virtpoise_balancer.execute.facts import Bound, Hardware, HardwareVerdict, HostFacts, Pool
from virtpoise_balancer.execute.worker.needs import needs
from virtpoise_balancer.model import HugePages, Move, Policy, Rule, Snapshot

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
    ``pages``: what is free in huge pages, by NUMA node; ``room``: what is free in its pool of local disks, None: it has
    none; both in bytes. ``images``: what lies there already.
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
    pages: tuple[int, ...] = ()
    room: int | None = None
    images: frozenset[str] = frozenset()
    answers: bool = True
    tells: bool = True


@dataclass
class Guest:
    """A domain.

    ``own``: it has its host's own CPU; ``file``: it has a disk by its path; ``held``: what libvirt says when it is to
    leave, by the kind. ``backed``: its memory by the host's nodes that it must come from, in bytes, in huge pages;
    ``by_cells``: each part of it is a node of the guest. ``local``: the size of a disk that no other host has; 0: none.
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
    backed: tuple[tuple[frozenset[int], int], ...] = ()
    by_cells: bool = False
    local: int = 0


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
            pools={name: Pool() for name in there.pools}
            | ({} if there.room is None else {"local": Pool(target="/srv/local", free_bytes=there.room)}),
            cpus=frozenset(range(there.cpus)),
            nodes=frozenset(range(there.nodes)),
            domains=tuple(
                needs(_description(uuid, guest), own, 1 if guest.held == "snapshots" else 0, _sizes(guest))
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
        self, host: str, uuids: Sequence[str], copyable: Mapping[str, Sequence[str]]
    ) -> dict[str, Bound | None]:
        if not self._at(host).tells:
            return {}
        found: dict[str, Bound | None] = {}
        for uuid in uuids:
            guest = self.guests[uuid]
            kind = guest.held or ("storage" if guest.local else None)
            cured = guest.held is None and "vdc" in copyable.get(uuid, ())
            found[uuid] = Bound(kind=kind, why=_KINDS[kind], cured_by=("vdc",) if cured else ()) if kind else None
        return found

    def present(self, host: str, images: Sequence[str]) -> dict[str, bool]:
        return self._shared(host, images) | self._local(host, images)

    def _local(self, host: str, images: Sequence[str]) -> dict[str, bool]:
        there, own = self._at(host), {uuid for uuid, guest in self.guests.items() if guest.host == host}
        local = [one for one in images if one.startswith("/srv/local/")]
        return {} if there.room is None else {one: one in there.images or one[11:] in own for one in local}

    def _shared(self, host: str, images: Sequence[str]) -> dict[str, bool]:
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
            (not self._fits(there, [guest]), "room or pages"),
            (guest.local and f"/srv/local/{uuid}" in there.images, "an image in the way"),
        ):
            if refused:
                return str(why)
        return None

    def refused(self, moves: Sequence[Move]) -> list[str]:
        """The moves that would be refused, made one after another: what came before has taken pages and room.

        Where memory may come from several nodes, it comes from those that leave most for what follows.
        """
        found, arrived = [], {host: list[Guest]() for host in self.hosts}
        for move in moves:
            guest, there = self.guests[move.uuid], self.hosts[move.destination]
            why = self.refuses(move.uuid, move.destination)
            if guest.local and [one.device for one in move.copies] != ["vdc"]:
                why = why or "unsafe"
            if not self._fits(there, [*arrived[move.destination], guest]):
                why = why or "pages or room, after others"
            if why is None:
                arrived[move.destination].append(guest)
            elif self.can_know(move.uuid, move.destination):
                found.append(f"{move.domain} to {move.destination}: {why}")
        return found

    def _fits(self, there: Equipment, guests: Sequence[Guest]) -> bool:
        taken = sum(guest.local for guest in guests)
        return taken <= (there.room or 0) and all(
            sum(_inside(guest, nodes, there) for guest in guests) <= free for nodes, free in _sums(there)
        )

    def supplies(self) -> tuple[Supply, ...]:
        """What is free of what several arrivals share, for the solver."""
        found = []
        for host, there in self.hosts.items():
            found.append((host, {uuid: guest.local for uuid, guest in self.guests.items()}, there.room or 0))
            for nodes, free in _sums(there):
                found.append((host, {uuid: _inside(guest, nodes, there) for uuid, guest in self.guests.items()}, free))
        return tuple(found)

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


def _sums(there: Equipment) -> Iterator[tuple[frozenset[int], int]]:
    """Each set of the host's nodes, and what is free on all of it."""
    every = range(there.nodes)
    for count in range(1, there.nodes + 1):
        for nodes in combinations(every, count):
            yield frozenset(nodes), sum(there.pages[node] for node in nodes) if there.pages else 0


def _inside(guest: Guest, nodes: frozenset[int], there: Equipment) -> int:
    """How much of a guest's huge pages must come from these nodes of the host. What is not bound may be anywhere."""
    every = frozenset(range(there.nodes))
    return sum(memory for bound, memory in guest.backed if (bound or every) <= nodes)


def _sizes(guest: Guest) -> Callable[[str], tuple[int, int] | None]:
    return lambda device: (guest.local, guest.local // 2) if device == "vdc" else None


def _description(uuid: str, guest: Guest) -> str:
    cells = "".join(
        f"<cell id='{number}' memory='{memory}' unit='b'/>" for number, (_, memory) in enumerate(guest.backed)
    )
    numa_cells = f"<numa>{cells}</numa>" if guest.by_cells else ""
    cpu = (
        f"<cpu mode='host-passthrough'>{numa_cells}</cpu>"
        if guest.own
        else f"<cpu mode='custom'><model>level{guest.level}</model>{numa_cells}</cpu>"
    )
    cards = f"<interface type='bridge'><source bridge='{guest.bridge}'/></interface>"
    if guest.network:
        cards += f"<interface type='network'><source network='{guest.network}'/></interface>"
    disks = f"<disk type='volume'><source pool='{guest.pool}' volume='{uuid}'/></disk>" if guest.pool else ""
    pins = ",".join(map(str, guest.pins))
    tune = f"<cputune><vcpupin vcpu='0' cpuset='{pins}'/></cputune>" if pins else ""
    numa = "" if guest.node is None else f"<numatune><memory mode='strict' nodeset='{guest.node}'/></numatune>"
    if guest.by_cells:
        memnodes = "".join(
            f"<memnode cellid='{number}' mode='strict' nodeset='{','.join(map(str, sorted(nodes)))}'/>"
            for number, (nodes, _) in enumerate(guest.backed)
        )
        numa = f"<numatune>{memnodes}</numatune>"
    elif guest.backed and guest.backed[0][0]:
        nodes = ",".join(map(str, sorted(guest.backed[0][0])))
        numa = f"<numatune><memory mode='strict' nodeset='{nodes}'/></numatune>"
    if guest.local:
        disks += f"<disk type='file'><source file='/srv/local/{uuid}'/><target dev='vdc'/></disk>"
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


def stocked_group(seed: int) -> tuple[Snapshot, Policy, Libvirt]:
    """The same with domains in huge pages, some bound to NUMA nodes, and with disks that have to be copied."""
    snapshot, policy, libvirt = unequal_group(seed)
    rng = random.Random(f"stocks {seed}")
    roomy = rng.random()
    for there in libvirt.hosts.values():
        there.pages = tuple(rng.randint(0, int(2 + 6 * roomy)) * GIB // 2 for _ in range(there.nodes))
        there.room = rng.randint(0, int(20 + 60 * roomy)) * GIB if rng.random() < 0.8 else None
    domains = []
    for domain in snapshot.domains:
        guest = libvirt.guests[domain.uuid]
        here = libvirt.hosts[guest.host]
        if rng.random() < 0.4:
            one = frozenset({rng.randrange(here.nodes)})
            kinds = [frozenset[int](), one, frozenset(range(here.nodes))]
            guest.backed, guest.node = ((rng.choice(kinds), domain.memory_bytes),), None
            if here.nodes == 2 and rng.random() < 0.4:
                first = domain.memory_bytes // 4
                guest.backed = ((frozenset({0}), first), (frozenset({1}), domain.memory_bytes - first))
                guest.by_cells = True
            if not guest.by_cells and guest.backed[0][0]:
                guest.node = max(guest.backed[0][0])
            domain = replace(domain, hugepages=(HugePages(page_bytes=PAGE, memory_bytes=domain.memory_bytes),))
        if here.tells and rng.random() < 0.3:
            guest.local = rng.randint(5, 30) * GIB
            other = rng.choice(sorted(libvirt.hosts))
            if other != guest.host and rng.random() < 0.3:
                libvirt.hosts[other].images |= {f"/srv/local/{domain.uuid}"}
        domains.append(domain)
    hosts = tuple(
        replace(
            host,
            hugepages_free=tuple(
                HugePages(page_bytes=PAGE, memory_bytes=free, node=node)
                for node, free in enumerate(libvirt.hosts[host.name].pages)
            ),
        )
        for host in snapshot.hosts
    )
    return replace(snapshot, hosts=hosts, domains=tuple(domains)), policy, libvirt


def with_referees_rules(policy: Policy, snapshot: Snapshot, libvirt: Libvirt) -> Policy:
    return replace(policy, rules=(*policy.rules, *libvirt.as_rules(snapshot)))
