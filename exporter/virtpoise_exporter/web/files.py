"""Files that decide who may come in: who else could have written or read them is checked before they are used."""

import os
import stat
from pathlib import Path

_MOST_BYTES = 1024 * 1024


def read_trusted(path: Path) -> bytes:
    """The content of a regular file that only root and the exporter's own user can change. Raises OSError.

    The folder counts as well: who may write to it can put another file in this one's place.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # opening a FIFO would wait for a writer
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(f"{path}: expected a regular file")
        _check_owner(path, status)
        if status.st_mode & 0o022:
            raise OSError(f"{path}: mode {_mode(status)}, expected a file that only its owner may write (chmod go-w)")
        folder = path.resolve().parent
        status = folder.stat()
        _check_owner(folder, status)
        if status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX:
            raise OSError(
                f"{folder}: mode {_mode(status)}, expected a folder that only its owner may write (chmod go-w)"
            )
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise OSError(f"{path}: expected at most 1 MiB")
    return content


def check_secret(path: Path) -> None:
    """Raises OSError if everybody on the host may read the file."""
    status = path.stat()
    if status.st_mode & 0o007:
        raise OSError(f"{path}: mode {_mode(status)}, expected a file that not everybody may read (chmod o=)")


def _check_owner(path: Path, status: os.stat_result) -> None:
    if status.st_uid not in (0, os.geteuid()):
        raise OSError(f"{path}: owned by user {status.st_uid}, expected root or user {os.geteuid()}")


def _mode(status: os.stat_result) -> str:
    return f"{stat.S_IMODE(status.st_mode):04o}"
