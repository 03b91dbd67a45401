"""The preview's command, as a person calls it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from virtpoise_dashboards.__main__ import FOLDER
from virtpoise_preview.prometheus import Span

FLEET = str(FOLDER / "virtpoise-fleet.json")


def call(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "virtpoise_preview", *arguments], capture_output=True, text=True, check=False
    )


def test_one_row_makes_a_smaller_picture(prometheus_url: str, span: Span, tmp_path: Path) -> None:
    common = [FLEET, "--prometheus", prometheus_url, "--end", str(span.end), "--seconds", "1800"]
    whole = call(*common, "--out", str(tmp_path / "whole"))
    row = call(*common, "--out", str(tmp_path / "row"), "--row", "Over time")
    assert (whole.returncode, row.returncode) == (0, 0), whole.stderr + row.stderr
    assert row.stdout == f"{tmp_path}/row/virtpoise-fleet.png\n"
    assert height(tmp_path / "row/virtpoise-fleet.png") < height(tmp_path / "whole/virtpoise-fleet.png")


def height(picture: Path) -> int:
    """From the PNG's header (https://www.w3.org/TR/png/#11IHDR)."""
    return int.from_bytes(picture.read_bytes()[20:24], "big")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--prometheus", "http://127.0.0.1:1"], "http://127.0.0.1:1: expected a Prometheus"),
        (["/nowhere.json"], "/nowhere.json: cannot be read"),
        ([__file__], "expected a dashboard's JSON"),
    ],
)
def test_bad_input_is_refused_in_one_line(arguments: list[str], named: str, tmp_path: Path) -> None:
    ran = call(*arguments, "--out", str(tmp_path))
    assert ran.returncode == 2
    assert named in ran.stderr
    assert ran.stderr.count("\n") == 1


def test_a_row_that_is_not_there_is_refused_with_those_that_are(prometheus_url: str, tmp_path: Path) -> None:
    ran = call(FLEET, "--prometheus", prometheus_url, "--row", "Nowhere", "--out", str(tmp_path))
    assert ran.returncode == 2
    assert "'Over time'" in ran.stderr
