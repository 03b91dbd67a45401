"""One balancer acts (law 6): the one that holds a lock which its store's kind offers.

A lock alone is not enough. A lock file may be removed, and a balancer that was stopped for a while believes that it
still holds the lock. So each leader has a number as well, which the store checks in every transaction of a leader
(fence.py).
"""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from virtpoise_balancer.errors import BadInput
from virtpoise_balancer.knowledge.records import Leader

# SQLite's journal needs memory that all its users share, and so one machine.
_NETWORK_FILE_SYSTEMS = frozenset(
    {"9p", "afs", "beegfs", "ceph", "cifs", "glusterfs", "lustre", "nfs", "nfs4", "smb3", "smbfs", "sshfs"}
)


class LeaderLock(Protocol):
    """What one process at a time may hold. The holder's end frees it."""

    @property
    def place(self) -> str:
        """Where the lock is, for people."""
        ...

    def take(self) -> bool:
        """Whether this process holds it now; asks without waiting. BadInput or StoreError when nothing can be said."""
        ...

    def lost(self) -> str | None:
        """Why this process no longer holds what it took; None while it does."""
        ...

    def release(self) -> None: ...


class FileLock:
    """A lock file beside the file of an SQLite store. The kernel frees it when the holder dies."""

    def __init__(self, store: Path) -> None:
        self._store = store
        self._path = Path(f"{store}.lock")
        self._file: int | None = None
        self._held = False
        self._store_was: tuple[int, int] | None = None

    @property
    def place(self) -> str:
        return str(self._path)

    def take(self) -> bool:
        if self._held:
            return True
        self._check_file_system()
        try:
            if self._file is None:
                self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if _identity(self._path) != _identity(self._file):  # the next one to ask opens the file that is there
                self.release()
            return False
        except OSError as error:
            raise BadInput(f"state.url: {self._path}: cannot be opened: {error.strerror}") from None
        if _identity(self._path) != _identity(self._file):  # removed since it was opened
            self.release()
            return False
        self._held, self._store_was = True, None
        return True

    def lost(self) -> str | None:
        if not self._held or self._file is None:
            return f"it does not hold {self._path}"
        if _identity(self._path) != _identity(self._file):
            return f"the lock file {self._path} was removed or replaced, so another balancer may act"
        now = _identity(self._store)
        if self._store_was is None:  # it is made after the lock is taken
            self._store_was = now
        if now != self._store_was:
            return f"the store {self._store} was removed, renamed or replaced, so another balancer may act"
        return None

    def release(self) -> None:
        if self._file is not None:
            os.close(self._file)
        self._file = None
        self._held = False

    def _check_file_system(self) -> None:
        kind = file_system(self._store.parent.resolve(), Path("/proc/self/mountinfo").read_text(errors="replace"))
        if kind.removeprefix("fuse.") in _NETWORK_FILE_SYSTEMS:
            raise BadInput(
                f"state.url: {self._store}: expected a file on a disk of this machine, got {kind}, where two balancers could act: "
                "for several machines take postgresql+psycopg://"
            )


@dataclass(slots=True)
class Mistrust:
    """Why not to trust a lock that did not keep another balancer out.

    Only its silence for ``silence_seconds`` ends the wait for it.
    """

    silence_seconds: float
    _seen: tuple[int, float] | None = None
    _since: float = 0.0

    def why_wait(self, leader: Leader | None, now: float) -> str | None:
        """Why not to act yet; None once the leader has fallen silent. ``now``: on the monotonic clock."""
        seen = None if leader is None else (leader.term, leader.seen)
        if seen != self._seen or leader is None:
            self._seen, self._since = seen, now
        if leader is None or now - self._since >= self.silence_seconds:
            return None
        return (
            f"another balancer acts ({leader.holder}), which the lock did not keep out; waiting for it to fall silent"
        )


def file_system(folder: Path, mountinfo: str) -> str:
    """The kind of file system that the folder is on, by the kernel's list of mounts (proc(5)); empty if it is not
    listed.
    """
    found = (Path("/"), "")
    for line in mountinfo.splitlines():
        fields, _, kind = line.partition(" - ")
        if len(fields.split()) < 5 or not kind:
            continue
        mount = Path(fields.split()[4].replace("\\040", " "))
        # A later mount covers an earlier one.
        if folder.is_relative_to(mount) and len(mount.parts) >= len(found[0].parts):
            found = (mount, kind.split()[0])
    return found[1]


def _identity(file: Path | int | None) -> tuple[int, int] | None:
    """What identifies a file, whatever its name; None if there is none."""
    if file is None:
        return None
    try:
        found = os.fstat(file) if isinstance(file, int) else file.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
