"""What domains get of hosts whose CPUs they share.

The law is that of docs/scoring.md's measurements, and no part of the planner's own prediction:

- *Fixed-rate* guests want their vCPUs for a share of time, and lose what they cannot run. The number of vCPUs that are
  runnable at once is taken for normally distributed. The host runs the mean of what its CPUs can take of it, and each
  guest gets the same part.
- *Elastic* guests have work to do, and run later what they cannot run now. They share what is left, each vCPU equally.
  What is left over then waits, up to ``BACKLOG_SECONDS`` of the guest's work.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from virtpoise_balancer.analyse.demand import Floats, Mask
from virtpoise_balancer.analyse.normal import below, density

Whole = NDArray[np.int64]

# What an elastic guest has waiting at most: a queue is bounded.
BACKLOG_SECONDS = 30.0
_TINY = 1e-9


@dataclass(frozen=True, slots=True)
class Share:
    """What each domain gets, and waits for, in cores (domains); and what each host runs for them (hosts)."""

    run: Floats
    delay: Floats
    used: Floats


def share(at: Whole, wanted: Floats, vcpus: Floats, elastic: Mask, free: Floats) -> Share:
    """How hosts share their CPUs.

    ``at``: each domain's host, -1 for none (domains). ``wanted``: cores, of elastic ones with their backlog (domains).
    ``free``: the cores of each host that domains can have (hosts).
    """
    here = at >= 0
    wanted = np.where(here, np.minimum(wanted, vcpus), 0.0)
    place = np.where(here, at, 0)
    run, delay = wanted.copy(), np.zeros_like(wanted)
    total = on_hosts(place, wanted, len(free))
    crowd = on_hosts(place, np.where(here, vcpus, 0.0), len(free))
    # Where there are no more vCPUs than cores, none of them ever waits.
    contended = (crowd > free + _TINY) & (total > _TINY)
    if not contended.any():
        return Share(run, delay, total)
    chance = wanted / vcpus
    spread = on_hosts(place, wanted * (1 - chance), len(free))
    part = np.where(contended, _busy(free, total, spread) / np.maximum(total, _TINY), 1.0)[place]
    fixed = here & ~elastic
    run = np.where(fixed, wanted * part, wanted)
    delay = np.where(here, wanted - run, 0.0)
    left = free - on_hosts(place, np.where(fixed, run, 0.0), len(free))
    patient = here & elastic
    asked = on_hosts(place, np.where(patient, wanted, 0.0), len(free))
    for host in np.flatnonzero(asked > left + _TINY):
        those = np.flatnonzero(patient & (at == host))
        run[those] = _even(wanted[those], vcpus[those], max(left[host], 0.0))
    # One that gets all it wants has waited in between. One that does not is runnable all the time.
    starved = patient & (run < wanted - _TINY)
    waited = np.where(starved, vcpus - run, np.minimum(wanted * (1 / np.maximum(part, _TINY) - 1), vcpus - wanted))
    delay = np.where(patient, np.maximum(waited, 0.0), delay)
    return Share(run, delay, on_hosts(place, run, len(free)))


def on_hosts(place: Whole, amounts: Floats, hosts: int) -> Floats:
    """The sums of what domains have, by host (hosts). ``place``: each domain's host (domains)."""
    sums: Floats = np.bincount(place, weights=amounts, minlength=hosts).astype(np.float64, copy=False)
    return sums


def _busy(cores: Floats, mean: Floats, variance: Floats) -> Floats:
    """The mean of min(cores, N) for a normal N (hosts)."""
    deviation = np.sqrt(np.maximum(variance, _TINY))
    beyond = (mean - cores) / deviation
    busy = mean - (deviation * density(beyond) + (mean - cores) * below(beyond))
    return np.clip(busy, 0.0, np.minimum(np.maximum(cores, 0.0), mean))


def _even(wanted: Floats, vcpus: Floats, left: float) -> Floats:
    """What each gets of ``left`` cores: the same for each vCPU, but none more than it wants."""
    given = np.zeros_like(wanted)
    waiting = float(vcpus.sum())
    for place in np.argsort(wanted / vcpus, kind="stable"):
        given[place] = min(wanted[place], left * vcpus[place] / max(waiting, _TINY))
        left -= given[place]
        waiting -= vcpus[place]
    return given
