"""How well soft rules are kept after the steps of a trial, in the units of ``rules.base``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from virtpoise_balancer.model import Domain
from virtpoise_balancer.plan.default.rule_set import Bond
from virtpoise_balancer.plan.default.soft_rules import BROKEN_BYTES
from virtpoise_balancer.plan.default.trial import Step, Trial
from virtpoise_balancer.rules.base import SOFT


def broken_more(before: Trial, after: Trial, steps: Sequence[Step]) -> float:
    """How much worse soft rules are kept after the steps than before; negative: better."""
    rules = after.group.rules
    more = 0.0
    numbers: dict[int, None] = {}
    for domain in (domain for step in steps for domain in step.candidate.domains):
        for tie in rules.ties_of.get(domain.uuid, ()):
            if not tie.binding:
                kept = rules.kept(tie)
                more += tie.kind.weight * (int(kept[before.host_of(domain)]) - int(kept[after.host_of(domain)]))
        numbers |= dict.fromkeys(rules.bonds_of.get(domain.uuid, ()))
    for bond in (rules.bonds[number] for number in numbers):
        if not bond.hard:
            more += SOFT * (_strays(bond, after) - _strays(bond, before))
    return more


def broken_beyond_penalties(before: Trial, after: Trial, steps: Sequence[Step]) -> float:
    """What the steps cost because they break more soft rules than each candidate must by itself, in bytes."""
    if not after.group.rules.ties_of and not after.group.rules.bonds:
        return 0.0
    expected = sum(max(step.candidate.breaks, 0.0) for step in steps)
    return BROKEN_BYTES * max(broken_more(before, after, steps) - expected, 0.0)


def placed(bond: Bond, trial: Trial) -> Mapping[int, list[Domain]]:
    """By zone, the bond's domains that are there after the steps so far, the cheapest to move first. Without those
    between two hosts.
    """
    at: dict[int, list[Domain]] = {}
    domain_of = trial.group.domain_of
    found = (domain_of[uuid] for uuid in bond.members)
    for domain in sorted(found, key=lambda one: (one.memory_bytes, one.name, one.uuid)):
        if domain.migrating_to is None:
            at.setdefault(bond.zones[trial.host_of(domain)], []).append(domain)
    return at


def _strays(bond: Bond, trial: Trial) -> int:
    return sum(len(one.domains) for one in bond.kind.violated(placed(bond, trial)))
