"""In CI nothing is left out without a word."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import pytest

@pytest.mark.parametrize("reason", ["there is no Python 3.13 here", "the kernel has no bond"])
def test_one(reason):
    pytest.skip(reason)

@pytest.mark.skipif(True, reason="promtool is not installed")
def test_two():
    pass

@pytest.mark.xfail(strict=True)
def test_three():
    assert False
"""


@pytest.mark.parametrize(
    ("ci", "counted"), [("", "3 skipped, 1 xfailed"), ("true", "1 failed, 1 skipped, 1 xfailed, 1 error")]
)
def test_what_is_missing_in_ci_is_a_failure_and_not_a_skip(tmp_path: Path, ci: str, counted: str) -> None:
    (tmp_path / "test_it.py").write_text(TESTS)
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "conftest", "-c", os.devnull, "--rootdir", tmp_path, tmp_path],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "CI": ci, "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
    )
    assert counted in ran.stdout.splitlines()[-1], ran.stdout + ran.stderr
