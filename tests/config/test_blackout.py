"""Blackout windows: when they are open, when they end, and that clock changes neither open nor close them wrongly."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virtpoise_balancer.blackout import blackout_at
from virtpoise_balancer.model import BlackoutWindow

OFFICE = BlackoutWindow(name="office", cron="0 8 * * mon-fri", duration_seconds=36_000, time_zone="Europe/Berlin")
BERLIN = ZoneInfo("Europe/Berlin")


def at(text: str, zone: ZoneInfo | None = BERLIN) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=zone or UTC).timestamp()


def until(window: BlackoutWindow, time: str) -> str | None:
    found = blackout_at([window], at(time))
    return found.text if found else None


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        ("2026-11-30 07:59:59.9", None),  # a Monday
        ("2026-11-30 08:00:00", "until 2026-11-30 18:00 CET (window office)"),
        ("2026-11-30 17:59:59.9", "until 2026-11-30 18:00 CET (window office)"),
        ("2026-11-30 18:00:00", None),
        ("2026-11-29 12:00:00", None),  # Sunday
        ("2026-07-01 12:00:00", "until 2026-07-01 18:00 CEST (window office)"),
    ],
)
def test_a_window_is_open_from_its_start_for_its_duration_in_its_time_zone(time: str, expected: str | None) -> None:
    assert until(OFFICE, time) == expected


def test_without_windows_there_is_no_blackout() -> None:
    assert blackout_at([], 0.0) is None


def test_a_window_reaches_over_midnight_and_weekends() -> None:
    night = BlackoutWindow(name="weekend", cron="0 18 * * fri", duration_seconds=60 * 3600)
    found = blackout_at([night], at("2026-11-29 23:00", None))
    assert found is not None
    assert found.text == "until 2026-11-30 06:00 UTC (window weekend)"


def test_windows_that_touch_or_overlap_are_one_blackout_with_one_end() -> None:
    evening = BlackoutWindow(name="evening", cron="0 18 * * *", duration_seconds=7200, time_zone="Europe/Berlin")
    found = blackout_at([OFFICE, evening], at("2026-11-30 17:00"))
    assert found is not None
    assert (found.windows, found.text) == (("office",), "until 2026-11-30 20:00 CET (window office)")
    late = BlackoutWindow(name="late", cron="0 16 * * *", duration_seconds=3600, time_zone="Europe/Berlin")
    found = blackout_at([OFFICE, late], at("2026-11-30 16:30"))
    assert found is not None
    assert found.text == "until 2026-11-30 18:00 CET (windows office, late)"


def test_windows_without_an_end_are_answered_at_once() -> None:
    always = BlackoutWindow(name="always", cron="* * * * *", duration_seconds=3600)
    found = blackout_at([always], 1e9)
    assert found is not None
    assert found.until > 1e9 + 3600


@pytest.mark.parametrize("day", ["2026-03-29", "2026-10-25"])
def test_where_clocks_change_a_daily_window_is_open_once_for_its_duration(day: str) -> None:
    """02:30 does not exist on the one day, and comes twice on the other."""
    window = BlackoutWindow(name="n", cron="30 2 * * *", duration_seconds=1800, time_zone="Europe/Berlin")
    first = at(f"{day} 00:00")
    opened = [step for step in range(0, 25 * 3600, 300) if blackout_at([window], first + step)]
    assert len(opened) == 6
    assert opened[-1] - opened[0] == 5 * 300


CRONS = st.tuples(
    st.sampled_from(["0", "*/15", "7,30", "59"]),
    st.sampled_from(["*", "8", "22-23", "*/6"]),
    st.sampled_from(["*", "1", "L"]),
    st.sampled_from(["*", "2"]),
    st.sampled_from(["*", "mon-fri", "sun"]),
).map(" ".join)
WINDOWS = st.builds(
    BlackoutWindow,
    name=st.sampled_from(["a", "b"]),
    cron=CRONS,
    duration_seconds=st.floats(60, 2e5),
    time_zone=st.sampled_from(["UTC", "Europe/Berlin", "America/St_Johns", "Asia/Kathmandu"]),
)


@given(st.lists(WINDOWS, min_size=1, max_size=3), st.floats(1.7e9, 1.9e9))
def test_within_a_blackout_all_agree_on_its_end_and_after_it_none_is_open(
    windows: list[BlackoutWindow], now: float
) -> None:
    found = blackout_at(windows, now)
    if found is None:
        return
    assert found.until > now
    again = blackout_at(windows, (now + found.until) / 2)
    assert again is not None, "it is open until its end"
    if found.until < now + 400 * 60:  # its end was not cut off
        assert again.until == found.until
        assert blackout_at(windows, found.until) is None


@given(WINDOWS, st.floats(1.7e9, 1.9e9))
def test_one_window_says_what_its_single_starts_say(window: BlackoutWindow, now: float) -> None:
    """Without the chain: it is open if and only if a start lies less than its duration back."""
    from cronsim import CronSim

    zone = UTC if window.time_zone == "UTC" else ZoneInfo(window.time_zone)
    before = datetime.fromtimestamp(int(now - window.duration_seconds - 90_000), zone)
    opened = False
    for start in CronSim(window.cron, before):
        if start.timestamp() > now:
            break
        opened = opened or start.timestamp() + window.duration_seconds > now
    assert (blackout_at([window], now) is not None) is opened
