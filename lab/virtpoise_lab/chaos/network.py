"""Ways between the hosts that are cut, without a firewall and without a module of the kernel.

Each end takes the other for a machine that is not there: what it sends, the switch gives to all, and none takes it.
So connections stay open and silent, as with a broken switch.
"""

from __future__ import annotations

from contextlib import suppress

from virtpoise_lab.domain import BRIDGE
from virtpoise_lab.ending import MANAGER_LINK
from virtpoise_lab.errors import LabError
from virtpoise_lab.host import ip
from virtpoise_lab.lab import Lab
from virtpoise_lab.model import MANAGER_ADDRESS
from virtpoise_lab.processes import Process

MANAGER = "balancer"
_NOBODY = "02:76:70:00:ff:ff"


class Network:
    """The ways of a lab. An end is a host's name, or ``MANAGER`` for where the balancer and Prometheus run."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self._cut: set[tuple[str, str]] = set()

    def cut(self, a: str, b: str) -> None:
        for here, there in ((a, b), (b, a)):
            where, link, _ = self._end(here)
            ip(where, f"neigh replace {self._end(there)[2]} lladdr {_NOBODY} nud permanent dev {link}")
        self._cut.add((a, b))

    def mend(self) -> None:
        """All ways are open again."""
        for a, b in self._cut:
            for here, there in ((a, b), (b, a)):
                where, link, _ = self._end(here)
                with suppress(LabError):  # it has been learned again
                    ip(where, f"neigh del {self._end(there)[2]} dev {link}")
        self._cut.clear()

    def _end(self, name: str) -> tuple[Process | None, str, str]:
        if name == MANAGER:
            return None, MANAGER_LINK, MANAGER_ADDRESS
        host = self.lab.host(name)
        return host.init, BRIDGE, host.address
