"""The project's own scenarios hold: each file of tests/scenarios is a test."""

from __future__ import annotations

from pathlib import Path

import pytest

from virtpoise_balancer.simulate.outcome import play_scenario
from virtpoise_balancer.simulate.scenario import read_scenario

FOLDER = Path(__file__).parents[1] / "scenarios"


@pytest.mark.parametrize("name", [file.stem for file in sorted(FOLDER.glob("*.yml"))])
def test_the_scenario_holds(name: str) -> None:
    file = FOLDER / f"{name}.yml"
    scenario = read_scenario(file)
    assert scenario.about
    assert scenario.expect.model_fields_set
    assert play_scenario(scenario, FOLDER).failures == ()
