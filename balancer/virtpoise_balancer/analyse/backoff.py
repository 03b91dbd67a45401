"""Back-off of a host: from when its samples count, and its penalty after attempts that did not solve its problem.

Source: thesis Table 3 and §4.4.7. After a failed attempt the host waits ``initial_seconds``. Every further failed
attempt adds ``step_seconds``. One sample below the threshold cancels the penalty, and the next one has the initial
length again. Which resources are watched, whether only the newest sample counts, and whether a first attempt that
relieved the host in part is followed by another at once, depends on the strategy (``StrategyTraits``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from virtpoise_balancer.analyse.drains import DrainOrder
from virtpoise_balancer.analyse.overload import accompanied_since
from virtpoise_balancer.analyse.triggers import watched
from virtpoise_balancer.model import Host, HostState, Penalty, Plan, Policy, Problem, Result, SampleTimes, Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """What a cycle remembers of a host. Times in Unix seconds.

    ``counted_from``: samples before it do not count towards N. ``failures``: failed attempts since the last sample
    below the threshold.
    """

    host: str
    counted_from: float | None = None
    penalty_from: float | None = None
    penalty_until: float | None = None
    failures: int = 0


Backoffs = Mapping[str, Backoff]


def after_attempt(
    backoff: Backoff, *, solved: bool, now: float, counted_from: float, penalty: Penalty, second_try: bool = False
) -> Backoff:
    """The back-off once an attempt has ended: N starts again, and an unsolved problem earns a penalty from ``now``.

    ``second_try``: none for the first attempt.
    """
    if solved:
        return replace(backoff, counted_from=counted_from)
    length = penalty.initial_seconds + backoff.failures * penalty.step_seconds
    if second_try and not backoff.failures:
        length = 0.0
    return replace(
        backoff,
        counted_from=counted_from,
        penalty_from=now,
        penalty_until=now + length,
        failures=backoff.failures + 1,
    )


def after_plan(
    backoffs: Backoffs,
    hosts: Iterable[str],
    plan: Plan,
    results: Sequence[Result],
    *,
    ended: float,
    counted_from: float,
    penalty: Penalty,
    second_try: bool = False,
) -> dict[str, Backoff]:
    """The back-offs that change when a plan has been carried out, by host. ``results``: of its moves, in order.

    A host whose problem the plan does not solve, or from which a migration failed, gets its penalty from ``ended`` on.
    Not if its moves were skipped: then the attempt was cut off, and the next plan knows why. If the plan had moves, N
    starts again at ``counted_from`` for these ``hosts``. A rule or an imbalance that a plan leaves as it is earns no
    penalty unless a move failed, so that the host can still be relieved.

    ``second_try``: a first attempt that moved something, and whose moves did not fail, is followed by another as soon
    as N samples show what is left. A full host hides how much it lacks, so what it is left with may well be solved.
    """
    ends = list(zip(plan.moves, results, strict=True))
    failed = {move.source for move, result in ends if result is Result.FAILED}
    cut_off = {move.source for move, result in ends if result is Result.SKIPPED}
    moved = {move.source for move, result in ends if result is Result.DONE} - failed
    changed: dict[str, Backoff] = {}
    if results:
        for name in hosts:
            changed[name] = replace(backoffs.get(name, Backoff(host=name)), counted_from=counted_from)
    for attempt in plan.attempts:
        if attempt.problem in (Problem.RULE, Problem.IMBALANCE, Problem.FORESEEN) and attempt.host not in failed:
            continue
        backoff = changed.get(attempt.host) or backoffs.get(attempt.host, Backoff(host=attempt.host))
        solved = (attempt.solved or attempt.host in cut_off) and attempt.host not in failed
        changed[attempt.host] = after_attempt(
            backoff,
            solved=solved,
            now=ended,
            counted_from=counted_from,
            penalty=penalty,
            second_try=second_try and attempt.host in moved,
        )
    return changed


class LoadChange(Protocol):
    """A change of the load of hosts, made by the balancer or by others."""

    @property
    def hosts(self) -> tuple[str, ...]: ...

    def shows_from(self, times: SampleTimes) -> float | None:
        """When a step must begin for its sample to show all of it (Unix seconds); None while it goes on."""
        ...


def after_changes(backoffs: Backoffs, changes: Iterable[LoadChange], times: SampleTimes) -> dict[str, Backoff]:
    """The back-offs that change because something ended, by host: N starts again for the hosts of each change."""
    changed: dict[str, Backoff] = {}
    for one in changes:
        shows_from = one.shows_from(times)
        if shows_from is None:
            continue
        for host in one.hosts:
            backoff = changed.get(host) or backoffs.get(host, Backoff(host=host))
            if backoff.counted_from is None or backoff.counted_from < shows_from:
                changed[host] = replace(backoff, counted_from=shows_from)
    return changed


def relieved(backoff: Backoff, host: Host, snapshot: Snapshot, policy: Policy) -> Backoff:
    """The back-off after a look at the samples: a sample below the threshold since the penalty began cancels it.

    Every watched resource must be below its own: an idle CPU says nothing about a full memory. The penalty of a
    draining host does not depend on its load, so only time ends it.
    """
    if backoff.penalty_from is None or host.state is HostState.DRAINING:
        return backoff
    looked_back = min(len(host.cpu_ratio), 1) if policy.traits.newest_sample_alone else len(host.cpu_ratio)
    dipped = any(
        snapshot.time - (age + 1) * snapshot.step_seconds >= backoff.penalty_from
        and all(readings[-1 - age] < trigger.threshold for _, trigger, readings in watched(host, policy))
        for age in range(looked_back)
    )
    return replace(backoff, penalty_from=None, penalty_until=None, failures=0) if dipped else backoff


def after_order(backoff: Backoff, order: DrainOrder | None) -> Backoff:
    """The back-off after an order to drain the host or take it back: a penalty from before the order is void."""
    if order is None or backoff.penalty_from is None or backoff.penalty_from > order.at:
        return backoff
    return replace(backoff, penalty_from=None, penalty_until=None, failures=0)


def with_backoffs(snapshot: Snapshot, backoffs: Backoffs) -> Snapshot:
    """The snapshot with each host's back-off, so that it alone decides the plan, and a saved one decides it again."""
    since = accompanied_since(snapshot)
    return replace(
        snapshot, hosts=tuple(_with_backoff(host, backoffs.get(host.name), since[host.name]) for host in snapshot.hosts)
    )


def _with_backoff(host: Host, backoff: Backoff | None, accompanied: float | None) -> Host:
    starts = (backoff.counted_from if backoff else None, accompanied)
    return replace(
        host,
        counted_from=max((start for start in starts if start is not None), default=None),
        penalty_until=backoff.penalty_until if backoff else None,
    )
