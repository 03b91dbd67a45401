from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virtpoise_balancer.analyse.calibration import FALLBACK_WIDTH, covered, widths
from virtpoise_balancer.model import Residual, Role


def residuals(errors: list[float], role: Role = Role.SOURCE, *, saturated: bool = False) -> list[Residual]:
    return [Residual(role=role, saturated=saturated, error_ratio=e, spread_ratio=0.03) for e in errors]


def test_without_errors_the_measured_fallback_holds() -> None:
    assert set(widths([], 0.9).values()) == {FALLBACK_WIDTH}


def test_few_errors_never_narrow_the_interval_but_a_large_one_widens_it() -> None:
    assert widths(residuals([0.001] * 8), 0.9)[Role.SOURCE, False] == FALLBACK_WIDTH
    assert widths(residuals([0.12]), 0.9)[Role.SOURCE, False] == pytest.approx(4.0)


def test_each_role_and_regime_learns_from_its_own_errors() -> None:
    learned = widths(residuals([0.3] * 20, Role.SOURCE, saturated=True), 0.9)
    assert learned[Role.SOURCE, True] == pytest.approx(10.0)
    assert learned[Role.SOURCE, False] == learned[Role.DESTINATION, True] == FALLBACK_WIDTH


@given(st.lists(st.floats(-0.5, 0.5), min_size=20, max_size=200), st.sampled_from([0.8, 0.9, 0.95]))
def test_the_interval_would_have_held_the_promised_share_of_the_errors(errors: list[float], coverage: float) -> None:
    width = widths(residuals(errors), coverage)[Role.SOURCE, False]
    held = sum(abs(error) <= width * 0.03 + 1e-12 for error in errors) / len(errors)
    assert held >= coverage


@given(st.lists(st.floats(-0.5, 0.5), max_size=50))
def test_the_order_of_the_errors_does_not_matter(errors: list[float]) -> None:
    assert widths(residuals(errors), 0.9) == widths(residuals(errors[::-1]), 0.9)


def test_coverage_is_the_share_of_intervals_that_held() -> None:
    assert covered([]) is None
    assert covered([(0.1, 0.3, 0.2), (0.1, 0.3, 0.4)]) == 0.5
