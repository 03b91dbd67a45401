"""CPUs, memory and static huge pages of the NUMA nodes (Documentation/ABI/stable/sysfs-devices-node,
Documentation/admin-guide/mm/hugetlbpage.rst).
"""

import re
from pathlib import Path

from virtpoise_exporter import metrics
from virtpoise_exporter.exposition import Family
from virtpoise_exporter.kernel.meminfo import parse_meminfo

_POOL = re.compile(r"hugepages-(\d+)kB")
_NODE = re.compile(r"node(\d+)")


class NumaCollector:
    """``/sys/devices/system/node``; on a kernel without NUMA the huge pages alone, as those of node 0."""

    name = "numa"

    def __init__(self, sysfs: Path) -> None:
        self._folder = sysfs / "devices/system/node"
        self._hugepages = sysfs / "kernel/mm/hugepages"

    def collect(self, _seconds: float) -> list[Family]:
        cpus, total, free = (
            Family(metrics.HOST_NUMA_CPUS),
            Family(metrics.HOST_NUMA_MEMORY_TOTAL),
            Family(metrics.HOST_NUMA_MEMORY_FREE),
        )
        pools: list[tuple[str, Path]] = []
        for node, folder in _nodes(self._folder):
            memory = parse_meminfo((folder / "meminfo").read_text().replace(f"Node {node} ", ""))
            cpus.add(count_cpus((folder / "cpulist").read_text()), node)
            total.add(memory["MemTotal"], node)
            free.add(memory["MemFree"], node)
            pools.append((node, folder / "hugepages"))
        pages, unused = Family(metrics.HOST_HUGEPAGES_TOTAL), Family(metrics.HOST_HUGEPAGES_FREE)
        for node, folder in pools or [("0", self._hugepages)]:
            for size, pool in _pools(folder):
                pages.add(count := int((pool / "nr_hugepages").read_text()), size, node)
                unused.add(int((pool / "free_hugepages").read_text()) if count else 0, size, node)
        return [cpus, total, free, pages, unused]


def _pools(folder: Path) -> list[tuple[str, Path]]:
    """The size in bytes and the folder of each pool."""
    if not folder.is_dir():
        return []
    return sorted(
        (str(int(match[1]) * 1024), path) for path in folder.iterdir() if (match := _POOL.fullmatch(path.name))
    )


def _nodes(folder: Path) -> list[tuple[str, Path]]:
    if not folder.is_dir():
        return []
    numbered = [(match[1], path) for path in folder.iterdir() if (match := _NODE.fullmatch(path.name))]
    return sorted(numbered, key=lambda node: int(node[0]))


def count_cpus(cpulist: str) -> int:
    """The number of CPUs in a list such as ``0-3,8-11``; 0 for an empty list."""
    count = 0
    for part in cpulist.strip().split(","):
        first, _, last = part.partition("-")
        if first:
            count += int(last or first) - int(first) + 1
    return count
