"""The load that each host's samples show, and how far it may be from what is measured next.

The mean of many samples is known better than that of few, if the load is still the same. So the newest N are joined by
as many before them, and three and seven times as many, as long as the interval of the mean then has a part in common
with those of the means of fewer (Lepski's method). Where fewer than N were taken since a migration, those come first.

What the formulas leave out was measured on hosts of one CPU, where it is ``NOISE_RATIO`` of them (docs/scoring.md). On
a host of many CPUs it is the sum of what many vCPUs do by themselves, so it shrinks with the root of their number. What
the host's own samples vary by is added. A host of which little is known, or whose CPUs are full, so that nothing
varies, counts as one of one CPU. None counts as more than that: loads that wander further are weighed by what they will
be (``outlook``).
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from virtpoise_balancer.analyse.demand import Floats
from virtpoise_balancer.analyse.windows import by_length

# How far two measurements of an unchanged load differ on a host of one CPU, as a share of it.
NOISE_RATIO = 0.03
_MOST_SAMPLES = 30
# With fewer samples, in those that a mean is taken of, nothing is known of how far means differ.
_LEAST_MEANS = 4
# How many times the newest N the samples are that are joined.
_LONGER = (1, 2, 4, 8)
# How many times what independent samples would have it vary by a mean varies at most, if the load wanders (an
# autoregressive process of any memory: up to 2.25).
_WANDERING = 2.0
# The median of the absolute values of a normal distribution, in standard deviations.
_MEDIAN = NormalDist().inv_cdf(0.75)


class Steady(NamedTuple):
    """The load of each host, 0..1, and how far what is measured next may be from it to either side (hosts)."""

    level: Floats
    noise: Floats


def steady(
    windows: Sequence[Sequence[float]],
    cpus: Floats,
    *,
    count: int,
    counted: NDArray[np.int64],
    saturation: float,
    coverage: float,
) -> Steady:
    """The loads by the newest ``count`` samples, and by more where the load has stayed the same; 0 without samples.

    ``windows``: each host's samples, newest last. ``cpus``: hosts. ``counted``: how many of the newest ``count`` were
    taken since the host's domains changed, at least 1 (hosts); those before count where the load is the same.
    ``saturation``: the load from which on a host hides demand. ``coverage``: the share of measurements that are to lie
    within the noise, each taken of twice as many samples.
    """
    level, noise = np.zeros(len(windows)), np.full(len(windows), NOISE_RATIO)
    deviations = NormalDist().inv_cdf((1 + coverage) / 2)
    for rows, samples in by_length(windows, _MOST_SAMPLES):
        first = np.minimum(counted[rows], samples.shape[1])
        level[rows] = _newest_mean(samples, first)
        if samples.shape[1] < _LEAST_MEANS * count:
            continue
        full = level[rows] >= saturation
        means = _means(samples, count)
        reach = deviations * _jitter(samples, means, count)
        level[rows], share = _joined(samples, count, level[rows], reach, count / first)
        known = np.hypot(deviations * _apart(means, count) * np.sqrt(share + 1 / 2), NOISE_RATIO / np.sqrt(cpus[rows]))
        noise[rows] = np.where(full, NOISE_RATIO, np.minimum(known, NOISE_RATIO))
    return Steady(level, noise)


def _newest_mean(samples: Floats, first: NDArray[np.int64]) -> Floats:
    """The mean of the newest ``first`` samples of each host (hosts)."""
    newest = np.arange(samples.shape[1]) >= samples.shape[1] - first[:, np.newaxis]
    mean: Floats = samples.mean(axis=1, where=newest)
    return mean


def _means(samples: Floats, count: int) -> Floats:
    """The mean of each ``count`` samples, one after another (hosts x means)."""
    sums = np.cumsum(np.pad(samples, ((0, 0), (1, 0))), axis=1)
    means: Floats = (sums[:, count:] - sums[:, :-count]) / count
    return means


def _apart(means: Floats, count: int) -> Floats:
    """The standard deviation of a mean by its distance from the next two, which drift moves as well (hosts)."""
    after = (means[:, count:-count] + means[:, 2 * count :]) / 2
    return _deviation(after - means[:, : -2 * count])


def _jitter(samples: Floats, means: Floats, count: int) -> Floats:
    """The standard deviation of a mean by its distance from between its neighbours, which no drift moves (hosts).

    A step from one load to another moves that distance for many means, and for three samples only. So it is at most
    what single samples allow for.
    """
    of_means = _bend(means, count)
    most: Floats = _WANDERING * _bend(samples, 1) / np.sqrt(count)
    return np.minimum(of_means, most)


def _bend(values: Floats, apart: int) -> Floats:
    """The standard deviation of values by how far each is from between those ``apart`` before and after it (hosts)."""
    middle = (values[:, : -2 * apart] + values[:, 2 * apart :]) / 2
    return _deviation(values[:, apart:-apart] - middle)


def _deviation(differences: Floats) -> Floats:
    """The standard deviation of values by how far they are from the middle of two others (hosts).

    The median, since one step from one load to another is no noise. Such a difference varies by half as much again.
    """
    found: Floats = np.median(np.abs(differences), axis=1) / _MEDIAN / np.sqrt(3 / 2)
    return found


def _joined(samples: Floats, count: int, level: Floats, reach: Floats, share: Floats) -> tuple[Floats, Floats]:
    """The mean of all samples that show the same load (hosts), and its variance as a share of that of ``count``.

    ``reach``: how far the interval of a mean of ``count`` samples reaches to either side (hosts). ``level``,
    ``share``: the mean of those that show it at least, and its variance likewise (hosts).
    """
    same = np.ones(len(level), dtype=np.bool_)
    lowest, highest = level - reach * np.sqrt(share), level + reach * np.sqrt(share)
    for times in _LONGER:
        if times * count > samples.shape[1]:
            break
        mean, most = samples[:, -times * count :].mean(axis=1), reach / np.sqrt(times)
        lowest, highest = np.maximum(lowest, mean - most), np.minimum(highest, mean + most)
        same &= lowest <= highest
        level, share = np.where(same, mean, level), np.where(same, 1 / times, share)
    return level, share
