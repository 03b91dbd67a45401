"""What a stranger counts on: one thing a name, files that can be read in one go, each folder described."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ["balancer/virtpoise_balancer", "exporter/virtpoise_exporter"]


def names_of_types(node: ast.stmt) -> list[str]:
    """The public classes and type aliases that a statement defines: their names begin a word with a capital."""
    if isinstance(node, ast.ClassDef):
        named = [node.name]
    else:
        targets = node.targets if isinstance(node, ast.Assign) else []
        named = [target.id for target in targets if isinstance(target, ast.Name)]
    return [name for name in named if re.match(r"[A-Z][A-Za-z]*[a-z]", name)]


@pytest.mark.parametrize("package", PACKAGES)
def test_no_name_is_used_twice(package: str) -> None:
    files: dict[str, list[str]] = defaultdict(list)
    for file in sorted((ROOT / package).rglob("*.py")):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            for name in names_of_types(node):
                files[name].append(str(file.relative_to(ROOT / package)))
    assert len(files) > 10
    assert {name: where for name, where in files.items() if len(where) > 1} == {}


@pytest.mark.parametrize("package", PACKAGES)
def test_the_docstring_of_a_function_or_class_begins_with_what_it_is(package: str) -> None:
    """Its first sentence is no parameter: a reader would know what goes in, and not what comes out."""
    found, count = [], 0
    for file in sorted((ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and (
                docstring := ast.get_docstring(node)
            ):
                count += 1
                found += [f"{file.relative_to(ROOT)}:{node.lineno}"] if docstring.startswith("``") else []
    assert count > 200
    assert found == []


@pytest.mark.parametrize("package", PACKAGES)
def test_no_file_has_more_than_400_lines(package: str) -> None:
    lines = {file: len(file.read_text(encoding="utf-8").splitlines()) for file in (ROOT / package).rglob("*.py")}
    assert len(lines) > 10
    assert {str(file): count for file, count in lines.items() if count > 400} == {}


def test_each_folder_and_each_single_file_of_the_balancer_is_described() -> None:
    folders = {file.parent.name for file in (ROOT / PACKAGES[0]).glob("*/__init__.py")}
    files = {file.name for file in (ROOT / PACKAGES[0]).glob("*.py") if not file.name.startswith("__")}
    table = (ROOT / "docs/architecture.md").read_text(encoding="utf-8").partition("## One cycle")[0]
    assert folders - set(re.findall(r"^\| `(?:…|balancer/virtpoise_balancer)/(\w+)`", table, re.MULTILINE)) == set()
    assert files - set(re.findall(r"`(\w+\.py)`", table)) == set()


CLOCKS = {"time", "time_ns", "datetime", "monotonic", "monotonic_ns", "perf_counter", "thread_time", "sleep", "now"}


def patched(call: ast.Call) -> set[str]:
    """The modules and names that ``setattr(module, name, value)`` or ``setattr("module.name", value)`` replaces."""
    if ast.unparse(call.func).rpartition(".")[2] != "setattr":
        return set()
    return {part for one in call.args[:2] for part in re.findall(r"\w+", ast.unparse(one))}


def test_no_test_patches_the_time() -> None:
    """What judges ages is handed a clock (``clock.py`` of both packages), and a test hands it one that it can set."""
    files = sorted((ROOT / "tests").rglob("*.py"))
    found = {
        f"{file.relative_to(ROOT)}:{node.lineno}"
        for file in files
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and patched(node) & CLOCKS
    }
    assert len(files) > 100
    assert found == set()


def by_hand() -> list[Path]:
    """Pages and shipped files with prose. The changelog is left out: it has a line or two for an entry."""
    found = [page for page in ROOT.glob("*.md") if page.name != "CHANGELOG.md"]
    for folder in ("alerts", "docs", "exporter", "grafana", "lab"):
        found += (ROOT / folder).rglob("*.md")
    for folder in ("alerts", "balancer", "exporter"):
        found += [*(ROOT / folder).glob("*.yml"), *(ROOT / folder).glob("*.service")]
    return [file for file in found if "Generated from" not in file.read_text(encoding="utf-8")]


@pytest.mark.parametrize("file", by_hand(), ids=lambda file: str(file.relative_to(ROOT)))
def test_prose_ends_at_120_characters(file: Path) -> None:
    """Paragraphs and lists of pages, comments of other files, texts of alerts."""
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".md":
        text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
        lines = [line for line in text.splitlines() if not re.match(r"\s*\||    |!\[", line)]
    else:
        prose = re.findall(r"^( *)((?:description|summary):.*(?:\n\1  .*)*)", text, re.MULTILINE)
        lines = [line for line in text.splitlines() if re.match(r"\s*# ", line)]
        lines += [line for _, value in prose for line in value.splitlines()]
    assert [line for line in lines if len(line) > 120] == []
