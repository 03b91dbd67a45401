"""Remembers the answers about the recent past while they stay the same."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar


class Warned(Protocol):
    """An answer, or what was made of it."""

    @property
    def warnings(self) -> tuple[str, ...]: ...


_W = TypeVar("_W", bound=Warned)


@dataclass(frozen=True, slots=True)
class Remembered(Generic[_W]):
    """The newest answer to each query, with the number of the step that it is about. Several threads may use it."""

    _answers: dict[str, tuple[int, _W]] = field(default_factory=dict)
    _asking: dict[str, threading.Lock] = field(default_factory=lambda: defaultdict(threading.Lock))

    def answer(self, name: str, step: int, ask: Callable[[], _W]) -> _W:
        """The answer to the query of this name in this step, asked once: who asks meanwhile waits for it. One with
        warnings may lack something, so it is asked again.
        """
        with self._asking[name]:
            known = self._answers.get(name)
            if known is not None and known[0] == step:
                return known[1]
            found = ask()
            if not found.warnings:
                self._answers[name] = (step, found)
            return found
