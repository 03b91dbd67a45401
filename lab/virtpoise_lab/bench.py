"""What the programs that measure share (``scripts/bench-*``)."""

import json
import operator
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_MEETS = {"at most": operator.le, "at least": operator.ge, "below": operator.lt}


@dataclass
class Targets:
    """Holds what was measured against what is wanted, and prints a line for each."""

    missed: list[str] = field(default_factory=list)

    def judge(
        self,
        what: str,
        value: float,
        limit: float,
        unit: str = "",
        *,
        target: Literal["at most", "at least", "below"] = "at most",
    ) -> None:
        met = _MEETS[target](value, limit)
        if not met:
            self.missed.append(what)
        print(f"  {what}: {value:.4g}{unit} (target: {target} {limit:g}{unit}) {'ok' if met else 'MISSED'}")

    def status(self) -> int:
        """The exit status: 1 if a target was missed. Prints which."""
        if self.missed:
            print(f"missed: {', '.join(self.missed)}")
        return 1 if self.missed else 0


@dataclass
class SetClock:
    """A clock whose date is set, and whose durations are real."""

    at: float  # Unix seconds

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


def read_lines(file: Path) -> list[dict[str, Any]]:
    """What was measured so far, each in a line of JSON; nothing where there is no file."""
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def add_line(file: Path, measured: Mapping[str, Any]) -> None:
    with file.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(measured) + "\n")


def cpu_seconds(pid: int) -> float:
    """The CPU time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def resident_mib(pid: int | Literal["self"] = "self") -> float:
    """The memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES / 2**20
