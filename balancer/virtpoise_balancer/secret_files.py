"""Files with secrets (tokens, passwords, private keys): read only where no other user could read or replace them."""

from __future__ import annotations

import errno
import os
import ssl
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from virtpoise_balancer.errors import BadInput

_MOST_BYTES = 1 << 20
_MOST_LINKS = 40  # as the kernel


def read_secret(path: Path, field: str) -> str:
    """The file's text, ASCII. BadInput names ``field``, the file and what is wrong, and never what is in the file."""
    try:
        return _content(path, field).decode("ascii")
    except UnicodeDecodeError:
        raise BadInput(f"{field}: {path}: expected ASCII text") from None


def check_secret(path: Path, field: str) -> None:
    """BadInput unless the file could be read with ``read_secret``; for files that a library reads, such as private
    keys.
    """
    _content(path, field)


def load_certificate(cert: Path, key: Path | None, section: str, *contexts: ssl.SSLContext) -> None:
    """Load a certificate and its key into the contexts, or none of them: BadInput where they cannot be used.

    ``key``: None: ``cert`` has it, too. ``section``: of the configuration, with both files. A key with a passphrase is
    refused: OpenSSL would ask for that on the terminal, and wait.
    """
    if key is not None:
        check_secret(key, f"{section}.key_file")
    both = f"{section}.cert_file, {section}.key_file: expected a certificate and its key"

    def refuse() -> NoReturn:
        raise BadInput(f"{both} without a passphrase")

    try:
        # First by itself: a context that takes a certificate and then fails has lost its old key.
        for context in (ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), *contexts):
            context.load_cert_chain(cert, key, password=refuse)
    except OSError as error:
        raise BadInput(f"{both}: {getattr(error, 'reason', None) or error.strerror or error}") from None


def _content(path: Path, field: str) -> bytes:
    try:
        # Not blocking: opening a FIFO would wait for a writer for ever.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as file:
            found = os.fstat(handle)
            problem = _file_problem(found) or _way_problem(path)
            content = b"" if problem else file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise BadInput(f"{field}: {path}: cannot be read: {error.strerror}") from None
    if problem:
        raise BadInput(f"{field}: {path}: {problem}")
    if len(content) > _MOST_BYTES:
        raise BadInput(f"{field}: {path}: expected at most {_MOST_BYTES} bytes")
    return content


def _file_problem(found: os.stat_result) -> str | None:
    if not stat.S_ISREG(found.st_mode):
        return "expected a regular file"
    # Root may use a file of any user: the folder's check ensures that no other user placed it there.
    if os.geteuid() != 0 and found.st_uid not in (0, os.geteuid()):
        return f"it belongs to another user (uid {found.st_uid}); expected root or the user who reads it"
    if found.st_mode & stat.S_IRWXO:
        return "other users may read it; chmod o-rwx"
    if found.st_mode & stat.S_IWGRP and found.st_gid != 0:
        return "its group may write to it; chmod g-w"
    # Root reads files of the daemon's group when it checks the configuration.
    if found.st_mode & stat.S_IRGRP and os.geteuid() != 0 and found.st_gid not in (0, os.getegid(), *os.getgroups()):
        return f"a group that its reader is not in may read it (gid {found.st_gid}); chmod g-r"
    return None


def _way_problem(path: Path) -> str | None:
    """What lets another user replace the file: one of the folders on the way to it, also by way of a link."""
    for folder, entry in _way(path):
        problem = _folder_problem(folder, entry)
        if problem is not None:
            return problem
    return None


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


def _folder_problem(folder: Path, entry: Path) -> str | None:
    """What lets another user replace the entry of the folder."""
    found, owner = folder.stat(), entry.lstat().st_uid
    own = found.st_uid in (0, os.geteuid())
    if found.st_mode & stat.S_ISVTX and own:  # as /tmp: only a file's owner renames or deletes it
        return None if owner in (0, os.geteuid()) else f"another user (uid {owner}) may replace {entry}"
    if found.st_mode & stat.S_IWOTH:
        return f"other users may write to its folder; chmod o-w {folder}"
    if found.st_mode & stat.S_IWGRP and found.st_gid != 0:
        return f"a group may write to its folder; chmod g-w {folder}"
    if os.geteuid() != 0 and not own:
        return f"its folder {folder} belongs to another user (uid {found.st_uid})"
    return None
