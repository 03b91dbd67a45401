"""The systemd units, as systemd itself judges them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UNITS = sorted([*ROOT.glob("balancer/*.service"), *ROOT.glob("exporter/*.service")])

pytestmark = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")


def analyse(*arguments: str | Path) -> None:
    ran = subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert not ran.stderr, ran.stderr


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_systemd_understands_every_line(unit: Path, tmp_path: Path) -> None:
    # systemd-analyze wants the programs to be there; here they are in the tests' own environment.
    programs = Path(sys.executable).parent
    text = unit.read_text(encoding="utf-8")
    assert "/opt/virtpoise/bin/" in text
    copy = tmp_path / unit.name
    copy.write_text(text.replace("/opt/virtpoise/bin/", f"{programs}/"), encoding="utf-8")
    analyse("verify", "--man=no", copy)


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_little_is_left_to_a_daemon_that_was_broken_into(unit: Path) -> None:
    analyse("security", "--offline=yes", "--no-pager", "--threshold=13", unit)  # of 100; an unconfined service has 96


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_systemd_is_told_and_watches(unit: Path) -> None:
    lines = unit.read_text(encoding="utf-8").splitlines()
    assert "Type=notify" in lines
    assert "Restart=on-failure" in lines
    assert any(line.startswith("WatchdogSec=") for line in lines)
