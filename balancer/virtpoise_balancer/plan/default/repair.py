"""Rules that are broken as things are: named always, repaired only where the policy says so."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from virtpoise_balancer.model import Attempt, Domain, DomainState, Problem, Reason, Refusal
from virtpoise_balancer.plan.default.candidates import Candidate, candidate_of, held
from virtpoise_balancer.plan.default.group import Group
from virtpoise_balancer.plan.default.search import Budget, Search
from virtpoise_balancer.plan.default.soft_rules_after import broken_more, placed
from virtpoise_balancer.plan.default.trial import Step, Trial

# The budget for making room for one domain, in checks of a candidate on a host; and for all of a plan.
_CHECKS, _MOST_CHECKS = 5_000, 30_000
# Where the rules of a domain allow few hosts, room is made on at most this many of them.
_MOST_FULL = 16


@dataclass(frozen=True, slots=True)
class BrokenRule:
    """A rule that is broken.

    ``domains``: those that must move. ``instead``: others of the rule, of which any may do as well. ``anchor``: the
    host that keeps the rule, for affinity; ``anchors``: others that would, if all moved there.
    """

    rule: str
    kind: str
    hard: bool
    domains: tuple[Domain, ...]
    instead: tuple[Domain, ...] = ()
    anchor: int | None = None
    anchors: tuple[int, ...] = ()

    def at(self, anchor: int, trial: Trial) -> BrokenRule:
        """The same with another host that keeps it."""
        every = (*self.domains, *self.instead)
        return replace(self, domains=tuple(one for one in every if trial.host_of(one) != anchor), anchor=anchor)


def broken_rules(trial: Trial, *, hard: bool = True) -> list[BrokenRule]:
    """The hard rules, or the soft ones, that are broken after the steps so far. Domains between two hosts are left out,
    and so are preferences.
    """
    rules = trial.group.rules
    if not rules.ties_of and not rules.bonds:
        return []
    found: list[BrokenRule] = []
    tied = (trial.group.domain_of[uuid] for uuid in rules.ties_of)
    for domain in sorted(tied, key=lambda one: (one.name, one.uuid)):
        if domain.state is DomainState.SHUTOFF or domain.migrating_to is not None:
            continue
        tie = rules.broken_tie(domain.uuid, trial.host_of(domain), hard=hard)
        if tie:
            found.append(BrokenRule(tie.name, tie.kind.name, hard, (domain,)))
    for bond in rules.bonds:
        if bond.hard is not hard:
            continue
        at = placed(bond, trial)
        turn = {domain.uuid: number for number, there in enumerate(at.values()) for domain in there}
        zone = list(at.values())
        for one in bond.kind.violated(at):
            stray = {domain.uuid for domain in one.domains}
            # A thousand zones may have a thousand strays: only those that are concerned are gone through.
            zones = zone if one.anchor is not None else [zone[number] for number in sorted({turn[u] for u in stray})]
            instead = tuple(domain for there in zones for domain in there if domain.uuid not in stray)
            others = tuple(zone for zone in sorted(at) if zone != one.anchor) if one.anchor is not None else ()
            found.append(BrokenRule(bond.name, bond.kind.name, hard, one.domains, instead, one.anchor, others))
    return found


def rule_refusals(trial: Trial, found: Sequence[BrokenRule]) -> list[Refusal]:
    """One refusal for each domain that breaks a rule where it is."""
    hosts = trial.group.hosts
    return [
        Refusal.of(
            domain,
            Reason.RULE_BROKEN if one.hard else Reason.SOFT_RULE_BROKEN,
            {"rule": one.rule, "kind": one.kind},
            hosts[trial.host_of(domain)].name,
        )
        for one in found
        for domain in one.domains
    ]


def contradictions(group: Group) -> list[Refusal]:
    """One refusal for each domain whose hard rules cannot all be kept, wherever the domains are."""
    rules = group.rules
    why = {**rules.crowded, **rules.conflicts}
    if not why:
        return []
    return [
        Refusal.of(d, Reason.RULE_CONFLICT, {"conflict": why[d.uuid]})
        for d in sorted(group.snapshot.domains, key=lambda d: (d.name, d.uuid))
        if d.uuid in why
    ]


def repair(trial: Trial, *, hard: bool = True) -> tuple[Trial, list[Attempt]]:
    """A trial on which domains are moved so that broken rules are kept again; and one attempt for each rule for which
    anything is moved.

    What is in the way may be moved first. Each domain moves at most once. A rule that cannot be repaired is no attempt,
    since it would be made again in every cycle. It stays named as broken.
    """
    moved: dict[str, Domain] = {}
    checks = _MOST_CHECKS if hard else 0
    progress = True
    while progress:
        progress = False
        for one in broken_rules(trial, hard=hard):
            budget = Budget(min(checks, _CHECKS))
            before = len(trial.steps)
            trial = _repaired(trial, one, budget)
            checks -= min(checks, _CHECKS) - max(budget.checks, 0)
            if len(trial.steps) > before:
                moved.setdefault(one.rule, trial.steps[before].candidate.domains[0])
                progress = True
    still = {one.rule for one in broken_rules(trial, hard=hard)} if moved else set()
    return trial, [
        Attempt(host=domain.host, problem=Problem.RULE, solved=rule not in still) for rule, domain in moved.items()
    ]


def _repaired(trial: Trial, one: BrokenRule, budget: Budget) -> Trial:
    """The trial with what keeps the rule, or brings it nearer to that."""
    if one.anchor is None:
        return _with_moved(trial, one, budget)
    ways = (_with_moved(trial, way, budget) for way in _ways(trial, one))
    complete = next((way for way in ways if _misplaced(way, one) == 0), None)
    return complete or _with_moved(trial, one, budget)


def _ways(trial: Trial, one: BrokenRule) -> Iterator[BrokenRule]:
    """The rule with each host that would keep it: where most of the memory is first."""
    yield one
    yield from (one.at(anchor, trial) for anchor in one.anchors)


def _misplaced(trial: Trial, one: BrokenRule) -> int:
    """How many hosts more than one have domains of an affinity rule."""
    return len({trial.host_of(domain) for domain in (*one.domains, *one.instead)}) - 1


def _with_moved(trial: Trial, one: BrokenRule, budget: Budget) -> Trial:
    """The trial with as many domains moved as must be: those that the rule names first, then others of it."""
    wanted = len(one.domains)
    tries = [*one.domains, *(one.instead if one.anchor is None else ())]
    candidates = [candidate for domain in tries if (candidate := _candidate(trial, domain)) is not None]
    # Where it is all the same to the rule, one goes that breaks no other.
    candidates.sort(key=lambda candidate: max(candidate.breaks, 0.0))
    for candidate in candidates:
        if wanted <= 0:
            break
        if any(domain.uuid in trial.moved for domain in candidate.domains):
            continue  # with another of its bundle
        after = _placed(trial, candidate, one, budget)
        if after is not None:
            trial, wanted = after, wanted - sum(domain in tries for domain in candidate.domains)
    return trial


def _placed(trial: Trial, candidate: Candidate, one: BrokenRule, budget: Budget) -> Trial | None:
    """The trial with the candidate where the rule is kept, and with what must leave first; None: there is no place."""
    group = trial.group
    among = None
    if one.anchor is not None:
        among = np.zeros(len(group.hosts), dtype=np.bool_)
        among[one.anchor] = True
    destination = trial.best(candidate, among)
    why = f"keeps the rule {one.rule}"
    if destination is not None:
        after = trial.copy()
        after.apply(Step(candidate, destination, why, Problem.RULE))
        return after if one.hard or broken_more(trial, after, after.steps[len(trial.steps) :]) < 0 else None
    if not one.hard:
        return None
    wanted = among if among is not None else candidate.allowed
    full = [] if wanted is None else np.flatnonzero(wanted & trial.open).tolist()
    steps = Search(trial, (), budget, full[:_MOST_FULL]).place(candidate, one.anchor)
    if steps is None:
        return None
    after = trial.copy()
    for step in steps:
        ours = step.candidate is candidate
        after.apply(replace(step, why=why if ours else f"makes room for {candidate.name}", problem=Problem.RULE))
    return after


def _candidate(trial: Trial, domain: Domain) -> Candidate | None:
    """What moves with the domain, or None where it cannot."""
    group = trial.group
    number = group.index[domain.host]
    if domain.uuid in trial.moved or not group.hosts[number].known or domain.host in group.concerned:
        return None
    bundle = group.rules.bundle_of(domain.uuid)
    here = [one for one in group.domains_on(number) if one.uuid in bundle] if len(bundle) > 1 else [domain]
    if any(one.state is not DomainState.RUNNING or held(one, group, rested=True) for one in here):
        return None
    residents = group.residents(number)
    uuids = {one.uuid for one in here}
    return candidate_of(group, residents, [row for row, one in enumerate(residents.running) if one.uuid in uuids])
