"""Whether a planned move is still wanted and still fits, on a fresh look at the hosts that it concerns (law 5)."""

from __future__ import annotations

from virtpoise_balancer.analyse.triggers import watched
from virtpoise_balancer.model import DomainState, Host, HostState, Move, Policy, Problem, Refusal, Snapshot
from virtpoise_balancer.plan import refusal
from virtpoise_balancer.plan.problems import no_destination


def obstacle(move: Move, snapshot: Snapshot, policy: Policy) -> Refusal | str | None:
    """Why the move must not be made now, or None.

    ``snapshot``: its two hosts, and those from which other domains are on their way to them.
    """
    source, destination = snapshot.host(move.source), snapshot.host(move.destination)
    for host, name in ((source, move.source), (destination, move.destination)):
        if host is None:
            return f"{name} has left the group"
        if unknown := host.why_unknown:
            return f"{name} is unknown: {unknown.text}"
    if source is None or destination is None:
        raise AssertionError
    if closed := no_destination(destination):
        return closed
    domain = next((domain for domain in snapshot.domains if domain.uuid == move.uuid), None)
    if domain is None or domain.host != move.source or domain.state is not DomainState.RUNNING:
        return f"{move.domain} is no longer seen running on {move.source}"
    return _unwanted(move.problem, source, destination, policy) or refusal(snapshot, policy, move)


def _unwanted(problem: Problem | None, source: Host, destination: Host, policy: Policy) -> str | None:
    """Why the move is no longer wanted, or None. A rule that was broken by the policy of the plan still is."""
    if problem is Problem.DRAIN and source.state is not HostState.DRAINING:
        return f"{source.name} is no longer draining"
    if problem is Problem.OVERLOAD and all(
        samples[-1] < trigger.recovery_ratio for _, trigger, samples in watched(source, policy)
    ):
        return f"{source.name} is no longer overloaded (its CPU load is {source.load:.0%})"
    by_load = policy.imbalance is None or policy.imbalance.by == "cpu"
    if problem is Problem.IMBALANCE and by_load and source.load <= destination.load:
        return f"{source.name} is no busier than {destination.name}"
    return None
