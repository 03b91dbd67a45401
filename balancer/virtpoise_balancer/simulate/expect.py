"""What a scenario expects of its figures, and which expectations fail."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated

from pydantic import Field, model_validator

from virtpoise_balancer.config.section import Section
from virtpoise_balancer.model import Reason
from virtpoise_balancer.simulate.figures import RunFigures


class FigureBounds(Section):
    """What a figure must be: ``exactly``, or between ``least`` and ``most``.

    ``most_of_without``: at most this many times what it is without the balancer.
    """

    exactly: float | None = None
    least: float | None = None
    most: float | None = None
    most_of_without: Annotated[float, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _says_something(self) -> FigureBounds:
        if not self.model_fields_set:
            raise ValueError("one of exactly, least, most, most_of_without")
        return self

    def broken(self, value: float, without: float) -> Iterator[str]:
        """What was expected instead, for each bound that does not hold."""
        value = round(value, 6)  # minutes are sums of steps
        if self.exactly is not None and value != self.exactly:
            yield f"exactly {self.exactly:g}"
        if self.least is not None and value < self.least:
            yield f"at least {self.least:g}"
        if self.most is not None and value > self.most:
            yield f"at most {self.most:g}"
        if self.most_of_without is not None and value > self.most_of_without * without:
            yield f"at most {self.most_of_without:g} times {without:g}, what it is without the balancer"


class Relief(Section):
    """At least ``least_ratio`` of the overloads of single hosts end ``within_minutes``."""

    within_minutes: Annotated[float, Field(gt=0)]
    least_ratio: Annotated[float, Field(gt=0, le=1)] = 1.0


class Expectations(Section):
    """Bounds of figures by their names (``RunFigures``). ``refusals``: by reason. ``relieved``: of each overload."""

    overload_host_minutes: FigureBounds | None = None
    longest_overload_minutes: FigureBounds | None = None
    waited_core_hours: FigureBounds | None = None
    moves: FigureBounds | None = None
    gib: FigureBounds | None = None
    failed_moves: FigureBounds | None = None
    skipped_moves: FigureBounds | None = None
    moved_more_than_once: FigureBounds | None = None
    back_and_forths: FigureBounds | None = None
    pushed_over: FigureBounds | None = None
    rules_broken: FigureBounds | None = None
    left_on_drained_hosts: FigureBounds | None = None
    failed_cycles: FigureBounds | None = None
    brakes_pulled: FigureBounds | None = None
    overload_by_resource: Mapping[str, FigureBounds] = Field(default_factory=dict)
    refusals: Mapping[Reason, FigureBounds] = Field(default_factory=dict)
    relieved: Relief | None = None


def failures(expected: Expectations, found: RunFigures, without: RunFigures) -> list[str]:
    """A line for each expectation that does not hold: what was expected, and what came of it."""
    lines: list[str] = []
    for name in Expectations.model_fields:
        bounds = getattr(expected, name)
        if isinstance(bounds, FigureBounds):
            lines += _lines(name, bounds, getattr(found, name), getattr(without, name))
        elif isinstance(bounds, Mapping):
            for key, one in bounds.items():
                values = (getattr(figures, name).get(str(key), 0) for figures in (found, without))
                lines += _lines(f"{name}.{key}", one, *values)
    if (relief := expected.relieved) is not None:
        ratio = found.relieved_ratio(relief.within_minutes)
        if ratio < relief.least_ratio:
            lines.append(
                f"relieved: expected at least {relief.least_ratio:g} of the overloads to end within "
                f"{relief.within_minutes:g} minutes, got {ratio:.3g}"
            )
    return lines


def _lines(name: str, bounds: FigureBounds, value: float, without: float) -> Iterator[str]:
    for wanted in bounds.broken(value, without):
        yield f"{name}: expected {wanted}, got {value:.6g}"
