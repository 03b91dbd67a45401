"""scripts/test runs files side by side: each lab has a process, the booted machines a third, and other files a fourth.
Floods come last.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

CONFTEST = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from scheduling import Lanes

def pytest_xdist_make_scheduler(config, log):
    return Lanes(config, log)
"""
# Each test notes when and where it ran.
TESTS = """
import json, os, time
import pytest
{mark}

@pytest.mark.parametrize("number", range(3))
def test_one(number):
    began = time.monotonic()
    time.sleep(0.1)
    with open("ran", "a") as ran:
        process = os.environ["PYTEST_XDIST_WORKER"]
        ran.write(json.dumps([{name!r}, number, process, began, time.monotonic()]) + "\\n")
"""


@dataclass(frozen=True)
class Ran:
    file: str
    number: int
    process: str
    began: float
    ended: float


def play(folder: Path, files: dict[str, str]) -> list[Ran]:
    """Runs these files, by name with their marks, in four processes. What ran, by file and number."""
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "pytest.ini").write_text(
        "[pytest]\nmarkers = alone:\n  early:\n  installed:\n  lab:\n  second_lab:\n  hostile:\n"
    )
    for name, mark in files.items():
        (folder / f"test_{name}.py").write_text(TESTS.format(mark=mark, name=name))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "xdist", "-n4", "--dist=loadfile", "-p", "no:cacheprovider"]
    alone = {
        **os.environ,
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }  # the other plugins take longer to load than the tests
    done = subprocess.run(command, cwd=folder, env=alone, capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout.splitlines()[-1].startswith(f"{3 * len(files)} passed")
    ran = sorted((Ran(*json.loads(line)) for line in (folder / "ran").read_text().splitlines()), key=str)
    assert [(one.file, one.number) for one in ran] == [(name, number) for name in files for number in range(3)]
    return ran


LAB = "pytestmark = pytest.mark.lab"
SECOND_LAB = "pytestmark = [pytest.mark.lab, pytest.mark.second_lab]"
MACHINES = "pytestmark = pytest.mark.installed"
MANY_LINES = "pytestmark = [\n    pytest.mark.installed,\n    pytest.mark.hostile,\n]"
EARLY = "pytestmark = pytest.mark.early"
FLOOD = "pytestmark = [pytest.mark.hostile, pytest.mark.alone]"


def test_each_lab_and_the_machines_have_a_process_from_the_start_and_floods_run_after_all_others(
    tmp_path: Path,
) -> None:
    files = {"b": LAB, "c": SECOND_LAB, "d": LAB, "e": MACHINES, "f": MANY_LINES, "g": SECOND_LAB}
    ran = play(tmp_path, {"a": "", **files, "h": "pytestmark = pytest.mark.hostile", "x": FLOOD, "y": FLOOD})
    first, second, machines, others, floods = (
        [one for one in ran if one.file in files] for files in ("bd", "cg", "ef", "ah", "xy")
    )
    lanes = (first, second, machines)
    assert [len({one.process for one in lane}) for lane in (*lanes, floods)] == [1, 1, 1, 1]
    assert [lane[0].process for lane in lanes] == ["gw0", "gw1", "gw2"]
    began = [
        min((one for one in ran if one.process == f"gw{number}"), key=lambda one: one.began) for number in range(4)
    ]
    assert [one in lane for one, lane in zip(began, (*lanes, others), strict=True)] == [True] * 4
    assert max(one.ended for lane in (*lanes, others) for one in lane) <= min(one.began for one in floods)


def test_a_file_that_mostly_waits_begins_before_the_others(tmp_path: Path) -> None:
    ran = play(tmp_path, {"a": LAB, "b": SECOND_LAB, "c": MACHINES, "d": "", "e": "", "f": "", "z": EARLY})
    began = {file: min(one.began for one in ran if one.file == file) for file in "defz"}
    assert min(began, key=lambda file: began[file]) == "z"


@pytest.mark.parametrize("files", [{"b": LAB, "d": FLOOD}, {"a": "", "c": SECOND_LAB}])
def test_any_choice_of_files_runs_whole(tmp_path: Path, files: dict[str, str]) -> None:
    play(tmp_path, files)
