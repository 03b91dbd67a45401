"""`virtpoise simulate`: its table, its JSON, its exit statuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from virtpoise_balancer.command.main import main

SCENARIO = """
name: a host gets busy
about: two moves relieve it
duration_minutes: 20
hosts:
  - {name: h, count: 2, cpus: 4, memory_gib: 32}
domains:
  - {name: vm, count: 4, hosts: [h1], memory_gib: 2, load: {shape: step, cores: 0.5, to_cores: 1, at_minutes: 5}}
expect:
  moves: {exactly: 2}
"""


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    file = tmp_path / "scenario.yml"
    file.write_text(SCENARIO)
    return file


def test_the_table_has_both_runs_and_whether_expectations_hold(
    scenario: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["simulate", str(scenario)]) == 0
    out = capsys.readouterr().out
    assert "two moves relieve it" in out
    assert "with virtpoise" in out
    assert "all expectations hold" in out


def test_an_expectation_that_fails_is_named_and_ends_with_1(scenario: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scenario.write_text(SCENARIO.replace("exactly: 2", "exactly: 9"))
    assert main(["simulate", str(scenario)]) == 1
    assert "moves: expected exactly 9, got 2" in capsys.readouterr().out


def test_json_has_the_figures_of_each_seed(scenario: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", str(scenario), "--seeds", "2", "--output", "json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["format"] == "virtpoise/simulation/1"
    assert [one["with"]["moves"] for one in found["each"]] == [2, 2]
    assert found["with"]["moves"] == 4
    assert found["without"]["overload_host_minutes"] == pytest.approx(30)
    assert found["failures"] == ["moves: expected exactly 2, got 4"]


def test_another_configuration_takes_the_place_of_the_policy(
    scenario: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "virtpoise.yml"
    config.write_text("policy: {cpu: {consecutive: 600}}")
    assert main(["simulate", str(scenario), "--config", str(config)]) == 1
    assert "moves: expected exactly 2, got 0" in capsys.readouterr().out


def test_a_bad_file_is_named_without_a_traceback(scenario: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scenario.write_text(SCENARIO.replace("cpus: 4", "cpu: 4"))
    assert main(["simulate", str(scenario)]) == 2
    error = capsys.readouterr().err
    assert "hosts.0.cpu: unknown key" in error
    assert "hosts.0.cpus: missing" in error
    assert main(["simulate", "/nowhere.yml"]) == 2
    assert "/nowhere.yml: cannot be read: No such file or directory" in capsys.readouterr().err
