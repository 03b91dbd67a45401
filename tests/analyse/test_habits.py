"""Running means, usual deviations and excursions of domains, kept in constant space."""

from __future__ import annotations

import math

import numpy as np
import pytest

from virtpoise_balancer.analyse.habits import LEAST_DEVIATION_CORES, SCALES, HabitBook, Readings, readings
from virtpoise_balancer.model import Domain, DomainState, Habit, Snapshot

STEP = 10.0


def read(*cores: float, hosts: tuple[int, ...] | None = None) -> Readings:
    """One reading of each of the domains a, b, c, ..., on hosts 0, 1, 2, ... or on those named."""
    uuids = tuple("abcdefghijklmnopqrstuvwxyz"[: len(cores)])
    return Readings(uuids, np.array(hosts or range(len(cores)), dtype=np.intp), np.array(cores, dtype=float))


def watched(book: HabitBook, cores: list[float], start: float = 0.0) -> float:
    """Watch domain a, a reading each step; the time after it."""
    for at, value in enumerate(cores):
        book.update(start + at * STEP, read(value), 30.0)
    return start + len(cores) * STEP


def habit(book: HabitBook, uuid: str = "a") -> Habit:
    return book.habits().of_domains[uuid]


def test_a_mean_is_that_of_all_readings_until_it_forgets() -> None:
    book = HabitBook()
    values = [1.0, 2.0, 3.0, 6.0]
    for at, value in enumerate(values):
        book.update(at * 30.0, read(value), 30.0)
    assert habit(book).age_seconds == 120
    assert habit(book).means[-1] == pytest.approx(3.0)
    watched(book, [1.0] * 60, start=120.0)
    kept = math.exp(-600 / SCALES[0])
    assert habit(book).means[0] == pytest.approx(1.0, abs=6 * kept)
    assert 1.1 < habit(book).means[-1] < 2.0


def test_a_reading_that_is_not_newer_changes_nothing() -> None:
    book = HabitBook()
    now = watched(book, [1.0, 2.0])
    before = book.habits()
    book.update(now - STEP, read(9.0), 30.0)
    assert book.habits() == before


def test_a_domain_is_known_again_after_an_absence_and_forgotten_after_a_long_one() -> None:
    book = HabitBook()
    now = watched(book, [1.0] * 60)
    age = habit(book).age_seconds
    book.update(now, Readings(("z",), np.array([0]), np.array([2.0])), 30.0)
    book.update(now + 600, read(1.0, 5.0), 30.0)
    assert habit(book).age_seconds == pytest.approx(age + 30)
    book.update(now + 8000, Readings(("y",), np.array([0]), np.array([2.0])), 30.0)
    assert book.habits().of_domains.keys() == {"y"}


def test_deviations_are_those_of_the_readings_and_one_outlier_hardly_counts() -> None:
    book = HabitBook()
    random = np.random.default_rng(1)
    now = watched(book, (1 + 0.1 * random.normal(size=1440)).tolist())
    usual = habit(book).deviations
    assert usual[0] == pytest.approx(0.1, rel=0.15)
    assert usual[0] > usual[1] > usual[2]
    watched(book, [4.0], start=now)
    assert habit(book).deviations[0] < usual[0] * 1.05


def test_a_constant_load_is_not_off_at_all() -> None:
    book = HabitBook()
    watched(book, [0.5] * 400)
    assert max(habit(book).deviations) < LEAST_DEVIATION_CORES / 100
    assert habit(book).excursion_seconds is None


def test_an_excursion_begins_with_a_step_and_ends_with_its_return() -> None:
    book = HabitBook()
    now = watched(book, [0.5] * 120)
    now = watched(book, [3.0] * 12, start=now)
    assert habit(book).before_cores == pytest.approx(0.5)
    assert habit(book).excursion_seconds == pytest.approx(110)
    watched(book, [0.5] * 3, start=now)
    assert habit(book).excursion_seconds is None


def test_it_is_learned_for_how_long_excursions_last() -> None:
    book = HabitBook()
    now = watched(book, [0.5] * 120)
    for _ in range(9):  # each of ten minutes
        now = watched(book, [3.0] * 60 + [0.5] * 360, start=now)
    ended = book.habits().ended_ratio
    assert ended[:2] == pytest.approx((0, 0))
    assert ended[2] == pytest.approx(9 / 10, abs=0.01)


def test_a_step_for_good_ends_no_excursion() -> None:
    book = HabitBook()
    now = watched(book, [0.5] * 120)
    now = watched(book, [3.0] * int(SCALES[-1] / STEP), start=now)
    watched(book, [3.0] * 60, start=now)
    assert habit(book).excursion_seconds is None
    assert book.habits().ended_ratio == (0.0,) * len(SCALES)


def test_it_is_known_whether_the_domains_of_a_host_go_together() -> None:
    together, apart = HabitBook(), HabitBook()
    random = np.random.default_rng(2)
    hosts = (0,) * 4 + (1,) * 4
    for at in range(2000):
        of_hosts, own = random.normal(size=2), random.normal(size=8)
        together.update(at * STEP, read(*(2 + 0.2 * np.repeat(of_hosts, 4)), hosts=hosts), 30.0)
        apart.update(at * STEP, read(*(2 + 0.2 * own), hosts=hosts), 30.0)
    assert together.habits().together_ratio[0] == pytest.approx(4.0)
    assert apart.habits().together_ratio[0] == pytest.approx(1.0, abs=0.2)


def test_what_runs_on_known_hosts_is_read_in_cores_of_the_reference(small: Snapshot) -> None:
    found = readings(small)
    assert found.uuids == ("one", "two")
    assert found.cores.tolist() == [1.0, 4.0]
    assert found.hosts.tolist() == [0, 1]


@pytest.fixture
def small() -> Snapshot:
    from builders import domain, group, host

    domains: list[Domain] = [
        domain("one", "h1", 1.0, uuid="one"),
        domain("two", "h2", 2.0, uuid="two"),
        domain("off", "h1", 1.0, uuid="off", state=DomainState.PAUSED),
    ]
    return group(host("h1", 0.5), host("h2", 0.5, cpu_speed=2.0), host("h3"), *domains)


def test_a_peak_counts_once_it_has_ended_and_what_falls_is_none() -> None:
    book = HabitBook()
    now = watched(book, [1.0] * 360)
    now = watched(book, [3.0] * 60, now)
    assert (habit(book).peak_seconds, book.habits().peak_ratio) == (0, 0)  # it may last for good
    now = watched(book, [1.0] * 360, now)
    peaked = habit(book)
    assert peaked.peak_seconds == pytest.approx(600, rel=0.01)
    assert peaked.peak_cores == pytest.approx(2.0, rel=0.01)
    assert book.habits().peak_ratio == pytest.approx(600 / 7800, rel=0.02)
    assert book.habits().peak_cores == pytest.approx(2.0, rel=0.01)
    now = watched(book, [0.1] * 60, now)
    watched(book, [1.0] * 360, now)
    assert habit(book).peak_seconds == pytest.approx(600, rel=0.02)
