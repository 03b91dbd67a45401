"""scripts/test runs files side by side, those on the lab in one or two processes, and floods after all others."""

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
from scheduling import Lanes, take_second_lab

take_second_lab()

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
        network, lab = os.readlink("/proc/self/ns/net"), os.environ.get("VIRTPOISE_LAB")
        ran.write(json.dumps([{name!r}, number, os.getpid(), began, time.monotonic(), network, lab]) + "\\n")
"""


@dataclass(frozen=True)
class Ran:
    file: str
    number: int
    process: int
    began: float
    ended: float
    network: str
    lab: str | None


def play(folder: Path, files: dict[str, str], processes: int = 2) -> list[Ran]:
    """Runs these files, by name with their marks. What ran, by file and number."""
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = alone:\n  lab:\n  hostile:\n")
    for name, mark in files.items():
        (folder / f"test_{name}.py").write_text(TESTS.format(mark=mark, name=name))
    command = [sys.executable, "-m", "pytest", "-q", f"-n{processes}", "--dist=loadfile", "-p", "no:cacheprovider"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST_", "VIRTPOISE_"))}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.stdout.splitlines()[-1].startswith(f"{3 * len(files)} passed")
    ran = sorted((Ran(*json.loads(line)) for line in (folder / "ran").read_text().splitlines()), key=str)
    assert [(one.file, one.number) for one in ran] == [(name, number) for name in files for number in range(3)]
    return ran


LAB = "pytestmark = pytest.mark.lab"
FLOOD = "pytestmark = [pytest.mark.hostile, pytest.mark.alone]"


def test_floods_run_after_all_others_in_one_process(tmp_path: Path) -> None:
    ran = play(tmp_path, {"a": "", "b": LAB, "c": "pytestmark = pytest.mark.hostile", "d": FLOOD, "e": FLOOD})
    floods = [one for one in ran if one.file in "de"]
    others = [one for one in ran if one.file in "abc"]
    assert max(one.ended for one in others) <= min(one.began for one in floods)
    assert (len({one.process for one in others}), len({one.process for one in floods})) == (2, 1)


def test_files_on_the_lab_run_in_one_process_from_the_start_beside_others(tmp_path: Path) -> None:
    ran = play(tmp_path, {"a": "", "b": LAB, "c": "", "d": LAB})
    lab = [one for one in ran if one.file in "bd"]
    others = [one for one in ran if one.file in "ac"]
    assert len({one.process for one in lab}) == 1
    assert min(one.began for one in lab) < min(one.ended for one in others)
    assert min(one.began for one in others) < min(one.ended for one in lab)


@pytest.mark.skipif(os.geteuid() != 0, reason="a network of its own needs root")
def test_three_processes_have_two_labs_each_with_its_name_and_its_network(tmp_path: Path) -> None:
    ran = play(tmp_path, {"a": "", "b": LAB, "c": "", "d": LAB, "e": FLOOD, "f": LAB, "g": ""}, processes=3)
    lab = [one for one in ran if one.file in "bdf"]
    others = [one for one in ran if one.file in "aceg"]
    labs = {(one.process, one.network, one.lab) for one in lab}
    assert len(labs) == len({network for _, network, _ in labs}) == len({name for *_, name in labs}) == 2
    # What fetches something needs the machine's own network.
    assert {(one.network, one.lab) for one in others} == {(str(Path("/proc/self/ns/net").readlink()), None)}
    (flood,) = {one.process for one in ran if one.file == "e"}
    assert max(one.ended for one in ran if one.process != flood) <= min(one.began for one in ran if one.file == "e")


@pytest.mark.parametrize("files", [{"b": LAB, "d": FLOOD}, {"a": "", "b": LAB}])
@pytest.mark.parametrize("processes", [2, 3])
def test_any_choice_of_files_runs_whole(tmp_path: Path, files: dict[str, str], processes: int) -> None:
    play(tmp_path, files, processes)
