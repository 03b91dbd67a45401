"""A host's standing: from when its readings count, and the penalty after attempts that did not solve its problem.

Source: thesis Table 3 and §4.4.7. After a failed attempt the host waits ``initial_seconds``; every further failed attempt
adds ``step_seconds``; one reading below the threshold cancels the penalty, and the next one is of the initial length again. The
strategy ``thesis`` knows the CPU alone; otherwise everything that can be a problem must be below its threshold.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace

from virtpoise_balancer.analyse.overload import company_since
from virtpoise_balancer.analyse.triggers import watched
from virtpoise_balancer.model import Host, HostState, Penalty, Plan, Policy, Problem, Result, Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What must be remembered of a host between cycles. Times in Unix seconds; ``failures`` in a row, without a reading below."""

    host: str
    counted_from: float | None = None
    penalty_from: float | None = None
    penalty_until: float | None = None
    failures: int = 0
    draining: bool = False


def after_attempt(standing: Standing, *, solved: bool, now: float, counted_from: float, penalty: Penalty) -> Standing:
    """The standing when an attempt has ended: N is counted afresh, and an unsolved problem earns a penalty."""
    if solved:
        return replace(standing, counted_from=counted_from)
    length = penalty.initial_seconds + standing.failures * penalty.step_seconds
    return replace(
        standing,
        counted_from=counted_from,
        penalty_from=now,
        penalty_until=now + length,
        failures=standing.failures + 1,
    )


def after_plan(
    standings: Mapping[str, Standing],
    hosts: Iterable[str],
    plan: Plan,
    results: Sequence[Result],
    *,
    ended: float,
    counted_from: float,
    penalty: Penalty,
    silent: AbstractSet[str] = frozenset(),
) -> dict[str, Standing]:
    """The standings that change when a plan has been carried out; ``results`` of its moves, in order.

    A host whose problem is not solved, by the plan or by how its moves went, gets its penalty from ``ended`` on. Where
    anything was moved, all hosts count afresh from ``counted_from`` on, since while one solves its problem the others do
    not judge themselves. A rule or an imbalance that a plan leaves as it is must not keep its host from being relieved: there
    only moves that failed earn a penalty.

    Where a move was skipped since one of its hosts was ``silent``, no skipped move of the plan earns one: the next plan knows that host
    to be unknown.
    """
    ends = list(zip(plan.moves, results, strict=True))
    met_silence = any(result is Result.SKIPPED and silent & {move.source, move.destination} for move, result in ends)
    harmless = {Result.DONE, Result.SKIPPED} if met_silence else {Result.DONE}
    undone = {move.source for move, result in ends if result not in harmless}
    changed: dict[str, Standing] = {}
    if results:
        for name in hosts:
            changed[name] = replace(standings.get(name, Standing(host=name)), counted_from=counted_from)
    for attempt in plan.attempts:
        if attempt.problem in (Problem.RULE, Problem.IMBALANCE) and attempt.host not in undone:
            continue
        standing = changed.get(attempt.host) or standings.get(attempt.host, Standing(host=attempt.host))
        solved = attempt.solved and attempt.host not in undone
        changed[attempt.host] = after_attempt(
            standing, solved=solved, now=ended, counted_from=counted_from, penalty=penalty
        )
    return changed


def relieved(standing: Standing, host: Host, snapshot: Snapshot, policy: Policy) -> Standing:
    """The standing after a look at the readings: one below the threshold since the penalty began cancels it.

    ``thesis`` takes any such reading of the CPU. For other strategies the newest must be below for every resource: an idle CPU says
    nothing about a full memory. A draining host's penalty has nothing to do with its own load, so only time ends it.
    """
    if standing.penalty_from is None or host.state is HostState.DRAINING:
        return standing
    looked_back = len(host.cpu_ratio) if policy.strategy == "thesis" else min(len(host.cpu_ratio), 1)
    dipped = any(
        snapshot.time - (age + 1) * snapshot.step_seconds >= standing.penalty_from
        and all(readings[-1 - age] < trigger.threshold for _, trigger, readings in watched(host, policy))
        for age in range(looked_back)
    )
    return replace(standing, penalty_from=None, penalty_until=None, failures=0) if dipped else standing


def with_standing(snapshot: Snapshot, standings: Mapping[str, Standing]) -> Snapshot:
    """The snapshot with what is remembered of each host, so that it alone decides the plan (and a saved one replays it)."""
    return replace(snapshot, hosts=tuple(_placed(host, standings.get(host.name), snapshot) for host in snapshot.hosts))


def draining(snapshot: Snapshot, standings: Mapping[str, Standing]) -> Snapshot:
    """The snapshot with the hosts that are told to drain marked so; an unknown host stays unknown."""
    return replace(
        snapshot,
        hosts=tuple(
            replace(host, state=HostState.DRAINING)
            if host.state is HostState.ACTIVE and host.name in standings and standings[host.name].draining
            else host
            for host in snapshot.hosts
        ),
    )


def _placed(host: Host, standing: Standing | None, snapshot: Snapshot) -> Host:
    starts = (standing.counted_from if standing else None, company_since(snapshot, host.name))
    return replace(
        host,
        counted_from=max((start for start in starts if start is not None), default=None),
        penalty_until=standing.penalty_until if standing else None,
    )
