"""What earlier errors teach: how far an interval must reach to hold the share of measurements that it promises, and where in it
the measurements lie.

Split conformal prediction (Vovk et al.; Lei et al., "Distribution-free predictive inference for regression", JASA 2018) with errors
scaled by the spread that each was predicted with, for either end by itself (a host that was picked for being overloaded tends to fall
by itself as well), apart for each role and for moves from saturated hosts and others. With n earlier errors the k-th smallest scaled
one, k = ceil((n + 1) p), bounds the next with a chance of at least p, whatever the errors' law; each end takes p = (1 + coverage) / 2.

The median of the errors says by how much predictions are too high or too low throughout: machines differ in what the formulas leave
out. It moves what is predicted, not the interval, whose ends have learned it already.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import NormalDist, median

from virtpoise_balancer.model import Residual, Role

# While there are too few errors: so many spreads, as the lab's migrations had it (docs/scoring.md).
FALLBACK = 1.0
# Fewer errors than this say neither how large they are nor where their middle is.
_TELLING = 5


@dataclass(frozen=True, slots=True)
class Quantile:
    """How many spreads an interval goes below and above the formula's word, and how far from that (a share of the host) the middle of
    the measurements was.
    """

    below: float = FALLBACK
    above: float = FALLBACK
    bias_ratio: float = 0.0


Quantiles = Mapping[tuple[Role, bool], Quantile]


def quantiles(residuals: Iterable[Residual], coverage: float) -> Quantiles:
    """By role and whether the source was saturated."""
    earlier: dict[tuple[Role, bool], list[Residual]] = {
        (role, saturated): [] for role in Role for saturated in (False, True)
    }
    for residual in residuals:
        earlier[residual.role, residual.saturated].append(residual)
    share = (1 + coverage) / 2
    return {regime: _learned(of_regime, share) for regime, of_regime in earlier.items()}


def _learned(residuals: list[Residual], share: float) -> Quantile:
    scaled = [residual.error_ratio / residual.spread_ratio for residual in residuals]
    return Quantile(
        below=_quantile([-error for error in scaled], share),
        above=_quantile(scaled, share),
        bias_ratio=median(residual.error_ratio for residual in residuals) if len(residuals) >= _TELLING else 0.0,
    )


def _quantile(scaled: list[float], share: float) -> float:
    """Never negative: what the formula says stays inside."""
    rank = math.ceil((len(scaled) + 1) * share)
    if rank <= len(scaled):
        return max(sorted(scaled)[rank - 1], 0.0)
    if len(scaled) < _TELLING:
        return max([FALLBACK, *scaled])
    # So few say little of how far errors go, but something of how large they are to this side: then as if they were normal.
    size = math.sqrt(2 * math.fsum(max(error, 0.0) ** 2 for error in scaled) / len(scaled))
    return max(FALLBACK, NormalDist().inv_cdf(share) * size, *scaled)


def covered(intervals: Iterable[tuple[float, float, float]]) -> float | None:
    """The share of (lower, upper, measured) in which the interval held; None without any."""
    held = [lower <= measured <= upper for lower, upper, measured in intervals]
    return sum(held) / len(held) if held else None
