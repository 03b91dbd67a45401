"""Blackout windows: the times in which mode automatic begins no migration. Pure: the time is given."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from virtpoise_balancer.model import BlackoutWindow, Policy
from virtpoise_balancer.recurring import CRON, TIME_ZONE, bad_cron, bad_time_zone, end_of, zone

# At most this many windows in a row are followed to their end. Of more, an earlier end is shown.
_MOST_IN_A_ROW = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Blackout:
    """A time in which mode automatic begins no migration.

    ``windows``: the names of those that are open. ``until``: when none is open any more (Unix seconds).

    ``text``: the same in words, in the time zone of the first of them.
    """

    windows: tuple[str, ...]
    until: float
    text: str


def blackout_at(windows: Sequence[BlackoutWindow], at: float) -> Blackout | None:
    """The blackout at a time (Unix seconds), or None. Windows that follow each other without a gap are one blackout."""
    opened = [window for window in windows if end_of(window, at) is not None]
    if not opened:
        return None
    until = at
    for _ in range(_MOST_IN_A_ROW):
        end = max((end for window in windows if (end := end_of(window, until)) is not None), default=None)
        if end is None:
            break
        until = end
    names = tuple(window.name for window in opened)
    shown = datetime.fromtimestamp(until, zone(opened[0].time_zone)).strftime("%Y-%m-%d %H:%M %Z")
    which = f"window{'' if len(names) == 1 else 's'} {', '.join(names)}"
    return Blackout(windows=names, until=until, text=f"until {shown} ({which})")


def window_problems(policy: Policy) -> Iterator[str]:
    """A line for each window that cannot be used: the field, and what was expected."""
    names: set[str] = set()
    for i, window in enumerate(policy.windows):
        if window.name in names:
            yield f"windows.{i}.name: expected each name once, got {window.name!r} again"
        names.add(window.name)
        if bad_time_zone(window.time_zone):
            yield f"windows.{i}.time_zone: expected {TIME_ZONE}, got {window.time_zone!r}"
        if why := bad_cron(window.cron):
            yield f"windows.{i}.cron: expected {CRON}, got {window.cron!r} ({why})"
