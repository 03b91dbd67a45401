"""The programs in ``scripts/`` that are written in Python are checked as the packages are, though no suffix says so."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def programs() -> set[Path]:
    """Those whose first line starts Python."""
    files = [file for file in (ROOT / "scripts").iterdir() if file.is_file()]
    return {file for file in files if "python" in file.read_text(encoding="utf-8").partition("\n")[0]}


def test_ruff_checks_every_program_in_python() -> None:
    ruff = Path(sys.executable).parent / "ruff"
    checked = subprocess.run([ruff, "check", "--show-files"], cwd=ROOT, check=True, capture_output=True, text=True)
    assert len(programs()) > 10
    assert programs() - set(map(Path, checked.stdout.splitlines())) == set()


def test_mypy_checks_every_program_in_python() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["mypy"]
    assert programs() - {file for pattern in settings["files"] for file in ROOT.glob(pattern)} == set()
    assert settings["scripts_are_modules"]
