"""Random groups, and a referee that carries a plan out move by move and says what it breaks.

Shares no code with the planner.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from virtpoise_balancer.model import Domain, Host, HugePages, Move, Overcommit, Plan, Policy, Rule, Snapshot, Trigger

GIB = 2**30
PAGE = 2**21
POLICY = Policy(cpu=Trigger(threshold=0.8, recovery=0.75))
# What an interval adds at either end while nothing was learned and no domain waits (docs/scoring.md).
MARGIN = 0.03
# Of the hosts whose domains have traffic.
UPLINK = 125e6
UNKNOWN_UPLINKS: Any = {"rx_ratio": None, "tx_ratio": None, "rx_ratio_window": (), "tx_ratio_window": ()}


def settled(policy: Policy) -> Policy:
    """Without what depends on time."""
    return replace(policy, rest_seconds=0.0)


def random_group(seed: int) -> tuple[Snapshot, Policy]:
    """At most 8 hosts and 40 domains, one to three hosts overloaded, from roomy to full, some with rules."""
    rng = random.Random(seed)
    tight = rng.random()
    count = rng.randint(2, 8)
    hot = rng.randint(1, max(1, min(3, count - 1)))
    hosts: list[Host] = []
    domains: list[Domain] = []
    per_host = min(40 // count, rng.randint(2, 10))
    for h in range(count):
        cpus = rng.choice((8, 16))
        load = rng.uniform(0.81, 0.98) if h < hot else rng.uniform(0.3, 0.55) + 0.2 * tight
        shares = [rng.random() + 0.05 for _ in range(per_host)]
        total = sum(shares)
        used = 0
        for d in range(per_host):
            cores = 0.97 * load * cpus * shares[d] / total
            memory = rng.choice((1, 2, 3, 4, 6, 8)) * GIB
            used += memory
            domains.append(
                Domain(
                    name=f"vm{h}{d}",
                    uuid=f"uuid-{h}-{d}",
                    host=f"h{h}",
                    vcpus=max(1, int(cores) + 1),
                    cpu_cores=cores,
                    memory_bytes=memory,
                )
            )
        room = rng.uniform(1.15, 1.4) if rng.random() < tight else 2.5
        hosts.append(
            Host(
                name=f"h{h}",
                cpus=cpus,
                cpu_ratio=(load,) * 3,
                memory_bytes=int(used * room / 0.9),
                memory_used_bytes=used,
                rx_ratio=0.0,
                tx_ratio=0.0,
            )
        )
    snapshot = Snapshot(time=1e9, hosts=tuple(hosts), domains=tuple(domains))
    return snapshot, replace(settled(POLICY), rules=_random_rules(rng, snapshot) if rng.random() < 0.5 else ())


def varied_group(seed: int) -> tuple[Snapshot, Policy]:
    """The same with what real groups have besides: domains that wait for a CPU, hosts of unequal speed, traffic, busy
    uplinks.
    """
    snapshot, policy = random_group(seed)
    rng = random.Random(f"varied {seed}")
    waiting = rng.choice((0.02, 0.1, 0.4))
    speeds = (1.0, 1.0, 1.5, 2.0) if rng.random() < 0.5 else (1.0,)
    traffic = {h.name: rng.uniform(0.1, 0.6) if rng.random() < 0.8 else rng.uniform(0.9, 0.98) for h in snapshot.hosts}
    count = {h.name: sum(d.host == h.name for d in snapshot.domains) for h in snapshot.hosts}
    hosts = []
    for host in snapshot.hosts:
        used = traffic[host.name]
        hosts.append(
            replace(
                host,
                cpu_speed=rng.choice(speeds),
                tx_ratio=used,
                tx_ratio_window=(used,) * 3,
                rx_ratio=used / 2,
                uplink_bytes_per_second=UPLINK,
            )
        )
    domains = []
    for domain in snapshot.domains:
        tx = traffic[domain.host] * UPLINK / count[domain.host] * rng.uniform(0.2, 1.0)
        domains.append(
            replace(
                domain,
                cpu_delay_cores=domain.cpu_cores * rng.uniform(0, waiting),
                tx_bytes_per_second=tx,
                rx_bytes_per_second=tx / 2,
            )
        )
    return replace(snapshot, hosts=tuple(hosts), domains=tuple(domains)), policy


def zoned_group(seed: int) -> tuple[Snapshot, Policy]:
    """A varied group in racks, with rules over them, static huge pages, and a bound on what hosts promise."""
    snapshot, policy = varied_group(seed)
    rng = random.Random(f"zoned {seed}")
    racks = {host.name: rng.choice(("r1", "r2", "r3", "")) for host in snapshot.hosts}
    domains = tuple(
        replace(domain, hugepages=(HugePages(page_bytes=PAGE, memory_bytes=domain.memory_bytes),))
        if rng.random() < 0.3
        else replace(domain, memory_maximum_bytes=domain.memory_bytes * rng.choice((1, 1, 2)))
        for domain in snapshot.domains
    )
    hosts = tuple(
        replace(
            host,
            labels={"rack": racks[host.name]} if racks[host.name] else {},
            hugepages_free=(HugePages(page_bytes=PAGE, memory_bytes=rng.randint(0, 6) * GIB),),
        )
        for host in snapshot.hosts
    )
    names = [domain.name for domain in domains]
    rules: list[Rule] = []
    for number in range(rng.randint(1, 3)):
        picked: dict[str, list[str]] = {}
        for domain in rng.sample(domains, min(6, len(names))):
            picked.setdefault(racks[domain.host], []).append(domain.name)
        members, hard = [each[0] for each in picked.values()], rng.random() < 0.8
        rules.append(Rule(name=f"over{number}", kind="apart", domains=tuple(members), over="rack", hard=hard))
    overcommit = Overcommit(memory_ratio=rng.choice((0.8, 1.0, 1.5))) if rng.random() < 0.7 else None
    made = replace(policy, rules=(*policy.rules, *rules), overcommit=overcommit)
    return replace(snapshot, hosts=hosts, domains=domains), made


def partly_unknown(seed: int) -> tuple[Snapshot, Policy]:
    """A varied group in which nothing is known of some hosts' uplinks."""
    snapshot, policy = varied_group(seed)
    rng = random.Random(f"unknown {seed}")
    return replace(
        snapshot,
        hosts=tuple(replace(host, **UNKNOWN_UPLINKS) if rng.random() < 0.5 else host for host in snapshot.hosts),
    ), policy


def _random_rules(rng: random.Random, snapshot: Snapshot) -> tuple[Rule, ...]:
    names = [domain.name for domain in snapshot.domains]
    host_of = {domain.name: domain.host for domain in snapshot.domains}
    rules: list[Rule] = []
    for number in range(rng.randint(1, 4)):
        kind = rng.choice(("together", "apart", "only_on", "never_on", "prefer", "ignore"))
        name = f"r{number}"
        if kind == "together":
            host = rng.choice([h.name for h in snapshot.hosts])
            here = [n for n in names if host_of[n] == host]
            rules.append(Rule(name=name, kind=kind, domains=tuple(rng.sample(here, min(2, len(here))))))
        elif kind == "apart":
            picked: dict[str, str] = {}
            for one in rng.sample(names, min(4, len(names))):
                picked.setdefault(host_of[one], one)
            rules.append(Rule(name=name, kind=kind, domains=tuple(picked.values())))
        elif kind == "ignore":
            rules.append(Rule(name=name, kind=kind, domains=(rng.choice(names),)))
        else:
            one = rng.choice(names)
            hosts = {h.name for h in snapshot.hosts} - {host_of[one]}
            some = tuple(rng.sample(sorted(hosts), rng.randint(1, len(hosts))))
            rules.append(
                Rule(name=name, kind=kind, domains=(one,), hosts=(host_of[one], *some[1:]))
                if kind == "only_on"
                else Rule(name=name, kind=kind, domains=(one,), hosts=some[:1])
            )
    return tuple(rules)


@dataclass
class World:
    """A group in which moves can be made; loads simply add up, which is the least that domains want that wait for a
    CPU.
    """

    snapshot: Snapshot
    policy: Policy

    def __post_init__(self) -> None:
        self.host_of = {d.uuid: d.host for d in self.snapshot.domains}
        self.domains = {d.uuid: d for d in self.snapshot.domains}
        self.hosts = {h.name: h for h in self.snapshot.hosts}
        self.cpu = {h.name: max(h.cpu_ratio[-3:]) for h in self.snapshot.hosts}
        self.memory = {h.name: float(h.memory_used_bytes) for h in self.snapshot.hosts}
        self.pages = {h.name: sum(pages.memory_bytes for pages in h.hugepages_free or ()) for h in self.snapshot.hosts}
        self.uplink = {h.name: h.uplink_bytes_per_second or UPLINK for h in self.snapshot.hosts}
        self.sent = {h.name: (h.tx_ratio or 0.0) * self.uplink[h.name] for h in self.snapshot.hosts}
        self.received = {h.name: (h.rx_ratio or 0.0) * self.uplink[h.name] for h in self.snapshot.hosts}

    def move(self, move: Move) -> None:
        domain = self.domains[move.uuid]
        assert self.host_of[move.uuid] == move.source, "it is not where the plan takes it from"
        self.host_of[move.uuid] = move.destination
        for name, sign in ((move.source, -1), (move.destination, 1)):
            speed = self.hosts[domain.host].cpu_speed / self.hosts[name].cpu_speed
            cores = min(domain.cpu_cores * speed, float(domain.vcpus))  # on a slower host it has no more vCPUs
            self.cpu[name] += sign * cores / self.hosts[name].cpus
            in_pages = sum(pages.memory_bytes for pages in domain.hugepages)
            self.pages[name] -= sign * in_pages
            self.memory[name] += sign * (domain.memory_bytes - in_pages)
            self.sent[name] += sign * (domain.tx_bytes_per_second or 0.0)
            self.received[name] += sign * (domain.rx_bytes_per_second or 0.0)

    def full(self, name: str) -> list[str]:
        """What of a host that just received something is not below its threshold, or not enough."""
        found = []
        if self.pages[name] < 0:
            found.append("huge pages")
        if self.policy.overcommit and self._promised(name) > self.policy.overcommit.memory_ratio * (
            self.hosts[name].memory_bytes
        ):
            found.append("promised memory")
        if self.cpu[name] + MARGIN >= self.policy.cpu.threshold + 1e-9:
            found.append("cpu")
        if self.memory[name] / self.hosts[name].memory_bytes >= self.policy.memory.threshold + 1e-9:
            found.append("memory")
        if max(self.sent[name], self.received[name]) / self.uplink[name] >= self.policy.network.threshold + 1e-9:
            found.append("network")
        return found

    def _promised(self, name: str) -> int:
        there = [domain for domain in self.domains.values() if self.host_of[domain.uuid] == name]
        ordinary = [domain for domain in there if not domain.hugepages]
        return sum(max(domain.memory_maximum_bytes or 0, domain.memory_bytes) for domain in ordinary)

    def _place(self, host: str, rule: Rule) -> str:
        """What counts as one place for the rule: the host, or all with the same value of its label."""
        return host if rule.over is None else f"{rule.over}={self.hosts[host].labels.get(rule.over, '')}"

    def broken(self) -> set[tuple[str, str]]:
        """(rule, host or domain) of each hard rule that does not hold."""
        names = {d.name: d.uuid for d in self.snapshot.domains}
        found: set[tuple[str, str]] = set()
        for rule in self.policy.rules:
            if not rule.hard:
                continue
            places = {name: self.host_of[names[name]] for name in rule.domains}
            zones = {self._place(host, rule) for host in places.values()}
            if rule.kind == "together" and len(zones) > 1:
                found.add((rule.name, "together"))
            if rule.kind == "apart" and len(zones) < len(places):
                found.add((rule.name, "apart"))
            for name, host in places.items():
                if rule.kind == "only_on" and host not in rule.hosts:
                    found.add((rule.name, name))
                if rule.kind == "never_on" and host in rule.hosts:
                    found.add((rule.name, name))
                if rule.kind == "ignore" and host != self.domains[names[name]].host:
                    found.add((rule.name, name))
        return found

    def cleared(self, hosts: Sequence[str], *, by: float = 0.0) -> bool:
        """Whether the hosts are below their recovery level, by so much at least."""
        recovery = self.policy.cpu.recovery_ratio - by
        return all(self.cpu[host] + MARGIN <= recovery + 1e-9 for host in hosts)

    def _seen(self, host: Host) -> Host:
        sent, received = (max(now[host.name], 0.0) / self.uplink[host.name] for now in (self.sent, self.received))
        return replace(
            host,
            cpu_ratio=(min(max(self.cpu[host.name], 0.0), 1.0),) * 3,
            memory_used_bytes=int(self.memory[host.name]),
            hugepages_free=tuple(replace(one, memory_bytes=self.pages[host.name]) for one in host.hugepages_free or ()),
            tx_ratio=sent,
            rx_ratio=received,
            tx_ratio_window=(sent,) * len(host.tx_ratio_window),
            rx_ratio_window=(received,) * len(host.rx_ratio_window),
        )

    def after(self) -> Snapshot:
        """The group as it would be seen then."""
        return replace(
            self.snapshot,
            hosts=tuple(self._seen(host) for host in self.snapshot.hosts),
            domains=tuple(replace(d, host=self.host_of[d.uuid]) for d in self.snapshot.domains),
        )


def busy_network(seed: int) -> tuple[Snapshot, Policy]:
    """A varied group in which no domain waits for a CPU, so that loads add up as the World has them."""
    snapshot, policy = varied_group(seed)
    return replace(snapshot, domains=tuple(replace(d, cpu_delay_cores=0.0) for d in snapshot.domains)), policy


def carry_out(snapshot: Snapshot, policy: Policy, plan: Plan) -> tuple[World, list[str]]:
    """The world after the plan, and every rule or limit that any beginning of it breaks.

    A bundle counts as one step.
    """
    world = World(snapshot, policy)
    faults: list[str] = []
    before = world.broken()
    half_done: set[str] = set()
    left = bundle_sizes(plan)
    for number, move in enumerate(plan.moves):
        world.move(move)
        for resource in world.full(move.destination):
            faults.append(f"move {number}: {move.destination} is not below its {resource} threshold")
        there = move.predicted.destination
        for upper, trigger in (
            (there.cpu_ratio_upper, policy.cpu),
            (there.memory_ratio_upper, policy.memory),
            (there.rx_ratio_upper, policy.network),
            (there.tx_ratio_upper, policy.network),
        ):
            if upper is not None and upper >= trigger.threshold:
                faults.append(f"move {number}: predicted upper end {upper}")
        if move.bundle:
            left[move.bundle] -= 1
            half_done = half_done - {move.bundle} if not left[move.bundle] else half_done | {move.bundle}
        for rule in sorted(world.broken() - before):
            if not (half_done and rule[1] == "together"):
                faults.append(f"move {number}: breaks {rule}")
    return world, faults


def bundle_sizes(plan: Plan) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for move in plan.moves:
        if move.bundle:
            sizes[move.bundle] = sizes.get(move.bundle, 0) + 1
    return sizes


def moved_bytes(plan: Plan, domains: Mapping[str, Domain]) -> int:
    return sum(domains[move.uuid].memory_bytes for move in plan.moves)
