"""What domains will want by their habits: what wanders as usual returns, and a step lasts as soon as it is seen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from virtpoise_balancer.analyse.habits import HabitBook, Readings
from virtpoise_balancer.analyse.outlook import (
    HORIZON_SECONDS,
    TIMES,
    Outlook,
    minutes,
    outlook,
    overload_chances,
    peaks,
)
from virtpoise_balancer.model import Habit, Habits

STEP = 10.0


def wandering(memory_minutes: float, steps: int, domains: int, seed: int) -> np.ndarray:
    """Cores (steps x domains) about 1, with a deviation of 0.3, that forget where they were."""
    random = np.random.default_rng(seed)
    kept = np.exp(-STEP / 60 / memory_minutes)
    state, found = random.normal(size=domains), np.empty((steps, domains))
    for step in range(steps):
        state = kept * state + random.normal(0, np.sqrt(1 - kept**2), domains)
        found[step] = state
    return 1 + 0.3 * found


def seen(cores: np.ndarray) -> tuple[tuple[str, ...], Habits]:
    book = HabitBook()
    uuids = tuple(f"vm{number}" for number in range(cores.shape[1]))
    hosts = np.arange(cores.shape[1])
    for at, row in enumerate(cores):
        book.update(at * STEP, Readings(uuids, hosts, row), 30.0)
    return uuids, book.habits()


def ahead(cores: Sequence[float] | np.ndarray, uuids: Sequence[str], known: Habits) -> Outlook:
    """Of domains of one host."""
    return outlook(np.array(cores, dtype=float), uuids, np.zeros(len(uuids), dtype=np.intp), known)


def test_without_a_history_the_present_lasts() -> None:
    young = Habit(age_seconds=60, means=(1.0,) * 5, deviations=(0.5,) * 5)
    found = ahead([2.0, 3.0], ["none", "young"], Habits(of_domains={"young": young}))
    assert found.mean == pytest.approx(np.repeat([[2.0], [3.0]], len(TIMES), axis=1), abs=0.01)
    assert found.variance.max() < 0.001


@pytest.mark.parametrize(("memory_minutes", "held"), [(1.0, 0.82), (3.0, 0.82), (10.0, 0.78), (30.0, 0.72)])
def test_what_wanders_is_forecast_without_bias_and_nearly_as_surely_as_it_says(
    memory_minutes: float, held: float
) -> None:
    """Four hours show little of a memory of half an hour, so that intervals are too narrow."""
    steps, places = 1440, [2, 4, 6, 7]
    later = [round(TIMES[at] / STEP) for at in places]
    cores = wandering(memory_minutes, steps + max(later), 400, seed=3)
    uuids, known = seen(cores[:steps])
    found = ahead(cores[steps - 1], uuids, known)
    for at, after in zip(places, later, strict=True):
        truth = cores[steps - 1 + after]
        error, deviation = truth - found.mean[:, at], np.sqrt(found.variance[:, at])
        assert abs(error.mean()) < 0.05
        assert held < (np.abs(error) < 1.645 * deviation).mean() < 0.97
        # no worse than the better of the two simple forecasts: the present, and the true mean
        assert error.std() < 1.1 * min((truth - cores[steps - 1]).std(), truth.std())


def test_a_step_lasts_as_soon_as_it_is_seen() -> None:
    cores = wandering(2.0, 360, 5, seed=4)
    cores[-4:, 2] += 3.0
    uuids, known = seen(cores)
    found = ahead(cores[-1], uuids, known)
    assert found.mean[2, -1] == pytest.approx(cores[-1, 2], abs=0.5)
    assert found.mean[[0, 1, 3, 4], -1] == pytest.approx(1.0, abs=0.3)


def test_what_rises_on_all_domains_of_a_host_lasts_as_well() -> None:
    cores = wandering(2.0, 720, 40, seed=5)
    cores[-4:] += 0.6  # two deviations of each
    uuids, known = seen(cores)
    found = ahead(cores[-1], uuids, known)
    assert found.mean[:, -1].mean() == pytest.approx(1.6, abs=0.1)


def test_an_excursion_ends_where_all_earlier_ones_did() -> None:
    habit = Habit(
        age_seconds=90000,
        means=(3.0, 2.5, 1.0, 0.7, 0.6),
        deviations=(0.05,) * 5,
        excursion_seconds=300,
        before_cores=0.5,
    )
    lasts = ahead([3.0], ["vm"], Habits(of_domains={"vm": habit}))
    ends = ahead([3.0], ["vm"], Habits(of_domains={"vm": habit}, ended_ratio=(0, 0, 0.95, 0, 0)))
    assert lasts.mean[0, -1] == pytest.approx(3.0, abs=0.1)
    assert ends.mean[0, 0] == pytest.approx(3.0, abs=0.3)
    assert ends.mean[0, -1] == pytest.approx(0.5 + 0.05 * 2.5, abs=0.1)


def test_peaks_are_those_of_the_domain_and_of_all_as_if_seen_for_a_day_more() -> None:
    own = Habit(age_seconds=86400, means=(1.0,) * 5, deviations=(0.1,) * 5, peak_seconds=4320, peak_cores=3.0)
    calm = Habit(age_seconds=86400, means=(1.0,) * 5, deviations=(0.1,) * 5)
    known = Habits(of_domains={"own": own, "calm": calm}, peak_ratio=0.01, peak_cores=1.0)
    shares, cores = peaks(["own", "calm", "new"], known)
    assert shares == pytest.approx([0.03, 0.005, 0.01])
    assert cores == pytest.approx([(5 * 3 + 1) / 6, 1.0, 1.0])
    shares, cores = peaks(["own"], Habits())
    assert (*shares, *cores) == (0.0, 0.0)


def test_hosts_are_as_each_alone() -> None:
    cores = wandering(2.0, 400, 6, seed=6)
    cores[-4:, :3] += 0.8
    uuids, known = seen(cores)
    together = outlook(cores[-1], uuids, np.array([0, 0, 0, 1, 1, 1]), known)
    alone = [ahead(cores[-1, part], uuids[part], known) for part in (slice(3), slice(3, 6))]
    assert together.mean == pytest.approx(np.concatenate([one.mean for one in alone]))
    assert together.variance == pytest.approx(np.concatenate([one.variance for one in alone]))


def test_the_largest_figures_of_a_file_give_finite_ones() -> None:
    most = Habit(
        age_seconds=1e300, means=(16384.0,) * 5, deviations=(16384.0,) * 5, excursion_seconds=1e300, before_cores=0
    )
    found = ahead([0.0, 16384.0], ["vm", "vm"], Habits(of_domains={"vm": most}, together_ratio=(1e6,) * 5))
    assert np.isfinite(found.mean).all()
    assert np.isfinite(found.variance).all()


def test_minutes_over_a_threshold() -> None:
    mean, none = np.full(len(TIMES), 0.9), np.zeros(len(TIMES))
    chance, excess = overload_chances(mean, none, 0.8)
    assert minutes(chance, 0.0) == pytest.approx(60)
    assert minutes(excess, 0.0) == pytest.approx(6)
    at_the_threshold, _ = overload_chances(np.full(len(TIMES), 0.8), none + 0.01, 0.8)
    assert minutes(at_the_threshold, 0.0) == pytest.approx(30)
    passing = np.where(TIMES < 240, 1.0, 0.0)
    assert minutes(passing, 0.0) == pytest.approx(4)
    assert minutes(passing, 240.0) == 0.0


def test_what_takes_hours_is_worth_something_where_the_overload_lasts() -> None:
    assert minutes(np.ones(len(TIMES)), 2 * HORIZON_SECONDS) == pytest.approx(480)
