"""What domains will want over the next hour by their habits, and for how long their host will be overloaded.

A domain's demand is its *level* and an *excursion*, which is forgotten. Excursions are chance: a sum of processes that
forget within a minute to four hours (Ornstein-Uhlenbeck), whose variances follow from how far running means of
different lengths are usually apart. The level is the longest of these means that no shorter one contradicts: where a
mean is more than four usual deviations off the next longer one, the longer one reflects something that is over
(Lepski, "On a problem of adaptive estimation in Gaussian white noise", 1990; here with the deviations that were
measured). So a step of load counts as lasting as soon as it is seen, and what wanders as usual does not. Of a domain
without a history the present counts as lasting.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from virtpoise_balancer.analyse.demand import Floats, Mask
from virtpoise_balancer.analyse.habits import (
    EXCURSIONS_COUNT_SECONDS,
    LEAST_AGE_SECONDS,
    LEAST_DEVIATION_CORES,
    SCALES,
    UNUSUAL,
    known_scales,
)
from virtpoise_balancer.analyse.normal import below, density
from virtpoise_balancer.model import Habits

# How far ahead the effect of a move counts, in seconds.
HORIZON_SECONDS = 3600.0
# How much longer than the migrations themselves it counts at least.
_LONGER = 4
# The times ahead at which loads are forecast, in seconds, and for how long each of them stands.
_EDGES = np.array([0.0, 30, 60, 120, 240, 480, 960, 1920, HORIZON_SECONDS])
TIMES, _LENGTHS = (_EDGES[1:] + _EDGES[:-1]) / 2, np.diff(_EDGES)
# Within how long the parts of an excursion are forgotten, in seconds: the first is hardly more than a reading.
_LIVES = np.array([15.0, *SCALES])
# The variance of a mean that is no evidence, in cores squared.
_NOTHING = 1e9
# What is left of each part after each time (times x lives). What changes more slowly than the horizon lasts.
_KEPT = np.where(_LIVES < HORIZON_SECONDS, np.exp(-TIMES[:, np.newaxis] / _LIVES), 1.0)
# For how long the peaks of all domains are taken to have been seen of each.
_OTHERS_COUNT_SECONDS = 86400.0
# How many times the parts are fitted to the deviations. More changes nothing that matters.
_FITS = 20


def _shared(one: float, other: float, life: float) -> float:
    """The covariance of two running means of a process of variance 1; a scale of 0 is the process itself."""
    if not one or not other:
        return life / (life + max(one, other))
    return (life * one / (life + one) + life * other / (life + other)) / (one + other)


def _apart(life: float) -> list[float]:
    """The variances of the means' distances to the next shorter ones, for a process of variance 1 (scales)."""
    means = [0.0, *SCALES.tolist()]
    return [
        _shared(short, short, life) + _shared(long, long, life) - 2 * _shared(short, long, life)
        for short, long in pairwise(means)
    ]


# The variances of distances that a part of variance 1 makes (lives x scales).
_SPECTRA = np.array([_apart(life) for life in _LIVES.tolist()])


@dataclass(frozen=True, slots=True)
class Outlook:
    """What each of some domains will want, in cores of a CPU of speed 1: its mean, and the variance about it, at each
    time (domains x ``TIMES``). ``usual`` and ``usual_variance``: the same in the long run, without any excursion
    (domains).
    """

    mean: Floats
    variance: Floats
    usual: Floats
    usual_variance: Floats


def outlook(cores: Floats, uuids: Sequence[str], hosts: NDArray[np.intp], known: Habits) -> Outlook:
    """The outlook of the domains of some hosts. ``cores``: what each wants now; ``hosts``: the number of its host, from
    0 (domains).
    """
    habits = [known.of_domains.get(uuid) for uuid in uuids]
    age = np.array([0.0 if one is None else one.age_seconds for one in habits])
    since = np.array(
        [np.nan if one is None or one.excursion_seconds is None else one.excursion_seconds for one in habits]
    )
    none = (0.0,) * len(SCALES)
    means = np.array([none if one is None else one.means for one in habits]).reshape(-1, len(SCALES))
    deviations = np.array([none if one is None else one.deviations for one in habits]).reshape(-1, len(SCALES))
    unknown = age < LEAST_AGE_SECONDS
    means[unknown], deviations[unknown] = cores[unknown, np.newaxis], 0.0
    seen = np.column_stack((cores, means))
    off, usual = seen[:, :-1] - means, np.maximum(deviations, LEAST_DEVIATION_CORES)
    telling = known_scales(age[:, np.newaxis])
    unusual = telling & (np.abs(off) > UNUSUAL * usual)
    # What is not far off by itself may be so together with others.
    alike = telling & ~unusual.any(axis=1, keepdims=True) & np.isnan(since)[:, np.newaxis]
    shared = np.array(known.together_ratio)
    usually = np.sqrt(_on_hosts(hosts, np.square(usual) * alike) * shared)
    unusual |= alike & (np.abs(_on_hosts(hosts, off * alike)) > UNUSUAL * usually)[hosts]
    # No evidence are: a mean that reflects something that is over, and all longer ones; one that reaches back before an
    # excursion; and one that is as old as the next shorter one.
    over = np.logical_or.accumulate(unusual, axis=1) | (since[:, np.newaxis] < SCALES)
    backs = np.minimum(SCALES, age[:, np.newaxis] / 2)
    over |= np.diff(backs, axis=1, prepend=0.0) <= 0
    lasting = _predicted(
        seen, np.column_stack((np.zeros(len(cores)), backs)), over, _parts(np.square(deviations) * shared)
    )
    # What is unusual and has not been so before has just begun.
    since = np.where(np.isnan(since) & unusual.any(axis=1), 0.0, since)
    before = [
        mean if one is None or one.before_cores is None else one.before_cores
        for one, mean in zip(habits, means[:, -1].tolist(), strict=True)
    ]
    return _with_ends(lasting, since, np.array(before), np.array(known.ended_ratio))


def peaks(uuids: Sequence[str], known: Habits) -> tuple[Floats, Floats]:
    """The share of its time that each domain is in a peak, and how high that is, in cores of speed 1 (domains).

    From its own past, and from that of all domains, which counts as one more day of its own.
    """
    habits = [known.of_domains.get(uuid) for uuid in uuids]
    own = np.array([(one.age_seconds, one.peak_seconds, one.peak_cores) if one else (0.0, 0.0, 0.0) for one in habits])
    watched, seconds, cores = own.reshape(-1, 3).T
    others = known.peak_ratio * _OTHERS_COUNT_SECONDS
    share = (seconds + others) / (np.minimum(watched, EXCURSIONS_COUNT_SECONDS) + _OTHERS_COUNT_SECONDS)
    return np.minimum(share, 1.0), (seconds * cores + others * known.peak_cores) / np.maximum(seconds + others, 1e-9)


def _on_hosts(hosts: NDArray[np.intp], amounts: Floats) -> Floats:
    """The sums over the domains of each host (hosts x scales). ``amounts``: domains x scales."""
    sums: Floats = np.array([np.bincount(hosts, weights=of_scale) for of_scale in amounts.T]).T
    return sums


def _with_ends(lasting: Outlook, since: Floats, before: Floats, ended_ratio: Floats) -> Outlook:
    """The outlook with the chance that an excursion ends, and its domain wants what it did before.

    ``since``: for how long it has lasted, NaN where there is none; ``before``: in cores (domains).
    """
    there = ~np.isnan(since)
    goes_on = np.ones_like(lasting.mean)
    seconds = since[there][:, np.newaxis] + np.array([0.0, *TIMES])
    chances = _goes_on(seconds.ravel(), ended_ratio).reshape(seconds.shape)
    goes_on[there] = chances[:, 1:] / chances[:, :1]
    apart = lasting.mean - before[:, np.newaxis]
    return Outlook(
        mean=before[:, np.newaxis] + goes_on * apart,
        variance=lasting.variance + goes_on * (1 - goes_on) * np.square(apart),
        usual=np.where(there, before, lasting.usual),
        usual_variance=lasting.usual_variance,
    )


def _goes_on(seconds: Floats, ended_ratio: Floats) -> Floats:
    """The chance that an excursion lasts for these times. Within a scale it is as likely to end at any time."""
    shorter = np.array([0.0, *SCALES[:-1]])
    into = np.clip((seconds[:, np.newaxis] - shorter) / (SCALES - shorter), 0.0, 1.0)
    chance: Floats = (1 - into * ended_ratio).prod(axis=1)
    return chance


def _predicted(seen: Floats, backs: Floats, over: Mask, parts: Floats) -> Outlook:
    """The best linear prediction of a process whose level is not known (ordinary kriging: Cressie, "Statistics for
    spatial data", 1993, 3.2).

    ``seen``: the present and the means, ``backs``: over how long they go back, 0 for the present (domains x 1 +
    scales). ``over``: which means are no evidence (domains x scales). ``parts``: domains x lives.
    """
    lagged = _LIVES / (_LIVES + backs[..., np.newaxis])  # domains x seen x lives
    one, other = backs[:, :, np.newaxis], backs[:, np.newaxis, :]
    both = one + other
    with np.errstate(invalid="ignore"):
        shared = (
            one[..., np.newaxis] * lagged[:, :, np.newaxis] + other[..., np.newaxis] * lagged[:, np.newaxis]
        ) / both[..., np.newaxis]
    shared[both == 0] = 1.0
    covariance = (shared * parts[:, np.newaxis, np.newaxis]).sum(axis=-1)
    places = np.arange(seen.shape[1])
    covariance[:, places, places] += LEAST_DEVIATION_CORES**2
    covariance[:, places[1:], places[1:]] += np.where(over, _NOTHING, 0.0)
    coming = np.einsum("dsl,dl,tl->dst", lagged, parts, _KEPT)
    ones = np.ones((*seen.shape, 1))
    solved = np.linalg.solve(covariance, np.concatenate((coming, ones), axis=2))
    weights, level_weights = solved[..., :-1], solved[..., -1]
    known = level_weights.sum(axis=1)  # 1 / variance of the level
    level = (level_weights * seen).sum(axis=1) / known
    excursion = seen - level[:, np.newaxis]
    lost = 1 - weights.sum(axis=1)  # how much of the level's own doubt is in the prediction
    variance = (
        parts.sum(axis=1)[:, np.newaxis] - (weights * coming).sum(axis=1) + np.square(lost) / known[:, np.newaxis]
    )
    mean = level[:, np.newaxis] + np.einsum("dst,ds->dt", weights, excursion)
    variance = np.maximum(variance, 0.0)
    return Outlook(mean, variance, usual=level, usual_variance=variance[:, -1])


def _parts(variances: Floats) -> Floats:
    """The variances of the parts of excursions (domains x lives) that make these variances of distances (domains x
    scales).

    Fitted as counts are to a mixture (expectation maximisation), so that none is negative.
    """
    total = variances.sum(axis=1, keepdims=True)
    parts = np.repeat(total / len(_LIVES), len(_LIVES), axis=1)
    made_by_all = _SPECTRA.sum(axis=1)
    for _ in range(_FITS):
        made = np.maximum(parts @ _SPECTRA, 1e-12)
        parts *= (variances / made) @ _SPECTRA.T / made_by_all
    return parts


def overload_chances(mean: Floats, variance: Floats, threshold: float) -> tuple[Floats, Floats]:
    """The chance of a host to be at or above the threshold, and by how much it is expected to exceed it, at each time.

    ``mean`` and ``variance``: of its load, as a ratio (``TIMES``).
    """
    deviation = np.sqrt(np.maximum(variance, 1e-12))
    away = (mean - threshold) / deviation
    chance = below(away)
    return chance, np.maximum((mean - threshold) * chance + deviation * density(away), 0.0)


def minutes(ratios: Floats, begin_seconds: float) -> float:
    """What a share of a host at each time comes to from a time on, in minutes of the whole host.

    Within the horizon, and longer where it takes long to begin, or moving what is large would never be worth it. Later
    it is as at the end of the horizon.
    """
    counted = np.clip(_EDGES[1:] - begin_seconds, 0.0, _LENGTHS)
    until = begin_seconds + max(HORIZON_SECONDS, _LONGER * begin_seconds)
    later = until - max(begin_seconds, HORIZON_SECONDS)
    return float(ratios @ counted + ratios[-1] * later) / 60
