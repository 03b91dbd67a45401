"""Tests in several processes: one begins with the real hosts, another with the booted machines, and each goes on with
one file after another; floods come last.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import WorkerController

# There is one lab on a machine: the tests on it run one after the other, beside other files. They take longest, so they
# begin at once, and the booted machines, which take longest to be built, beside them. What is marked "alone" floods the
# machine, or measures time or memory: it runs beside nothing.
_MARK = re.compile(r"^pytestmark = .*\bmark\.(lab|installed|alone)\b", re.MULTILINE)
_LAB, _MACHINES, _ALONE = "lab", "installed", "alone"


@cache
def _mark(file: Path) -> str | None:
    found = set(_MARK.findall(file.read_text(encoding="utf-8")))
    return next((mark for mark in (_ALONE, _LAB, _MACHINES) if mark in found), None)


class Lanes(LoadFileScheduling):  # type: ignore[misc]  # xdist has no types
    """Gives all files on the lab to one process, those on booted machines to another, and other files to whichever is
    free.

    Those that run alone go to the last process, when no other is left.
    """

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        return _mark(self.config.rootpath / file) or file

    def _assign_work_unit(self, node: WorkerController) -> None:
        for unit, last in ((_MACHINES, False), (_LAB, False), (_ALONE, True)):
            if unit in self.workqueue:
                self.workqueue.move_to_end(unit, last)
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
