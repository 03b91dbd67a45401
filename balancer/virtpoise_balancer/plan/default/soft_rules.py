"""What moves do to soft rules, in the units of ``rules.base``: 4 for each that a domain breaks, 2 for a preference."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from virtpoise_balancer.analyse.demand import Floats, Mask
from virtpoise_balancer.model import Domain
from virtpoise_balancer.plan.default.group import Group
from virtpoise_balancer.plan.default.rule_set import Bond
from virtpoise_balancer.rules.base import SOFT

if TYPE_CHECKING:
    from virtpoise_balancer.plan.default.trial import Step, Trial

# The price of each unit: more than any bytes, and less than that of a rest.
BROKEN_BYTES = 1e13


def broken_by_leaving(group: Group, domains: Sequence[Domain], allowed: Mask | None) -> float:
    """How much worse soft rules are kept if these domains of a host go to the host that keeps them best.

    Negative: they are kept better there. Only rules count, not room. ``allowed``: the hosts to which they may go
    (hosts).
    """
    worse = worse_on(group, domains, group.members.__getitem__)
    if worse is None:
        return 0.0
    others = group.takers if allowed is None else group.takers & allowed
    others[group.index[domains[0].host]] = False
    return float(worse.min(where=others, initial=np.inf)) if others.any() else 0.0


def worse_on(group: Group, domains: Sequence[Domain], members: Callable[[int], Mapping[int, int]]) -> Floats | None:
    """How much worse soft rules are kept on each host than on the one where these domains are (hosts); None: they have
    no such rules.

    ``members``: by number of a bond, how many of its domains are in each zone.
    """
    rules, source = group.rules, group.index[domains[0].host]
    soft = {number: count for number, count in rules.bonds_among(domains).items() if not rules.bonds[number].hard}
    ties = [tie for domain in domains for tie in rules.ties_of.get(domain.uuid, ()) if not tie.binding]
    if not soft and not ties:
        return None
    liking = np.zeros(len(group.hosts))
    for tie in ties:
        liking[rules.kept(tie)] += tie.kind.weight
    for number, count in soft.items():
        bond = rules.bonds[number]
        for zone, there in members(number).items():
            left = there - count if zone == bond.zones[source] else there
            liking[list(bond.hosts_in(zone))] += bond.kind.liking(left, count, hard=False)
    worse: Floats = liking[source] - liking
    return worse


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
