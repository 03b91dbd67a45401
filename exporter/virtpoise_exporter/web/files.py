"""Files that decide who may come in: who else could have written or read them is checked before they are used."""

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

_MOST_BYTES = 1024 * 1024
_MOST_LINKS = 40  # as the kernel


def read_trusted(path: Path) -> bytes:
    """The content of a regular file that only root and the exporter's own user can change. Raises OSError.

    The folders on the way to it count as well, also by way of a link: who may write to one of them can put another
    file in this one's place.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # opening a FIFO would wait for a writer
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(f"{path}: expected a regular file")
        _check_owner(path, status)
        if status.st_mode & 0o022:
            raise OSError(f"{path}: mode {_mode(status)}, expected a file that only its owner may write (chmod go-w)")
        for folder, entry in _way(path):
            _check_folder(folder, entry)
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise OSError(f"{path}: expected at most 1 MiB")
    return content


def check_secret(path: Path) -> None:
    """Raises OSError if everybody on the host, or a group that the exporter's user is not in, may read the file."""
    status = path.stat()
    if status.st_mode & 0o007:
        raise OSError(f"{path}: mode {_mode(status)}, expected a file that not everybody may read (chmod o=)")
    own = status.st_gid in (0, os.getegid(), *os.getgroups())
    if status.st_mode & 0o040 and os.geteuid() != 0 and not own:
        raise OSError(f"{path}: mode {_mode(status)}, expected a file of a group of the exporter's user (chmod g-r)")


def _way(path: Path) -> Iterator[tuple[Path, Path]]:
    """Each folder on the way from the root to the file, and what is entered in it: a folder, a link or the file."""
    folder, left, links = Path("/"), [*reversed(path.absolute().parts[1:])], 0
    while left:
        name = left.pop()
        if name == "..":
            folder = folder.parent
            continue
        entry = folder / name
        yield folder, entry
        if not entry.is_symlink():
            folder = entry
            continue
        links += 1
        if links > _MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        target = entry.readlink()
        folder = Path("/") if target.is_absolute() else folder
        left += reversed(target.parts[1:] if target.is_absolute() else target.parts)


def _check_folder(folder: Path, entry: Path) -> None:
    """Raises OSError if another user could replace what is entered there."""
    status = folder.stat()
    _check_owner(folder, status)
    if status.st_mode & stat.S_ISVTX:  # as /tmp: there only a file's owner renames or deletes it
        _check_owner(entry, entry.lstat())
    elif status.st_mode & 0o022:
        raise OSError(f"{folder}: mode {_mode(status)}, expected a folder that only its owner may write (chmod go-w)")


def _check_owner(path: Path, status: os.stat_result) -> None:
    if status.st_uid not in (0, os.geteuid()):
        raise OSError(f"{path}: owned by user {status.st_uid}, expected root or user {os.geteuid()}")


def _mode(status: os.stat_result) -> str:
    return f"{stat.S_IMODE(status.st_mode):04o}"
