"""The bounds that the daemons' units set."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def memory_max_mib(daemon: str) -> int:
    """``daemon``: balancer or exporter."""
    (unit,) = (ROOT / daemon).glob("*.service")
    found = re.search(r"^MemoryMax=(\d+)([MG])$", unit.read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * (1024 if found[2] == "G" else 1)


def tasks_max(daemon: str) -> int:
    """How many processes and threads it may have. ``daemon``: balancer or exporter."""
    (unit,) = (ROOT / daemon).glob("*.service")
    found = re.search(r"^TasksMax=(\d+)$", unit.read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])
