"""Reads what domains used before a look, so that their habits are known from a balancer's first cycle on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from virtpoise_balancer.analyse.habits import Readings
from virtpoise_balancer.model import DomainState, Snapshot
from virtpoise_balancer.monitor.replies import MOST_SAMPLES, Series
from virtpoise_balancer.monitor.targets import host_of

# How far it reaches back: as far as these samples reach, so that a start with ten thousand domains takes seconds, and
# at most a day.
_MOST_READINGS = 5_000_000
_LONGEST_SECONDS = 86400.0
# Of one reply: it is there well within the time that any query has.
_MOST_OF_ONE_REPLY = MOST_SAMPLES // 8
# Of one series in it: Prometheus refuses more.
_MOST_STEPS = 11_000


def past_readings(
    ask: Callable[[float, float, float], Sequence[Series]], seen: Snapshot, since: float, every: float
) -> Iterator[tuple[float, Readings]]:
    """What the running domains of a look used before it, with the time of each reading (Unix seconds), oldest first.

    ``ask``: the cores of domains from a time to another, in steps of so many seconds. ``since``: what is older is not
    asked for. ``every``: the seconds between two readings. A time at which no domain has a sample has no reading.
    """
    domains = {one.uuid: at for at, one in enumerate(d for d in seen.domains if d.state is DomainState.RUNNING)}
    if not domains:
        return
    steps = int(min(_LONGEST_SECONDS / every, _MOST_READINGS / len(domains), (seen.time - since) / every - 1e-9))
    length = max(min(_MOST_OF_ONE_REPLY // len(domains), _MOST_STEPS), 1)
    for first in range(steps, 0, -length):
        last = max(first - length + 1, 1)
        start, end = seen.time - first * every, seen.time - last * every
        yield from _readings(ask(start, end, every), seen, domains, start, every, first - last + 1)


def _readings(
    series: Sequence[Series], seen: Snapshot, domains: dict[str, int], start: float, every: float, steps: int
) -> Iterator[tuple[float, Readings]]:
    hosts = {host.name: at for at, host in enumerate(seen.hosts) if host.known}
    cores, where = np.full((steps, len(domains)), np.nan), np.zeros((steps, len(domains)), dtype=np.intp)
    # The newest place last: a domain that was migrated has samples of both hosts for a while.
    for one in sorted(series, key=lambda found: (found.samples[0][0], found.samples[-1][0])):
        column, host = domains.get(one.labels.get("uuid", "")), hosts.get(host_of(one))
        if column is None or host is None:
            continue
        table = np.array(one.samples, dtype=np.float64)
        at, used = np.rint((table[:, 0] - start) / every).astype(np.intp), table[:, 1]
        good = (at >= 0) & (at < steps) & (used >= 0) & (used <= 2 * seen.hosts[host].cpus)
        cores[at[good], column] = used[good] * seen.hosts[host].cpu_speed
        where[at[good], column] = host
    uuids = tuple(domains)
    known = ~np.isnan(cores)
    for step in np.flatnonzero(known.any(axis=1)).tolist():
        there = np.flatnonzero(known[step])
        names = uuids if len(there) == len(uuids) else tuple(uuids[at] for at in there.tolist())
        yield start + step * every, Readings(names, where[step, there], cores[step, there])
