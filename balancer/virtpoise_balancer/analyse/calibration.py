"""How wide an interval must be to hold the share of predictions that it promises: learned from earlier errors.

Split conformal prediction (Vovk et al.; Lei et al., "Distribution-free predictive inference for regression", JASA 2018) with errors
scaled by the spread that each was predicted with, apart for each role and for moves from saturated hosts and others. With n earlier
errors the k-th smallest scaled one, k = ceil((n + 1) coverage), bounds the next with at least that chance, whatever the errors' law.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from virtpoise_balancer.model import Residual, Role

# While there are too few errors: so many spreads, as the lab's migrations had it (docs/scoring.md).
FALLBACK_WIDTH = 1.0

Widths = Mapping[tuple[Role, bool], float]


def widths(residuals: Iterable[Residual], coverage: float) -> Widths:
    """By role and whether the source is saturated, how many spreads the interval reaches to either side."""
    errors: dict[tuple[Role, bool], list[float]] = {
        (role, saturated): [] for role in Role for saturated in (False, True)
    }
    for residual in residuals:
        errors[residual.role, residual.saturated].append(abs(residual.error_ratio) / residual.spread_ratio)
    return {regime: _width(sorted(scaled), coverage) for regime, scaled in errors.items()}


def _width(scaled: list[float], coverage: float) -> float:
    rank = math.ceil((len(scaled) + 1) * coverage)
    if rank <= len(scaled):
        return scaled[rank - 1]
    return max([FALLBACK_WIDTH, *scaled])


def covered(intervals: Iterable[tuple[float, float, float]]) -> float | None:
    """The share of (lower, upper, measured) in which the interval held; None without any."""
    held = [lower <= measured <= upper for lower, upper, measured in intervals]
    return sum(held) / len(held) if held else None
