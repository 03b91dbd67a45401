"""What can be moved from a host: domains, or bundles of domains that affinity rules keep together.

And why the others stay.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from virtpoise_balancer.analyse.demand import Floats, Mask
from virtpoise_balancer.model import Domain, DomainState, Policy, Reason, Refusal
from virtpoise_balancer.plan.default.group import CPU, Group
from virtpoise_balancer.plan.default.residents import Residents, total
from virtpoise_balancer.plan.default.soft_rules import BROKEN_BYTES, broken_by_leaving
from virtpoise_balancer.plan.possible import holding
from virtpoise_balancer.plan.stocks import Stock

# The highest dirty rate over transfer rate that counts. Above it the copy converges only because QEMU throttles the
# guest.
_MOST_DIRTY_SHARE = 0.9
# The price of moving a domain that should rest, or does not converge: more bytes than all memory of a group, so that it
# moves only if nothing else helps.
_UNREST_BYTES = 1e16
# That of one which is to move last, in rests: it stays even where a few that should rest have to move for it.
_LAST_RESTS = 4


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """Domains of one host that move together; mostly one, more for a bundle."""

    # The host's number.
    source: int
    # The domains' rows in the host's Residents, ascending.
    rows: tuple[int, ...]
    domains: tuple[Domain, ...]
    # Bytes to transfer.
    cost: float
    # What is added to its cost because leaving breaks soft rules or a rest. Options are compared by both together.
    penalty: float
    # By how much worse soft rules are kept on the best host that it may go to, likewise; negative: better.
    breaks: float
    # The CPU that they want at most, in the group's units.
    wants: float
    # What they add to a destination, in the group's units (resources).
    arrival: Floats
    # How many spreads the interval of a destination that takes them extends above its prediction.
    above: float
    # The hosts to which hard rules about hosts, the number of CPUs, names and what they need let them go (hosts); None:
    # all.
    allowed: Mask | None
    # What they take of each stock of their destination, in bytes.
    needs: Mapping[Stock, float]

    def most(self, resource: int) -> float:
        """The most that it adds of a resource, in the group's units."""
        return self.wants if resource == CPU else float(self.arrival[resource])

    @property
    def weight(self) -> float:
        """Its cost with its penalty."""
        return self.cost + self.penalty

    @property
    def moves(self) -> int:
        """The number of migrations."""
        return len(self.domains)

    @property
    def name(self) -> str:
        """The name of its first domain."""
        return self.domains[0].name


@dataclass(frozen=True, slots=True)
class Movable:
    """A host's candidates, and a refusal for each domain that is in none."""

    candidates: tuple[Candidate, ...]
    refusals: tuple[Refusal, ...]


def transfer_bytes(domain: Domain, policy: Policy, bytes_per_second: float | None = None) -> float:
    """The bytes that a live migration transfers: the memory, and in each further round what was dirtied in the last (a
    geometric series). And the disks that are copied along.
    """
    if not domain.dirty_bytes_per_second:
        return domain.memory_bytes + domain.copied_bytes
    speed = bytes_per_second or policy.migration.bytes_per_second
    dirty = min(domain.dirty_bytes_per_second / speed, _MOST_DIRTY_SHARE)
    return domain.memory_bytes / (1 - dirty) + domain.copied_bytes


def resting_seconds(domain: Domain, group: Group) -> float:
    """How much longer a moved domain must rest; 0 if it may move. Each remembered move makes the rest longer."""
    if domain.last_moved is None:
        return 0.0
    return max(domain.last_moved + _rest_seconds(group.policy, domain.recent_moves) - group.snapshot.time, 0.0)


def _rest_seconds(policy: Policy, moves: int) -> float:
    """How long a domain rests after this number of remembered moves."""
    longest = max(policy.rest_max_seconds, policy.rest_seconds)
    try:
        return min(policy.rest_seconds * policy.rest_growth ** max(moves - 1, 0), longest)
    except OverflowError:  # no float is so large
        return longest if policy.rest_seconds else 0.0


def movable(group: Group, host: int, *, rested: bool = True, least_gain: bool = True) -> Movable:
    """The host's candidates, and why its other domains stay.

    ``rested``: leave out domains that must rest. ``least_gain``: leave out those whose leaving is not worth a
    migration.
    """
    residents = group.residents(host)
    running, here, bonds_of = residents.running, group.domains_on(host), group.rules.bonds_of
    paused = DomainState.PAUSED
    refusals = {domain.uuid: Refusal.of(domain, Reason.NOT_RUNNING) for domain in here if domain.state is paused}
    for domain in running:
        refusal = held(domain, group, rested=rested)
        if refusal:
            refusals[domain.uuid] = refusal
    candidates: list[Candidate] = []
    done: set[str] = set()
    gains = (residents.wants * group.per_unit[CPU, host]).tolist()
    least = group.least_gain(host) if least_gain else 0.0
    for row, domain in enumerate(running):
        if domain.uuid in done or domain.uuid in refusals:
            continue
        rows = [row]
        if domain.uuid in bonds_of:
            bundle = group.rules.bundle_of(domain.uuid) & {one.uuid for one in here}
            done |= bundle
            rows = [number for number, one in enumerate(running) if one.uuid in bundle]
            stay = sorted(refusals[uuid].domain or uuid for uuid in bundle if uuid in refusals)
            if stay:
                for one in (running[number] for number in rows):
                    refusals.setdefault(one.uuid, Refusal.of(one, Reason.RULE_TOGETHER, {"with": stay[0]}))
                continue
        gain = sum([gains[number] for number in rows])
        if gain < least:
            detail = {"gain_ratio": gain, "least_gain_ratio": least}
            for one in (running[number] for number in rows):
                refusals[one.uuid] = Refusal.of(one, Reason.LEAST_GAIN, detail)
            continue
        candidates.append(candidate_of(group, residents, rows))
    return Movable(tuple(candidates), tuple(sorted(refusals.values(), key=lambda r: (r.domain or "", r.reason))))


def held(domain: Domain, group: Group, *, rested: bool) -> Refusal | None:
    """Why the domain cannot leave its host, or None. ``rested``: also because it must rest."""
    rules = group.rules
    if domain.migrating_to is not None:
        return Refusal.of(domain, Reason.MIGRATING, {"destination": domain.migrating_to})
    if held_fast := holding(domain):
        return held_fast
    if domain.uuid in rules.held:
        kind, rule = rules.held[domain.uuid]
        return Refusal.of(domain, kind.reason, kind.why(rule))
    if domain.uuid in rules.conflicts:
        return Refusal.of(domain, Reason.RULE_CONFLICT, {"conflict": rules.conflicts[domain.uuid]})
    if domain.uuid in group.failed and (waits := group.backoff(domain.uuid, None)):
        return Refusal.of(domain, Reason.NOT_CONVERGING, waits)
    return resting(domain, group) if rested else None


def resting(domain: Domain, group: Group) -> Refusal | None:
    """Why the domain moves only if nothing else helps, or None."""
    if domain.uuid in group.rules.last:
        kind, rule = group.rules.last[domain.uuid]
        return Refusal.of(domain, kind.reason, kind.why(rule))
    if domain.last_moved is None and domain.uuid not in group.failed:
        return None
    left = resting_seconds(domain, group)
    if left <= 0:
        return _not_converging(domain, group)
    return Refusal.of(domain, Reason.RESTING, {"seconds_left": round(left, 3)})


def _not_converging(domain: Domain, group: Group) -> Refusal | None:
    slow = group.failed[domain.uuid].get(None) if domain.uuid in group.failed else None
    if slow is None:
        return None
    return Refusal.of(domain, Reason.NOT_CONVERGING, {"failures": slow.failures, "why": slow.why})


def candidate_of(group: Group, residents: Residents, rows: list[int]) -> Candidate:
    domains = tuple([residents.running[row] for row in rows])
    speeds = group.speeds(residents.number)
    speed = None if speeds is None else float(speeds.max())  # only destinations about as near as the nearest are taken
    cost = sum([transfer_bytes(domain, group.policy, speed) for domain in domains])
    last = group.rules.last
    unrest = _UNREST_BYTES * sum(
        [_LAST_RESTS if domain.uuid in last else resting(domain, group) is not None for domain in domains]
    )
    allowed = allowed_hosts(group, domains)
    breaks = broken_by_leaving(group, domains, allowed)
    return Candidate(
        source=residents.number,
        rows=tuple(rows),
        domains=domains,
        cost=cost,
        penalty=BROKEN_BYTES * max(breaks, 0.0) + unrest,
        breaks=breaks,
        wants=float(total(residents.wants, rows)),
        arrival=residents.arrival[rows[0]] if len(rows) == 1 else total(residents.arrival, rows),
        above=residents.above,
        allowed=allowed,
        needs=group.stocks.taken_by(domains),
    )


def relief_of(group: Group, candidate: Candidate) -> Floats:
    """What its host uses less without the candidate, in the group's units: where domains wait, others take part of what
    it leaves.
    """
    residents = group.residents(candidate.source)
    relief = total(residents.relief, candidate.rows)
    if residents.saturated or residents.demands.on_off.any():
        stay = ~residents.leaving[np.newaxis]
        stay[0, list(candidate.rows)] = False
        freed = max(residents.level - float(residents.load(stay).ratio[0]), 0.0)
        relief[CPU] = freed / group.per_unit[CPU, residents.number]
    return relief


def allowed_hosts(group: Group, domains: tuple[Domain, ...]) -> Mask | None:
    """Where the rules about hosts, the number of CPUs, the names that are taken, what the domains need of a host and
    earlier failures let all of them go; None: everywhere.
    """
    mask: Mask | None = None
    vcpus = max([domain.vcpus for domain in domains])
    if vcpus > group.fewest_cpus:
        least = min(vcpus, group.hosts[group.index[domains[0].host]].cpus)
        if least > group.fewest_cpus:
            mask = group.cpus >= least
    for domain in domains:
        ties = group.rules.allowed(domain.uuid)
        if ties is not None:
            mask = ties if mask is None else mask & ties
        if domain.name in group.repeated_names:
            free = np.ones(len(group.hosts), dtype=np.bool_)
            free[group.repeated_names[domain.name]] = False
            mask = free if mask is None else mask & free
        for requirement in domain.requires:
            there = group.offers.get(requirement)
            if there is not None:
                mask = there if mask is None else mask & there
        if domain.uuid not in group.failed:
            continue
        avoided = [
            group.index[to] for to in group.failed[domain.uuid] if to in group.index and group.backoff(domain.uuid, to)
        ]
        if avoided:
            mask = np.ones(len(group.hosts), dtype=np.bool_) if mask is None else mask.copy()
            mask[avoided] = False
    return mask
