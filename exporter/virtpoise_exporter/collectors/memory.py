"""Memory of the host."""

from pathlib import Path

import psutil

from virtpoise_exporter import metrics
from virtpoise_exporter.exposition import Family
from virtpoise_exporter.kernel.meminfo import parse_meminfo


class MemoryCollector:
    """Memory of the host from ``/proc/meminfo``, and the cache of ZFS.

    The kernel does not count ZFS' cache (ARC) as available, though ZFS gives it back down to its minimum when memory
    becomes scarce.
    """

    name = "memory"

    def __init__(self, procfs: Path) -> None:
        self._meminfo = procfs / "meminfo"
        self._arc = procfs / "spl/kstat/zfs/arcstats"

    def collect(self, _seconds: float) -> list[Family]:
        memory, sizes = psutil.virtual_memory(), parse_meminfo(self._meminfo.read_text())
        hugepages = sizes.get("Hugetlb", 0)  # of all sizes; a kernel without them has no such line
        available = min(memory.available + self._cached(), memory.total - hugepages)
        families = []
        for metric, value in (
            (metrics.HOST_MEMORY_TOTAL, memory.total),
            (metrics.HOST_MEMORY_AVAILABLE, available),
            (metrics.HOST_MEMORY_FREE, memory.free),
            (metrics.HOST_MEMORY_HUGEPAGES, hugepages),
            (metrics.HOST_SWAP_TOTAL, sizes.get("SwapTotal")),
            (metrics.HOST_SWAP_FREE, sizes.get("SwapFree")),
        ):
            family = Family(metric)
            if value is not None:  # what the kernel does not say is unknown
                family.add(value)
            families.append(family)
        return families

    def _cached(self) -> int:
        """Bytes of the ARC that ZFS would give back; 0 on a host without ZFS, or where that cannot be read."""
        try:
            return reclaimable(self._arc.read_text())
        except (OSError, ValueError, KeyError):
            return 0


def reclaimable(arcstats: str) -> int:
    """The bytes of ZFS' cache above its minimum, from ``arcstats`` (lines of name, type and value).

    Raises ValueError, KeyError.
    """
    values = {fields[0]: fields[2] for line in arcstats.splitlines() if len(fields := line.split()) == 3}
    return max(int(values["size"]) - int(values["c_min"]), 0)
