"""Groups whose true demands a referee knows, while a planner sees what was measured of them; and what others make of
the same groups: the exact optimum, which knows the demands as well, and a plain greedy walk over what was measured.

What domains get of their hosts comes from the simulation's law of contention, no part of the planner's prediction.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

from random_groups import GIB
from virtpoise_balancer.analyse.demand import Floats, Mask
from virtpoise_balancer.analyse.steady import steady
from virtpoise_balancer.model import Domain, Host, Policy, Snapshot
from virtpoise_balancer.simulate.contention import share

SAMPLES = 30
# What a host uses for itself, as a share of its CPUs.
OWN_RATIO = 0.02
_TIME_LIMIT_SECONDS = 20.0
_STRICTLY = 1e-6


@dataclass(frozen=True, slots=True)
class Scene:
    """A group as it was measured; what its domains truly want, in cores, and whether they run later what they cannot
    run now (domains, as in the snapshot).
    """

    snapshot: Snapshot
    demand: Floats
    elastic: Mask

    @property
    def cpus(self) -> Floats:
        return np.array([host.cpus for host in self.snapshot.hosts], dtype=np.float64)

    def noise(self, policy: Policy) -> Floats:
        """How far the planner keeps each host's load from its limits where no domain is in doubt (hosts)."""
        return steady(
            [host.cpu_ratio for host in self.snapshot.hosts],
            self.cpus,
            count=policy.cpu.consecutive,
            counted=np.full(len(self.snapshot.hosts), policy.cpu.consecutive),
            saturation=policy.saturation_ratio,
            coverage=policy.coverage,
        ).noise

    @property
    def at(self) -> NDArray[np.int64]:
        """The number of each domain's host (domains)."""
        number = {host.name: place for place, host in enumerate(self.snapshot.hosts)}
        return np.array([number[domain.host] for domain in self.snapshot.domains])

    def loads(self, moves: Iterable[tuple[str, str]] = ()) -> Floats:
        """What the hosts run after these moves of domains (by uuid) to hosts, where each wants its mean (hosts)."""
        at, number = self.at, {host.name: place for place, host in enumerate(self.snapshot.hosts)}
        row = {domain.uuid: place for place, domain in enumerate(self.snapshot.domains)}
        for uuid, host in moves:
            at[row[uuid]] = number[host]
        vcpus = np.array([domain.vcpus for domain in self.snapshot.domains], dtype=np.float64)
        free = self.cpus * (1 - OWN_RATIO)
        return OWN_RATIO + share(at, self.demand, vcpus, self.elastic, free).used / self.cpus


def tight_scene(seed: int, mean: float, threshold: float = 0.8) -> Scene:
    """Four to seven hosts, mostly of one size, one or two of them over the threshold, at this mean load."""
    rng = random.Random(f"tight {mean} {seed}")
    while True:
        count, hot = rng.randint(4, 7), rng.choice((1, 1, 2))
        size, unequal = rng.choice((8, 16, 32, 64)), rng.random() < 0.3
        sizes = [rng.choice((8, 16, 32)) if unequal else size for _ in range(count)]
        loads = [rng.uniform(threshold + 0.03, 0.97) for _ in range(hot)]
        taken = sum(load * cpus for load, cpus in zip(loads, sizes, strict=False))
        rest = (mean * sum(sizes) - taken) / sum(sizes[hot:])
        loads += [rest + rng.uniform(-0.04, 0.04) for _ in sizes[hot:]]
        if max(loads[hot:]) > threshold - 0.02:
            continue  # another host as near to the threshold would be one more that chance calls hot
        scene = _measured(rng, loads, sizes, rng.randint(4, 12))
        if _seen(scene, range(hot), threshold):
            return scene


def roomy_scene(seed: int, threshold: float = 0.8) -> Scene:
    """Twenty hosts of 8 to 64 CPUs at a mean of 40 to 60 %, four of them over the threshold."""
    rng = random.Random(f"roomy {seed}")
    while True:
        mean = rng.uniform(0.4, 0.6)
        loads = [rng.uniform(threshold + 0.03, 0.97) for _ in range(4)]
        loads += [(mean * 20 - sum(loads)) / 16 + rng.uniform(-0.1, 0.1) for _ in range(16)]
        scene = _measured(rng, loads, [rng.choice((8, 16, 32, 64)) for _ in loads], rng.randint(6, 14))
        if _seen(scene, range(4), threshold):
            return scene


def _seen(scene: Scene, hot: range, threshold: float) -> bool:
    """Whether just the hosts that are over the threshold show it in each of their newest three samples."""
    seen = [min(host.cpu_ratio[-3:]) >= threshold for host in scene.snapshot.hosts]
    return seen == [number in hot for number in range(len(seen))]


def _measured(rng: random.Random, loads: list[float], sizes: list[int], per_host: int) -> Scene:
    """The scene with these true loads, measured in each of some steps, in which the domains want a little more or less
    than in the mean. The guests are all elastic, all at a fixed rate, or of both kinds.
    """
    chance = np.random.default_rng(rng.getrandbits(63))
    cpus = np.array(sizes, dtype=np.float64)
    at = np.repeat(np.arange(len(sizes)), per_host)
    weight = chance.uniform(0.1, 1.1, len(at))
    total = np.bincount(at, weights=weight)[at]
    demand = (np.array(loads) - OWN_RATIO)[at] * cpus[at] * weight / total
    vcpus = np.ceil(demand * chance.uniform(1.05, 1.6, len(at)))
    elastic = chance.random(len(at)) < rng.choice((0.0, 0.5, 1.0))
    deviation = rng.uniform(0.02, 0.08)
    ratio, run, delay = np.empty((len(cpus), SAMPLES)), np.empty((len(at), SAMPLES)), np.empty((len(at), SAMPLES))
    for step in range(SAMPLES):
        wanted = np.minimum(demand * (1 + deviation * chance.normal(size=len(at))), vcpus)
        got = share(at, np.maximum(wanted, 0.0), vcpus, elastic, cpus * (1 - OWN_RATIO))
        run[:, step], delay[:, step] = got.run, got.delay
        ratio[:, step] = np.minimum(OWN_RATIO + got.used / cpus, 1.0)
    calm = (ratio < Policy().saturation_ratio)[at]
    often = calm.sum(axis=1)
    usual, waited = ((found * calm).sum(axis=1) / np.maximum(often, 1) for found in (run, delay))
    memory = chance.choice((1, 2, 4, 8), len(at)) * GIB
    used = np.bincount(at, weights=memory)
    hosts = tuple(
        Host(
            name=f"h{number:02}",
            cpus=int(cpus[number]),
            cpu_ratio=tuple(ratio[number].tolist()),
            memory_bytes=int(used.max() * 3),
            memory_used_bytes=int(used[number]),
            rx_ratio=0.0,
            tx_ratio=0.0,
        )
        for number in range(len(cpus))
    )
    domains = tuple(
        Domain(
            name=f"vm{number:03}",
            uuid=f"{number:08x}",
            host=f"h{at[number]:02}",
            vcpus=int(vcpus[number]),
            cpu_cores=float(run[number, -3:].mean()),
            cpu_delay_cores=float(delay[number, -3:].mean()),
            cpu_cores_unsaturated=float(usual[number]) if often[number] else None,
            cpu_delay_cores_unsaturated=float(waited[number]) if often[number] else None,
            memory_bytes=int(memory[number]),
        )
        for number in range(len(at))
    )
    return Scene(Snapshot(time=1e9, hosts=hosts, domains=domains), demand, elastic)


def fewest_moves(scene: Scene, goal: float, most: float) -> int | None:
    """The fewest moves by true demands after which the hosts that were at or above ``most`` are at the goal, and all
    others below ``most``; None: there are none. Only the end counts: a bound that no sequence need reach.
    """
    at, cpus, before = scene.at, scene.cpus, scene.loads()
    count, hosts = len(at), len(cpus)
    row, column, value = [], [], []
    for i in range(count):
        for h in range(hosts):
            row += [h, hosts + i]
            column += [i * hosts + h] * 2
            value += [scene.demand[i] / cpus[h], 1.0]
    upper = np.where(before >= most, goal, most - _STRICTLY) - OWN_RATIO
    matrix = coo_array((value, (row, column)), shape=(hosts + count, count * hosts)).tocsr()
    cost = np.ones((count, hosts))
    cost[np.arange(count), at] = 0.0
    result = milp(
        cost.ravel(),
        constraints=LinearConstraint(
            matrix, np.append(np.full(hosts, -np.inf), np.ones(count)), np.append(upper, np.ones(count))
        ),
        bounds=Bounds(0, 1),
        integrality=np.ones(count * hosts),
        options={"time_limit": _TIME_LIMIT_SECONDS},
    )
    return None if result.x is None else round(float(result.fun))


def fewest_to_leave(scene: Scene, goal: float, most: float) -> int:
    """The fewest domains that must leave the hosts at or above ``most``, so that these come down to the goal."""
    fewest, loads = 0, scene.loads()
    for host in np.flatnonzero(loads >= most).tolist():
        largest = np.sort(scene.demand[scene.at == host])[::-1] / scene.cpus[host]
        fewest += int(np.argmax(np.append(0.0, np.cumsum(largest)) >= loads[host] - goal - 1e-9))
    return fewest


def greedy(scene: Scene, goal: float, most: float, margin: Floats | float = 0.0) -> list[tuple[str, str]]:
    """The moves of a plain walk over what was measured: from the fullest host, the domain with the least memory of
    those that are enough, or else the largest, to the emptiest host. ``margin``: what it adds to each load (hosts).
    """
    domains, cpus, at = scene.snapshot.domains, scene.cpus, scene.at
    cores = np.array([domain.cpu_cores for domain in domains])
    loads = np.array([np.mean(host.cpu_ratio[-3:]) for host in scene.snapshot.hosts]) + margin
    hot = [host for host in np.argsort(-loads).tolist() if min(scene.snapshot.hosts[host].cpu_ratio[-3:]) >= most]
    moves = []
    for host in hot:
        while loads[host] > goal:
            here = [
                i for i in np.flatnonzero(at == host).tolist() if domains[i].host == scene.snapshot.hosts[host].name
            ]
            enough = [i for i in here if loads[host] - cores[i] / cpus[host] <= goal]
            order = sorted(enough, key=lambda i: (domains[i].memory_bytes, -cores[i]))
            order += sorted(set(here).difference(enough), key=lambda i: -cores[i])
            for i in order:
                after = np.where(np.isin(np.arange(len(cpus)), hot), np.inf, loads + cores[i] / cpus)
                to = int(after.argmin())
                if after[to] < most:
                    loads[host] -= cores[i] / cpus[host]
                    loads[to] = after[to]
                    at[i] = to
                    moves.append((domains[i].uuid, scene.snapshot.hosts[to].name))
                    break
            else:
                break
    return moves
