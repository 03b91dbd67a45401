"""scripts/test runs files side by side, those on the lab in one process, those on machines in another, floods last."""

from __future__ import annotations

import json
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
        ran.write(json.dumps([{name!r}, number, os.getpid(), began, time.monotonic()]) + "\\n")
"""


@dataclass(frozen=True)
class Ran:
    file: str
    number: int
    process: int
    began: float
    ended: float


def play(folder: Path, files: dict[str, str]) -> list[Ran]:
    """Runs these files, by name with their marks, in two processes. What ran, by file and number."""
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = alone:\n  installed:\n  lab:\n  hostile:\n")
    for name, mark in files.items():
        (folder / f"test_{name}.py").write_text(TESTS.format(mark=mark, name=name))
    command = [sys.executable, "-m", "pytest", "-q", "-n2", "--dist=loadfile", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout.splitlines()[-1].startswith(f"{3 * len(files)} passed")
    ran = sorted((Ran(*json.loads(line)) for line in (folder / "ran").read_text().splitlines()), key=str)
    assert [(one.file, one.number) for one in ran] == [(name, number) for name in files for number in range(3)]
    return ran


LAB = "pytestmark = pytest.mark.lab"
MACHINES = "pytestmark = pytest.mark.installed"
FLOOD = "pytestmark = [pytest.mark.hostile, pytest.mark.alone]"


def test_floods_run_after_all_others_in_one_process(tmp_path: Path) -> None:
    ran = play(tmp_path, {"a": "", "b": LAB, "c": "pytestmark = pytest.mark.hostile", "d": FLOOD, "e": FLOOD})
    floods = [one for one in ran if one.file in "de"]
    others = [one for one in ran if one.file in "abc"]
    assert max(one.ended for one in others) <= min(one.began for one in floods)
    assert (len({one.process for one in others}), len({one.process for one in floods})) == (2, 1)


def test_files_on_the_lab_run_in_one_process_and_those_on_machines_in_another_from_the_start(tmp_path: Path) -> None:
    ran = play(tmp_path, {"a": "", "b": LAB, "c": "", "d": LAB, "e": MACHINES, "f": MACHINES})
    lab, machines, others = ([one for one in ran if one.file in files] for files in ("bd", "ef", "ac"))
    assert [len({one.process for one in lane}) for lane in (lab, machines)] == [1, 1]
    assert {one.process for one in lab} != {one.process for one in machines}
    assert max(min(one.began for one in lane) for lane in (lab, machines)) < min(one.began for one in others)


@pytest.mark.parametrize("files", [{"b": LAB, "d": FLOOD}, {"a": "", "b": LAB}, {"b": LAB, "e": MACHINES}])
def test_any_choice_of_files_runs_whole(tmp_path: Path, files: dict[str, str]) -> None:
    play(tmp_path, files)
