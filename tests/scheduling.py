"""Tests in several processes: up to two of them have real hosts, the others take one file after another; floods come
last.
"""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
from functools import cache
from pathlib import Path

from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import WorkerController

# Files on the lab go before all else, one after the other in each lab. What is marked "alone" floods the machine, or
# measures time or memory: it runs beside nothing.
_MARK = re.compile(r"^pytestmark = .*\bmark\.(lab|alone)\b", re.MULTILINE)
_LAB, _ALONE = "lab", "alone"
# With so many processes, the second has a lab and a network of its own.
_PROCESSES_FOR_TWO_LABS = 3
_SECOND = "gw1"
# Takes longer than any other file on the lab. One that begins last would be waited for.
_LONGEST = "tests/integration/test_seven_cases.py"

_CLONE_NEWNET = 0x40000000
_LIBVIRTS = tuple(Path("/var", folder, "libvirt") for folder in ("lib", "log", "cache"))


@cache
def _mark(file: Path) -> str | None:
    found = set(_MARK.findall(file.read_text(encoding="utf-8")))
    return next((mark for mark in (_ALONE, _LAB) if mark in found), None)


def take_second_lab() -> None:
    """Gives this process a lab and a network of its own, if it is the one that has the second lab.

    Called before the lab is imported. Threads that run already keep the machine's network.
    """
    count = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if os.environ.get("PYTEST_XDIST_WORKER") != _SECOND or count < _PROCESSES_FOR_TWO_LABS or os.geteuid() != 0:
        return
    # A lab removes those of libvirt's folders that it had to make. Another one has mounted its own on them.
    for folder in _LIBVIRTS:
        folder.mkdir(exist_ok=True)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "no network namespace can be made")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    os.environ["VIRTPOISE_LAB"] = "virtpoise-second"


class Lanes(LoadFileScheduling):  # type: ignore[misc]  # xdist has no types
    """Gives files on the lab to the first process, and to the second where that has a lab of its own.

    The second takes nothing else: its network reaches no registry. The first goes on with other files, as the further
    processes do from the start. Files that run alone go to the last process, when no other is left.
    """

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        return _ALONE if _mark(self.config.rootpath / file) == _ALONE else file

    def _assign_work_unit(self, node: WorkerController) -> None:
        unit = self._next(node)
        if unit is not None:
            self.workqueue.move_to_end(unit, last=False)
            super()._assign_work_unit(node)
        elif self._others(node):
            # One process after the other ends. The last one waits until it is alone: ``remove_node``.
            node.shutdown()

    def _next(self, node: WorkerController) -> str | None:
        """The file that this process runs next, or all that run alone; None if there is nothing for it now."""
        lab: list[str] = [
            unit for unit in self.workqueue if unit != _ALONE and _mark(self.config.rootpath / unit) == _LAB
        ]
        if lab and node in self._with_labs():
            return _LONGEST if _LONGEST in lab else lab[0]
        if self._is_second(node) and self._others(node):
            return None
        others: list[str] = [unit for unit in self.workqueue if unit not in lab and unit != _ALONE]
        if others:
            return others[0]
        return _ALONE if _ALONE in self.workqueue and len(self.nodes) == 1 else None

    def _with_labs(self) -> list[WorkerController]:
        first = next((node for node in self.nodes if not self._is_second(node)), None)
        return [node for node in self.nodes if node is first or self._is_second(node)]

    def _is_second(self, node: WorkerController) -> bool:
        return bool(self.numnodes >= _PROCESSES_FOR_TWO_LABS and node.gateway.id == _SECOND)

    def _others(self, node: WorkerController) -> bool:
        """Whether another process goes on."""
        return any(not other.shutting_down for other in self.nodes if other is not node)

    def remove_node(self, node: WorkerController) -> str | None:
        crashed: str | None = super().remove_node(node)
        for other in self.nodes:
            self._reschedule(other)
        return crashed
