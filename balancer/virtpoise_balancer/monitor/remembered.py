"""Remembers the answers about the recent past while they stay the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from virtpoise_balancer.monitor.client import QueryAnswer


@dataclass(frozen=True, slots=True)
class Remembered:
    """The newest answer to each query, with the number of the step that it is about. Several threads may use it."""

    _answers: dict[str, tuple[int, QueryAnswer]] = field(default_factory=dict)

    def answer(self, name: str, step: int, ask: Callable[[], QueryAnswer]) -> QueryAnswer:
        """The answer to the query of this name in this step, asked once. One with warnings may lack something, so it is
        asked again.
        """
        asked_in, known = self._answers.get(name, (None, None))
        if known is not None and asked_in == step:
            return known
        found = ask()
        if not found.warnings:
            self._answers[name] = (step, found)
        return found
