"""Moves that even out a group without an overload, if the policy wants that: until it is even enough or nothing gains
enough. Where no single move does, two domains change places.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from virtpoise_balancer.analyse.demand import Floats, Mask
from virtpoise_balancer.analyse.windows import newest
from virtpoise_balancer.model import Attempt, DomainState, Imbalance, Problem
from virtpoise_balancer.plan.default.candidates import Candidate, movable, relief_of
from virtpoise_balancer.plan.default.group import CPU, MEMORY, Group
from virtpoise_balancer.plan.default.residents import total
from virtpoise_balancer.plan.default.soft_rules import worse_on
from virtpoise_balancer.plan.default.soft_rules_after import broken_more
from virtpoise_balancer.plan.default.trial import Step, Trial

# The most steps of a plan, and the most hosts and pairs of domains that are tried for an exchange.
_MOST_STEPS = 1000
_MOST_PARTNERS = 8
_MOST_PAIRS = 16


@dataclass
class _Evening:
    """The group while it is evened out.

    ``load``: what is to be even (hosts). ``of``: what a candidate has of it, as ``load`` is, if it is on a host with
    ``unit`` 1. ``among``: the hosts that count (hosts).
    """

    trial: Trial
    wanted: Imbalance
    load: Floats
    unit: Floats
    of: Callable[[Candidate], float]
    among: Mask
    _candidates: dict[int, list[Candidate]] = field(default_factory=dict)

    @property
    def deviation(self) -> float:
        return float(self.load[self.among].std())

    @property
    def busiest(self) -> int:
        return int(np.where(self.among, self.load, -np.inf).argmax())

    def candidates(self, host: int) -> list[Candidate]:
        """What may leave the host, the cheapest first. Each domain moves at most once."""
        if host not in self._candidates:
            found = movable(self.trial.group, host, least_gain=self.wanted.by == "cpu").candidates
            self._candidates[host] = sorted(found, key=lambda one: one.weight)
        return [one for one in self._candidates[host] if self.trial.moved.isdisjoint(d.uuid for d in one.domains)]

    def least_gain(self, host: int) -> float:
        """How much nearer to their mean a move off the host must bring both hosts."""
        if self.wanted.by != "cpu":  # a small domain costs little, and counts little
            return 1e-9
        return self.trial.group.least_gain(host, self.wanted.least_gain_ratio)

    def after(self, source: int, amount: Floats | float, to: int | slice) -> tuple[Floats, Floats]:
        """The deviation if an amount goes from the source elsewhere, and how much nearer to their mean both hosts come.

        Either several amounts to one host (as the amounts), or one to several (hosts).
        """
        counted, here, there = self.load[self.among], self.load[source], self.load[to]
        off, on = amount * self.unit[source], amount * self.unit[to]
        sums = counted.sum() - off + on
        squares = (counted**2).sum() - here**2 + (here - off) ** 2 - there**2 + (there + on) ** 2
        deviation = np.sqrt(np.maximum(squares / len(counted) - (sums / len(counted)) ** 2, 0.0))
        return deviation, (np.abs(here - there) - np.abs(here - off - there - on)) / 2

    def make(self, step: Step) -> None:
        amount, source = self.of(step.candidate), step.candidate.source
        self.trial.apply(step)
        self.load[source] -= amount * self.unit[source]
        self.load[step.destination] += amount * self.unit[step.destination]


def balance(trial: Trial, wanted: Imbalance) -> tuple[list[Attempt], str | None]:
    """Takes from the host that has most what lowers the standard deviation most, again and again. Where it is too high
    and nothing lowers it, a sentence about that.
    """
    among = _lasting(trial, wanted)
    if among.sum() < 2:
        return [], None
    evening = _Evening(trial, wanted, *_measure(trial.group, wanted), among)
    first, busiest = evening.deviation, evening.busiest
    if not first > wanted.deviation_ratio:  # NaN where it is not known
        return [], None
    begun = len(trial.steps)
    while evening.deviation > wanted.deviation_ratio and len(trial.steps) - begun < _MOST_STEPS:
        steps = list(_best_step(evening)) or _best_exchange(evening)
        if not steps:
            break
        for step in steps:
            evening.make(step)
    if len(trial.steps) == begun:
        return [], (
            f"the group stays uneven: the standard deviation of its {wanted.what} is {first:.3f}, above "
            f"{wanted.deviation_ratio:g}, and no move lowers it enough"
        )
    solved = evening.deviation <= wanted.deviation_ratio
    return [Attempt(host=trial.group.hosts[busiest].name, problem=Problem.IMBALANCE, solved=solved)], None


def _lasting(trial: Trial, wanted: Imbalance) -> Mask:
    """The hosts that count (hosts). By load none before N samples show the imbalance, as with an overload: those whose
    newest N count, if they were too uneven in each.
    """
    group = trial.group
    if wanted.by != "cpu":
        return trial.open
    least = group.policy.cpu.consecutive
    known: Mask = trial.open & (group.counted == least)
    samples = newest([host.cpu_ratio for host, counts in zip(group.hosts, known, strict=True) if counts], least)
    if len(samples) > 1 and (samples.std(axis=0) > wanted.deviation_ratio).all():
        return known
    return np.zeros_like(known)


def _measure(group: Group, wanted: Imbalance) -> tuple[Floats, Floats, Callable[[Candidate], float]]:
    """What is to be even (hosts), how much one unit of a candidate's is on each host, and what a candidate has of it.

    Of domains and vCPUs it is a share of the mean.
    """
    hosts = group.hosts
    if wanted.by == "cpu":
        return group.level.copy(), group.per_unit[CPU], lambda one: float(relief_of(group, one)[CPU])
    if wanted.by == "memory":
        used = np.array([host.memory_ratio if host.known else 0.0 for host in hosts])
        return used, group.per_unit[MEMORY], lambda one: _resident(group, one)
    there = np.zeros(len(hosts))
    amount: dict[str, float] = {}
    for domain in group.snapshot.domains:
        if domain.state is not DomainState.SHUTOFF:
            promised = domain.promised_bytes
            of = {"promised": np.nan if promised is None else promised, "domains": 1.0, "vcpus": domain.vcpus}
            amount[domain.uuid] = of[wanted.by]
            there[group.index[domain.host]] += of[wanted.by]
    per = {"promised": group.per_unit[MEMORY], "domains": np.ones(len(hosts)), "vcpus": 1 / group.cpus}[wanted.by]
    unit = per if wanted.by == "promised" else per / max(float((there * per).mean()), 1e-9)
    return there * unit, unit, lambda one: sum(amount[domain.uuid] for domain in one.domains)


def _resident(group: Group, candidate: Candidate) -> float:
    return float(total(group.residents(candidate.source).relief, candidate.rows)[MEMORY])


def _best_step(evening: _Evening) -> Iterator[Step]:
    """The move off the host that has most which lowers the deviation most, or none if none gains enough.

    One that breaks a soft rule only where all others gain too little.
    """
    trial, source, deviation = evening.trial, evening.busiest, evening.deviation
    best: tuple[float, float, Candidate, int] | None = None
    for candidate in evening.candidates(source):
        after, nearer = evening.after(source, evening.of(candidate), slice(None))
        ok = evening.among & trial.fits(candidate, trial.room(candidate))
        ok &= (nearer >= evening.least_gain(source)) & (after < deviation)
        worse = worse_on(trial.group, candidate.domains, trial.members)
        broken = np.zeros(len(after)) if worse is None else np.maximum(worse, 0.0)
        while ok.any():
            least = broken.min(where=ok, initial=np.inf)
            host = trial.first_sound(candidate, ok & (broken == least), -after)
            if host is not None:
                if best is None or (least, after[host]) < best[:2]:
                    best = (float(least), float(after[host]), candidate, host)
                break
            ok &= broken > least
    if best is not None:
        _, after_it, chosen, destination = best
        yield Step(chosen, destination, _why(evening, after_it), Problem.IMBALANCE)


def _best_exchange(evening: _Evening) -> list[Step]:
    """A domain of the host that has most, and another one that takes its place; empty: no exchange gains enough."""
    trial, source, deviation = evening.trial, evening.busiest, evening.deviation
    ours = evening.candidates(source)
    least = [
        host for host in np.argsort(evening.load, kind="stable").tolist() if evening.among[host] and host != source
    ]
    found: list[tuple[float, int, Candidate, Candidate]] = []
    for host in least[:_MOST_PARTNERS]:
        theirs = evening.candidates(host)
        if not ours or not theirs:
            continue
        mine, other = (np.array([evening.of(one) for one in several]) for several in (ours, theirs))
        after, nearer = evening.after(source, mine[:, np.newaxis] - other, host)
        after = np.where((nearer >= 2 * evening.least_gain(source)) & (after < deviation), after, np.inf)
        for at in np.argsort(after, axis=None, kind="stable")[:_MOST_PAIRS].tolist():
            i, j = divmod(at, len(theirs))
            if np.isfinite(after[i, j]):
                found.append((float(after[i, j]), host, ours[i], theirs[j]))
    for after_it, host, one, another in sorted(found, key=lambda pair: pair[:2])[:_MOST_PAIRS]:
        why = _why(evening, after_it)
        there, back = (Step(a, to, why, Problem.IMBALANCE) for a, to in ((one, host), (another, source)))
        for steps in ([there, back], [back, there]):
            then = trial.replayed(steps)
            if then is not None and broken_more(trial, then, steps) <= 0:
                return steps
    return []


def _why(evening: _Evening, after: float) -> str:
    what = evening.wanted.what
    return (
        f"evens out the group: the standard deviation of its {what} falls from {evening.deviation:.3f} to {after:.3f}"
    )
