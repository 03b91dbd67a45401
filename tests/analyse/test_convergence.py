"""When a migration is given up because it does not come closer to its end."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from virtpoise_balancer.analyse.convergence import Convergence
from virtpoise_balancer.model import Progress

MIB = 1 << 20


def copied(
    memory: float,
    written: float,
    speed: float,
    *,
    throttles: bool = False,
    working_set: float | None = None,
    seconds: float = 400,
    step: float = 0.5,
    downtime: float = 0.3,
    increment: float = 0.1,
) -> tuple[str | None, float, bool]:
    """A migration as QEMU makes it: why it was given up, when, and whether it has ended by itself.

    In MiB, MiB/s and seconds. ``written``: what the guest writes while it is not throttled. ``working_set``: how much
    of its memory it writes to.
    """
    judge = Convergence(throttles=throttles)
    began, remaining, rate, throttle, bad, passes, looks = 0.0, memory, 0.0, 0.0, 0, 1, 1
    while began < seconds:
        ends = began + remaining / speed
        while looks * step < ends:
            at = looks * step
            looks += 1
            progress = Progress(
                elapsed_seconds=at,
                total_bytes=int(memory * MIB),
                processed_bytes=int(speed * at * MIB),
                remaining_bytes=int((remaining - speed * (at - began)) * MIB),
                dirty_bytes_per_second=rate * MIB if passes > 1 else None,
                passes=passes,
                throttle_ratio=throttle,
            )
            if why := judge.hopeless(progress):
                return why, at, False
        rate = written * (1 - throttle)
        remaining = min(rate * (ends - began), working_set or memory)
        if remaining <= speed * downtime:
            return None, ends, True
        bad = bad + 1 if rate > speed / 2 else 0
        if throttles and bad >= 2:
            throttle, bad = (min(throttle + increment, 0.99) if throttle else 0.2), 0
        began, passes = ends, passes + 1
    return None, began, False


def test_a_guest_that_writes_faster_than_is_copied_is_given_up_in_words() -> None:
    why, at, _ = copied(100, written=30, speed=10, working_set=40)
    assert why == (
        "it does not converge: each of the last 6 passes left up to 40.0 MiB (30.0 MiB/s written, 10.0 MiB/s copied)"
    )
    assert at < 100 / 10 + 10 * 40 / 10


def test_it_is_given_up_only_when_throttling_has_not_helped_either() -> None:
    why, at, _ = copied(100, written=5000, speed=10, working_set=40, throttles=True)
    assert why is not None
    assert why.endswith("copied, its CPUs throttled by 99%)")
    unthrottled = copied(100, written=5000, speed=10, working_set=40)[1]
    assert at > unthrottled + 30


def test_throttling_that_helps_is_waited_for() -> None:
    assert copied(100, written=30, speed=10, working_set=40, throttles=True)[::2] == (None, True)


@settings(max_examples=50)
@given(
    memory=st.floats(50, 2000),
    share=st.floats(0.0, 0.9),
    speed=st.floats(1, 200),
    working=st.floats(0.05, 1),
    step=st.sampled_from([0.5, 1.3]),
)
def test_what_ends_by_itself_is_not_given_up(
    memory: float, share: float, speed: float, working: float, step: float
) -> None:
    speed = max(speed, memory / 100)
    why, _, _ = copied(memory, share * speed, speed, working_set=working * memory, step=step, seconds=1000)
    assert why is None


@settings(max_examples=50)
@given(
    memory=st.floats(50, 500),
    share=st.floats(1.05, 20),
    speed=st.floats(5, 100),
    working=st.floats(0.1, 1),
    step=st.sampled_from([0.5, 1.3]),
)
def test_what_never_ends_is_given_up(memory: float, share: float, speed: float, working: float, step: float) -> None:
    speed = max(speed, memory / 20)
    pass_seconds = working * memory / speed
    assume(pass_seconds > 2 * step)  # of shorter passes it is not seen how much they copy
    why, at, ended = copied(memory, share * speed, speed, working_set=working * memory, step=step, seconds=1000)
    if not ended:
        assert why is not None
        assert at <= memory / speed + 15 * pass_seconds + 25


@pytest.mark.parametrize("passes", [None, 1])
def test_the_first_pass_and_a_libvirt_that_counts_none_are_no_verdict(passes: int | None) -> None:
    judge = Convergence(throttles=False)
    for second in range(100):
        progress = Progress(elapsed_seconds=second, total_bytes=9, processed_bytes=0, remaining_bytes=9, passes=passes)
        assert judge.hopeless(progress) is None


def test_figures_that_libvirt_leaves_out_are_no_verdict() -> None:
    judge = Convergence(throttles=False)
    for second in range(100):
        progress = Progress(
            elapsed_seconds=second, total_bytes=9, processed_bytes=None, remaining_bytes=9, passes=second
        )
        assert judge.hopeless(progress) is None


def test_what_a_pass_had_to_copy_is_known_although_it_is_looked_at_later() -> None:
    """Each pass has less to copy than the one before, but at the first look at each the same is left."""
    judge, copied, size = Convergence(throttles=False), 0, 1000 * MIB
    for number in range(2, 12):
        for remaining in (200 * MIB, MIB):
            progress = Progress(
                elapsed_seconds=number * 3.0 - remaining / (200 * MIB),
                total_bytes=1 << 30,
                processed_bytes=copied + size - remaining,
                remaining_bytes=remaining,
                passes=number,
            )
            assert judge.hopeless(progress) is None
        copied, size = copied + size, int(size * 0.85)
