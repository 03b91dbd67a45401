"""Which hosts are in which group, so that none is in two."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from virtpoise_balancer.analyse.membership import Machine, same_machines, shared_hosts
from virtpoise_balancer.errors import MonitorError


@dataclass(slots=True)
class Roster:
    """The hosts of each group, as they were asked for last. A group that could not be asked keeps those that it had."""

    _members: dict[str, frozenset[str]] = field(default_factory=dict)
    _machines: Mapping[str, Mapping[str, Machine]] = field(default_factory=dict)

    def keep_up(
        self,
        ask: Mapping[str, Callable[[], frozenset[str]]],
        machines: Callable[[], Mapping[str, Mapping[str, Machine]]] = dict,
    ) -> None:
        """Ask for the names of each group's hosts by ``ask``; with one group alone nothing is asked.

        ``machines``: by group and host, which machine that is, as far as it is known.
        """
        if len(ask) < 2:
            return
        self._machines = machines()
        for name, members in ask.items():
            try:
                found = members()
            except MonitorError:  # its own cycle reports it
                continue
            self._members = self._members | {name: found}

    def shared(self, group: str) -> Mapping[str, str]:
        """The hosts of the group that others have as well, and why nothing is done with each."""
        return {**same_machines(self._machines, group), **shared_hosts(self._members, group)}
