"""Blackout windows: the times in which mode automatic begins no migration. Pure: the time is given."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from virtpoise_balancer.model import BlackoutWindow, Policy

_FIELDS = 5
# At most this many windows in a row are followed to their end. Of more, an earlier end is shown.
_MOST_IN_A_ROW = 400
_EXAMPLE = "five fields of cron such as 0 8 * * mon-fri"


@dataclass(frozen=True, slots=True, kw_only=True)
class Blackout:
    """``windows``: the names of those that are open. ``until``: when none is open any more (Unix seconds).

    ``text``: the same in words, in the time zone of the first of them.
    """

    windows: tuple[str, ...]
    until: float
    text: str


def blackout_at(windows: Sequence[BlackoutWindow], at: float) -> Blackout | None:
    """The blackout at a time (Unix seconds), or None. Windows that follow each other without a gap are one blackout."""
    opened = [window for window in windows if _end(window, at) is not None]
    if not opened:
        return None
    until = at
    for _ in range(_MOST_IN_A_ROW):
        end = max((end for window in windows if (end := _end(window, until)) is not None), default=None)
        if end is None:
            break
        until = end
    names = tuple(window.name for window in opened)
    shown = datetime.fromtimestamp(until, _zone(opened[0].time_zone)).strftime("%Y-%m-%d %H:%M %Z")
    which = f"window{'' if len(names) == 1 else 's'} {', '.join(names)}"
    return Blackout(windows=names, until=until, text=f"until {shown} ({which})")


def _end(window: BlackoutWindow, at: float) -> float | None:
    """When the window that is open at this time ends, or None if it is not open."""
    # The iterator begins a second before the time that it is given, and a start at this very second counts.
    after = datetime.fromtimestamp(math.floor(at) + 1, _zone(window.time_zone))
    start = next(CronSim(window.cron, after, reverse=True), None)
    end = None if start is None else start.timestamp() + window.duration_seconds
    return end if end is not None and end > at else None


def _zone(name: str) -> tzinfo:
    return UTC if name == "UTC" else ZoneInfo(name)  # UTC needs no files of the system


def window_problems(policy: Policy) -> Iterator[str]:
    """A line for each window that cannot be used: the field, and what was expected."""
    names: set[str] = set()
    for i, window in enumerate(policy.windows):
        if window.name in names:
            yield f"windows.{i}.name: expected each name once, got {window.name!r} again"
        names.add(window.name)
        try:
            _zone(window.time_zone)
        except (OSError, ValueError, LookupError):
            yield f"windows.{i}.time_zone: expected a time zone such as Europe/Berlin, got {window.time_zone!r}"
        if why := _bad_cron(window.cron):
            yield f"windows.{i}.cron: expected {_EXAMPLE}, got {window.cron!r} ({why})"


def _bad_cron(expression: str) -> str | None:
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
