"""Which hosts are in which group, so that none is in two."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from virtpoise_balancer.analyse.membership import shared_hosts
from virtpoise_balancer.errors import MonitorError

# For how many groups Prometheus is queried at once.
AT_ONCE = 4


@dataclass(slots=True)
class Roster:
    """The hosts of each group, as they were asked for last. A group that could not be asked keeps those that it had."""

    _members: dict[str, frozenset[str]] = field(default_factory=dict)

    def keep_up(self, ask: Mapping[str, Callable[[], frozenset[str]]]) -> None:
        """Ask for the names of each group's hosts by ``ask``, side by side; with one group alone nothing is asked."""
        if len(ask) < 2:
            return
        with ThreadPoolExecutor(min(len(ask), AT_ONCE), "ask for members") as pool:
            asked = {name: pool.submit(members) for name, members in ask.items()}
        for name, members in asked.items():
            with contextlib.suppress(MonitorError):  # its own cycle reports it
                self._members = self._members | {name: members.result()}

    def shared(self, group: str) -> Mapping[str, str]:
        """The hosts of the group that others have as well, and why nothing is done with each."""
        return shared_hosts(self._members, group)
