"""Time windows as cron expressions: a window is open in every minute that its expression names."""

from __future__ import annotations

import re
from datetime import datetime
from functools import lru_cache

from apscheduler.triggers.cron import CronTrigger


def check_cron(expression: str) -> str:
    """The expression itself. ValueError unless it has the five fields of crontab(5), days of the week by name.

    Numbers would name other days than in crontab(5): the library counts from Monday.
    """
    *_, days = expression.split() or [""]
    try:
        _trigger(expression)
        named = not re.search(r"[0-9]", days.partition("/")[0])
    except ValueError:
        named = False
    if not named:
        raise ValueError(
            "minute, hour, day, month and day of the week (by name) as in crontab, like '* 8-17 * * mon-fri'"
        )
    return expression


def is_open(expression: str, at: float) -> bool:
    """Whether the expression names the minute of this moment (Unix seconds), in this machine's time zone."""
    trigger = _trigger(expression)
    minute = datetime.fromtimestamp(at, trigger.timezone).replace(second=0, microsecond=0)
    return bool(trigger.get_next_fire_time(None, minute) == minute)


@lru_cache(maxsize=256)
def _trigger(expression: str) -> CronTrigger:
    return CronTrigger.from_crontab(expression)
