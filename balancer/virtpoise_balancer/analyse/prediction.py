"""The CPU load that a set of domains makes on a host.

With C CPUs, of which the host uses u for itself, every vCPU that is runnable gets the same part g of that time. On-off
vCPUs are runnable for a share p of it whatever they get; those that catch up, as long as they need for the c cores that
they want. So load = min(C, u + sum c + g sum p) / C, and g = E[min(C, N)] / E[N] with N the number that are runnable
(Poisson binomial). A domain that is taken for both counts in both, by its weight. Formulas, sources and measurements:
docs/scoring.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from virtpoise_balancer.analyse.demand import Demands, Floats, busy_cpus

# Keeps divisions defined where no vCPU is ever runnable.
_LEAST_RUNNABLE = 1e-9


@dataclass(frozen=True, slots=True)
class Load:
    """Predicted loads (cases).

    ``ratio``: 0..1. ``spread``: its uncertainty, likewise. ``wanted``: cores wanted over CPUs, so it may pass 1.
    """

    ratio: Floats
    spread: Floats
    wanted: Floats


def own_cores(cpus: int, load: Floats, demands: Demands, there: Floats) -> Floats:
    """The part of each host's load that no domain accounts for, in cores (hosts).

    ``there``: which domains are where (hosts x domains).
    """
    own: Floats = np.maximum(load * cpus - there @ demands.used, 0.0)
    return own


def corrections(cpus: int, load: Floats, own: Floats, demands: Demands, there: Floats) -> tuple[Floats, Floats]:
    """What ``predict`` is off by for hosts as they are: the host's part, which stays (hosts), and each domain's, which
    leaves with it.

    Where the prediction is too high, the excess is charged to domains that are taken for on-off, at most what exceeds
    their use.
    """
    error = load - predict(cpus, own, demands, there).ratio
    sums = demands.sums
    beyond = demands.on_off * np.maximum(sums.all_on_off - sums.all_catching_up, 0.0) / cpus
    most = there @ beyond
    share = np.minimum(np.maximum(-error, 0.0) / np.where(most, most, 1.0), 1.0)
    return error + share * most, -(share @ there) * beyond


def predict(cpus: int, own: Floats | float, demands: Demands, there: Floats) -> Load:
    """The load of a host in each case; its spread is without the noise of measurements (``steady``).

    ``there``: which of the domains are there, 1 or 0 (cases x domains). ``own``: cores, one a case or for all.

    Stacked demands have one axis more, and so has ``there`` (hosts x cases x domains).
    """
    added = demands.added(there)
    chance = demands.sums.busy / demands.vcpus
    part = busy_cpus(cpus, chance, demands.vcpus, there) / np.maximum(added.busy, _LEAST_RUNNABLE)
    wanted = own + added.catching_up
    filled = np.minimum(wanted + part * added.on_off, cpus)
    # The kind of a domain mostly follows from its host, so the doubts of all domains add up.
    apart = (
        np.abs(np.minimum(own + part * added.all_on_off, cpus) - np.minimum(own + added.all_catching_up, cpus)) / cpus
    )
    weight = np.minimum(added.on_off / np.maximum(added.all_on_off, _LEAST_RUNNABLE), 1.0)
    undecided = np.sqrt(weight * (1 - weight)) * apart  # the standard deviation of one that is either
    # Half the distance from the lower to the upper end, both cut at the number of CPUs.
    between = (np.minimum(filled + added.doubt, cpus) - (filled - added.doubt)) / (2 * cpus)
    return Load(filled / cpus, between + undecided, (wanted + added.on_off) / cpus)
