"""Plays a scenario with all its seeds, and holds the figures against what it expects."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from virtpoise_balancer.config import Config
from virtpoise_balancer.simulate.expect import failures
from virtpoise_balancer.simulate.figures import RunFigures, together
from virtpoise_balancer.simulate.loop import Course, play
from virtpoise_balancer.simulate.scenario import Scenario
from virtpoise_balancer.simulate.staged import StagedScenario


@dataclass(frozen=True, slots=True)
class Outcome:
    """The figures without a balancer and with it, of all seeds together and of each.

    ``failures``: a line for each expectation that does not hold.
    """

    without: RunFigures
    balanced: RunFigures
    each: tuple[tuple[int, RunFigures, RunFigures], ...]
    failures: tuple[str, ...]


def play_scenario(
    scenario: Scenario,
    folder: Path,
    *,
    config: Config | None = None,
    skips: bool = True,
    first_seed: int = 1,
    progress: Callable[[str, float, float], None] = lambda _text, _done, _all: None,
) -> Outcome:
    """What came of the scenario. ``config``: instead of its own, but for the interval. ``folder``: of its file."""
    settings = scenario.config.config
    if config is not None:
        settings = settings.model_copy(
            update={name: getattr(config, name) for name in ("policy", "migration", "measurement")}
        )
    each = []
    for seed in range(first_seed, first_seed + scenario.seeds):
        script = StagedScenario(scenario, seed, folder)
        with ExitStack() as stack:
            courses = [
                stack.enter_context(
                    Course(fleet=script.fleet, start=script.start, config=settings, balances=balances, skips=skips)
                )
                for balances in (False, True)
            ]
            done = len(script) * (seed - first_seed)
            for step, _ in enumerate(play(courses, ([demand, demand] for demand in script)), 1):
                progress(scenario.name, done + step, len(script) * scenario.seeds)
            each.append((seed, courses[0].figures(), courses[1].figures()))
    without = together([one for _, one, _ in each])
    balanced = together([one for _, _, one in each])
    return Outcome(without, balanced, tuple(each), tuple(failures(scenario.expect, balanced, without)))
