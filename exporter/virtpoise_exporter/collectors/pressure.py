"""Pressure stall information (https://docs.kernel.org/accounting/psi.html)."""

import re
from collections.abc import Iterator
from pathlib import Path

from virtpoise_exporter import metrics
from virtpoise_exporter.errors import Incomplete
from virtpoise_exporter.exposition import Family

_RESOURCES = ("cpu", "io", "memory")
_LINE = re.compile(r"(some|full) (?:.* )?total=([0-9]{1,20})$")


class PressureCollector:
    """Pressure stall information from ``/proc/pressure``; empty, without a failure, on a kernel without it."""

    name = "pressure"

    def __init__(self, procfs: Path) -> None:
        self._folder = procfs / "pressure"

    def collect(self, _seconds: float) -> list[Family]:
        family = Family(metrics.HOST_PRESSURE)
        missing: list[str] = []
        for resource in _RESOURCES:
            try:
                stalled = list(parse_pressure((self._folder / resource).read_text()))
            except OSError:  # psi=0: the files are there and refuse to be read
                continue
            except ValueError as error:
                missing.append(f"{resource}: {error}")
                continue
            for kind, seconds in stalled:
                family.add(seconds, resource, kind)
        if missing:
            raise Incomplete([family], missing)
        return [family]


def parse_pressure(text: str) -> Iterator[tuple[str, float]]:
    """Kind and stalled seconds of each line, e.g. ``some avg10=0.09 avg60=0.29 avg300=0.37 total=4923247`` (µs).

    Raises ValueError.
    """
    for line in text.splitlines():
        found = _LINE.match(line)
        if found is None:
            raise ValueError(f"expected a line like 'some avg10=0.09 ... total=4923247', got {line!r}")
        yield found[1], int(found[2]) / 1e6
