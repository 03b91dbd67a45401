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
# Of nobody who is ever runnable no weight is asked: only so that nothing is divided by zero.
_LEAST_RUNNABLE = 1e-9
# A domain that is taken for on-off with a weight w is so in the share w of these cases; one a row.
_LEVELS = np.array(((1 / 6,), (1 / 2,), (5 / 6,)))


@dataclass(frozen=True, slots=True)
class Load:
    """Predicted loads, one entry a case: ``ratio`` 0..1, ``spread``: how unsure it is, ``wanted``: cores wanted over cores there."""

    ratio: Floats
    spread: Floats
    wanted: Floats


def own_cores(cpus: int, load: float, demands: Demands) -> float:
    """What of the host's load no domain accounts for: the host's own use, which stays."""
    return max(load * cpus - float(demands.used.sum()), 0.0)


def corrections(cpus: int, level: float, own: float, demands: Demands) -> tuple[float, Floats]:
    """What ``predict`` is off by for a host as it is (``level``): the host's part, which stays, and each domain's, which goes with it.

    Where it says too much, that is what it makes of domains that it takes for on-off beyond what they run, as far as it goes.
    """
    everybody = np.ones((1, len(demands)), dtype=np.bool_)
    error = level - float(predict(cpus, own, demands, everybody).ratio[0])
    taken = (demands.on_off > _LEVELS).mean(axis=0)
    beyond = taken * np.maximum(demands.runnable * demands.vcpus - demands.cores, 0.0) / cpus
    most = float(beyond.sum())
    share = min(max(-error, 0.0) / most, 1.0) if most else 0.0
    return error + share * most, -share * beyond


def predict(cpus: int, own: float, demands: Demands, present: NDArray[np.bool_]) -> Load:
    """The load for each row of ``present``: which of the domains are there (cases x domains)."""
    there = present.astype(np.float64)
    on_off, all_cores = demands.on_off, demands.cores
    rest = 1 - on_off
    doubt = there @ (rest * (demands.upper - demands.lower) / 2)
    none_on_off = own + there @ all_cores
    if not on_off.any():
        return Load(
            np.minimum(none_on_off / cpus, 1.0), NOISE_RATIO + _between(none_on_off, doubt, cpus), none_on_off / cpus
        )
    # What one domain is taken for mostly hangs on its host, so they are taken for on-off together, the likeliest first; in the last
    # row all of them.
    kinds = np.concatenate((on_off > _LEVELS, np.ones((1, len(on_off)), dtype=np.bool_)))
    runs = kinds[:, np.newaxis] * (there * demands.runnable)
    busy = busy_cpus(cpus, runs.reshape(-1, len(on_off)), demands.vcpus).reshape(len(kinds), -1)
    certain = own + (~kinds * all_cores) @ there.T
    filled = np.minimum(certain + busy, cpus)
    cores = filled[:-1].mean(axis=0)
    runnable = demands.runnable * demands.vcpus
    on = there @ (runnable * on_off)
    wanted = (own + there @ (rest * all_cores) + on) / cpus
    apart = np.abs(filled[-1] - np.minimum(none_on_off, cpus)) / cpus
    weight = np.minimum(on / np.maximum(there @ runnable, _LEAST_RUNNABLE), 1.0)
    undecided = np.sqrt(weight * (1 - weight)) * apart  # the standard deviation of one that is either
    return Load(cores / cpus, NOISE_RATIO + _between(cores, doubt, cpus) + undecided, wanted)


def _between(cores: Floats, doubt: Floats, cpus: int) -> Floats:
    """Half the way from the lower to the upper end, of which what lies above the CPUs there are does not count."""
    upper: Floats = np.minimum((cores + doubt) / cpus, 1.0)
    lower: Floats = np.minimum((cores - doubt) / cpus, 1.0)
    return (upper - lower) / 2
