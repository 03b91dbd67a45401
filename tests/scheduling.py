"""Tests in several processes: two begin with real hosts, each with a lab of its own, a third with the booted machines,
others with files that need neither; and each goes on with one file after another. Files that mostly wait come first,
and floods last.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import WorkerController

# Two labs are up at a time, so tests on the same one follow each other. They take longest, so they begin at once, and
# with them the booted machines, which take longest to be built. The files on the two labs take about the same time.
# What is marked "alone" floods the machine, or measures time or memory: it runs beside nothing.
_MARKED = re.compile(r"^pytestmark = (?:\[\n(?: .*\n)*\]|.*)$", re.MULTILINE)
_MARK = re.compile(r"\bmark\.(\w+)")
_LAB, _SECOND_LAB, _MACHINES, _EARLY, _ALONE = "lab", "second_lab", "installed", "early", "alone"
# xdist begins with the files of the most tests. One of few tests that mostly waits would be left at the end, when
# nothing else needs the CPUs: such a file is marked "early".
# A file of the second lab has the mark of the first as well: "lab" is for all that needs real hosts.
_LANES = (_ALONE, _SECOND_LAB, _LAB, _MACHINES)


@cache
def _marks(file: Path) -> set[str]:
    """The marks of a whole file."""
    return {mark for line in _MARKED.findall(file.read_text(encoding="utf-8")) for mark in _MARK.findall(line)}


class Lanes(LoadFileScheduling):  # type: ignore[misc]  # xdist has no types
    """Gives all files on a lab to one process, those on booted machines to another, and other files to whichever is
    free, the early ones first.

    Those that run alone go to the last process, when no other is left.
    """

    @property
    def nodes(self) -> list[WorkerController]:
        """The processes by their names: they register in any order, and gw0 has the lab that goes before the other."""
        return sorted(super().nodes, key=lambda node: str(node.gateway.id))

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        marks = _marks(self.config.rootpath / file)
        return next((mark for mark in _LANES if mark in marks), file)

    def _assign_work_unit(self, node: WorkerController) -> None:
        early = [
            unit for unit in self.workqueue if unit not in _LANES and _EARLY in _marks(self.config.rootpath / unit)
        ]
        for unit in (*early, _MACHINES, _SECOND_LAB, _LAB):
            if unit in self.workqueue:
                self.workqueue.move_to_end(unit, last=False)
        if _ALONE in self.workqueue:
            self.workqueue.move_to_end(_ALONE)
        if next(iter(self.workqueue)) == _ALONE and len(self.nodes) > 1:
            # One process after the other ends. The last one waits until it is alone: ``remove_node``.
            if any(not other.shutting_down for other in self.nodes if other is not node):
                node.shutdown()
            return
        super()._assign_work_unit(node)

    def remove_node(self, node: WorkerController) -> str | None:
        crashed: str | None = super().remove_node(node)
        for other in self.nodes:
            self._reschedule(other)
        return crashed
