"""The group while a plan is being made: what each host would use after the moves so far, and who would be where."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np

from virtpoise_balancer.analyse.demand import Demands, Floats, Mask
from virtpoise_balancer.model import Domain, DomainState, Role, RuleKind
from virtpoise_balancer.plan.default.candidates import Item, relief_of
from virtpoise_balancer.plan.default.group import CPU, MEMORY, Group
from virtpoise_balancer.plan.default.residents import total
from virtpoise_balancer.plan.default.source import Source

# Two destinations whose migrations take about as long count as equally near.
_SAME_SPEED = 1.25
# Of hosts that would take an item by what adds up, so many are held against the whole prediction; past that it goes nowhere.
_MOST_PREDICTED = 32


@dataclass(frozen=True, slots=True)
class Step:
    """One item goes from its host to another. ``why``: in words, where it is not to relieve its host."""

    item: Item
    destination: int
    why: str = ""


class Board:
    """``open``: hosts that may take something; ``relievable``: hosts with a problem, which may once they are relieved (a swap).

    ``limit``: what each host's use must stay below; of a host with a problem that is what it is to come down to.
    """

    def __init__(self, group: Group, sources: Sequence[Source], closed: Mask) -> None:
        self.group = group
        self.open = ~closed
        self.relievable = np.zeros_like(closed)
        self.use = group.use.copy()
        self.limit = np.repeat(group.limit, len(group.hosts), axis=1)
        for source in sources:
            if source.goals:
                number, residents = source.number, source.residents
                self.relievable[number] = True
                self.limit[list(source.goals), number] = list(source.goals.values())
                # What it would use if all wants were met: domains that leave take their wants with them.
                wants = residents.own * residents.host.cpu_speed + float(residents.wants.sum())
                self.use[CPU, number] = max(self.use[CPU, number], wants * group.per_unit[CPU, number])
        self.steps: list[Step] = []
        self._host_of: dict[str, int] = {}
        self._names: dict[str, set[int]] = defaultdict(set)
        self._arrivals: dict[int, tuple[Demands, ...]] = {}
        self._members: dict[int, dict[int, int]] = {n: defaultdict(int) for n in range(len(group.rules.bonds))}
        for host in range(len(group.hosts)) if group.rules.bonds else ():
            for domain in group.domains_on(host):
                for number in group.rules.bonds_of.get(domain.uuid, ()):
                    self._members[number][host] += 1
        for domain in group.under_way:
            destination = group.index.get(domain.migrating_to or "")
            if destination is None:
                continue
            home = group.index[domain.host]
            if group.hosts[home].known and domain.state is DomainState.RUNNING:
                coming = group.residents(home)
                row = coming.running.index(domain)
                self.use[:, destination] += coming.arrival[row] * group.per_unit[:, destination]
                self._arrive(home, [row], destination)
            else:  # only its size is known
                memory = domain.memory_bytes * (1 + group.policy.migration.overhead_ratio)
                self.use[MEMORY, destination] += memory * group.per_unit[MEMORY, destination]
                self.use[CPU, destination] += domain.vcpus / group.hosts[destination].cpus
            if domain.name in group.repeated_names:
                self._names[domain.name].add(destination)
            for number in group.rules.bonds_of.get(domain.uuid, ()):
                self._members[number][destination] += 1

    def copy(self) -> Board:
        other = object.__new__(Board)
        other.group = self.group
        other.open = self.open
        other.relievable = self.relievable
        other.limit = self.limit
        other.use = self.use.copy()
        other.steps = list(self.steps)
        other._host_of = dict(self._host_of)
        other._names = defaultdict(set, {name: set(hosts) for name, hosts in self._names.items()})
        other._arrivals = dict(self._arrivals)
        other._members = {number: defaultdict(int, members) for number, members in self._members.items()}
        return other

    @property
    def moved(self) -> Set[str]:
        """The uuids of the domains that have a step."""
        return self._host_of.keys()

    def members(self, bond: int) -> Mapping[int, int]:
        """How many of a bond's domains are on each host that has any."""
        return self._members[bond]

    def placed_there(self, name: str, host: int) -> bool:
        """Whether a domain of a name that exists more than once was moved to the host."""
        return host in self._names.get(name, ())

    def after(self, item: Item) -> Floats:
        """What each host would use of each resource with the item on it, at the upper end (resources x hosts)."""
        return self._with(item, slice(None))

    def _with(self, item: Item, hosts: slice) -> Floats:
        after: Floats = item.arrival[:, np.newaxis] * self.group.per_unit[:, hosts]
        after += self.use[:, hosts]
        after[CPU] += item.margin
        return after

    def room(self, item: Item) -> Floats:
        """What each host would have free of its scarcest resource with the item on it."""
        return self.group.room(self.after(item))

    def fits(self, item: Item, room: Floats) -> Mask:
        """The hosts that can take the item by what adds up: open, with room left, allowed by every hard rule."""
        return self._allowed(item, self.open & (room > 0))

    def takes(self, item: Item, host: int) -> bool:
        """Whether the host can take the item, by the whole prediction as well; one with a problem can, too, once enough has left it."""
        one = slice(host, host + 1)
        if not (self._with(item, one) < self.limit[:, one]).all():
            return False
        return bool(self._allowed(item, self.open | self.relievable)[host]) and self.sound(item, host)

    def _allowed(self, item: Item, ok: Mask) -> Mask:
        """Those of the hosts that hard rules and names allow, in place."""
        ok[item.source] = False
        if item.allowed is not None:
            ok &= item.allowed
        ok[self.kept_apart(item, hard=True)] = False
        for domain in item.domains:
            ok[list(self._names.get(domain.name, ()))] = False
        return ok

    def kept_apart(self, item: Item, *, hard: bool) -> list[int]:
        """Hosts with a domain from which a rule keeps the item apart."""
        hosts: list[int] = []
        bonds = self.group.rules.bonds
        for domain in item.domains:
            for number in self.group.rules.bonds_of.get(domain.uuid, ()):
                if bonds[number].kind is RuleKind.APART and bonds[number].hard is hard:
                    hosts += [host for host, count in self._members[number].items() if count and host != item.source]
        return hosts

    def company(self, item: Item) -> list[int]:
        """Hosts with a domain with which a rule wants the item together."""
        hosts: list[int] = []
        bonds = self.group.rules.bonds
        for domain in item.domains:
            for number in self.group.rules.bonds_of.get(domain.uuid, ()):
                if bonds[number].kind is RuleKind.TOGETHER:
                    hosts += [host for host, count in self._members[number].items() if count and host != item.source]
        return hosts

    def liking(self, item: Item) -> Floats | None:
        """How well soft rules and preferences of the item are kept on each host; None: it has none."""
        rules = self.group.rules
        if not any(domain.uuid in rules.ties_of or domain.uuid in rules.bonds_of for domain in item.domains):
            return None
        liking = np.zeros(len(self.group.hosts))
        for domain in item.domains:
            soft = rules.allowed(domain.uuid, hard=False)
            if soft is not None:
                liking[~soft] -= 4
            preferred = rules.preferred(domain.uuid)
            if preferred is not None:
                liking[preferred] += 2
        liking[self.kept_apart(item, hard=False)] -= 4
        liking[self.company(item)] += 4
        return liking

    def host_of(self, domain: Domain) -> int:
        """Where the domain is after the steps so far."""
        return self._host_of.get(domain.uuid, self.group.index[domain.host])

    def best(self, item: Item, among: Mask | None = None) -> int | None:
        """The destination for the item (one of ``among``, if given); None: no host takes it. Among equals the first by name."""
        room = self.room(item)
        ok = self.fits(item, room)
        if among is not None:
            ok &= among
        if not ok.any():
            return None
        liking = self.liking(item)
        speed = self.group.speeds(item.source)
        if liking is None and speed is None:
            return self.first_sound(item, ok, room)
        while ok.any():
            among = ok if liking is None else ok & (liking == liking[ok].max())
            if speed is not None:
                among = among & (speed * _SAME_SPEED >= speed[among].max())
            found = self.first_sound(item, among, room)
            if found is not None:
                return found
            ok &= ~among
        return None

    def roomiest(self, items: Sequence[Item], most: int) -> list[int]:
        """Hosts that may take something, at most so many: those with the most room once they had the largest of these items."""
        largest = np.max([item.arrival for item in items], axis=0)[:, np.newaxis]
        room = np.where(self.open, self.group.room(largest * self.group.per_unit + self.use), -np.inf)
        return [host for host in np.argsort(-room, kind="stable")[:most].tolist() if self.open[host]]

    def first_sound(self, item: Item, ok: Mask, rank: Floats) -> int | None:
        """Of the hosts that can take the item by what adds up, the one of highest rank that can by the whole prediction as well."""
        rank = np.where(ok, rank, -np.inf)
        for _ in range(min(int(np.count_nonzero(ok)), _MOST_PREDICTED)):
            host = int(rank.argmax())
            if self.sound(item, host):
                return host
            rank[host] = -np.inf
        return None

    def sound(self, item: Item, host: int) -> bool:
        """Whether the host stays below its CPU limit by the upper end of what will be predicted of it with the item."""
        return self.predicted(item, host) < float(self.limit[CPU, host])

    def predicted(self, item: Item, host: int) -> float:
        """The upper end of the host's CPU share with the item as the Ledger will have it.

        What adds up is less where it is not clear what kind of guests are there, and where on-off ones come to a faster host: the time for
        which they are runnable does not shrink.
        """
        group = self.group
        residents, source = group.residents(host), group.residents(item.source)
        here = [domain.uuid not in self._host_of for domain in residents.running]
        present = np.array(here, dtype=np.bool_) & ~residents.leaving
        load = residents.load(
            present[np.newaxis], (*self._arrivals.get(host, ()), source.arriving(item.rows, residents.host))
        )
        reach = group.reaches[Role.DESTINATION, source.saturated].above
        return min(float(load.ratio[0] + reach * load.spread[0]), 1.0)

    def _arrive(self, source: int, rows: Sequence[int], destination: int) -> None:
        coming = self.group.residents(source).arriving(rows, self.group.hosts[destination])
        self._arrivals[destination] = (*self._arrivals.get(destination, ()), coming)

    def replayed(self, steps: Sequence[Step]) -> Board | None:
        """A copy of the board with the steps made; None when one of them does not fit where it should go."""
        copy = self.copy()
        for step in steps:
            item, host = step.item, step.destination
            if not copy.takes(item, host):
                return None
            copy.apply(step)
        return copy

    def apply(self, step: Step) -> None:
        item, destination = step.item, step.destination
        per_unit = self.group.per_unit
        self.use[:, destination] += item.arrival * per_unit[:, destination]
        left = departure(self, item) * per_unit[:, item.source]
        self.use[:, item.source] -= np.minimum(left, self.use[:, item.source])
        self._arrive(item.source, item.rows, destination)
        for domain in item.domains:
            self._host_of[domain.uuid] = destination
            if domain.name in self.group.repeated_names:
                self._names[domain.name].add(destination)
            for number in self.group.rules.bonds_of.get(domain.uuid, ()):
                self._members[number][item.source] -= 1
                self._members[number][destination] += 1
        self.steps.append(step)


def departure(board: Board, item: Item) -> Floats:
    """What the item's host uses less without it, in the group's units."""
    if not board.relievable[item.source]:
        return relief_of(board.group, item)
    left = total(board.group.residents(item.source).relief, item.rows)
    left[CPU] = item.wants
    return left
