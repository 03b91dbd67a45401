"""Stands in for libvirt's executor where a test runs real cycles."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, field

from virtpoise_balancer.execute.executor import InFlight, Recheck
from virtpoise_balancer.model import Entries


@dataclass
class Taking:
    """An executor that only notes what it is to carry out. ``stays_busy``: it seems to be at it from then on."""

    acts: bool = True
    busy: bool = False
    in_flight: tuple[InFlight, ...] = ()
    taken: list[Entries] = field(default_factory=list)
    stays_busy: bool = False

    def carry_out(self, entries: Entries, _recheck: Recheck) -> None:
        self.taken.append(entries)
        self.busy = self.busy or self.stays_busy

    def withdraw(self, _uuids: Set[str], _why: str, /) -> bool:
        return False
