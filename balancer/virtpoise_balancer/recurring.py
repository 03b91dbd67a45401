"""Windows that recur by a cron expression in a time zone. Pure: the time is given."""

from __future__ import annotations

import math
from datetime import UTC, datetime, tzinfo
from typing import Protocol
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

_FIELDS = 5
CRON = "five fields of cron such as 0 8 * * mon-fri"
TIME_ZONE = "a time zone such as Europe/Berlin"


class RecurringWindow(Protocol):
    """A window: when it begins, in which time zone, and how long it lasts."""

    @property
    def cron(self) -> str: ...
    @property
    def time_zone(self) -> str: ...
    @property
    def duration_seconds(self) -> float: ...


def end_of(window: RecurringWindow, at: float) -> float | None:
    """When the window that is open at this time (Unix seconds) ends, or None if it is not open."""
    # The iterator begins a second before the time that it is given, and a start at this very second counts.
    after = datetime.fromtimestamp(math.floor(at) + 1, zone(window.time_zone))
    start = next(CronSim(window.cron, after, reverse=True), None)
    end = None if start is None else start.timestamp() + window.duration_seconds
    return end if end is not None and end > at else None


def zone(name: str) -> tzinfo:
    """The time zone of this name."""
    return UTC if name == "UTC" else ZoneInfo(name)  # UTC needs no files of the system


def bad_time_zone(name: str) -> bool:
    """Whether there is no time zone of this name."""
    try:
        zone(name)
    except (OSError, ValueError, LookupError):
        return True
    return False


def bad_cron(expression: str) -> str | None:
    """What is wrong with an expression, or None."""
    fields = len(expression.split())
    if fields != _FIELDS:
        return f"it has {fields}"
    try:
        first = next(CronSim(expression, datetime(2024, 1, 1, tzinfo=UTC)), None)
    except CronSimError as error:
        return str(error).removeprefix("Bad ")
    except (AssertionError, TypeError, ValueError, RecursionError):  # the library checks no odd combinations
        return "not an expression"
    return "it never comes" if first is None else None
