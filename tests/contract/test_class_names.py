"""A class name stands for one thing in each package."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("package", ["balancer/virtpoise_balancer", "exporter/virtpoise_exporter"])
def test_no_class_name_is_used_twice(package: str) -> None:
    files: dict[str, list[str]] = defaultdict(list)
    for file in sorted((ROOT / package).rglob("*.py")):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                files[node.name].append(str(file.relative_to(ROOT / package)))
    assert len(files) > 10
    assert {name: where for name, where in files.items() if len(where) > 1} == {}
