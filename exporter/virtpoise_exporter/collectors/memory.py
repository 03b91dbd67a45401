"""Memory of the host."""

import psutil

from virtpoise_exporter import metrics
from virtpoise_exporter.exposition import Family


class MemoryCollector:
    """``/proc/meminfo`` below psutil's proc root."""

    name = "memory"

    def collect(self, _seconds: float) -> list[Family]:
        memory = psutil.virtual_memory()
        families = []
        for metric, value in (
            (metrics.HOST_MEMORY_TOTAL, memory.total),
            (metrics.HOST_MEMORY_AVAILABLE, memory.available),
            (metrics.HOST_MEMORY_FREE, memory.free),
        ):
            family = Family(metric)
            family.add(value)
            families.append(family)
        return families
