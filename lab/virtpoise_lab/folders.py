"""Folders of this machine that hosts mount their own over. The first lab makes them, the last one removes them.

Each lab leaves a mark in a folder that a lab has made. A folder that was there before stays as it is.
"""

from collections.abc import Iterable
from pathlib import Path

LIBVIRT = (Path("/var/lib/libvirt"), Path("/var/log/libvirt"), Path("/var/cache/libvirt"))


def claim(folders: Iterable[Path], lab: str) -> tuple[Path, ...]:
    """Makes what is missing. Returns those folders that a lab has made, now or before: ``release`` them."""
    made = tuple(folder for folder in folders if not folder.exists() or any(folder.glob(_mark("*"))))
    for folder in made:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _mark(lab)).touch()
    return made


def release(folders: Iterable[Path], lab: str) -> None:
    """Removes each folder that no other lab has claimed and no process uses."""
    for folder in folders:
        (folder / _mark(lab)).unlink(missing_ok=True)
        try:
            folder.rmdir()
        except OSError:
            continue


def _mark(lab: str) -> str:
    return f".lab-{lab}"
