"""The network namespace that a process runs its tests in: the machine's own, or one that it has to itself."""

from __future__ import annotations

import ctypes
import os
import subprocess
from pathlib import Path

_NEW_NETWORK = 0x40000000  # CLONE_NEWNET: the standard library names it from Python 3.12 on
_HERE = Path("/proc/thread-self/ns/net")
_libc = ctypes.CDLL(None, use_errno=True)


class Networks:
    """Moves the calling thread, and all that it starts from then on, between the machine's network and its own."""

    def __init__(self) -> None:
        self._machine: int | None = None  # an open descriptor of the machine's network while the thread is in its own

    def enter_own(self) -> None:
        """Enter a new network that has loopback alone; nothing if the thread is in one already."""
        if self._machine is None:
            machine = os.open(_HERE, os.O_RDONLY)
            _checked(_libc.unshare(_NEW_NETWORK))
            self._machine = machine
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)

    def leave_own(self) -> None:
        """Return to the machine's network. The other one ends with the last process in it."""
        if self._machine is not None:
            _checked(_libc.setns(self._machine, _NEW_NETWORK))
            os.close(self._machine)
            self._machine = None


def _checked(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
