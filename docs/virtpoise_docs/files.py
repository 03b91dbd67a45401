"""docs/files.md, from the first sentence of each module's docstring."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
_PACKAGES = ("balancer/virtpoise_balancer", "exporter/virtpoise_exporter")
_FILES = """\
# Every file in one line

Generated from the code by `scripts/generate-docs`; a test compares the two. What each folder must not do is in
[architecture.md](architecture.md).
"""


def files() -> str:
    """docs/files.md."""
    return "".join([_FILES, *(part for package in _PACKAGES for part in _of_package(ROOT / package))])


def _of_package(package: Path) -> Iterator[str]:
    yield f"\n## `{package.relative_to(ROOT)}`\n"
    for folder in (package, *sorted({path.parent for path in package.rglob("__init__.py")} - {package})):
        rows = [
            f"| `{path.name}` | {first_sentence(path)} |\n"
            for path in sorted(folder.glob("*.py"))
            if path.name != "__init__.py"
        ]
        if not rows or folder.name == "versions":  # upgrades of the store, each named by what it adds
            continue
        if folder != package:
            yield f"\n### `{folder.relative_to(package)}/`\n\n{first_sentence(folder / '__init__.py')}\n"
        yield "\n| file | what it is |\n| --- | --- |\n" + "".join(rows)


def first_sentence(path: Path) -> str:
    """The first sentence of the module's docstring, as Markdown of one line."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    sentence = re.split(r"(?<=[^.]\.)\s", " ".join(docstring.partition("\n\n")[0].split()), maxsplit=1)[0]
    return sentence.removesuffix("::").replace("``", "`").replace("|", "\\|")
