"""Hard rules that are broken as things are: named always, repaired only where the policy says so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from virtpoise_balancer.model import Attempt, Domain, DomainState, Problem, Reason, Refusal
from virtpoise_balancer.plan.default.candidates import Candidate, movable
from virtpoise_balancer.plan.default.group import Group
from virtpoise_balancer.plan.default.trial import Step, Trial


@dataclass(frozen=True, slots=True)
class BrokenRule:
    """A hard rule that is broken.

    ``domains``: those that must move. ``anchor``: the only host that keeps the rule, for affinity.
    """

    rule: str
    kind: str
    domains: tuple[Domain, ...]
    anchor: int | None = None


def broken_rules(trial: Trial) -> list[BrokenRule]:
    """The hard rules that are broken after the steps so far. Domains between two hosts are left out."""
    rules = trial.group.rules
    if not rules.ties_of and not rules.bonds:
        return []
    bound = {
        domain.uuid: domain
        for domain in trial.group.snapshot.domains
        if (domain.uuid in rules.ties_of or domain.uuid in rules.bonds_of)
        and domain.state is not DomainState.SHUTOFF
        and domain.migrating_to is None
    }
    found: list[BrokenRule] = []
    for uuid in sorted(rules.ties_of, key=lambda uuid: (bound[uuid].name if uuid in bound else "", uuid)):
        if uuid in bound:
            tie = rules.broken_tie(uuid, trial.host_of(bound[uuid]))
            if tie:
                found.append(BrokenRule(tie.name, tie.kind.name, (bound[uuid],)))
    for bond in rules.bonds:
        if not bond.hard:
            continue
        at: dict[int, list[Domain]] = {}
        for domain in sorted((bound[u] for u in bond.members if u in bound), key=lambda d: (d.memory_bytes, d.name)):
            at.setdefault(bond.zones[trial.host_of(domain)], []).append(domain)
        found += [BrokenRule(bond.name, bond.kind.name, one.domains, one.anchor) for one in bond.kind.violated(at)]
    return found


def rule_refusals(trial: Trial, found: Sequence[BrokenRule]) -> list[Refusal]:
    """One for each domain that is where a rule does not want it."""
    hosts = trial.group.hosts
    return [
        Refusal(
            domain=domain.name,
            uuid=domain.uuid,
            host=hosts[trial.host_of(domain)].name,
            reason=Reason.RULE_BROKEN,
            detail={"rule": one.rule, "kind": one.kind},
        )
        for one in found
        for domain in one.domains
    ]


def contradictions(group: Group) -> list[Refusal]:
    """One for each domain whose hard rules cannot all be kept, wherever the domains are."""
    rules = group.rules
    why = {**rules.crowded, **rules.conflicts}
    if not why:
        return []
    return [
        Refusal(domain=d.name, uuid=d.uuid, host=d.host, reason=Reason.RULE_CONFLICT, detail={"conflict": why[d.uuid]})
        for d in sorted(group.snapshot.domains, key=lambda d: (d.name, d.uuid))
        if d.uuid in why
    ]


def repair(trial: Trial, found: Sequence[BrokenRule]) -> list[Attempt]:
    """Move domains so that broken rules are kept again; one attempt for each rule for which anything is moved.

    A rule that cannot be repaired is no attempt, since it would be made again in every cycle. It stays named as broken.
    """
    attempts = []
    for one in found:
        moved = [domain for domain in one.domains if _move(trial, domain, one)]
        if moved:
            solved = len(moved) == len(one.domains)
            attempts.append(Attempt(host=moved[0].host, problem=Problem.RULE, solved=solved))
    return attempts


def _move(trial: Trial, domain: Domain, one: BrokenRule) -> bool:
    group = trial.group
    number = group.index[domain.host]
    if domain.uuid in trial.moved or not group.hosts[number].known or domain.host in group.concerned:
        return False
    candidate = _candidate_with(trial, number, domain)
    if candidate is None:
        return False
    among = None
    if one.anchor is not None:
        among = np.zeros(len(group.hosts), dtype=np.bool_)
        among[one.anchor] = True
    destination = trial.best(candidate, among)
    if destination is None:
        return False
    trial.apply(Step(candidate, destination, f"keeps the rule {one.rule}", Problem.RULE))
    return True


def _candidate_with(trial: Trial, number: int, domain: Domain) -> Candidate | None:
    candidates = movable(trial.group, number, least_gain=False).candidates
    return next(
        (candidate for candidate in candidates if any(one.uuid == domain.uuid for one in candidate.domains)), None
    )
