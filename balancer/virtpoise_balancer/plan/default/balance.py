"""Moves that even out a group without an overload, if the policy wants that: until it is even enough or a move gains
too little.
"""

from __future__ import annotations

import numpy as np

from virtpoise_balancer.analyse.demand import Floats
from virtpoise_balancer.model import Attempt, Imbalance, Problem
from virtpoise_balancer.plan.default.candidates import Candidate, movable, relief_of
from virtpoise_balancer.plan.default.group import CPU
from virtpoise_balancer.plan.default.soft_rules import worse_on
from virtpoise_balancer.plan.default.trial import Step, Trial


def balance(trial: Trial, wanted: Imbalance) -> list[Attempt]:
    """Takes from the busiest host what lowers the standard deviation of the hosts' CPU load most, again and again."""
    group = trial.group
    counted = np.flatnonzero(trial.open)
    if len(counted) < 2:
        return []
    load = group.level.copy()
    first = deviation = float(load[counted].std())
    if deviation <= wanted.deviation_ratio:
        return []
    busiest = int(counted[load[counted].argmax()])
    for _ in range(len(counted)):
        step = _best_step(trial, load, counted, deviation, wanted.least_gain_ratio)
        if step is None:
            break
        trial.apply(step)
        _shift(load, trial, step)
        deviation = float(load[counted].std())
        if deviation <= wanted.deviation_ratio:
            break
    if deviation == first:
        return []
    solved = deviation <= wanted.deviation_ratio
    return [Attempt(host=group.hosts[busiest].name, problem=Problem.IMBALANCE, solved=solved)]


def _best_step(trial: Trial, load: Floats, counted: np.ndarray, deviation: float, least_gain: float) -> Step | None:
    """The move off the busiest host that lowers the deviation most, or None if none brings it and its destination
    nearer to each other by ``least_gain``.

    One that breaks a soft rule only where all others gain too little.
    """
    group = trial.group
    source = int(counted[load[counted].argmax()])
    least_gain = group.least_gain(source, least_gain)
    best: tuple[float, float, Candidate, int] | None = None
    size = len(counted)
    total, squares = float(load[counted].sum()), float((load[counted] ** 2).sum())
    for candidate in movable(group, source).candidates:
        if any(domain.uuid in trial.moved for domain in candidate.domains):
            continue
        freed = float(relief_of(group, candidate)[CPU])
        off = freed * float(group.per_unit[CPU, source])
        on = freed * group.per_unit[CPU]
        sums = total - off + on
        of_squares = squares - load[source] ** 2 + (load[source] - off) ** 2 - load**2 + (load + on) ** 2
        after = np.sqrt(np.maximum(of_squares / size - (sums / size) ** 2, 0.0))
        ok = trial.fits(candidate, trial.room(candidate))
        nearer = (np.abs(load[source] - load) - np.abs(load[source] - off - load - on)) / 2
        ok &= (nearer >= least_gain) & (after < deviation)
        worse = worse_on(group, candidate.domains, trial.members)
        broken = np.zeros(len(group.hosts)) if worse is None else np.maximum(worse, 0.0)
        while ok.any():
            least = broken.min(where=ok, initial=np.inf)
            host = trial.first_sound(candidate, ok & (broken == least), -after)
            if host is not None:
                if best is None or (least, after[host]) < best[:2]:
                    best = (float(least), float(after[host]), candidate, host)
                break
            ok &= broken > least
    if best is None:
        return None
    _, after_it, chosen, destination = best
    why = f"evens out the group: the standard deviation of its load falls from {deviation:.3f} to {after_it:.3f}"
    return Step(chosen, destination, why, Problem.IMBALANCE)


def _shift(load: Floats, trial: Trial, step: Step) -> None:
    per_unit = trial.group.per_unit
    freed = float(relief_of(trial.group, step.candidate)[CPU])
    load[step.candidate.source] -= freed * per_unit[CPU, step.candidate.source]
    load[step.destination] += freed * per_unit[CPU, step.destination]
