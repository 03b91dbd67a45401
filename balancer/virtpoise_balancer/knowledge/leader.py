"""One balancer acts (law 6): whoever holds the lock beside the store. The kernel lets go of it when its holder dies."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from virtpoise_balancer.errors import BadInput


class Leadership:
    """The lock file ``path``; held until this process ends or releases it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise BadInput(f"state.url: {path}: cannot be opened: {error.strerror}") from None
        self.held = False

    def take(self) -> bool:
        """Whether this process leads now; asks without waiting."""
        if not self.held:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            self.held = True
        return True

    def release(self) -> None:
        os.close(self._file)
        self.held = False
