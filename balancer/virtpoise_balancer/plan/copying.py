"""Migrations that copy disks: made on a drain, and otherwise only where nothing else helps."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from dataclasses import replace
from operator import attrgetter

from virtpoise_balancer.model import (
    DiskCopy,
    Domain,
    Hold,
    Holder,
    HostState,
    Move,
    Plan,
    Policy,
    Problem,
    Refusal,
    Snapshot,
)
from virtpoise_balancer.plan.possible import holding

_Plan = Callable[[Snapshot, Policy], Plan]
_GIB = 1 << 30
# Nothing less has disks copied: neither a rule nor a balance is worth it.
_WORTH_IT = (Problem.OVERLOAD, Problem.DRAIN)


def plan_sparingly(snapshot: Snapshot, policy: Policy, plan: _Plan) -> Plan:
    """The plan with as few copied disks as it takes: none but on a drain, unless an overload is not relieved otherwise.

    Domains of other hosts than those stay, and are refused as held by their storage. ``plan``: of a strategy.
    """
    if not any(map(attrgetter("copies"), snapshot.domains)):
        return plan(snapshot, policy)
    drained = _draining(snapshot)
    made = plan(_holding_back(snapshot, drained), policy)
    unsolved = {one.host for one in made.attempts if not one.solved and one.problem in _WORTH_IT}
    if not any(domain.copies and domain.host in unsolved for domain in snapshot.domains):
        return made
    wider = plan(_holding_back(snapshot, drained | unsolved), policy)
    return wider if _solved(wider) > _solved(made) else made


def held_back(snapshot: Snapshot) -> Snapshot:
    """The snapshot in which domains whose disks would have to be copied are held, except on hosts that are drained."""
    if not any(map(attrgetter("copies"), snapshot.domains)):
        return snapshot
    return _holding_back(snapshot, _draining(snapshot))


def refusal(domain: Domain) -> Refusal | None:
    """Why a migration without a copy of the domain's disks is refused; None where it needs none."""
    return holding(replace(domain, holds=(_hold(domain),))) if domain.copies else None


def with_copies(move: Move, copies: tuple[DiskCopy, ...]) -> Move:
    """The move with the disks that are copied along, in its reason as well."""
    if not copies:
        return move
    return replace(move, copies=copies).because(f"its disks are copied ({_disks(copies)})")


def _draining(snapshot: Snapshot) -> Set[str]:
    return {host.name for host in snapshot.hosts if host.state is HostState.DRAINING}


def _holding_back(snapshot: Snapshot, but_on: Set[str]) -> Snapshot:
    domains = (
        replace(domain, holds=(*domain.holds, _hold(domain))) if domain.copies and domain.host not in but_on else domain
        for domain in snapshot.domains
    )
    return replace(snapshot, domains=tuple(domains))


def _hold(domain: Domain) -> Hold:
    return Hold(kind=Holder.STORAGE, why=f"its disks would have to be copied ({_disks(domain.copies)})")


def _disks(copies: Sequence[DiskCopy]) -> str:
    stored = sum(one.stored_bytes for one in copies)
    return f"{', '.join(one.device for one in copies)}: {stored / _GIB:.1f} GiB"


def _solved(made: Plan) -> int:
    return sum(attempt.solved for attempt in made.attempts)
