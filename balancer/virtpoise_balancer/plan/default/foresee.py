"""Moves that keep hosts from an overload that they are expected to have, if the policy wants that.

What is ahead of a host follows from what its domains usually use (worth.py). Each move must be expected to save more
than it costs by what the policy asks for, on both its hosts together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from virtpoise_balancer.analyse.habits import LEAST_AGE_SECONDS
from virtpoise_balancer.model import Attempt, Foresight, Problem
from virtpoise_balancer.plan.default.candidates import Candidate, movable
from virtpoise_balancer.plan.default.group import Group
from virtpoise_balancer.plan.default.soft_rules import worse_on
from virtpoise_balancer.plan.default.trial import Step, Trial
from virtpoise_balancer.plan.default.worth import LoadAhead, Prospects, Worth

# This many of the busiest hosts are judged in a cycle, and this many others as destinations. The next cycle is seconds
# away.
_MOST_HOSTS = 32
_MOST_PARTNERS = 8


@dataclass
class _Ahead:
    """The group while overloads that are expected are lowered. ``loads``: of the hosts that a move has changed."""

    trial: Trial
    prospects: Prospects
    wanted: Foresight
    partners: list[int]
    loads: dict[int, LoadAhead] = field(default_factory=dict)

    def load(self, host: int) -> LoadAhead:
        return self.loads[host] if host in self.loads else self.prospects.load(host)

    def expected(self, host: int) -> float:
        """How many minutes of overload the host is expected to have, if nothing is moved."""
        later = self.prospects.watched_minutes(self.trial.group.residents(host).running)
        return self.prospects.minutes(host, self.load(host), None, 0.0, later)

    def best(self, host: int) -> tuple[Worth, Step] | None:
        """The move off the host that is worth most, or none if none is worth enough."""
        found: tuple[float, Worth, Step] | None = None
        least = self.wanted.least_saved_minutes
        for more, seconds, candidate in self._leaving(host):
            cost = seconds / 60
            if more - cost < (least if found is None else found[0]):
                break
            ranked = self._added(candidate, seconds)
            destination = self.trial.first_sound(candidate, np.isfinite(ranked), ranked)
            if destination is None:
                continue
            worth = Worth(more + float(ranked[destination]), cost)
            net = worth.saved_minutes - cost
            if net >= least and worth.pays and (found is None or net > found[0]):
                found = net, worth, Step(candidate, destination, _WHY, Problem.FORESEEN)
        return found and found[1:]

    def _leaving(self, host: int) -> Iterator[tuple[float, float, Candidate]]:
        """What the host is saved without each candidate, in minutes of overload, and the seconds of its migration, the
        most first.
        """
        prospects, found = self.prospects, []
        for candidate in movable(self.trial.group, host).candidates:
            if self.trial.moved.isdisjoint(domain.uuid for domain in candidate.domains):
                seconds, before = prospects.seconds_of(candidate), self.load(host)
                after = prospects.changed(before, host, [candidate], [])
                saved = prospects.minutes(host, before, after, seconds, prospects.known_minutes([candidate]))
                found.append((saved, seconds, candidate))
        return iter(sorted(found, key=lambda one: (one[1] / 60 - one[0], one[2].weight)))

    def _added(self, candidate: Candidate, seconds: float) -> np.ndarray:
        """What each host would be saved with the candidate, at most 0; -inf where it may not go (hosts)."""
        trial, prospects = self.trial, self.prospects
        ok = trial.fits(candidate, trial.room(candidate))
        worse = worse_on(trial.group, candidate.domains, trial.members)
        if worse is not None:
            ok &= worse <= 0
        later = prospects.known_minutes([candidate])
        saved = np.full(len(ok), -np.inf)
        for host in self.partners:
            if ok[host]:
                before = self.load(host)
                after = prospects.changed(before, host, [], [candidate])
                saved[host] = prospects.minutes(host, before, after, seconds, later)
        return saved

    def make(self, step: Step) -> None:
        host, destination = step.candidate.source, step.destination
        self.loads[host] = self.prospects.changed(self.load(host), host, [step.candidate], [])
        self.loads[destination] = self.prospects.changed(self.load(destination), destination, [], [step.candidate])
        self.trial.apply(step)


_WHY = "before an overload"


def foresee(trial: Trial, prospects: Prospects, wanted: Foresight) -> tuple[list[Attempt], dict[int, Worth]]:
    """Makes the moves that are worth it, off the host that is expected to be worst off, again and again. And what they
    are worth, by the number of their source.

    Hosts that the plan has touched already are left alone, and those whose domains have no habits.
    """
    group = trial.group
    busiest, partners = _looked_at(group, trial)
    roughly = prospects.roughly(busiest)
    near = [host for host, rough in zip(busiest, roughly, strict=True) if rough >= wanted.least_saved_minutes / 2]
    if not near:
        return [], {}
    prospects.prepare([*near, *partners])
    ahead = _Ahead(trial, prospects, wanted, partners)
    expected = {host: ahead.expected(host) for host in near}
    worths: dict[int, Worth] = {}
    while expected:
        host = max(expected, key=lambda number: (expected[number], -number))
        found = ahead.best(host) if expected[host] >= wanted.least_saved_minutes else None
        if found is None:
            del expected[host]
            continue
        worth, step = found
        ahead.make(step)
        so_far = worths.get(host, Worth(0.0, 0.0))
        worths[host] = Worth(so_far.saved_minutes + worth.saved_minutes, so_far.cost_minutes + worth.cost_minutes)
        expected |= {end: ahead.expected(end) for end in (host, step.destination) if end in expected}
    attempts = [Attempt(host=group.hosts[host].name, problem=Problem.FORESEEN, solved=True) for host in sorted(worths)]
    return attempts, worths


def _looked_at(group: Group, trial: Trial) -> tuple[list[int], list[int]]:
    """The hosts that may be relieved, the busiest first, and those that may take something."""
    touched = {end for step in trial.steps for end in (step.candidate.source, step.destination)}
    free = [host for host in np.flatnonzero(trial.open).tolist() if host not in touched and _knows(group, host)]
    by_load = sorted(free, key=lambda host: (-float(group.level[host]), host))
    judged = [host for host in by_load if group.hosts[host].name not in group.concerned]
    return judged[:_MOST_HOSTS], by_load[-_MOST_PARTNERS:]


def _knows(group: Group, host: int) -> bool:
    """Whether the host has a domain with a habit, or none at all."""
    habits = group.snapshot.habits
    domains: Sequence[str] = [domain.uuid for domain in group.domains_on(host)]
    known = (habits.of_domains.get(uuid) for uuid in domains) if habits else iter(())
    return not domains or any(one is not None and one.age_seconds >= LEAST_AGE_SECONDS for one in known)
