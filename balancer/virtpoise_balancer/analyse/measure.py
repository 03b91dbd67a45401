"""The verdict on a prediction: how far it was from the load measured after the migration.

Source: thesis §5.3.3, §5.10. A least-squares line is fitted to the load measured after the migration, in a window free
of other disturbance; the error is the distance of the line from the prediction, taken at the window's middle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from virtpoise_balancer.model import PredictionVerdict, Role, SampleTimes

_FEWEST_READINGS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class DuePrediction:
    """A prediction whose migration is done and that has no verdict yet.

    ``migrated``: when the migration ended. ``disturbed_from``: when the next migration of the host began. Unix seconds.
    ``source`` and ``destination``: the hosts of the migration; ``host`` is the one of them that ``role`` names.
    """

    id: int
    host: str
    role: Role
    predicted: float
    lower: float
    upper: float
    migrated: float
    disturbed_from: float | None
    source: str
    destination: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a prediction is compared with.

    ``ratio`` and ``error`` (ratio - predicted) only when measured.
    """

    verdict: PredictionVerdict
    window: tuple[float, float] | None = None
    ratio: float | None = None
    error: float | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """A least-squares line, in a form that is exact for Unix times: ``value(t) = at_mean + slope * (t - mean)``."""

    mean: float
    at_mean: float
    slope: float

    def value(self, at: float) -> float:
        return self.at_mean + self.slope * (at - self.mean)


def fit_line(samples: Sequence[tuple[float, float]]) -> Line:
    """The least-squares line through (time, value) samples; level when they are all of one time."""
    mean = sum(t for t, _ in samples) / len(samples)
    level = sum(v for _, v in samples) / len(samples)
    spread = sum((t - mean) ** 2 for t, _ in samples)
    slope = sum((t - mean) * (v - level) for t, v in samples) / spread if spread else 0.0
    return Line(mean, level, slope)


def spans(settle_seconds: float, window_seconds: float, times: SampleTimes) -> tuple[float, float]:
    """How long after a migration its window begins, and how long that is, in seconds.

    As long as is wanted, and as samples take: none may reach back to before the migration's end, and a few are needed.
    A sample reaches back two steps at most where scrapes are on time.
    """
    step = times.step_seconds
    return (
        max(settle_seconds, min(2 * step, step + times.reach_back_seconds)),
        max(window_seconds, _FEWEST_READINGS * step),
    )


def window(due: DuePrediction, settle_seconds: float, window_seconds: float, times: SampleTimes) -> tuple[float, float]:
    """The window (Unix seconds) in which the prediction is to be measured; it ends early where the next migration
    begins.
    """
    settle, length = spans(settle_seconds, window_seconds, times)
    start = due.migrated + settle
    end = start + length
    return start, end if due.disturbed_from is None else min(end, due.disturbed_from)


def measure(
    due: DuePrediction, window: tuple[float, float], samples: Sequence[tuple[float, float]], step_seconds: float
) -> Measured:
    """The verdict on a prediction, from the host's samples within the window."""
    start, end = window
    inside = [(t, ratio) for t, ratio in samples if start <= t <= end]
    if due.disturbed_from is not None and end - start < (_FEWEST_READINGS - 1) * step_seconds:
        return Measured(verdict="disturbed")
    if len(inside) < _FEWEST_READINGS:
        return Measured(verdict="no_data", window=window)
    ratio = fit_line(inside).value((start + end) / 2)
    return Measured(verdict="measured", window=window, ratio=ratio, error=ratio - due.predicted)
