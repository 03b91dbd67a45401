"""What domains usually use is read from the past at the start and after a pause, kept where it decides something."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from builders import SAMPLE_TIMES, domain, group, host
from virtpoise_balancer.analyse.habits import HabitBook, Readings
from virtpoise_balancer.control.usual import take_in, with_habits
from virtpoise_balancer.model import Policy, Snapshot
from watching import Watching

NOW = 90_000.0
READING = Policy().cpu.consecutive * SAMPLE_TIMES.step_seconds


def seen(at: float = NOW, load: float = 0.9) -> Snapshot:
    return group(host("h1", load), domain("vm", "h1", 1.0, uuid="vm"), time=at)


def earlier(number: int) -> tuple[tuple[float, Readings], ...]:
    one = Readings(("vm",), np.zeros(1, dtype=np.intp), np.ones(1))
    return tuple((NOW - READING * back, one) for back in range(number, 0, -1))


def age(book: HabitBook) -> float:
    return book.habits().of_domains["vm"].age_seconds


def test_the_past_is_read_at_the_start_and_after_a_pause_alone() -> None:
    book, watching = HabitBook(), Watching(seen(), earlier=earlier(9))
    assert take_in(book, watching, seen(), Policy()) == ()
    assert age(book) == 10 * READING
    for late in (10.0, 600.0, 1300.0):
        take_in(book, watching, seen(NOW + late), Policy())
    assert watching.since == [0, NOW + 600]


def test_a_past_that_cannot_be_read_is_said_and_the_present_counts() -> None:
    book, watching = HabitBook(), Watching(seen(), failure_of_past="no answer")
    assert take_in(book, watching, seen(), Policy()) == ("not all is known of what domains usually use: no answer",)
    assert age(book) == READING
    assert take_in(book, watching, seen(NOW + 10), Policy()) == ()


def test_only_a_strategy_that_asks_for_habits_keeps_them() -> None:
    book, watching = HabitBook(), Watching(seen(), earlier=earlier(9))
    take_in(book, watching, seen(), Policy(strategy="thesis"))
    assert (book.time, watching.since) == (0, [])
    assert with_habits(seen(), book, Policy(strategy="thesis")).habits is None


@pytest.mark.parametrize(("load", "has"), [(0.9, True), (0.2, False)])
def test_a_snapshot_has_them_where_a_host_is_overloaded(load: float, has: bool) -> None:
    book = HabitBook()
    there = seen(load=load)
    take_in(book, Watching(there), there, Policy())
    assert (with_habits(there, book, Policy()).habits is not None) == has
    assert replace(with_habits(there, book, Policy()), habits=None) == there
