"""What moves are worth: the overload that they are expected to save, against what they cost.

Both are in minutes of one host. A minute in which a host is over its threshold is one, and more by how far it is over.
A migration occupies two hosts. While it runs, its destination counts as overloaded. Its source is overloaded in any
case, and what it is relieved of counts from the end on. What a move leaves behind counts as well: in
the long run each domain has its peaks, on the host where it is then.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from virtpoise_balancer.analyse.demand import Floats
from virtpoise_balancer.analyse.habits import LEAST_AGE_SECONDS
from virtpoise_balancer.analyse.host_limits import trigger_of
from virtpoise_balancer.analyse.outlook import TIMES, Outlook, minutes, outlook, overload_chances, peaks
from virtpoise_balancer.model import SCALES_SECONDS, Domain, DomainState, Habits, Resource
from virtpoise_balancer.plan.default.candidates import Candidate, transfer_bytes
from virtpoise_balancer.plan.default.group import CPU, Group
from virtpoise_balancer.plan.default.source import Source
from virtpoise_balancer.plan.default.trial import Step


@dataclass(frozen=True, slots=True)
class Worth:
    """What moves save and what they cost, in minutes of one host."""

    saved_minutes: float
    cost_minutes: float

    @property
    def pays(self) -> bool:
        return self.saved_minutes > self.cost_minutes

    @property
    def text(self) -> str:
        saved, cost = f"{self.saved_minutes:.1f}", f"{self.cost_minutes:.1f}"
        return f"what leaves it is expected to save {saved} minutes of overload and costs {cost} minutes of a host"


@dataclass(frozen=True, slots=True)
class LoadAhead:
    """What a host's domains will want, as a share of its CPUs: the mean and variance at each time ahead, and in the
    end those of the long run, without peaks. ``domains``: those that make it, by their home and their row there.
    """

    mean: Floats
    variance: Floats
    domains: tuple[tuple[int, int], ...]


_NO_DOMAINS = Outlook(np.zeros((0, len(TIMES))), np.zeros((0, len(TIMES))), np.zeros(0), np.zeros(0))


class Prospects:
    """What the hosts of a group have ahead of them. Computed on demand."""

    def __init__(self, group: Group) -> None:
        self._group = group
        self._outlooks: dict[int, Outlook] = {}
        self._loads: dict[int, LoadAhead] = {}

    def concern(self, source: Source) -> bool:
        """Whether it is weighed what relieves the host: only the CPU is short, and domains of it have habits."""
        habits = self._group.snapshot.habits
        if habits is None or source.goals.keys() != {Resource.CPU}:
            return False
        known = (habits.of_domains.get(domain.uuid) for domain in source.residents.running)
        return any(one is not None and one.age_seconds >= LEAST_AGE_SECONDS for one in known)

    def weighed(self, sources: Iterable[Source], steps: Sequence[Step]) -> dict[int, Worth]:
        """What the steps of each weighed source are worth, by the number of its host."""
        leave = {step.candidate.source for step in steps}
        concerned = [source for source in sources if source.number in leave and self.concern(source)]
        if concerned:
            self.prepare(end for step in steps for end in (step.candidate.source, step.destination))
        return {source.number: self.worth(source, steps) for source in concerned}

    def worth(self, source: Source, steps: Sequence[Step]) -> Worth:
        """What the steps that relieve a host are worth, those included that make room for it."""
        ours = [step for step in steps if step.candidate.source == source.number]
        takers = {step.destination for step in ours}
        ours += [step for step in steps if step.candidate.source in takers]
        seconds = sum(map(self.seconds, ours))
        saved, later = 0.0, self.known_minutes([step.candidate for step in ours])
        for host in sorted({end for step in ours for end in (step.candidate.source, step.destination)}):
            leaving = [step.candidate for step in ours if step.candidate.source == host]
            coming = [step.candidate for step in ours if step.destination == host]
            before = self.load(host)
            after = self.changed(before, host, leaving, coming)
            saved += self.minutes(host, before, after, seconds, later)
        return Worth(saved, seconds / 60)

    def minutes(self, host: int, before: LoadAhead, after: LoadAhead | None, seconds: float, later: float) -> float:
        """How many minutes of overload a host is saved.

        ``before``, ``after``: its load without and with the move; None: no load at all. ``seconds``: when the move has
        ended. ``later``: for how many minutes what is usual counts beside the hour ahead.
        """
        less = self.overload(host, before)
        if after is not None:
            less = less - self.overload(host, after)
        return minutes(less[:-1], seconds) + later * float(less[-1])

    def at_most(self, source: Source) -> Worth:
        """The most that relieving the host can be worth."""
        seconds = min((self.seconds_of(candidate) for candidate in source.candidates), default=0.0)
        overload = self.overload(source.number, self.load(source.number))
        later = self.known_minutes(source.candidates) * float(overload[-1])
        return Worth(minutes(overload[:-1], seconds) + later, seconds / 60)

    def seconds(self, step: Step) -> float:
        return self.seconds_of(
            step.candidate, self._group.link_speed.get(step.candidate.source, {}).get(step.destination)
        )

    def seconds_of(self, candidate: Candidate, speed: float | None = None) -> float:
        """How long its migrations take, one after the other."""
        speed = speed or self._fastest(candidate.source)
        return sum(transfer_bytes(domain, self._group.policy, speed) for domain in candidate.domains) / speed

    def _fastest(self, host: int) -> float:
        """As fast as was measured from the host, or as its uplink is, if that is known."""
        speeds = self._group.speeds(host)
        if speeds is not None:
            return float(speeds.max())
        return self._group.hosts[host].uplink_bytes_per_second or self._group.policy.migration.bytes_per_second

    def overload(self, host: int, load: LoadAhead) -> Floats:
        """How badly off the host is at each time and in the long run: 1 while it is over its threshold, and by how much
        it is.

        In the long run each of its domains has its peaks; two at once count as one.
        """
        group = self._group
        uuids = [group.residents(home).running[row].uuid for home, row in load.domains]
        return self._badly_off(host, load.mean, load.variance, uuids)

    def _badly_off(self, host: int, mean: Floats, variance: Floats, uuids: Sequence[str]) -> Floats:
        threshold = trigger_of(self._group.hosts[host], Resource.CPU, self._group.policy).threshold
        chance, excess = overload_chances(mean, variance, threshold)
        found = chance + excess
        shares, cores = peaks(uuids, self._group.snapshot.habits or Habits())
        if shares.any():
            heights = cores * float(self._group.per_unit[CPU, host])
            chance, excess = overload_chances(mean[-1] + heights, np.full(len(heights), variance[-1]), threshold)
            none = float(np.prod(1 - shares))
            found[-1] = none * found[-1] + (1 - none) * float((chance + excess) @ shares) / float(shares.sum())
        return found

    def roughly(self, hosts: Sequence[int]) -> list[float]:
        """How many minutes of overload each of these hosts is expected to have, by what its domains use now, whatever
        they lack. Much quicker than ``minutes``, and hardly less.
        """
        group, habits = self._group, self._group.snapshot.habits or Habits()
        running = [[one for one in group.domains_on(host) if one.state is DomainState.RUNNING] for host in hosts]
        speeds = [group.hosts[host].cpu_speed for host in hosts]
        now = [[one.cpu_cores * speed for one in here] for here, speed in zip(running, speeds, strict=True)]
        uuids = [[one.uuid for one in here] for here in running]
        every = [uuid for here in uuids for uuid in here]
        counts = list(map(len, running))
        if not any(counts):
            return [0.0] * len(hosts)
        numbers = np.repeat(np.arange(len(hosts)), counts)
        means, variances = _with_usual(outlook(np.concatenate(now), every, numbers, habits))
        found, begin = [], 0
        for at, host in enumerate(hosts):
            rows, unit = slice(begin, begin := begin + counts[at]), float(group.per_unit[CPU, host])
            own = max(float(group.level[host]) / unit - sum(now[at]), 0.0)
            mean = np.maximum(own + means[rows].sum(axis=0), 0.0) * unit
            badly = self._badly_off(host, mean, variances[rows].sum(axis=0) * unit**2, uuids[at])
            found.append(minutes(badly[:-1], 0.0) + self.watched_minutes(running[at]) * float(badly[-1]))
        return found

    def known_minutes(self, candidates: Iterable[Candidate]) -> float:
        """For how long what is usual is taken to stay so: as long as the domains were watched, at most for the longest
        of their means.
        """
        return self.watched_minutes(domain for one in candidates for domain in one.domains)

    def watched_minutes(self, domains: Iterable[Domain]) -> float:
        habits = self._group.snapshot.habits or Habits()
        ages = (one.age_seconds for domain in domains if (one := habits.of_domains.get(domain.uuid)))
        return min(max(ages, default=0.0), SCALES_SECONDS[-1]) / 60

    def changed(
        self, load: LoadAhead, host: int, leaving: Iterable[Candidate], coming: Iterable[Candidate]
    ) -> LoadAhead:
        """The load of the host after some domains have left it and others have come."""
        unit = float(self._group.per_unit[CPU, host])
        mean, variance, domains = load.mean.copy(), load.variance.copy(), dict.fromkeys(load.domains)
        for sign, candidates in ((-1, leaving), (1, coming)):
            for candidate in candidates:
                means, variances = _with_usual(self._outlook(candidate.source))
                rows = list(candidate.rows)
                mean += sign * means[rows].sum(axis=0) * unit
                variance += sign * variances[rows].sum(axis=0) * unit**2
                moved = dict.fromkeys((candidate.source, row) for row in rows)
                domains = {**domains, **moved} if sign > 0 else {one: None for one in domains if one not in moved}
        return LoadAhead(np.maximum(mean, 0.0), np.maximum(variance, 0.0), tuple(domains))

    @cached_property
    def _coming(self) -> Mapping[int, list[tuple[int, int]]]:
        """By host, the domains that are on their way to it: their host, and their row there."""
        group, found = self._group, defaultdict(list)
        for domain in group.under_way:
            home, to = group.index[domain.host], group.index.get(domain.migrating_to or "")
            if to is not None and group.hosts[home].known and domain in group.residents(home).running:
                found[to].append((home, group.residents(home).running.index(domain)))
        return found

    def _outlook(self, host: int) -> Outlook:
        if host not in self._outlooks:
            self.prepare([host])
        return self._outlooks[host]

    def prepare(self, wanted: Iterable[int]) -> None:
        """Compute what these hosts have ahead of them together, which is much quicker. Results do not change."""
        group, habits = self._group, self._group.snapshot.habits or Habits()
        missing = sorted(set(wanted) - self._outlooks.keys())
        group.prepare(missing)
        here = [group.residents(number) for number in missing]
        counts = [len(residents.running) for residents in here]
        if not any(counts):
            self._outlooks |= dict.fromkeys(missing, _NO_DOMAINS)
            return
        now = [(one.demands.cores if one.saturated else one.demands.used) * one.host.cpu_speed for one in here]
        uuids = [domain.uuid for residents in here for domain in residents.running]
        found = outlook(np.concatenate(now), uuids, np.repeat(np.arange(len(here)), counts), habits)
        begin = 0
        for number, count in zip(missing, counts, strict=True):
            rows = slice(begin, begin := begin + count)
            self._outlooks[number] = Outlook(
                found.mean[rows], found.variance[rows], found.usual[rows], found.usual_variance[rows]
            )

    def load(self, host: int) -> LoadAhead:
        """The load of the host with the domains that are on their way to it, without those that leave."""
        if host not in self._loads:
            residents, group = self._group.residents(host), self._group
            unit = float(group.per_unit[CPU, host])
            means, variances = _with_usual(self._outlook(host))
            stay = ~residents.leaving
            mean = residents.own * residents.host.cpu_speed + means[stay].sum(axis=0)
            variance = variances[stay].sum(axis=0)
            coming = self._coming.get(host, [])
            for home, row in coming:
                means, variances = _with_usual(self._outlook(home))
                mean, variance = mean + means[row], variance + variances[row]
            here = [(host, row) for row in np.flatnonzero(stay).tolist()]
            self._loads[host] = LoadAhead(mean * unit, variance * unit**2, (*here, *coming))
        return self._loads[host]


def _with_usual(one: Outlook) -> tuple[Floats, Floats]:
    """Means and variances at each time, and in the long run (domains x times + 1)."""
    return np.column_stack((one.mean, one.usual)), np.column_stack((one.variance, one.usual_variance))
