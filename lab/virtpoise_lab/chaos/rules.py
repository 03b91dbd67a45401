"""The project's alert rules with their waiting times scaled down, so that a run need not last as long as they do."""

from __future__ import annotations

import re
from pathlib import Path

from virtpoise_lab.stack import RULES

SCALE = 30
_FOR = re.compile(r"^( +for: )([0-9]+)([sm])$", re.MULTILINE)


def scaled(folder: Path) -> list[Path]:
    """The project's rule files, written into a folder: each ``for`` is a thirtieth, all else as it is."""
    files = []
    for file in sorted(RULES.glob("*.rules.yml")):
        made = folder / file.name
        made.write_text(_FOR.sub(_shorter, file.read_text(encoding="utf-8")), encoding="utf-8")
        files.append(made)
    return files


def _shorter(found: re.Match[str]) -> str:
    seconds = int(found[2]) * (60 if found[3] == "m" else 1)
    return f"{found[1]}{max(1, round(seconds / SCALE))}s"
