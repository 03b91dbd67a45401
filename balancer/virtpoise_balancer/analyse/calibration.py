"""Calibration of prediction intervals from past errors: how wide they must be, and how far predictions are biased.

Split conformal prediction (Vovk et al.; Lei et al., "Distribution-free predictive inference for regression", JASA 2018)
with errors scaled by the spread that each was predicted with. Each end is calibrated by itself, since a host that was
picked for being overloaded tends to fall on its own. Each role, and moves from saturated and from other hosts, are
calibrated apart. With n past errors the k-th smallest scaled one, k = ceil((n + 1) p), bounds the next with a
probability of at least p, whatever their distribution. Each end takes p = (1 + coverage) / 2.

Single errors that are far from all others say nothing about the next one: perhaps something else changed while the load
was measured. Of few errors one is left out; of more, as many as the promised share allows. No end reaches further than
a bound, or an idle host would take nothing.

The median of the errors is the bias: machines differ in what the formulas leave out. It moves the prediction but not
the interval, whose ends have learned it already.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import NormalDist, median

from virtpoise_balancer.model import Residual, Role

# The width of either side in spreads while there are too few errors; measured on the lab's migrations
# (docs/scoring.md).
FALLBACK = 1.0
# The furthest that either side reaches, in spreads. Where nothing is in doubt that is 30 points.
MOST = 10.0
# An error is far from the others when it is this many times the largest of them, and of the fallback.
_FAR = 3.0
# With fewer errors than this, one may be left out even where the promised share cannot do without it.
_FEW = 40
# With fewer errors neither their size nor their median is estimated.
_TELLING = 5


@dataclass(frozen=True, slots=True)
class Quantile:
    """How many spreads an interval extends below and above the formula's estimate, and the bias of that estimate.

    ``bias_ratio``: the median of measured minus estimated, as a share of the host.
    """

    below: float = FALLBACK
    above: float = FALLBACK
    bias_ratio: float = 0.0


Quantiles = Mapping[tuple[Role, bool], Quantile]


def quantiles(residuals: Iterable[Residual], coverage: float) -> Quantiles:
    """The calibration by role and whether the source was saturated.

    ``coverage``: the share of measurements that intervals shall hold.
    """
    earlier: dict[tuple[Role, bool], list[Residual]] = {
        (role, saturated): [] for role in Role for saturated in (False, True)
    }
    for residual in residuals:
        earlier[residual.role, residual.saturated].append(residual)
    share = (1 + coverage) / 2
    return {regime: _learned(of_regime, share) for regime, of_regime in earlier.items()}


def _learned(residuals: list[Residual], share: float) -> Quantile:
    scaled = _without_far([residual.error_ratio / residual.spread_ratio for residual in residuals], share)
    return Quantile(
        below=_quantile([-error for error in scaled], share),
        above=_quantile(scaled, share),
        bias_ratio=median(residual.error_ratio for residual in residuals) if len(residuals) >= _TELLING else 0.0,
    )


def _without_far(scaled: list[float], share: float) -> list[float]:
    """The errors without those that are far from all others, in the same order."""
    count = len(scaled)
    beyond = 2 * max(count - _rank(count, share), 0)  # what the ranks of both ends leave out already
    spare = int(2 * (1 - share) * count + 1e-9) - beyond
    if _TELLING <= count < _FEW:
        spare = max(spare, 1)
    falling = sorted(range(count), key=lambda at: (-abs(scaled[at]), scaled[at]))
    for far in range(min(spare, count - 1), 0, -1):
        if abs(scaled[falling[far - 1]]) > _FAR * max(FALLBACK, abs(scaled[falling[far]])):
            return [scaled[at] for at in sorted(falling[far:])]
    return scaled


def _rank(count: int, share: float) -> int:
    """Which of this number of errors, the smallest first, bounds the next with this probability; too large: none."""
    return math.ceil((count + 1) * share)


def _quantile(scaled: list[float], share: float) -> float:
    """The width of one side in spreads. Never negative: the estimate itself stays inside."""
    rank = _rank(len(scaled), share)
    if rank <= len(scaled):
        found = max(sorted(scaled)[rank - 1], 0.0)
    elif len(scaled) < _TELLING:
        found = max([FALLBACK, *scaled])
    else:
        # Too few for the rank. Their size on this side is known roughly, so take them as normally distributed.
        size = math.sqrt(2 * math.fsum(max(error, 0.0) ** 2 for error in scaled) / len(scaled))
        found = max(FALLBACK, NormalDist().inv_cdf(share) * size, *scaled)
    return min(found, MOST)


def covered(intervals: Iterable[tuple[float, float, float]]) -> float | None:
    """The share of (lower, upper, measured) whose interval holds the measurement, or None without any."""
    held = [lower <= measured <= upper for lower, upper, measured in intervals]
    return sum(held) / len(held) if held else None
