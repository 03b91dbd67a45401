"""What a stranger counts on: one thing a name, files that can be read in one go, each folder described."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from itertools import combinations
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


def wing(file: Path) -> str:
    """The folder of the package that a file is in; a worker of ``execute`` is a program of its own."""
    *folders, name = file.parts
    return "/".join(folders[:2] if folders[:2] == ["execute", "worker"] else folders[:1]) or name


def names_of_functions(node: ast.stmt) -> list[str]:
    """The public function or constants that a statement defines."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        named = [node.name]
    else:
        targets = node.targets if isinstance(node, ast.Assign) else []
        named = [target.id for target in targets if isinstance(target, ast.Name) and target.id.isupper()]
    return [name for name in named if not name.startswith("_")]


# Functions and constants whose name is used in several files of a folder, and why.
ALIKE = {
    "collectors": {"GROUPS"},  # each collector has its own
    "knowledge": {"actions", "forget", "history", "newest", "read", "record", "write"},  # a file a table: cycles.record
    "plan": {"plan", "predict", "refusal"},  # what every strategy has
    "web": {"routes"},  # of the API and of the page
}


@pytest.mark.parametrize("package", PACKAGES)
def test_no_function_or_constant_of_a_folder_is_defined_twice(package: str) -> None:
    files: dict[tuple[str, str], list[str]] = defaultdict(list)
    for file in sorted((ROOT / package).rglob("*.py")):
        where = file.relative_to(ROOT / package)
        if "migrations" not in where.parts:
            for node in ast.parse(file.read_text(encoding="utf-8")).body:
                for name in names_of_functions(node):
                    files[wing(where), name].append(str(where))
    twice = {f"{name} of {folder}" for (folder, name), found in files.items() if len(found) > 1}
    assert len(files) > 50
    assert twice - {f"{name} of {folder}" for folder, names in ALIKE.items() for name in names} == set()


# Different words of one letter's difference that no reader takes for each other.
DIFFERENT_WORDS = {
    frozenset(pair.split())
    for pair in (
        "Apart Part",
        "Bond Bound",
        "Bound Found",
        "Clock Lock",
        "Cores Scores",
        "Line Live",
        "Lock Look",
        "MetricT Metrics",
        "Mode Move",
        "Pace Place",
        "Role Rule",
        "Shape Share",
        "Stage State",
    )
}
# A set of what the other names, in another file.
COLLECTIONS = {frozenset(("Host", "Hosts")), frozenset(("Need", "Needs"))}


def one_letter_apart(one: str, other: str) -> bool:
    """Whether one name becomes the other by a letter that is changed, added or left out."""
    shorter, longer = sorted((one.lower(), other.lower()), key=len)
    if len(shorter) == len(longer):
        return sum(a != b for a, b in zip(shorter, longer, strict=True)) == 1
    return any(longer[:at] + longer[at + 1 :] == shorter for at in range(len(longer)))


@pytest.mark.parametrize("package", PACKAGES)
def test_no_two_classes_are_one_letter_apart(package: str) -> None:
    """A class and its collection may be, where both are in one file: Worker, Workers."""
    files: dict[str, Path] = {}
    for file in sorted((ROOT / package).rglob("*.py")):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            files |= dict.fromkeys(names_of_types(node), file)
    found = {
        frozenset((one, other))
        for one, other in combinations(files, 2)
        if one_letter_apart(one, other) and not (files[one] == files[other] and other.rstrip("s") == one.rstrip("s"))
    }
    assert found - DIFFERENT_WORDS - COLLECTIONS == set()


@pytest.mark.parametrize("package", PACKAGES)
def test_no_two_files_of_a_folder_are_one_letter_apart(package: str) -> None:
    files = sorted(file for file in (ROOT / package).rglob("*.py") if not file.name.startswith("__"))
    found = {
        f"{one.stem} {other.stem}"
        for one, other in combinations(files, 2)
        if one.parent == other.parent and one_letter_apart(one.stem, other.stem)
    }
    assert len(files) > 10
    assert found - {"api app"} == set()


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
