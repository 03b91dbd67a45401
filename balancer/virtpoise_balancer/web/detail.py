"""One host or one domain in full, for the API and the page."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from virtpoise_balancer.errors import NotKnown, Refused
from virtpoise_balancer.explain.explain import Explanation, of_domain, of_host
from virtpoise_balancer.knowledge.records import MigrationRecord
from virtpoise_balancer.model import Domain, Plan, Snapshot
from virtpoise_balancer.web.context import MOST_RECORDS, Context
from virtpoise_balancer.web.state import HostStatus, State


@dataclass(frozen=True, slots=True, kw_only=True)
class HostDetail:
    """A host, its CPU samples (oldest first, ``step_seconds`` apart), and why it is (not) relieved or a destination."""

    status: HostStatus
    step_seconds: float
    cpu_ratio: tuple[float, ...]
    explanation: Explanation


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainDetail:
    """A domain, why it is (not) moved, and its migrations, newest first."""

    domain: Domain
    explanation: Explanation
    migrations: tuple[MigrationRecord, ...]


def host_detail(state: State, statuses: Iterable[HostStatus], name: str) -> HostDetail:
    """The host of this name. NotKnown if there is none, Refused before the first snapshot. ``statuses``: of the state's
    hosts.
    """
    snapshot = seen(state)
    host = snapshot.host(name)
    if host is None:
        raise NotKnown(f"{name}: no such host is scraped")
    (found,) = (one for one in statuses if one.name == name)
    return HostDetail(
        status=found,
        step_seconds=snapshot.step_seconds,
        cpu_ratio=host.cpu_ratio,
        explanation=of_host(snapshot, state.policy, planned(state), host),
    )


def domain_detail(context: Context, name: str) -> DomainDetail:
    """The domain of this uuid, or of this name if only one has it.

    NotKnown if there is none, Refused before the first snapshot.
    """
    state = context.published.state
    snapshot = seen(state)
    found = [domain for domain in snapshot.domains if domain.uuid == name]
    found = found or [domain for domain in snapshot.domains if domain.name == name]
    if not found:
        raise NotKnown(f"{name}: no domain of the group has this name or uuid")
    if len(found) > 1:
        raise NotKnown(
            f"{name}: more than one domain has this name: use its uuid ({', '.join(d.uuid for d in found[:5])})"
        )
    (domain,) = found
    return DomainDetail(
        domain=domain,
        explanation=of_domain(snapshot, state.policy, planned(state), domain),
        migrations=context.store.history(MOST_RECORDS, uuid=domain.uuid),
    )


def seen(state: State) -> Snapshot:
    """The newest cycle's snapshot. Refused if it has none."""
    if state.snapshot is None:
        raise Refused(f"the newest cycle has no snapshot: {state.sentence}")
    return state.snapshot


def planned(state: State) -> Plan:
    """The newest plan. While migrations run there is none, and an empty one is returned."""
    if state.plan is not None:
        return state.plan
    return Plan(strategy=state.policy.strategy, solved=True, summary=state.sentence)
