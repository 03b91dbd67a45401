"""Moves that the figures do not show yet count at both ends, once."""

from __future__ import annotations

from dataclasses import replace

import pytest

from builders import domain, group, host
from virtpoise_balancer.analyse.commitments import Commitment, remembered_since, with_commitments, with_migrating
from virtpoise_balancer.model import Result, SampleTimes, Snapshot, UnknownKind

TIMES = SampleTimes(step_seconds=10.0, reach_back_seconds=7.5, samples=30)
GOING = Commitment(domain="a", uuid="uuid-of-a", source="h1", destination="h2", began=900.0)
WAITS = replace(GOING, began=None)
SEEN = group(host("h1", 0.7, 0.8, 0.9), host("h2", 0.1, 0.2, 0.3), domain("a", "h1", 1.0))
ARRIVED = replace(SEEN, domains=(domain("a", "h2", 1.0),))


def done(at: float) -> Commitment:
    return replace(GOING, ended=at, result=Result.DONE)


def committed(snapshot: Snapshot, *them: Commitment, waiting: bool = True) -> Snapshot:
    return with_commitments(snapshot, them, TIMES, waiting=waiting)


def place(snapshot: Snapshot) -> tuple[str, str | None]:
    (one,) = snapshot.domains
    return one.host, one.migrating_to


@pytest.mark.parametrize("seen", [SEEN, ARRIVED])
@pytest.mark.parametrize(
    ("one", "waiting", "counts"),
    [
        (GOING, False, True),
        (WAITS, True, True),
        (WAITS, False, False),
        (done(at=1000.0), False, True),
        (done(at=983.0), False, True),
        (done(at=982.0), False, False),  # the newest sample's step began after what it reaches back to
        (replace(GOING, ended=1000.0, result=Result.FAILED), True, False),
        (replace(WAITS, ended=1000.0, result=Result.SKIPPED), True, False),
    ],
)
def test_it_counts_until_the_figures_show_it(seen: Snapshot, one: Commitment, waiting: bool, counts: bool) -> None:
    assert place(committed(seen, one, waiting=waiting)) == (("h1", "h2") if counts else place(seen))


def test_the_samples_after_a_move_are_left_out_while_it_counts() -> None:
    seen = replace(
        ARRIVED,
        hosts=(
            host("h1", 0.7, 0.8, 0.4),
            host("h2", 0.1, 0.2, 0.6, memory_ratio=0.9, memory_ratio_window=(0.5, 0.5, 0.9), tx_ratio=0.8),
        ),
    )
    h1, h2 = committed(seen, done(at=994.0)).hosts
    assert (h1.cpu_ratio, h2.cpu_ratio) == ((0.7, 0.8), (0.1, 0.2))
    assert (h2.memory_ratio_window, h2.memory_used_bytes) == ((0.5, 0.5), h2.memory_bytes // 2)
    assert h2.tx_ratio == 0.8  # no window of it is known
    assert committed(seen, done(at=1004.0)).hosts == seen.hosts
    assert committed(group(host("h1", 0.5), host("h2", 0.4), seen.domains[0]), done(at=985.0)).hosts[1].load == 0.4


def test_one_on_its_way_that_is_seen_nowhere_makes_its_destination_unknown() -> None:
    nowhere = replace(SEEN, domains=())
    for one in (GOING, done(at=999.0)):
        h1, h2 = committed(nowhere, one).hosts
        assert h1.known
        assert h2.unknown is not None
        assert (h2.unknown.kind, h2.unknown.text) == (
            UnknownKind.MIGRATING,
            "a is on its way to it from h1 and not seen anywhere",
        )
    assert committed(nowhere, WAITS) == nowhere


def test_one_that_is_elsewhere_by_now_is_left_there() -> None:
    elsewhere = replace(SEEN, hosts=(*SEEN.hosts, host("h3", 0.1)), domains=(domain("a", "h3"),))
    assert committed(elsewhere, done(at=999.0)) == elsewhere


def test_on_the_page_only_what_is_under_way_is() -> None:
    assert place(with_migrating(SEEN, [GOING])) == ("h1", "h2")
    assert place(with_migrating(ARRIVED, [GOING])) == ("h2", None)
    assert with_migrating(SEEN, [WAITS, done(at=1000.0)]) == SEEN


@pytest.mark.parametrize("step", [10.0, 60.0, 600.0])
@pytest.mark.parametrize("late", [0.0, 0.5, 0.999])  # how much of a step the look comes after its newest sample
def test_a_look_before_a_move_asks_for_what_counts_in_it(step: float, late: float) -> None:
    times = replace(TIMES, step_seconds=step)
    newest = 100 * step
    for age in range(0, round(4 * step), 3):
        one = done(at=newest - age)
        seen = replace(ARRIVED, time=newest, step_seconds=step)
        counts = place(with_commitments(seen, [one], times, waiting=False)) == ("h1", "h2")
        asked = one.may_count(newest + late * step, times)
        assert asked or not counts
        if age > 2 * step + times.reach_back_seconds:
            assert not asked


def test_a_look_before_a_move_asks_for_none_that_waits_or_was_not_made() -> None:
    assert GOING.may_count(1e9, TIMES)
    assert not WAITS.may_count(900.0, TIMES)
    assert not replace(GOING, ended=1000.0, result=Result.FAILED).may_count(1001.0, TIMES)


@pytest.mark.parametrize("step", [10.0, 600.0])
def test_a_migration_is_remembered_until_no_sample_of_a_look_reaches_back_to_it(step: float) -> None:
    times = replace(TIMES, step_seconds=step, samples=3)
    now = 100 * step + 0.9 * step
    oldest_begins = 100 * step - 3 * step  # of the samples at 98, 99 and 100 steps
    since = remembered_since(now, times)
    assert done(at=since).shows_from(times) <= oldest_begins  # type: ignore[operator]
    assert done(at=since + step).shows_from(times) > oldest_begins  # type: ignore[operator]
