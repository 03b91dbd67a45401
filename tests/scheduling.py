"""Tests in several processes: one process has the real hosts and the booted machines, the others one file after
another; floods come last.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import WorkerController

# There is one lab on a machine, and its hosts go before all else: the tests on it run one after the other, beside other
# files. Booted machines run there, too: beside the hosts, their guests would take CPU time that these measure. What is
# marked "alone" floods the machine, or measures time or memory: it runs beside nothing.
_MARK = re.compile(r"^pytestmark = .*\bmark\.(lab|installed|alone)\b", re.MULTILINE)
_LAB, _ALONE = "lab", "alone"


@cache
def _mark(file: Path) -> str | None:
    found = set(_MARK.findall(file.read_text(encoding="utf-8")))
    if _ALONE in found:
        return _ALONE
    return _LAB if found else None


class Lanes(LoadFileScheduling):  # type: ignore[misc]  # xdist has no types
    """Gives all files on the lab and on booted machines to one process, and other files to whichever is free.

    Those that run alone go to the last process, when no other is left.
    """

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        return _mark(self.config.rootpath / file) or file

    def _assign_work_unit(self, node: WorkerController) -> None:
        for unit, last in ((_LAB, False), (_ALONE, True)):
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
