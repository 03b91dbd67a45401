"""One balancer acts (law 6): the one that holds the lock beside the store. The kernel frees it when the holder dies."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from virtpoise_balancer.errors import BadInput


class Leadership:
    """The lock file ``path``; held until this process ends or releases it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.held = False
        self._file: int | None = None

    def take(self) -> bool:
        """Whether this process leads now; asks without waiting. BadInput when the file cannot be opened."""
        if self.held:
            return True
        if self._file is None:
            try:
                self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except OSError as error:
                raise BadInput(f"state.url: {self.path}: cannot be opened: {error.strerror}") from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        self.held = True
        return True

    def release(self) -> None:
        if self._file is not None:
            os.close(self._file)
        self._file = None
        self.held = False
