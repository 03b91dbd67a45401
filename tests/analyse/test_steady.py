"""What a host's samples show of its load, and how far that may be from what is measured next."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from virtpoise_balancer.analyse.steady import NOISE_RATIO, Steady, steady


def seen(
    *windows: Sequence[float], cpus: int = 64, count: int = 3, coverage: float = 0.9, counted: int | None = None
) -> Steady:
    return steady(
        windows,
        np.full(len(windows), float(cpus)),
        count=count,
        counted=np.full(len(windows), counted or count),
        saturation=0.9,
        coverage=coverage,
    )


def drawn(level: float, deviation: float, *, samples: int = 30, hosts: int = 400) -> np.ndarray:
    return np.random.default_rng(1).normal(level, deviation, (hosts, samples))


def test_a_steady_load_is_the_mean_of_many_samples() -> None:
    windows = drawn(0.6, 0.01)
    long, short = seen(*windows.tolist()).level, windows[:, -3:].mean(axis=1)
    assert np.std(long - 0.6) < 0.65 * np.std(short - 0.6)


@pytest.mark.parametrize("samples", [12, 13, 18, 24, 30])
@pytest.mark.parametrize("count", [1, 2, 3, 5, 7])
def test_after_a_step_only_samples_since_then_count(samples: int, count: int) -> None:
    for since in range(count, samples):
        windows = drawn(0.5, 0.005, samples=samples)
        windows[:, -since:] += 0.2
        level = seen(*windows.tolist(), count=count).level
        assert np.quantile(np.abs(level - 0.7), 0.99) < 0.04, since


@pytest.mark.parametrize("samples", [2, 8, 12, 30])
@pytest.mark.parametrize("counted", [1, 2, 4])
def test_after_a_migration_samples_from_before_it_count_only_where_the_load_is_the_same(
    samples: int, counted: int
) -> None:
    windows = drawn(0.5, 0.005, samples=samples)
    same = seen(*windows.tolist(), count=5, counted=counted).level
    windows[:, -counted:] += 0.2
    level = seen(*windows.tolist(), count=5, counted=counted).level
    assert np.quantile(np.abs(level - 0.7), 0.99) < 0.02
    if samples == 30:
        assert np.std(same - 0.5) < 0.0025


@pytest.mark.parametrize("count", [3, 5])
def test_a_load_that_rose_and_fell_counts_as_it_is_now(count: int) -> None:
    for rose in range(count + 2, 30):
        for fell in range(count, rose - 1):
            windows = drawn(0.5, 0.005, hosts=100)
            windows[:, -rose:-fell] += 0.2
            error = np.abs(seen(*windows.tolist(), count=count).level - 0.5)
            assert np.quantile(error, 0.99) < 0.04, (rose, fell)


@pytest.mark.parametrize("deviation", [0.002, 0.008, 0.015])
@pytest.mark.parametrize("coverage", [0.5, 0.9])
def test_what_is_measured_next_lies_within_the_noise(deviation: float, coverage: float) -> None:
    """On a host without any error of the formula; that of 64 CPUs makes the noise a little larger."""
    windows = drawn(0.6, deviation, samples=36)
    found = seen(*windows[:, :30].tolist(), cpus=10**6, coverage=coverage)
    error = windows[:, 30:].mean(axis=1) - found.level
    assert np.mean(np.abs(error) <= found.noise) == pytest.approx(coverage, abs=0.08)


def test_on_a_ramp_the_newest_samples_count() -> None:
    ramps = drawn(0.3, 0.005) + 0.01 * np.arange(30)
    assert np.allclose(seen(*ramps.tolist()).level, ramps[:, -3:].mean(axis=1), atol=0.02)


def test_a_step_is_no_noise() -> None:
    windows = drawn(0.5, 0.005, hosts=1)
    before = seen(*windows.tolist()).noise[0]
    windows[:, -7:] += 0.3
    assert seen(*windows.tolist()).noise[0] < 1.5 * before


def test_noise_shrinks_with_the_root_of_the_number_of_cpus() -> None:
    calm = [0.5] * 30
    assert seen(calm, cpus=1).noise[0] == pytest.approx(NOISE_RATIO)
    assert seen(calm, cpus=16).noise[0] == pytest.approx(NOISE_RATIO / 4)


def test_what_is_not_known_counts_as_much_as_on_a_host_of_one_cpu() -> None:
    few, full, none = [0.5] * 11, [1.0] * 30, list[float]()
    wild = [0.2, 0.2, 0.2, 0.8, 0.8, 0.8] * 5
    found = seen(few, full, none, wild)
    assert found.noise.tolist() == [NOISE_RATIO] * 4
    assert found.level.tolist() == pytest.approx([0.5, 1.0, 0.0, 0.5])


def test_a_window_shorter_than_a_mean_counts_as_it_is() -> None:
    assert seen([0.4, 0.6]).level[0] == pytest.approx(0.5)
