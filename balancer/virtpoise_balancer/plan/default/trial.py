"""The group while a plan is being made: what each host would use after the moves so far, and who would be where."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np

from virtpoise_balancer.analyse.demand import Demands, Floats, Mask
from virtpoise_balancer.model import Domain, DomainState, Problem, Role
from virtpoise_balancer.plan.default.candidates import Candidate, relief_of
from virtpoise_balancer.plan.default.group import CPU, MEMORY, Group
from virtpoise_balancer.plan.default.residents import total
from virtpoise_balancer.plan.default.source import Source
from virtpoise_balancer.plan.stocks import Stock

# Two destinations count as equally near when the migration to one takes at most this many times as long as to the
# other.
_SAME_SPEED = 1.25
# How many hosts that pass the cheap additive check get the full prediction. If none of these passes, the candidate is
# not placed.
_MOST_PREDICTED = 32


@dataclass(frozen=True, slots=True)
class Step:
    """One candidate goes from its host to another. ``why`` and ``problem``: where it is not to relieve its host."""

    candidate: Candidate
    destination: int
    why: str = ""
    problem: Problem | None = None


class Trial:
    """The group after the steps so far. Hosts are numbers, the columns of all arrays; resources are rows, in the order
    of ``Resource``.

    Invariant: every step was legal when it was made. tests/invariants.py checks what the comments say.
    """

    def __init__(self, group: Group, sources: Sequence[Source], closed: Mask) -> None:
        """Start with no move made. ``sources``: hosts with a problem. ``closed``: hosts that take nothing (hosts)."""
        # Never changed here.
        self.group = group
        # Hosts that may take something (hosts). Never changed.
        self.open = ~closed
        # Hosts that can be relieved of a problem; once they are, they may take something (a swap). Disjoint from
        # ``open``. Never changed.
        self.relievable = np.zeros_like(closed)
        # The share in use, at the upper end (resources x hosts); at least 0. Infinite for unknown hosts.
        self.use = group.use.copy()
        # What the use of a host must stay below (resources x hosts): the threshold; of a source, what it is to come
        # down to. Never changed.
        self.limit = group.limit.copy()
        for source in sources:
            if source.goals:
                number, residents = source.number, source.residents
                self.relievable[number] = True
                self.limit[[resource.row for resource in source.goals], number] = list(source.goals.values())
                # What it would use if all wants were met: domains that leave take their wants with them.
                wants = residents.own * residents.host.cpu_speed + float(residents.wants.sum())
                self.use[CPU, number] = max(self.use[CPU, number], wants * group.per_unit[CPU, number])
        # In the order in which they are made. No domain is in two.
        self.steps: list[Step] = []
        # By uuid of a domain that has a step, where it is now.
        self._host_of: dict[str, int] = {}
        # The hosts that a domain has left by a step.
        self._left: set[int] = set()
        # By name of a domain that exists more than once, the hosts to which one was moved, or is under way.
        self._names: dict[str, set[int]] = defaultdict(set)
        # What each host has free of each stock (hosts). What leaves in this plan frees nothing: it may still
        # be there when something else arrives.
        self._free: dict[Stock, Floats] = {stock: free.copy() for stock, free in group.stocks.free.items()}
        # By host, what the domains that came or are coming want of its CPUs.
        self._arrivals: dict[int, tuple[Demands, ...]] = {}
        # What ``_kept_by`` found since the last step of a domain of the bond.
        self._bonds_kept: dict[tuple[int, int, int | None], tuple[list[int], Floats]] = {}
        # By number of a bond and zone, how many of the bond's domains are there. One that was under way counts on both
        # hosts.
        self._members: dict[int, dict[int, int]] = {
            number: defaultdict(int, members) for number, members in group.members.items()
        }
        for domain in group.under_way:
            self._expect(domain)

    def _expect(self, domain: Domain) -> None:
        """Count a domain that is under way on its destination as well."""
        group = self.group
        destination = group.index.get(domain.migrating_to or "")
        if destination is None:
            return
        home = group.index[domain.host]
        if group.hosts[home].known and domain.state is DomainState.RUNNING:
            coming = group.residents(home)
            row = coming.running.index(domain)
            self.use[:, destination] += coming.arrival[row] * group.per_unit[:, destination]
            self._arrive(home, [row], destination)
        else:  # only its size is known
            memory = domain.ordinary_bytes * (1 + group.policy.migration.overhead_ratio)
            self.use[MEMORY, destination] += memory * group.per_unit[MEMORY, destination]
            self.use[CPU, destination] += domain.vcpus / group.hosts[destination].cpus
        for stock, need in group.stocks.taken_by([domain]).items():
            self._free[stock][destination] -= need
        if domain.name in group.repeated_names:
            self._names[domain.name].add(destination)
        for number in group.rules.bonds_of.get(domain.uuid, ()):
            self._members[number][group.rules.bonds[number].zones[destination]] += 1

    def copy(self) -> Trial:
        """A copy that can be changed by itself; what is never changed is shared."""
        other = object.__new__(Trial)
        other.group = self.group
        other.open = self.open
        other.relievable = self.relievable
        other.limit = self.limit
        other.use = self.use.copy()
        other.steps = list(self.steps)
        other._host_of = dict(self._host_of)
        other._left = set(self._left)
        other._names = defaultdict(set, {name: set(hosts) for name, hosts in self._names.items()})
        other._free = {stock: free.copy() for stock, free in self._free.items()}
        other._arrivals = dict(self._arrivals)
        other._bonds_kept = dict(self._bonds_kept)
        other._members = {number: defaultdict(int, members) for number, members in self._members.items()}
        return other

    @property
    def moved(self) -> Set[str]:
        """The uuids of the domains that have a step."""
        return self._host_of.keys()

    def members(self, bond: int) -> Mapping[int, int]:
        """How many of a bond's domains are in each zone that has any."""
        return self._members[bond]

    def placed_there(self, name: str, host: int) -> bool:
        """Whether a domain of a name that exists more than once was moved to the host."""
        return host in self._names.get(name, ())

    def free(self, stock: Stock) -> Floats:
        """What each host has free of a stock that a domain needs (hosts)."""
        return self._free[stock]

    def after(self, candidate: Candidate) -> Floats:
        """What each host would use of each resource with the candidate on it, at the upper end (resources x hosts)."""
        return self._after_on(candidate, slice(None))

    def _after_on(self, candidate: Candidate, hosts: slice) -> Floats:
        after: Floats = candidate.arrival[:, np.newaxis] * self.group.per_unit[:, hosts]
        after += self.use[:, hosts]
        after[CPU] += candidate.above * self.group.noise[hosts]
        return after

    def room(self, candidate: Candidate) -> Floats:
        """What each host would have free of its scarcest resource with the candidate on it."""
        return self.group.room(self.after(candidate))

    def fits(self, candidate: Candidate, room: Floats) -> Mask:
        """The hosts that can take the candidate by what adds up: open, with room left, allowed by every hard rule."""
        return self._allowed(candidate, self.open & (room > 0))

    def takes(self, candidate: Candidate, host: int) -> bool:
        """Whether the host can take the candidate, by the whole prediction too.

        One with a problem can as well, once it is relieved.
        """
        one = slice(host, host + 1)
        if not (self._after_on(candidate, one) < self.limit[:, one]).all():
            return False
        return bool(self._allowed(candidate, self.open | self.relievable)[host]) and self.sound(candidate, host)

    def _allowed(self, candidate: Candidate, ok: Mask) -> Mask:
        """The hosts of ``ok`` without those that hard rules, names and stocks forbid; changed in place."""
        ok[candidate.source] = False
        if candidate.allowed is not None:
            ok &= candidate.allowed
        for stock, need in candidate.needs.items():
            ok &= self._free[stock] >= need
        if self.group.rules.bonds:
            ok[self.refusing(candidate)] = False
        for domain in candidate.domains:
            ok[list(self._names.get(domain.name, ()))] = False
        return ok

    def refusing(self, candidate: Candidate) -> list[int]:
        """Other hosts where a hard rule does not let the candidate join the domains there."""
        return [
            host
            for number, arriving in self.group.rules.bonds_among(candidate.domains).items()
            if self.group.rules.bonds[number].hard
            for host in self._kept_by(number, candidate, arriving)[0]
            if host != candidate.source
        ]

    def _kept_by(self, number: int, candidate: Candidate, arriving: int) -> tuple[list[int], Floats]:
        """The hosts on which a bond does not allow ``arriving`` more of its domains; and how well each host keeps it
        with them (hosts).

        What they say of the candidate's own host does not count.
        """
        bond = self.group.rules.bonds[number]
        key = (number, arriving, candidate.source if bond.over is not None or bond.crowded else None)
        kept = self._bonds_kept.get(key)
        if kept is None:
            there = dict(self._others(number, candidate, arriving))
            here = self._members[number].get(bond.zones[candidate.source], 0)
            full = {count for count in set(there.values()) if not bond.takes(count, arriving, here)}
            hard = bond.hard and not bond.crowded
            liking = {count: bond.kind.liking(count, arriving, hard=hard) for count in set(there.values())}
            likings = np.zeros(len(self.group.hosts))
            likings[list(there)] = [liking[count] for count in there.values()]
            kept = [host for host, count in there.items() if count in full], likings
            self._bonds_kept[key] = kept
        return kept

    def _others(self, number: int, candidate: Candidate, arriving: int) -> Iterator[tuple[int, int]]:
        """Each other host in a zone that has domains of a bond, and how many of others are in its zone.

        ``arriving``: how many of the bond's domains the candidate has.
        """
        bond, members = self.group.rules.bonds[number], self._members[number]
        if bond.over is None:  # written out: a bond may have domains on each of many hosts
            yield from members.items()
            return
        for zone in members:
            for host in bond.hosts_in(zone):
                if host != candidate.source:
                    yield host, bond.there(members, host, candidate.source, arriving)

    def liking(self, candidate: Candidate) -> Floats | None:
        """How well soft rules and preferences of the candidate are kept on each host (hosts), higher is better, or None
        without any.
        """
        rules = self.group.rules
        if not any(domain.uuid in rules.ties_of or domain.uuid in rules.bonds_of for domain in candidate.domains):
            return None
        liking = np.zeros(len(self.group.hosts))
        for domain in candidate.domains:
            for tie in rules.ties_of.get(domain.uuid, ()):
                if not tie.binding:
                    liking[rules.kept(tie)] += tie.kind.weight
        for number, arriving in rules.bonds_among(candidate.domains).items():
            here = liking[candidate.source]
            liking += self._kept_by(number, candidate, arriving)[1]
            liking[candidate.source] = here
        return liking

    def host_of(self, domain: Domain) -> int:
        """Where the domain is after the steps so far."""
        return self._host_of.get(domain.uuid, self.group.index[domain.host])

    def best(self, candidate: Candidate, among: Mask | None = None) -> int | None:
        """The best destination for the candidate, or None if no host takes it. Ties break by name.

        ``among``: the hosts to choose from; by default all. More soft rules kept count first, then a faster link, then
        more room.
        """
        room = self.room(candidate)
        ok = self.fits(candidate, room)
        if among is not None:
            ok &= among
        if not ok.any():
            return None
        liking = self.liking(candidate)
        speed = self.group.speeds(candidate.source)
        if liking is None and speed is None:
            return self.first_sound(candidate, ok, room)
        while ok.any():
            among = ok if liking is None else ok & (liking == liking[ok].max())
            if speed is not None:
                among = among & (speed * _SAME_SPEED >= speed[among].max())
            found = self.first_sound(candidate, among, room)
            if found is not None:
                return found
            ok &= ~among
        return None

    def roomiest(self, candidates: Sequence[Candidate], most: int) -> list[int]:
        """At most ``most`` open hosts: those with the most room once they had the largest of these candidates."""
        largest = np.max([candidate.arrival for candidate in candidates], axis=0)[:, np.newaxis]
        room = np.where(self.open, self.group.room(largest * self.group.per_unit + self.use), -np.inf)
        return [host for host in np.argsort(-room, kind="stable")[:most].tolist() if self.open[host]]

    def first_sound(self, candidate: Candidate, ok: Mask, rank: Floats) -> int | None:
        """The host of highest rank among ``ok`` that can take the candidate by the whole prediction, or None.

        ``rank``: hosts.
        """
        rank = np.where(ok, rank, -np.inf)
        for _ in range(min(int(np.count_nonzero(ok)), _MOST_PREDICTED)):
            host = int(rank.argmax())
            if self.sound(candidate, host):
                return host
            rank[host] = -np.inf
        return None

    def sound(self, candidate: Candidate, host: int) -> bool:
        """Whether the host stays below its CPU limit by the upper end of what will be predicted of it with the
        candidate.
        """
        return self.predicted(candidate, host) < float(self.limit[CPU, host])

    def predicted(self, candidate: Candidate, host: int) -> float:
        """The upper end of the host's CPU share with the candidate, as ``predict_moves`` will have it.

        It may exceed what adds up: where the kind of the guests is in doubt, and where on-off guests come to a faster
        host, since the share of time for which they are runnable does not shrink.
        """
        group = self.group
        residents, source = group.residents(host), group.residents(candidate.source)
        present = ~residents.leaving
        if host in self._left:
            present &= [domain.uuid not in self._host_of for domain in residents.running]
        load = residents.load(
            present[np.newaxis], (*self._arrivals.get(host, ()), source.arriving(candidate.rows, residents.host))
        )
        quantile = group.quantiles[Role.DESTINATION, source.saturated].above
        return min(float(load.ratio[0] + quantile * load.spread[0]), 1.0)

    def _arrive(self, source: int, rows: Sequence[int], destination: int) -> None:
        coming = self.group.residents(source).arriving(rows, self.group.hosts[destination])
        self._arrivals[destination] = (*self._arrivals.get(destination, ()), coming)

    def replayed(self, steps: Sequence[Step]) -> Trial | None:
        """A copy with the steps made, or None when one of them does not fit where it should go."""
        copy = self.copy()
        for step in steps:
            candidate, host = step.candidate, step.destination
            if not copy.takes(candidate, host):
                return None
            copy.apply(step)
        return copy

    def apply(self, step: Step) -> None:
        """Make a step; it must be legal."""
        candidate, destination = step.candidate, step.destination
        per_unit = self.group.per_unit
        self.use[:, destination] += candidate.arrival * per_unit[:, destination]
        left = departure(self, candidate) * per_unit[:, candidate.source]
        self.use[:, candidate.source] -= np.minimum(left, self.use[:, candidate.source])
        self._arrive(candidate.source, candidate.rows, destination)
        self._left.add(candidate.source)
        for stock, need in candidate.needs.items():
            self._free[stock][destination] -= need
        if self._bonds_kept and (changed := self.group.rules.bonds_among(candidate.domains).keys()):
            self._bonds_kept = {key: kept for key, kept in self._bonds_kept.items() if key[0] not in changed}
        for domain in candidate.domains:
            self._host_of[domain.uuid] = destination
            if domain.name in self.group.repeated_names:
                self._names[domain.name].add(destination)
            for number in self.group.rules.bonds_of.get(domain.uuid, ()):
                zones = self.group.rules.bonds[number].zones
                self._members[number][zones[candidate.source]] -= 1
                self._members[number][zones[destination]] += 1
        self.steps.append(step)


def departure(trial: Trial, candidate: Candidate) -> Floats:
    """What leaves the host with the candidate (resources), in the group's units. Of a source: all that it wants."""
    if not trial.relievable[candidate.source]:
        return relief_of(trial.group, candidate)
    left = total(trial.group.residents(candidate.source).relief, candidate.rows)
    left[CPU] = candidate.wants
    return left
