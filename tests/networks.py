"""The network namespace that a process runs its tests in: the machine's own, or one that it has to itself."""

from __future__ import annotations

import os

from virtpoise_lab.apart import enter, enter_new, open_network


class Networks:
    """Moves the calling thread, and all that it starts from then on, between the machine's network and its own."""

    def __init__(self) -> None:
        self._machine: int | None = None  # an open descriptor of the machine's network while the thread is in its own

    def enter_own(self) -> None:
        """Enter a new network that has loopback alone; nothing if the thread is in one already."""
        if self._machine is None:
            machine = open_network()
            enter_new()
            self._machine = machine

    def leave_own(self) -> None:
        """Return to the machine's network. The other one ends with the last process in it."""
        if self._machine is not None:
            enter(self._machine)
            os.close(self._machine)
            self._machine = None
