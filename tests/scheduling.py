"""Tests in several processes: files side by side, then, in one process, those that need the machine to themselves."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import WorkerController

# Hosts and machines take the CPUs of this machine; what is marked "alone" floods it, or measures time or memory.
_MARK = re.compile(r"^pytestmark = .*\bmark\.(lab|installed|alone)\b", re.MULTILINE)
_ALONE = "alone"


@cache
def _is_alone(file: Path) -> bool:
    return _MARK.search(file.read_text(encoding="utf-8")) is not None


class AloneLast(LoadFileScheduling):  # type: ignore[misc]  # xdist has no types
    """Gives each process one file after another. Those that run alone go to the last process, when no other is left."""

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        return _ALONE if _is_alone(self.config.rootpath / file) else file

    def _assign_work_unit(self, node: WorkerController) -> None:
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
