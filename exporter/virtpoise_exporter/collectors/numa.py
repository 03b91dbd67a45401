"""CPUs, memory and static huge pages of the NUMA nodes (Documentation/ABI/stable/sysfs-devices-node,
Documentation/admin-guide/mm/hugetlbpage.rst).
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from virtpoise_exporter import metrics
from virtpoise_exporter.errors import Incomplete
from virtpoise_exporter.exposition import Family
from virtpoise_exporter.kernel.meminfo import parse_meminfo

_POOL = re.compile(r"hugepages-(\d+)kB")
_NODE = re.compile(r"node(\d+)")


class NumaCollector:
    """Memory, CPUs and huge pages of each NUMA node from ``/sys/devices/system/node``.

    On a kernel without NUMA the huge pages alone, as those of node 0.

    A file that cannot be read takes no figure of another file.
    """

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
        missing: list[str] = []
        for node, folder in _nodes(self._folder):
            pools.append((node, folder / "hugepages"))
            with _noted(folder / "cpulist", missing) as file:
                cpus.add(count_cpus(file.read_text()), node)
            with _noted(folder / "meminfo", missing) as file:
                memory = parse_meminfo(file.read_text().replace(f"Node {node} ", ""))
                total.add(memory["MemTotal"], node)
                free.add(memory["MemFree"], node)
        pages, unused = Family(metrics.HOST_HUGEPAGES_TOTAL), Family(metrics.HOST_HUGEPAGES_FREE)
        for node, folder in pools or [("0", self._hugepages)]:
            for size, pool in _pools(folder):
                with _noted(pool, missing):
                    count = int((pool / "nr_hugepages").read_text())
                    idle = int((pool / "free_hugepages").read_text()) if count else 0
                    pages.add(count, size, node)
                    unused.add(idle, size, node)
        families = [cpus, total, free, pages, unused]
        if missing:
            raise Incomplete(families, missing)
        return families


@contextmanager
def _noted(path: Path, missing: list[str]) -> Iterator[Path]:
    """Adds to ``missing`` why the path cannot be read."""
    try:
        yield path
    except (OSError, ValueError, KeyError) as error:
        missing.append(f"{path}: {error!r}")


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
