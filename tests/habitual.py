"""Groups whose domains were watched for hours."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from builders import domain, group, host
from virtpoise_balancer.analyse.habits import HabitBook, Readings
from virtpoise_balancer.model import Snapshot

GIB = 2**30
STEP = 10.0


def with_history(snapshot: Snapshot, usual: dict[str, float], deviation: float, *, steps: int = 1440) -> Snapshot:
    """The snapshot after hours in which its domains wandered about what is usual, and then what it says itself."""
    random = np.random.default_rng(1)
    uuids = tuple(one.uuid for one in snapshot.domains)
    hosts = np.array([[one.name for one in snapshot.hosts].index(domain.host) for domain in snapshot.domains])
    means = np.array([usual[one.name] for one in snapshot.domains])
    now = np.array([one.cpu_cores for one in snapshot.domains])
    kept = np.exp(-STEP / 120)
    state, book = random.normal(size=len(uuids)), HabitBook()
    for step in range(steps):
        state = kept * state + random.normal(0, np.sqrt(1 - kept**2), len(uuids))
        book.update(step * STEP, Readings(uuids, hosts, np.maximum(means + deviation * state, 0.0)), 30.0)
    for step in range(steps, steps + 4):
        book.update(step * STEP, Readings(uuids, hosts, now), 30.0)
    return replace(snapshot, habits=book.habits())


def even(cores: float = 1.2) -> Snapshot:
    """Four hosts with five domains each; the first host is over its threshold."""
    of_hosts = [cores, 0.85, 0.85, 0.85]
    domains = [
        domain(f"vm{number}{at}", f"h{number}", of_hosts[number], uuid=f"vm{number}{at}", vcpus=4, memory_bytes=4 * GIB)
        for number in range(4)
        for at in range(5)
    ]
    hosts = [host(f"h{number}", *[of_hosts[number] * 5 / 8] * 6, memory_bytes=64 * GIB) for number in range(4)]
    return group(*(replace(one, cpu_ratio=one.cpu_ratio) for one in hosts), *domains)
