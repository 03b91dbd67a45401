"""The answer for any domain and any host: whether the host would take it, with all numbers.

A plan carries one refusal for each domain that stays; at 10,000 hosts it cannot carry one for each pair. Here a pair is
answered from the same snapshot, policy and code.
"""

from __future__ import annotations

from dataclasses import dataclass

from virtpoise_balancer.model import Detail, Domain, DomainState, Policy, Reason, Refusal, Snapshot
from virtpoise_balancer.plan.default.candidates import candidate_of, movable
from virtpoise_balancer.plan.default.group import CPU, Group
from virtpoise_balancer.plan.default.strategy import sources_of
from virtpoise_balancer.plan.default.trial import Trial
from virtpoise_balancer.plan.default.why_not import check_host, may_be_more
from virtpoise_balancer.plan.problems import find


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleVerdict:
    """Whether a rule about the domain would be kept on the host."""

    rule: str
    kind: str
    hard: bool
    kept: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Considered:
    """One host as a destination of the domain, as things are now. ``reason`` None: it would take it.

    ``room_ratio``: what would be left of the host's scarcest resource, as a share of its limit; negative: that much is
    missing. ``detail``: the numbers of that resource, or of what stands against it.
    """

    host: str
    reason: Reason | None
    room_ratio: float
    detail: Detail
    rules: tuple[RuleVerdict, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Considerations:
    """One domain, and each other host as its destination.

    ``held``: why it could not leave its host, or None. The cores are the estimate of its demand with both ends.
    """

    domain: str
    uuid: str
    host: str
    held: Refusal | None
    demand_cores: float
    demand_lower_cores: float
    demand_upper_cores: float
    gain_ratio: float
    hosts: tuple[Considered, ...]


class Considering:
    """A snapshot under a policy, to be asked about its domains."""

    def __init__(self, snapshot: Snapshot, policy: Policy) -> None:
        self._snapshot = snapshot
        self._group = group = Group(snapshot, policy)
        found = group.overloads
        sources = sources_of(group, find(snapshot, policy, found, group.concerned).attempt, found)
        self._trial = Trial(group, sources, ~group.takers)

    def of(self, uuid: str) -> Considerations | None:
        """The answers for one domain, or None if it does not run or its host is unknown."""
        group, trial = self._group, self._trial
        domain = next((one for one in self._snapshot.domains if one.uuid == uuid), None)
        if domain is None or domain.state is not DomainState.RUNNING:
            return None
        number = group.index[domain.host]
        if not group.hosts[number].known:
            return None
        residents = group.residents(number)
        row = residents.running.index(domain)
        choice = movable(group, number)
        candidate = next((one for one in choice.candidates if domain in one.domains), None) or candidate_of(
            group, residents, [row]
        )
        after = trial.after(candidate)
        group.prepare(host for host in range(len(group.hosts)) if may_be_more(trial, candidate, host, after[:, host]))
        considered = []
        for host, one in enumerate(group.hosts):
            if host == number:
                continue
            said = check_host(trial, candidate, host, after)
            considered.append(
                Considered(
                    host=one.name,
                    reason=said.reason,
                    room_ratio=said.room,
                    detail=said.detail,
                    rules=_rules(trial, domain, host),
                )
            )
        demands = residents.demands
        return Considerations(
            domain=domain.name,
            uuid=uuid,
            host=domain.host,
            held=next((one for one in choice.refusals if one.uuid == uuid), None),
            demand_cores=float(demands.cores[row]),
            demand_lower_cores=float(demands.lower[row]),
            demand_upper_cores=float(demands.upper[row]),
            gain_ratio=float(residents.wants[row] * group.per_unit[CPU, number]),
            hosts=tuple(considered),
        )


def consider(snapshot: Snapshot, policy: Policy, uuid: str) -> Considerations | None:
    """The answers for one domain alone."""
    return Considering(snapshot, policy).of(uuid)


def _rules(trial: Trial, domain: Domain, host: int) -> tuple[RuleVerdict, ...]:
    rules = trial.group.rules
    said = []
    for tie in rules.ties_of.get(domain.uuid, ()):
        kept = bool(rules.kept(tie)[host])
        said.append(RuleVerdict(rule=tie.name, kind=tie.kind.name, hard=tie.hard, kept=kept))
    for number in rules.bonds_of.get(domain.uuid, ()):
        bond = rules.bonds[number]
        there = bond.there(trial.members(number), host, trial.host_of(domain), 1)
        kept = bond.kind.kept(there, len(bond.members))
        said.append(RuleVerdict(rule=bond.name, kind=bond.kind.name, hard=bond.hard, kept=kept))
    return tuple(said)
