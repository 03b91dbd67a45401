"""The predicted use of both hosts of each move, in the order of the moves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from virtpoise_balancer.analyse.demand import Demands, Mask
from virtpoise_balancer.model import PredictedLoads, Prediction, Resource, Role
from virtpoise_balancer.plan.default.group import Group
from virtpoise_balancer.plan.default.residents import TRAFFIC_DOUBT, Residents, predict_together

_UPLINKS = (Resource.RX, Resource.TX)
_UNKNOWN = (None, None, None)


class _Interval(NamedTuple):
    """A share of a resource in use, between two ends; each may pass 1."""

    lower: float
    middle: float
    upper: float

    def changed(self, lower: float, middle: float, upper: float) -> _Interval:
        """The interval with these amounts added to its ends and its middle; none falls below 0."""
        return _Interval(max(self.lower + lower, 0.0), max(self.middle + middle, 0.0), max(self.upper + upper, 0.0))


@dataclass(slots=True)
class _HostUse:
    """One host after the moves so far.

    ``present``: which of its own domains are left (1 x domains). ``arrivals``: what the domains that came want of its
    CPUs. ``shares``: the use of memory and uplinks, without what is unknown.
    """

    residents: Residents
    present: Mask
    arrivals: list[Demands] = field(default_factory=list)
    shares: dict[Resource, _Interval] = field(default_factory=dict)

    def copy(self) -> _HostUse:
        """A copy that later moves do not change."""
        return _HostUse(self.residents, self.present.copy(), list(self.arrivals), dict(self.shares))


def predict_moves(group: Group, moves: Sequence[tuple[int, int, int]]) -> list[PredictedLoads]:
    """The predicted use of both hosts of each move, after it and all moves before it.

    ``moves``: (source, row of the domain among the source's running domains, destination). Migrations that are under
    way count as arrived. The CPU loads are predicted together at the end, which is much quicker.
    """
    uses = _Uses(group)
    ends = [uses.after(*move) for move in moves]
    predict_together((source.residents, source.present) for source, _ in ends if not source.arrivals)
    return [
        PredictedLoads(
            source=_prediction(group, source, Role.SOURCE, saturated=source.residents.saturated),
            destination=_prediction(group, destination, Role.DESTINATION, saturated=source.residents.saturated),
        )
        for source, destination in ends
    ]


def free_share(group: Group, host: int, use: Prediction) -> float:
    """The free share of the host's scarcest resource below its limit, by the upper ends of the prediction; negative:
    exceeded.
    """
    limits: list[float] = group.limit[:, host].tolist()
    ends = ((use.upper(resource), limits[resource.row]) for resource in Resource)
    return min((limit - share) / limit for share, limit in ends if share is not None)


class _Uses:
    """The hosts that the moves so far touch."""

    def __init__(self, group: Group) -> None:
        self._group = group
        self._of: dict[int, _HostUse] = {}

    def after(self, source: int, row: int, destination: int) -> tuple[_HostUse, _HostUse]:
        """Both hosts after one more move."""
        leaves, takes = self._use(source), self._use(destination)
        leaves.present[0, row] = False
        self._change(leaves, leaves.residents, row, -1)
        self._arrive(takes, leaves.residents, row)
        return leaves.copy(), takes.copy()

    def _use(self, number: int) -> _HostUse:
        use = self._of.get(number)
        if use is None:
            residents = self._group.residents(number)
            host = residents.host
            shares = {
                resource: _Interval(now, now, now)
                for resource in (Resource.MEMORY, *_UPLINKS)
                if (now := host.ratio(resource)) is not None
            }
            use = self._of[number] = _HostUse(residents, ~residents.leaving[np.newaxis], shares=shares)
            for domain in self._group.under_way:
                home = self._group.index[domain.host]
                if domain.migrating_to == host.name and self._group.hosts[home].known:
                    coming = self._group.residents(home)
                    if domain in coming.running:
                        self._arrive(use, coming, coming.running.index(domain))
        return use

    def _arrive(self, use: _HostUse, home: Residents, row: int) -> None:
        use.arrivals.append(home.arriving([row], use.residents.host))
        self._change(use, home, row, 1)

    def _change(self, use: _HostUse, home: Residents, row: int, sign: int) -> None:
        """Add the domain to the host's use, or take it off. ``sign``: 1 where the domain arrives, -1 where it leaves.

        At least the resident part of its memory arrives, or leaves, and at most all that is assigned.
        """
        per_unit = self._group.per_unit[:, use.residents.number].tolist()
        memory = per_unit[Resource.MEMORY.row]
        resident = float(home.relief[row, Resource.MEMORY.row]) * memory
        amounts = {Resource.MEMORY: (resident, resident, home.running[row].ordinary_bytes * memory)}
        for resource, traffic in zip(_UPLINKS, home.traffic[row].tolist(), strict=True):
            share = traffic * per_unit[resource.row]
            amounts[resource] = (share * (1 - TRAFFIC_DOUBT), share, share * (1 + TRAFFIC_DOUBT))
        for resource, (lower, middle, upper) in amounts.items():
            now = use.shares.get(resource)
            if now is None:
                continue
            if sign > 0:
                use.shares[resource] = now.changed(lower, middle, upper)
            else:  # the lower end falls by the most that may leave
                use.shares[resource] = now.changed(-upper, -middle, -lower)


def _prediction(group: Group, use: _HostUse, role: Role, *, saturated: bool) -> Prediction:
    load = use.residents.load(use.present, use.arrivals)
    ratio, spread = float(load.ratio[0]), float(load.spread[0])
    quantile = group.quantiles[role, saturated]
    lower, upper = max(ratio - quantile.below * spread, 0.0), min(ratio + quantile.above * spread, 1.0)
    likeliest = min(max(ratio + quantile.bias_ratio, lower), upper)
    memory = use.shares[Resource.MEMORY]
    rx_lower, rx, rx_upper = use.shares.get(Resource.RX, _UNKNOWN)
    tx_lower, tx, tx_upper = use.shares.get(Resource.TX, _UNKNOWN)
    return Prediction(
        cpu_ratio=likeliest,
        cpu_ratio_lower=lower,
        cpu_ratio_upper=upper,
        cpu_spread_ratio=spread,
        cpu_bias_ratio=likeliest - ratio,
        saturated=saturated,
        memory_ratio=memory.middle,
        memory_ratio_lower=memory.lower,
        memory_ratio_upper=memory.upper,
        rx_ratio=rx,
        rx_ratio_lower=rx_lower,
        rx_ratio_upper=rx_upper,
        tx_ratio=tx,
        tx_ratio_lower=tx_lower,
        tx_ratio_upper=tx_upper,
    )
