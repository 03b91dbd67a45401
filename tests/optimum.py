"""The exact optimum of a small group by mixed-integer programming (scipy's HiGHS). Shares no code with the planner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

from random_groups import GIB, MARGIN
from virtpoise_balancer.model import Policy, Snapshot

_STRICTLY = 1e-7
_LEAST_GAIN = 0.01
_TIME_LIMIT_SECONDS = 600.0
# A host, what each domain would take there (by uuid), and what is free, in bytes.
Supply = tuple[str, Mapping[str, int], int]
# scipy's words for how the solver ended
_OUT_OF_TIME, _INFEASIBLE = 1, 2
_FREE = 5.0  # added to a limit that does not count


@dataclass(frozen=True)
class Optimum:
    """``proven``: False where the solver ran out of time: the best sequence that it had found by then."""

    moves: int
    bytes: int
    proven: bool = True


@dataclass
class _Rows:
    """Constraints: lower <= sum of terms <= upper."""

    row: list[int] = field(default_factory=list)
    column: list[int] = field(default_factory=list)
    value: list[float] = field(default_factory=list)
    lower: list[float] = field(default_factory=list)
    upper: list[float] = field(default_factory=list)

    def add(self, terms: dict[int, float], lower: float, upper: float) -> None:
        for column, value in terms.items():
            self.row.append(len(self.lower))
            self.column.append(column)
            self.value.append(value)
        self.lower.append(lower)
        self.upper.append(upper)


@dataclass
class _Columns:
    """x: the domain is on the host after the wave; a: it arrives there in the wave; y: the host receives something in
    the wave.
    """

    domains: int
    hosts: int
    waves: int

    @property
    def size(self) -> int:
        return self.waves * (2 * self.domains * self.hosts + self.hosts)

    def x(self, wave: int, domain: int, host: int) -> int:
        return (wave * self.domains + domain) * self.hosts + host

    def a(self, wave: int, domain: int, host: int) -> int:
        return self.x(self.waves, 0, 0) + self.x(wave, domain, host)

    def y(self, wave: int, host: int) -> int:
        return 2 * self.x(self.waves, 0, 0) + wave * self.hosts + host


def optimum(
    snapshot: Snapshot,
    policy: Policy,
    overloaded: list[str],
    *,
    waves: int | None = None,
    supplies: Sequence[Supply] = (),
) -> Optimum | None:
    """The fewest moves, and of those the least memory, after which every overloaded host is at its recovery level;
    None: impossible.

    Without ``waves`` all moves happen at once and only their end counts: a bound that no sequence of legal moves need
    reach. With them, each host that receives something in a wave must be below its limits with all that was there
    before the wave and all that arrives in it, so that the moves are legal in any order; every domain moves at most
    once. All that arrives at a host shares its ``supplies``.
    """
    count = waves or 1
    hosts, domains = snapshot.hosts, snapshot.domains
    col = _Columns(len(domains), len(hosts), count)
    at = {host.name: h for h, host in enumerate(hosts)}
    rows = _Rows()
    lower, upper = np.zeros(col.size), np.ones(col.size)
    stays = {name for rule in policy.rules if rule.kind == "ignore" for name in rule.domains}
    for i, domain in enumerate(domains):
        home = at[domain.host]
        if domain.host in overloaded and domain.cpu_cores / hosts[home].cpus < _LEAST_GAIN:
            stays.add(domain.name)
        rows.add(
            {col.a(t, i, h): 1 for t in range(count) for h in range(len(hosts))}, 0, 0 if domain.name in stays else 1
        )
        for t in range(count):
            rows.add({col.x(t, i, h): 1 for h in range(len(hosts))}, 1, 1)
            for h in range(len(hosts)):
                before = {col.x(t - 1, i, h): -1.0} if t else {}
                here = 1.0 if not t and h == home else 0.0
                rows.add({col.x(t, i, h): 1, **before, col.a(t, i, h): -1}, -np.inf, here)
                rows.add({col.a(t, i, h): 1, col.y(t, h): -1}, -np.inf, 0)
    number = {domain.uuid: i for i, domain in enumerate(domains)}
    for name, needs, free in supplies:
        taken = {col.a(t, number[uuid], at[name]): need for uuid, need in needs.items() if need for t in range(count)}
        rows.add({column: need / GIB for column, need in taken.items()}, -np.inf, free / GIB)
    for t in range(count):
        for h, host in enumerate(hosts):
            for share, whole, limit in (
                ([d.cpu_cores / host.cpus for d in domains], max(host.cpu_ratio), policy.cpu.threshold - MARGIN),
                ([d.ordinary_bytes / host.memory_bytes for d in domains], host.memory_ratio, policy.memory.threshold),
            ):
                own = whole - sum(s for s, d in zip(share, domains, strict=True) if d.host == host.name)
                there = {col.x(t, i, h): s for i, s in enumerate(share)}
                if waves:
                    there = {col.a(t, i, h): s for i, s in enumerate(share)}
                    if t:
                        there |= {col.x(t - 1, i, h): s for i, s in enumerate(share)}
                    else:
                        own = whole
                rows.add({**there, col.y(t, h): _FREE}, -np.inf, limit - own - _STRICTLY + _FREE)
        _keep_rules(rows, upper, policy, snapshot, col, t)
    for h, host in enumerate(hosts):
        if host.name in overloaded:
            own = max(host.cpu_ratio) - sum(d.cpu_cores for d in domains if d.host == host.name) / host.cpus
            left = {col.x(count - 1, i, h): d.cpu_cores / host.cpus for i, d in enumerate(domains)}
            rows.add(left, -np.inf, policy.cpu.recovery_ratio - MARGIN - own + 1e-9)
    cost = np.zeros(col.size)
    for i, domain in enumerate(domains):
        for t in range(count):
            for h in range(len(hosts)):
                cost[col.a(t, i, h)] = 1000 + domain.memory_bytes / GIB
    matrix = coo_array((rows.value, (rows.row, rows.column)), shape=(len(rows.lower), col.size)).tocsr()
    result = milp(
        cost,
        constraints=LinearConstraint(matrix, np.array(rows.lower), np.array(rows.upper)),
        bounds=Bounds(lower, upper),
        integrality=np.ones(col.size),
        options={"mip_rel_gap": 0.0, "time_limit": _TIME_LIMIT_SECONDS},
    )
    if result.status == _INFEASIBLE:
        return None
    assert result.x is not None, result.message
    arrivals = [
        i
        for i in range(len(domains))
        for t in range(count)
        for h in range(len(hosts))
        if result.x[col.a(t, i, h)] > 0.5
    ]
    return Optimum(len(arrivals), sum(domains[i].memory_bytes for i in arrivals), proven=result.status != _OUT_OF_TIME)


def _keep_rules(
    rows: _Rows, upper: NDArray[np.float64], policy: Policy, snapshot: Snapshot, col: _Columns, wave: int
) -> None:
    number = {domain.name: i for i, domain in enumerate(snapshot.domains)}
    for rule in policy.rules:
        members = [number[name] for name in rule.domains]
        for h, host in enumerate(snapshot.hosts):
            if rule.kind == "together":
                for one in members[1:]:
                    rows.add({col.x(wave, members[0], h): 1, col.x(wave, one, h): -1}, 0, 0)
            elif rule.kind == "apart":
                rows.add({col.x(wave, one, h): 1 for one in members}, 0, 1)
            elif (rule.kind == "only_on" and host.name not in rule.hosts) or (
                rule.kind == "never_on" and host.name in rule.hosts
            ):
                for one in members:
                    upper[col.x(wave, one, h)] = 0
