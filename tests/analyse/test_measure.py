"""Predictions against measurements: the thesis' least-squares line."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import due_prediction
from virtpoise_balancer.analyse.measure import fit_line, measure, window
from virtpoise_balancer.model import SampleTimes

DUE = due_prediction()
EVERY_10 = SampleTimes(step_seconds=10.0, reach_back_seconds=15.0, samples=3)


def test_the_window_begins_after_the_dust_has_settled_and_ends_before_the_next_migration() -> None:
    assert window(DUE, 20, 60, EVERY_10) == (1020.0, 1080.0)
    assert window(replace(DUE, disturbed_from=1050.0), 20, 60, EVERY_10) == (1020.0, 1050.0)


@pytest.mark.parametrize("scrape", [1.0, 0.5, 0.1])
@pytest.mark.parametrize("step", [1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0, 120.0])
@pytest.mark.parametrize("wanted", [(20.0, 60.0), (0.0, 1.0), (10.0, 20.0)])
def test_a_window_holds_enough_samples_at_any_interval_and_none_of_before_the_migration(
    step: float, scrape: float, wanted: tuple[float, float]
) -> None:
    times = SampleTimes(step_seconds=step, reach_back_seconds=1.5 * scrape * step, samples=3)
    for migrated in np.arange(1000.0, 1000.0 + step, step / 7):
        due = replace(DUE, migrated=float(migrated))
        between = window(due, *wanted, times)
        taken = [at for at in np.arange(0.0, 3000.0, step).tolist() if between[0] <= at <= between[1]]
        assert measure(due, between, [(at, 0.5) for at in taken], step).verdict == "measured"
        assert taken[0] - step - scrape * step >= migrated - 1e-6
        assert between[0] >= migrated + wanted[0]
        assert between[1] - between[0] >= wanted[1] - 1e-6


def test_the_error_is_the_distance_of_the_line_from_the_prediction_in_the_middle_of_the_window() -> None:
    rising = [(1020.0 + 10 * i, 0.5 + 0.01 * i) for i in range(7)]
    verdict = measure(DUE, (1020.0, 1080.0), rising, 10)
    assert verdict.verdict == "measured"
    assert (verdict.ratio, verdict.error) == pytest.approx((0.53, 0.03))


def test_a_migration_that_follows_at_once_leaves_nothing_to_measure() -> None:
    assert measure(replace(DUE, disturbed_from=1030.0), (1020.0, 1030.0), [(1020.0, 0.5)], 10).verdict == "disturbed"
    assert measure(replace(DUE, disturbed_from=1005.0), (1020.0, 1005.0), [], 10).verdict == "disturbed"


def test_too_few_readings_are_no_measurement() -> None:
    assert measure(DUE, (1020.0, 1080.0), [(1020.0, 0.5), (1030.0, 0.5), (5000.0, 0.5)], 10).verdict == "no_data"


@given(st.lists(st.tuples(st.integers(0, 600), st.floats(0, 1)), min_size=2, max_size=30, unique_by=lambda s: s[0]))
def test_the_line_is_the_least_squares_line(samples: list[tuple[int, float]]) -> None:
    """The residuals of a least-squares line add up to zero, and so do their moments about the middle of the times."""
    line = fit_line([(1.7e9 + t, v) for t, v in samples])
    middle = np.mean([t for t, _ in samples])
    residuals = [v - line.value(1.7e9 + t) for t, v in samples]
    assert sum(residuals) == pytest.approx(0, abs=1e-6)
    assert sum(r * (t - middle) for r, (t, _) in zip(residuals, samples, strict=True)) == pytest.approx(0, abs=1e-3)
