"""How much worse soft rules are kept if domains leave their host. In the units of ``rules.base``: 4 for each rule that
a domain breaks, 2 for each preference. ``soft_rules_after`` has the same for steps that are made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from virtpoise_balancer.analyse.demand import Floats, Mask
from virtpoise_balancer.model import Domain
from virtpoise_balancer.plan.default.group import Group

# The price of each unit: more than any bytes, and less than that of a rest.
BROKEN_BYTES = 1e13


def broken_by_leaving(group: Group, domains: Sequence[Domain], allowed: Mask | None) -> float:
    """How much worse soft rules are kept if these domains of a host go to the host that keeps them best.

    Negative: they are kept better there. Only rules count, not room. ``allowed``: the hosts to which they may go
    (hosts).
    """
    if not group.rules.bonds and not group.rules.ties_of:  # at once, for the thousands that have no rules
        return 0.0
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
