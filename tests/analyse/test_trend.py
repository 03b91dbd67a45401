from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from virtpoise_balancer.analyse.trend import forecast


def one(window: list[float], steps: int = 3) -> float:
    return float(forecast([window], steps=steps, level_samples=3)[0])


def test_a_ramp_is_followed() -> None:
    assert one([0.2 + 0.01 * i for i in range(30)]) == pytest.approx(0.2 + 0.01 * 32)


def test_a_ramp_under_noise_is_followed_closely() -> None:
    noise = np.random.default_rng(7).normal(0, 0.01, 30)
    assert one([0.2 + 0.02 * i + float(noise[i]) for i in range(30)]) == pytest.approx(0.2 + 0.02 * 32, abs=0.03)


@pytest.mark.parametrize("window", [[0.5] * 30, [0.3, 0.6] * 15, [0.3] * 20 + [0.7] * 10, [0.1 * i for i in range(9)]])
def test_no_trend_is_claimed_without_one(window: list[float]) -> None:
    assert np.isnan(one(window))


def test_it_can_be_switched_off() -> None:
    assert np.isnan(one([0.01 * i for i in range(30)], steps=0))


@given(st.lists(st.lists(st.floats(0, 1), max_size=70), max_size=5), st.integers(0, 10))
def test_any_windows_give_a_load_or_nothing(windows: list[list[float]], steps: int) -> None:
    result = forecast(windows, steps=steps, level_samples=3)
    assert len(result) == len(windows)
    assert all(np.isnan(value) or value >= 0 for value in result)
