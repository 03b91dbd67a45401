"""When the samples of a look were taken, and how a number of them is written."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleTimes:
    """Which samples a look takes of a host: ``samples`` of them, one a step, the newest at the last whole step.

    A sample covers the step that ends there, and ``reach_back_seconds`` before it. ``delay_seconds``: by how much the
    look is at an earlier time than its clock shows.
    """

    step_seconds: float
    reach_back_seconds: float
    samples: int
    delay_seconds: float = 0.0


def count_samples(number: int) -> str:
    """The number of consecutive samples in words: "1 sample", "3 consecutive samples"."""
    return "1 sample" if number == 1 else f"{number} consecutive samples"
