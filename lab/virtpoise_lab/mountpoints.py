"""Folders of this machine that hosts mount theirs over. A lab makes those that are missing, and the last one that needs
them removes them: without a folder, all that is mounted over it is gone, in other namespaces too.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

_MARK = ".virtpoise-lab-"


def claimed(folders: Iterable[Path], lab: str) -> tuple[str, ...]:
    """Those of the folders that only labs need. They are there, and stay until each lab has released them."""
    mine = []
    for folder in folders:
        if folder.exists() and not any(folder.glob(f"{_MARK}*")):
            continue  # the machine's own
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{_MARK}{lab}").touch()
        mine.append(str(folder))
    return tuple(mine)


def release(folders: Iterable[str], lab: str) -> None:
    for folder in map(Path, folders):
        (folder / f"{_MARK}{lab}").unlink(missing_ok=True)
        try:
            folder.rmdir()
        except OSError:
            continue  # another lab or somebody else uses it, or it was never made
