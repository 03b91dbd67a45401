"""The CPU load that a set of domains makes on a host.

With C CPUs, on-off vCPUs of which N are runnable (Poisson binomial), domains that catch up and want W cores together, and u cores of
the host's own: load = min(C, E[min(C, N)] + W + u) / C. Those that catch up fill what the others leave. A domain that is taken for
both counts in both, by its weight. Formulas, sources and measurements: docs/scoring.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from virtpoise_balancer.analyse.demand import Demands, Floats, busy_cpus

# How far two measurements of an unchanged load differ, as a share of the host.
NOISE_RATIO = 0.03


@dataclass(frozen=True, slots=True)
class Load:
    """Predicted loads, one entry a case: ``ratio`` 0..1, ``spread``: how unsure it is, ``wanted``: cores wanted over cores there."""

    ratio: Floats
    spread: Floats
    wanted: Floats


def own_cores(cpus: int, load: float, demands: Demands) -> float:
    """What of the host's load no domain accounts for: the host's own use, which stays."""
    return max(load * cpus - float(demands.used.sum()), 0.0)


def predict(cpus: int, own: float, demands: Demands, present: NDArray[np.bool_]) -> Load:
    """The load for each row of ``present``: which of the domains are there (cases x domains)."""
    there = present.astype(np.float64)
    on_off = there * demands.on_off
    rest = there * (1 - demands.on_off)
    on = on_off * demands.runnable
    certain = own + rest @ demands.cores
    wanted = (certain + on @ demands.vcpus.astype(np.float64)) / cpus
    doubt = rest @ (demands.upper - demands.lower) / 2
    if not on.any():
        ratio = np.minimum(certain / cpus, 1.0)
        return Load(ratio, NOISE_RATIO + _between(certain, doubt, cpus), wanted)
    cases = np.concatenate((on, there * demands.runnable))
    busy, all_busy = busy_cpus(cpus, cases, demands.vcpus).reshape(2, -1)
    ratio = np.minimum((certain + busy) / cpus, 1.0)
    all_on_off = np.minimum((own + all_busy) / cpus, 1.0)
    none_on_off = np.minimum((own + there @ demands.cores) / cpus, 1.0)
    weight = on_off.sum(axis=1) / np.maximum(there.sum(axis=1), 1.0)
    undecided = np.minimum(weight, 1 - weight) * np.abs(all_on_off - none_on_off)
    return Load(ratio, NOISE_RATIO + _between(certain + busy, doubt, cpus) + undecided, wanted)


def _between(cores: Floats, doubt: Floats, cpus: int) -> Floats:
    """Half the way from the lower to the upper end, of which what lies above the CPUs there are does not count."""
    upper: Floats = np.minimum((cores + doubt) / cpus, 1.0)
    lower: Floats = np.minimum((cores - doubt) / cpus, 1.0)
    return (upper - lower) / 2
