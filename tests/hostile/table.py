"""The tests that the table of attacks names: pairs of a file and a test."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent
NAMED = frozenset(
    (HERE / file if "/" not in file else HERE.parent / file, name)
    for file, name in re.findall(r"`([\w/]+\.py)::(\w+)`", (HERE / "README.md").read_text(encoding="utf-8"))
)
