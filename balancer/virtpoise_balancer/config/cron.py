"""Time windows that begin by a cron expression."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from apscheduler.triggers.cron import CronTrigger


def check_cron(expression: str) -> str:
    """The expression itself. ValueError unless it has the five fields of crontab(5), days of the week by name, and
    comes at all.

    Numbers would name other days than in crontab(5): the library counts from Monday.
    """
    *_, days = expression.split() or [""]
    try:
        comes = _trigger(expression, "UTC").get_next_fire_time(None, datetime(2024, 1, 1, tzinfo=UTC))
        good = comes is not None and not re.search(r"[0-9]", days.partition("/")[0])
    except ValueError:
        good = False
    if not good:
        raise ValueError("five fields of cron that come at all, with days of the week by name, such as 0 8 * * mon-fri")
    return expression


def check_time_zone(name: str) -> str:
    """The name itself. ValueError unless it is a time zone."""
    try:
        ZoneInfo(name)
    except (OSError, ValueError, LookupError):
        raise ValueError("a time zone such as Europe/Berlin") from None
    return name


def is_open(expression: str, time_zone: str, duration_seconds: float, at: float) -> bool:
    """Whether a window of this length, which begins as the expression says, is open at this moment (Unix seconds)."""
    trigger = _trigger(expression, time_zone)
    now = datetime.fromtimestamp(at, trigger.timezone)
    # The first beginning that is late enough for the window to be open still.
    began = trigger.get_next_fire_time(None, now - timedelta(seconds=duration_seconds) + timedelta(microseconds=1))
    return began is not None and began.timestamp() <= at


@lru_cache(maxsize=256)
def _trigger(expression: str, time_zone: str) -> CronTrigger:
    return CronTrigger.from_crontab(expression, timezone=ZoneInfo(time_zone))
