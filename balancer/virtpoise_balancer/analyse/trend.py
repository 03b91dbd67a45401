"""A forecast of a host's load from its samples, where they show a trend.

A straight line through the newer half of the samples, against the mean of the last few: both forecast the later half
of the window from what came before, and the line is believed only where it was clearly the better one. On loads that
jump about (PlanetLab's) that is nearly never, on ramps nearly always (docs/scoring.md has both, judged on days that the
bound was not chosen on).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from virtpoise_balancer.analyse.demand import Floats
from virtpoise_balancer.analyse.windows import by_length

# Fewer samples than this say nothing about a direction.
_LEAST_SAMPLES = 16
_MOST_SAMPLES = 60
# The line's mean error in the window, over the mean's, from which on it is not believed.
_BELIEVED_BELOW = 0.6


def forecast(windows: Sequence[Sequence[float]], *, steps: int, level_samples: int) -> Floats:
    """The load ``steps`` after the newest sample of each window, at least 0; NaN without a trend (windows)."""
    result = np.full(len(windows), np.nan)
    if steps <= 0:
        return result
    least = max(_LEAST_SAMPLES, 2 * steps + 2, 2 * level_samples)
    for rows, samples in by_length(windows, _MOST_SAMPLES):
        if samples.shape[1] >= least:
            result[rows] = _forecast(samples, steps, level_samples)
    return result


def _forecast(samples: Floats, steps: int, level_samples: int) -> Floats:
    """The predicted load of each host after ``steps`` steps. ``samples``: hosts x samples, all of one length."""
    half = samples.shape[1] // 2
    times = np.arange(half) - (half - 1) / 2
    # Least squares over ``half`` samples, evaluated ``steps`` after the last of them, is this weighted sum of them.
    weights = 1 / half + times * ((half - 1) / 2 + steps) / (times @ times)
    line = _sliding(samples, weights)
    level = _sliding(samples[:, half - level_samples :], np.full(level_samples, 1 / level_samples))
    truth = samples[:, half - 1 + steps :]
    judged = truth.shape[1]
    line_error = np.abs(line[:, :judged] - truth).mean(axis=1)
    level_error = np.abs(level[:, :judged] - truth).mean(axis=1)
    believed = line_error < _BELIEVED_BELOW * level_error
    return np.where(believed, np.maximum(line[:, -1], 0.0), np.nan)


def _sliding(samples: Floats, weights: Floats) -> Floats:
    """The weighted sum of the samples at each position of a window as long as ``weights`` (hosts x positions)."""
    places = samples.shape[1] - len(weights) + 1
    at = np.arange(places)
    spread = np.zeros((samples.shape[1], places))
    for number, weight in enumerate(weights.tolist()):
        spread[at + number, at] = weight
    summed: Floats = samples @ spread
    return summed
