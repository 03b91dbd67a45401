"""What is not accounted for in the world: open entries of the journal, lost domains, and domains that run twice."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from virtpoise_balancer.execute.copies import Copies, SeenTwice
from virtpoise_balancer.execute.reconciler import Reconciler
from virtpoise_balancer.model import JournalEntry, Unsettled


class Accounts(Protocol):
    """What a cycle asks of the world, beside itself."""

    def keep_up(
        self, entries: Sequence[JournalEntry], group: Collection[str], seen_twice: Mapping[str, SeenTwice] | None
    ) -> None:
        """Ask for what is not known.

        ``group``: all hosts that are known; ``seen_twice``: by uuid, None where no one looked.
        """
        ...

    def unsettled(self, entries: Sequence[JournalEntry], /) -> tuple[Unsettled, ...]:
        """The domains that keep all action off their hosts now. ``entries``: of the journal, as it is now."""
        ...


@dataclass(frozen=True, slots=True)
class LibvirtAccounts:
    """Asks the hosts' libvirt daemons."""

    reconciler: Reconciler
    copies: Copies

    def keep_up(
        self, entries: Sequence[JournalEntry], group: Collection[str], seen_twice: Mapping[str, SeenTwice] | None
    ) -> None:
        self.reconciler.keep_up(entries, group)
        self.copies.keep_up(seen_twice or {})

    def unsettled(self, entries: Sequence[JournalEntry]) -> tuple[Unsettled, ...]:
        entered = self.reconciler.unsettled(entries)
        known = {one.uuid for one in entered}
        return (*entered, *(one for one in self.copies.unsettled() if one.uuid not in known))


class NoAccounts:
    """Asks no one, and takes all for settled: for a look that starts nothing."""

    def keep_up(
        self, entries: Sequence[JournalEntry], group: Collection[str], seen_twice: Mapping[str, SeenTwice] | None
    ) -> None: ...

    def unsettled(self, _entries: Sequence[JournalEntry]) -> tuple[Unsettled, ...]:
        return ()
