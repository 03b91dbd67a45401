"""When a scene on hosts is played again; this needs no host."""

from __future__ import annotations

import pytest

from integration.scenes import play


class Stage:
    """Hosts from which others take ``stolen``: a ratio of h1's CPU for each scene."""

    def __init__(self, *stolen: float) -> None:
        self._stolen = list(stolen)
        self.closed = 0

    def stolen(self) -> dict[str, float]:
        return {"h1": self._stolen[self.closed], "h2": 0.0}

    def close(self) -> None:
        self.closed += 1


class Scene:
    """Fails a number of times and succeeds then."""

    def __init__(self, failures: int) -> None:
        self._failures = failures
        self.played = 0

    def __call__(self) -> None:
        self.played += 1
        assert self.played > self._failures, "too high"


def test_a_scene_that_succeeds_is_played_once_however_disturbed() -> None:
    scene, notes = Scene(failures=0), list[str]()
    play(scene, Stage(0.5), notes.append)
    assert (scene.played, notes) == (1, [])


def test_a_failure_while_nobody_took_anything_is_final_and_says_so() -> None:
    scene, stage = Scene(failures=1), Stage(0.02)
    with pytest.raises(AssertionError, match="too high") as failed:
        play(scene, stage, lambda _line: None)
    assert (scene.played, stage.closed) == (1, 0)
    assert "others took up to 2.0% of the CPU of h1 in a reading" in failed.value.__notes__[0]


def test_a_disturbed_scene_is_played_again_on_new_hosts() -> None:
    scene, stage, notes = Scene(failures=1), Stage(0.07, 0.0), list[str]()
    play(scene, stage, notes.append)
    assert (scene.played, stage.closed) == (2, 1)
    assert notes[0].startswith(
        "scene 1 of 3: others took up to 7.0% of the CPU of h1 in a reading; played again after: "
    )


def test_a_scene_is_played_three_times_at_most_and_fails_with_what_was_taken() -> None:
    scene, stage, notes = Scene(failures=9), Stage(0.07, 0.3, 0.12), list[str]()
    with pytest.raises(AssertionError, match="too high") as failed:
        play(scene, stage, notes.append)
    assert (scene.played, len(notes)) == (3, 2)
    assert "scene 3 of 3: others took up to 12.0% of the CPU of h1" in failed.value.__notes__[0]
