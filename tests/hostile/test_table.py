"""The table of attacks in README.md names tests that exist, and all of this folder."""

from __future__ import annotations

import re
from pathlib import Path

from hostile.table import HERE, NAMED


def names_in(file: Path) -> set[str]:
    return set(re.findall(r"^def (test_\w+)", file.read_text(encoding="utf-8"), re.MULTILINE))


def test_each_row_names_tests_that_exist() -> None:
    for file, name in NAMED:
        assert name in names_in(file), f"{file}::{name}"


def test_each_attack_of_this_folder_is_in_a_row() -> None:
    for file in HERE.glob("test_*.py"):
        if file != Path(__file__):
            assert {name for named, name in NAMED if named == file} == names_in(file), file.name
