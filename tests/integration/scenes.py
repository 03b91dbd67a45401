"""Scenes on real hosts, which are played again where others took CPU time of the hosts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

# A scene is disturbed where others took more than this of a host's CPU time in any reading. The scenes' loads keep
# at least this distance from their thresholds.
MOST_STOLEN_RATIO = 0.02
SCENES = 3


class Stage(Protocol):
    """The hosts that a scene is played on."""

    def stolen(self) -> Mapping[str, float]:
        """The largest part of a reading's CPU time that others took, by host; empty if there are no readings."""

    def close(self) -> None:
        """Ends the hosts, so that the next scene starts on new ones."""


def play(scene: Callable[[], object], stage: Stage, note: Callable[[str], None]) -> None:
    """Play a scene, and play it again if it failed while it was disturbed; the third failure is final.

    A scene that fails undisturbed fails at once. Every failure carries how much others took. ``note`` is called with a
    line about each scene that is played again.
    """
    for number in range(1, SCENES + 1):
        try:
            scene()
        except Exception as failure:
            host, stolen = max(stage.stolen().items(), key=lambda found: found[1], default=("any host", 0.0))
            took = f"scene {number} of {SCENES}: others took up to {stolen:.1%} of the CPU of {host} in a reading"
            if stolen <= MOST_STOLEN_RATIO or number == SCENES:
                failure.add_note(f"{took}; more than {MOST_STOLEN_RATIO:.0%} disturbs a scene")
                raise
            note(f"{took}; played again after: {failure!r}")
            stage.close()
        else:
            return
