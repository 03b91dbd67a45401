"""Pressure stall information (https://docs.kernel.org/accounting/psi.html)."""

from collections.abc import Iterator
from pathlib import Path

from virtpoise_exporter import metrics
from virtpoise_exporter.exposition import Family

_RESOURCES = ("cpu", "io", "memory")


class PressureCollector:
    """``/proc/pressure``; empty, without a failure, on a kernel without it."""

    name = "pressure"

    def __init__(self, procfs: Path) -> None:
        self._folder = procfs / "pressure"

    def collect(self, _seconds: float) -> list[Family]:
        family = Family(metrics.HOST_PRESSURE)
        for resource in _RESOURCES:
            try:
                stalled = list(parse_pressure((self._folder / resource).read_text()))
            except OSError:  # psi=0: the files are there and refuse to be read
                continue
            for kind, seconds in stalled:
                family.add(seconds, resource, kind)
        return [family]


def parse_pressure(text: str) -> Iterator[tuple[str, float]]:
    """Kind and stalled seconds of each line, e.g. ``some avg10=0.09 avg60=0.29 avg300=0.37 total=4923247`` (µs)."""
    for line in text.splitlines():
        kind, *fields = line.split()
        total = next(field for field in fields if field.startswith("total="))
        yield kind, int(total.removeprefix("total=")) / 1e6
