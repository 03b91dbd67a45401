"""The figures of several courses side by side, as text for the terminal and for reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from virtpoise_balancer.explain.wording import reason
from virtpoise_balancer.model import Reason
from virtpoise_balancer.simulate.figures import RunFigures


@dataclass(frozen=True, slots=True, kw_only=True)
class Bracket:
    """The figures of one course, with the least demand that there may have been and with the most; the same where
    nothing was hidden.
    """

    lower: RunFigures
    upper: RunFigures

    @classmethod
    def known(cls, found: RunFigures) -> Bracket:
        return cls(lower=found, upper=found)


# The field, what it is, and how it is shown.
_ROWS: Sequence[tuple[str, str, str]] = (
    ("overload_host_minutes", "host-minutes at or over a threshold", ".1f"),
    ("longest_overload_minutes", "longest overload of a host, minutes", ".1f"),
    ("waited_core_hours", "core hours that vCPUs waited", ".2f"),
    ("moves", "moves", "d"),
    ("gib", "GiB copied", ".1f"),
    ("failed_moves", "moves that failed", "d"),
    ("skipped_moves", "moves that were skipped", "d"),
    ("moved_more_than_once", "domains moved more than once", "d"),
    ("back_and_forths", "moves back to a host left before", "d"),
    ("pushed_over", "destinations pushed over a threshold", "d"),
    ("rules_broken", "domains where a rule does not want them, at the end", "d"),
    ("left_on_drained_hosts", "domains left on draining hosts, at the end", "d"),
    ("not_followed", "moves of others not followed: the balancer had moved the domain", "d"),
    ("failed_cycles", "cycles that failed", "d"),
)
_ALWAYS = ("overload_host_minutes", "moves", "gib")


def figure_rows(courses: Mapping[str, Bracket]) -> list[tuple[str, list[str]]]:
    """What each figure is, and its value in each course; those that are 0 everywhere are left out."""
    rows = []
    for name, label, form in _ROWS:
        values = [(getattr(one.lower, name), getattr(one.upper, name)) for one in courses.values()]
        if name in _ALWAYS or any(any(pair) for pair in values):
            rows.append((label, [_shown(*pair, form) for pair in values]))
        if name == "overload_host_minutes":
            by = [(one.lower.overload_by_resource, one.upper.overload_by_resource) for one in courses.values()]
            for resource in sorted({key for pair in by for one in pair for key in one}):
                parts = [_shown(low.get(resource, 0.0), high.get(resource, 0.0), form) for low, high in by]
                rows.append((f"  by {resource}", parts))
    return rows


def refusal_rows(courses: Mapping[str, Bracket]) -> list[tuple[str, list[str]]]:
    """Why hosts and domains were passed over, and how often in each course."""
    both = [(one.lower.refusals, one.upper.refusals) for one in courses.values()]
    reasons = sorted({key for pair in both for one in pair for key in one})
    return [
        (reason(Reason(key)), [_shown(low.get(key, 0), high.get(key, 0), "d") for low, high in both]) for key in reasons
    ]


def _shown(lower: float, upper: float, form: str) -> str:
    low, high = format(lower, form), format(upper, form)
    return low if low == high else f"{low} to {high}" if lower < upper else f"{high} to {low}"
