"""What both ends of each move are predicted to use, one move after the other."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from virtpoise_balancer.analyse.demand import Demands, Mask
from virtpoise_balancer.model import PredictedLoads, Prediction, Role
from virtpoise_balancer.plan.default.group import MEMORY, RX, TX, Group
from virtpoise_balancer.plan.default.residents import TRAFFIC_DOUBT, Residents, foresee
from virtpoise_balancer.plan.default.trial import Step


@dataclass(slots=True)
class _Account:
    """One host: who is left, who came, and the interval of what it uses of memory and uplinks, as (lower, middle, upper) shares."""

    residents: Residents
    present: Mask
    arrivals: list[Demands] = field(default_factory=list)
    shares: dict[int, tuple[float, float, float]] = field(default_factory=dict)

    def shift(self, resource: int, lower: float, middle: float, upper: float) -> None:
        now = self.shares[resource]
        self.shares[resource] = (max(now[0] + lower, 0.0), max(now[1] + middle, 0.0), max(now[2] + upper, 0.0))

    def copy(self) -> _Account:
        return _Account(self.residents, self.present.copy(), list(self.arrivals), dict(self.shares))


class Ledger:
    def __init__(self, group: Group) -> None:
        self.group = group
        self._accounts: dict[int, _Account] = {}

    def _account(self, number: int) -> _Account:
        account = self._accounts.get(number)
        if account is None:
            residents = self.group.residents(number)
            host = residents.host
            account = _Account(
                residents,
                ~residents.leaving[np.newaxis],
                shares={
                    MEMORY: (host.memory_ratio,) * 3,
                    RX: (host.rx_ratio,) * 3,
                    TX: (host.tx_ratio,) * 3,
                },
            )
            self._accounts[number] = account
            for domain in self.group.under_way:
                if domain.migrating_to == host.name:
                    self._arrive(account, self.group.index[domain.host], domain.uuid)
        return account

    def _arrive(self, account: _Account, source: int, uuid: str) -> None:
        if not self.group.hosts[source].known:
            return
        residents = self.group.residents(source)
        row = next((i for i, domain in enumerate(residents.running) if domain.uuid == uuid), None)
        if row is None:
            return
        account.arrivals.append(residents.arriving([row], account.residents.host))
        self._shift(account, residents, row, 1)

    def _shift(self, account: _Account, residents: Residents, row: int, sign: int) -> None:
        domain = residents.running[row]
        unit = self.group.per_unit[:, account.residents.number]
        resident, assigned = residents.relief[row, MEMORY] * unit[MEMORY], domain.memory_bytes * unit[MEMORY]
        ends = (resident, assigned) if sign > 0 else (assigned, resident)
        account.shift(MEMORY, sign * ends[0], sign * resident, sign * ends[1])
        for resource in (RX, TX):
            traffic = residents.traffic[row, resource - RX] * unit[resource]
            less, more = traffic * (1 - TRAFFIC_DOUBT), traffic * (1 + TRAFFIC_DOUBT)
            ends = (less, more) if sign > 0 else (more, less)
            account.shift(resource, sign * ends[0], sign * traffic, sign * ends[1])

    def enter(self, moves: Iterable[tuple[Step, int]]) -> list[PredictedLoads]:
        """For each domain of a step (its row): the use of both hosts after it has gone over, and all that were entered before."""
        ends = [self._enter(step, row) for step, row in moves]
        foresee((source.residents, source.present) for source, _ in ends if not source.arrivals)
        return [
            PredictedLoads(
                source=self._prediction(source, Role.SOURCE, saturated=source.residents.saturated),
                destination=self._prediction(destination, Role.DESTINATION, saturated=source.residents.saturated),
            )
            for source, destination in ends
        ]

    def _enter(self, step: Step, row: int) -> tuple[_Account, _Account]:
        source, destination = self._account(step.item.source), self._account(step.destination)
        source.present[0, row] = False
        self._shift(source, source.residents, row, -1)
        self._arrive(destination, step.item.source, source.residents.running[row].uuid)
        return source.copy(), destination.copy()

    def _prediction(self, account: _Account, role: Role, *, saturated: bool) -> Prediction:
        load = account.residents.load(account.present, account.arrivals)
        ratio, spread = float(load.ratio[0]), float(load.spread[0])
        reach = self.group.reaches[role, saturated]
        lower, upper = max(ratio - reach.below * spread, 0.0), min(ratio + reach.above * spread, 1.0)
        likeliest = min(max(ratio + reach.bias_ratio, lower), upper)
        memory, rx, tx = (account.shares[resource] for resource in (MEMORY, RX, TX))
        return Prediction(
            cpu_ratio=likeliest,
            cpu_ratio_lower=lower,
            cpu_ratio_upper=upper,
            cpu_spread_ratio=spread,
            cpu_bias_ratio=likeliest - ratio,
            saturated=saturated,
            memory_ratio=memory[1],
            memory_ratio_lower=memory[0],
            memory_ratio_upper=memory[2],
            rx_ratio=rx[1],
            rx_ratio_lower=rx[0],
            rx_ratio_upper=rx[2],
            tx_ratio=tx[1],
            tx_ratio_lower=tx[0],
            tx_ratio_upper=tx[2],
        )
