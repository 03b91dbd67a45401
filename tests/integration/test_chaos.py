"""The campaign's lab floor: the seeds that are kept, on real hosts in a lab of their own."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from virtpoise_lab import requirements

pytestmark = [pytest.mark.lab, pytest.mark.second_lab]

ROOT = Path(__file__).parents[2]
KEPT = Path(__file__).with_name("kept-seeds")


def test_kept_seeds_show_no_violation(tmp_path: Path) -> None:
    missing = requirements.missing()
    if missing:
        pytest.skip(missing)
    command = [str(ROOT / "scripts" / "chaos"), "--list", str(KEPT), "--output", "json", "--keep", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    runs = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(run["plan"]["seed"], run["violations"]) for run in runs if run["violations"]] == [], done.stderr
    assert done.returncode == 0, done.stderr
    assert len(runs) == sum(bool(line.partition("#")[0].strip()) for line in KEPT.read_text().splitlines())
    assert all(run["migrations"] and run["reached"] for run in runs), done.stderr
