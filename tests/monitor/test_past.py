"""What domains used before a look: each where it ran then, in replies of bounded size, without impossible figures."""

from __future__ import annotations

import numpy as np
import pytest

from builders import domain, group, host
from virtpoise_balancer.analyse.habits import Readings
from virtpoise_balancer.model import DomainState, Snapshot
from virtpoise_balancer.monitor import past
from virtpoise_balancer.monitor.past import past_readings
from virtpoise_balancer.monitor.replies import Series

NOW, EVERY = 900_000.0, 30.0


def seen(*uuids: str) -> Snapshot:
    hosts = [host("h1", 0.5), host("h2", 0.5, cpu_speed=2.0)]
    domains = [domain(uuid, "h1", 1.0, uuid=uuid) for uuid in uuids]
    paused = domain("paused", "h1", 0.0, uuid="paused", state=DomainState.PAUSED)
    return group(*hosts, *domains, paused, time=NOW)


class Answering:
    """A Prometheus that has a figure at each step asked for. ``runs``: by host and uuid, from when to when (seconds
    before now), and its cores.
    """

    def __init__(self, **runs: tuple[float, float, float]) -> None:
        self.runs = runs
        self.asked: list[tuple[float, float, float]] = []

    def __call__(self, start: float, end: float, every: float) -> list[Series]:
        self.asked.append((start, end, every))
        times = np.arange(start, end + 1e-6, every)
        found = []
        for name, (first, last, cores) in self.runs.items():
            where, uuid = name.split("_")
            samples = tuple((float(at), cores) for at in times if NOW - first <= at <= NOW - last)
            if samples:
                found.append(Series({"instance": f"{where}:9807", "uuid": uuid}, samples))
        return found


def read(answers: Answering, of: Snapshot, since: float = 0.0, every: float = EVERY) -> list[tuple[float, Readings]]:
    return [*past_readings(answers, of, since, every)]


def test_a_day_is_read_oldest_first_and_the_look_itself_is_not() -> None:
    answers = Answering(h1_a=(1e9, 0, 1.5))
    found = read(answers, seen("a"))
    assert [at for at, _ in found] == [NOW - EVERY * back for back in range(2880, 0, -1)]
    assert all(one.uuids == ("a",) and one.cores.tolist() == [1.5] for _, one in found)


def test_only_what_is_newer_than_the_last_look_is_asked_for() -> None:
    answers = Answering(h1_a=(1e9, 0, 1.5))
    assert [at for at, _ in read(answers, seen("a"), since=NOW - 90)] == [NOW - 60, NOW - 30]
    assert read(answers, seen("a"), since=NOW) == []


def test_a_domain_counts_where_it_ran_then_by_the_speed_of_that_host() -> None:
    answers = Answering(h2_a=(1e9, 60, 1.0), h1_a=(90, 0, 2.0), h1_b=(60, 0, 0.5), h3_b=(1e9, 90, 9.0))
    found = read(answers, seen("a", "b"), since=NOW - 130)
    assert [(one.uuids, one.hosts.tolist(), one.cores.tolist()) for _, one in found] == [
        (("a",), [1], [2.0]),
        (("a",), [0], [2.0]),  # on both for a while: the newer place
        (("a", "b"), [0, 0], [2.0, 0.5]),
        (("a", "b"), [0, 0], [2.0, 0.5]),
    ]


@pytest.mark.parametrize("cores", [-1.0, 17.0])
def test_a_figure_that_cannot_be_is_left_out(cores: float) -> None:
    answers = Answering(h1_a=(1e9, 0, cores), h1_b=(1e9, 0, 1.0))
    found = read(answers, seen("a", "b"), since=NOW - 70)
    assert [one.uuids for _, one in found] == [("b",), ("b",)]


def test_a_time_without_a_figure_is_no_reading() -> None:
    answers = Answering(h1_a=(1e9, 80, 1.0), h1_b=(40, 0, 1.0))
    found = read(answers, seen("a", "b"), since=NOW - 130)
    assert [(at, one.uuids) for at, one in found] == [
        (NOW - 120, ("a",)),
        (NOW - 90, ("a",)),
        (NOW - 30, ("b",)),
    ]


def test_what_is_asked_for_is_bounded_in_all_and_in_each_reply(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(past, "_MOST_READINGS", 100)
    monkeypatch.setattr(past, "_MOST_OF_ONE_REPLY", 20)
    answers = Answering(h1_a=(1e9, 0, 1.0), h1_b=(1e9, 0, 1.0))
    found = read(answers, seen("a", "b"))
    assert [at for at, _ in found] == [NOW - EVERY * back for back in range(50, 0, -1)]
    assert {round((end - start) / every) + 1 for start, end, every in answers.asked} == {10}


@pytest.mark.parametrize("every", [1.0, 3.0, 7.0, 10.0])
def test_no_question_is_about_more_steps_than_prometheus_answers(every: float) -> None:
    answers = Answering(h1_a=(1e9, 0, 1.5))
    found = read(answers, seen("a"), every=every)
    assert [at for at, _ in found] == [NOW - every * back for back in range(int(86400 / every), 0, -1)]
    assert max((end - start) / step for start, end, step in answers.asked) < 11_000


def test_without_a_running_domain_nothing_is_asked() -> None:
    answers = Answering()
    assert read(answers, seen()) == []
    assert answers.asked == []
