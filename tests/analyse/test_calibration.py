from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virtpoise_balancer.analyse.calibration import FALLBACK, MOST, Quantile, covered, quantiles
from virtpoise_balancer.model import Residual, Role

SPREAD = 0.03


def residuals(errors: list[float], role: Role = Role.SOURCE, *, saturated: bool = False) -> list[Residual]:
    return [Residual(role=role, saturated=saturated, error_ratio=e, spread_ratio=SPREAD) for e in errors]


def source(errors: list[float], coverage: float = 0.9) -> Quantile:
    return quantiles(residuals(errors), coverage)[Role.SOURCE, False]


def near(reach: Quantile, *, below: float, above: float, bias_ratio: float = 0.0, within: float | None = None) -> bool:
    found = (reach.below, reach.above, reach.bias_ratio)
    return bool(found == pytest.approx((below, above, bias_ratio), abs=within))


def test_without_errors_the_measured_fallback_holds() -> None:
    assert set(quantiles([], 0.9).values()) == {Quantile(FALLBACK, FALLBACK)}


def test_few_errors_never_narrow_the_interval_but_a_large_one_widens_it() -> None:
    assert source([0.001] * 18) == Quantile(FALLBACK, FALLBACK, bias_ratio=0.001)
    assert near(source([0.12]), below=FALLBACK, above=4.0)
    assert near(source([-0.12]), below=4.0, above=FALLBACK)


def test_a_handful_of_errors_shows_how_large_they_are() -> None:
    assert source([0.12, -0.12] * 2).above == pytest.approx(4.0)
    assert near(source([0.12, -0.12] * 3), below=4 * 1.645, above=4 * 1.645, within=0.01)
    assert (
        source([-0.12] * 6).above == FALLBACK
    )  # a host that was picked for its load falls by itself: nothing of its rising


def test_each_end_learns_by_itself() -> None:
    assert near(source([0.0, *[-0.3] * 99]), below=10.0, above=0.0, bias_ratio=-0.3)


def test_the_middle_of_the_errors_is_learned_once_there_are_some() -> None:
    assert source([-0.02] * 4).bias_ratio == 0
    assert source([-0.02, -0.03, -0.01, 0.4, -0.5]).bias_ratio == pytest.approx(-0.02)


def test_each_role_and_regime_learns_from_its_own_errors() -> None:
    learned = quantiles(residuals([0.3] * 20, Role.SOURCE, saturated=True), 0.9)
    assert learned[Role.SOURCE, True].above == pytest.approx(10.0)
    assert learned[Role.SOURCE, False] == learned[Role.DESTINATION, True] == Quantile()


@given(st.lists(st.floats(-MOST * SPREAD, MOST * SPREAD), min_size=40, max_size=200), st.sampled_from([0.8, 0.9, 0.95]))
def test_the_interval_would_have_held_the_promised_share_of_the_errors(errors: list[float], coverage: float) -> None:
    reach = source(errors, coverage)
    held = sum(-reach.below * SPREAD - 1e-12 <= error <= reach.above * SPREAD + 1e-12 for error in errors)
    assert held / len(errors) >= coverage - 1e-9


def test_no_end_reaches_further_than_a_bound() -> None:
    assert source([0.6] * 50).above == source([0.9]).above == MOST
    assert source([-0.6] * 50).below == MOST


@pytest.mark.parametrize("others", [5, 18, 39, 60])
def test_an_error_that_is_far_from_all_others_is_left_out(others: int) -> None:
    usual = [0.02, -0.02] * (others // 2) + [0.01] * (others % 2)
    assert source([0.4, *usual]).above == pytest.approx(source(usual).above, abs=0.1)
    assert source([-0.4, *usual]).below == pytest.approx(source(usual).below, abs=0.1)
    assert source([0.1, *usual]).above >= source(usual).above


def test_errors_that_are_no_exception_count() -> None:
    assert source([0.24] * 3 + [0.01] * 9).above >= 8.0
    assert source([0.24] * 4 + [0.01] * 29).above == pytest.approx(8.0)


@given(st.lists(st.floats(-0.5, 0.5), max_size=50))
def test_the_order_of_the_errors_does_not_matter(errors: list[float]) -> None:
    assert source(errors) == source(errors[::-1])


def test_coverage_is_the_share_of_intervals_that_held() -> None:
    assert covered([]) is None
    assert covered([(0.1, 0.3, 0.2), (0.1, 0.3, 0.4)]) == 0.5
