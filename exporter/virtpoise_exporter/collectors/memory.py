"""Memory of the host."""

from pathlib import Path

import psutil

from virtpoise_exporter import metrics
from virtpoise_exporter.exposition import Family


class MemoryCollector:
    """``/proc/meminfo``, and the cache of ZFS.

    The kernel does not count ZFS' cache (ARC) as available, though ZFS gives it back down to its minimum when memory
    becomes scarce.
    """

    name = "memory"

    def __init__(self, procfs: Path) -> None:
        self._meminfo = procfs / "meminfo"
        self._arc = procfs / "spl/kstat/zfs/arcstats"

    def collect(self, _seconds: float) -> list[Family]:
        memory, cached = psutil.virtual_memory(), self._cached()
        families = []
        for metric, value in (
            (metrics.HOST_MEMORY_TOTAL, memory.total),
            (metrics.HOST_MEMORY_AVAILABLE, min(memory.available + cached, memory.total)),
            (metrics.HOST_MEMORY_FREE, memory.free),
            (metrics.HOST_MEMORY_HUGEPAGES, hugepages(self._meminfo.read_text())),
        ):
            family = Family(metric)
            family.add(value)
            families.append(family)
        return families

    def _cached(self) -> int:
        """Bytes of the ARC that ZFS would give back; 0 on a host without ZFS, or where that cannot be read."""
        try:
            return reclaimable(self._arc.read_text())
        except (OSError, ValueError, KeyError):
            return 0


def hugepages(meminfo: str) -> int:
    """The bytes in static huge pages of all sizes; 0 on a kernel without them."""
    for line in meminfo.splitlines():
        if line.startswith("Hugetlb:"):
            return int(line.split()[1]) * 1024
    return 0


def reclaimable(arcstats: str) -> int:
    """The bytes of ZFS' cache above its minimum, from ``arcstats`` (lines of name, type and value).

    Raises ValueError, KeyError.
    """
    values = {fields[0]: fields[2] for line in arcstats.splitlines() if len(fields := line.split()) == 3}
    return max(int(values["size"]) - int(values["c_min"]), 0)
