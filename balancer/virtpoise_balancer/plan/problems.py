"""Which hosts have a problem that may be attempted now, and what keeps the others back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from operator import attrgetter

from virtpoise_balancer.analyse.triggers import watched
from virtpoise_balancer.model import (
    Domain,
    DomainState,
    Host,
    HostState,
    Overload,
    Policy,
    Problem,
    Reason,
    Refusal,
    Snapshot,
)

_CLOSED = {
    HostState.DRAINING: Reason.HOST_DRAINING,
    HostState.STANDBY: Reason.HOST_STANDBY,
    HostState.WAKING: Reason.HOST_STANDBY,
}

# A look is dated by the whole step of the clock at which it begins, and its plan by when it did, which is so much later
# at most. Otherwise a penalty of some steps would last for one more.
_LATE_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class FoundProblems:
    """The problems of a group.

    ``attempt``: what to work on, drains first, since they are orders. ``held``: why the others must wait.
    """

    overloaded: tuple[Overload, ...]
    attempt: tuple[tuple[Host, Problem], ...]
    held: tuple[Refusal, ...]

    @property
    def stand(self) -> bool:
        """Whether a problem is neither attempted nor being solved by moves that are under way."""
        return any(one.reason is not Reason.WAITING for one in self.held)


def find(
    snapshot: Snapshot,
    policy: Policy,
    found: tuple[Overload, ...],
    busy: Mapping[str, str] | None = None,
) -> FoundProblems:
    """The problems of the snapshot.

    ``found``: the overloads. ``busy``: the hosts ``concerned``, where the caller has them already.
    """
    hosts = {host.name: host for host in snapshot.hosts}
    draining = {host.name for host in snapshot.hosts if host.state is HostState.DRAINING and host.known}
    drains = sorted(
        {
            domain.host
            for domain in snapshot.domains
            if domain.host in draining and domain.state is not DomainState.SHUTOFF
        }
        if draining
        else ()
    )
    # A host in back-off may have too few new samples to count as overloaded; the plan still gives the reason.
    counted = {overload.host for overload in found}
    waiting = sorted(
        host.name
        for host in filter(attrgetter("penalty_until"), snapshot.hosts)
        if _in_penalty(host, snapshot)
        and host.known
        and host.state is HostState.ACTIVE
        and host.name not in counted
        and any(samples[-1] >= trigger.threshold for _, trigger, samples in watched(host, policy))
    )
    if busy is None:
        busy = concerned(snapshot.migrating)
    wanted = [(hosts[name], Problem.DRAIN) for name in drains]
    wanted += [(hosts[name], Problem.OVERLOAD) for name in dict.fromkeys(overload.host for overload in found)]
    attempt: list[tuple[Host, Problem]] = []
    held = [_penalty(hosts[name], snapshot) for name in waiting]
    for host, problem in wanted:
        refusal = _held_back(host, problem, snapshot, busy)
        if refusal:
            held.append(refusal)
        else:
            attempt.append((host, problem))
    return FoundProblems(found, tuple(attempt), tuple(held))


def concerned(migrating: Iterable[Domain]) -> dict[str, str]:
    """By host, the name of a domain that is on its way from it or to it: the first by name.

    ``migrating``: all domains that are on their way, in any order.
    """
    found: dict[str, str] = {}
    for domain in sorted(migrating, key=attrgetter("name")):
        found.setdefault(domain.host, domain.name)
        found.setdefault(domain.migrating_to or "", domain.name)
    return found


def _held_back(host: Host, problem: Problem, snapshot: Snapshot, busy: Mapping[str, str]) -> Refusal | None:
    if not any(other.state is HostState.ACTIVE and other.known and other.name != host.name for other in snapshot.hosts):
        return Refusal(host=host.name, reason=Reason.ALONE)
    if _in_penalty(host, snapshot):
        return _penalty(host, snapshot)
    if problem is Problem.DRAIN and not _seen_since(host, snapshot):
        return _waiting(host, "figures from after the last change on it")
    return _waiting(host, f"the migration of {busy[host.name]}") if host.name in busy else None


def _waiting(host: Host, until: str) -> Refusal:
    return Refusal(host=host.name, reason=Reason.WAITING, detail={"until": until})


def _seen_since(host: Host, snapshot: Snapshot) -> bool:
    """Whether the host was seen since the last move or change by others on it ended: until then its domains may be
    listed where they no longer are.
    """
    return host.counted_from is None or snapshot.time - snapshot.step_seconds >= host.counted_from


def _in_penalty(host: Host, snapshot: Snapshot) -> bool:
    return host.penalty_until is not None and host.penalty_until - snapshot.time > _LATE_SECONDS


def _penalty(host: Host, snapshot: Snapshot) -> Refusal:
    left = (host.penalty_until or snapshot.time) - snapshot.time
    return Refusal(host=host.name, reason=Reason.PENALTY, detail={"seconds_left": round(left, 3)})


def no_destination(host: Host) -> Refusal | None:
    """Why the host can take no domain at all, or None."""
    if unknown := host.why_unknown:
        return Refusal(host=host.name, reason=Reason.HOST_UNKNOWN, detail={"unknown": unknown.text})
    reason = _CLOSED.get(host.state)
    return Refusal(host=host.name, reason=reason) if reason else None
