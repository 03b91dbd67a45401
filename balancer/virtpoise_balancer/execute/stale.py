"""The stale copy of a domain that runs on both ends of its migration: suspended, never destroyed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import structlog

from virtpoise_balancer.errors import LibvirtError, Refused, StoreError
from virtpoise_balancer.execute.facts import Presence
from virtpoise_balancer.execute.hosts import Hosts
from virtpoise_balancer.execute.questions import descriptions, presence
from virtpoise_balancer.execute.verdict import SETTLED, StillOpen, stale_copy
from virtpoise_balancer.model import JournalEntry

log = structlog.get_logger()


@dataclass(slots=True)
class StaleCopies:
    """What this process has suspended. ``check``: refuses any act for an entry, by its id in the journal."""

    check: Callable[[int], None]
    _suspended: dict[int, str] = field(default_factory=dict)  # where, by the id of the entry

    def forget(self, entry_id: int) -> None:
        """The entry has its end."""
        self._suspended.pop(entry_id, None)

    def secured(self, hosts: Hosts, entry: JournalEntry, found: StillOpen, *, started: bool | None) -> StillOpen:
        """What was found, with what distinguishes the copies. Suspends the stale one, if the other one runs.

        ``started``: as in ``stale_copy``.
        """
        copies = descriptions(hosts, found.hosts, entry.move.uuid)
        stale = stale_copy(entry, found.running, started=started)
        # A failure that was taken back proves it no longer, but it was stale before.
        if stale is None and len(found.running) > 1:
            stale = self._suspended.get(entry.id)
        if stale is not None and (against := self._suspend(hosts, entry, stale)):
            copies += f". The copy on {stale} is stale, and cannot be suspended: {against}"
        if entry.id in self._suspended:
            copies += f". The copy on {self._suspended[entry.id]} is stale, and was suspended"
        return replace(found, text=f"{found.text}. {copies}")

    def _suspend(self, hosts: Hosts, entry: JournalEntry, stale: str) -> str | None:
        """Suspend the stale copy. Why that was not done, or None."""
        move = entry.move
        kept = move.destination if stale == move.source else move.source
        try:
            self.check(entry.id)  # what the hosts show may be the work of a later migration
            if (copy := presence(hosts, stale, move.uuid)) not in SETTLED:
                return f"it is {copy} now"  # it was a late answer that showed it
            if (other := presence(hosts, kept, move.uuid)) is not Presence.RUNNING:
                return f"the one on {kept} is {other}"
            hosts.suspend(stale, move.uuid)
            self._suspended[entry.id] = stale
            if presence(hosts, kept, move.uuid) is Presence.ABSENT:  # a migration has taken it here in between
                hosts.resume(stale, move.uuid)
                self.forget(entry.id)
                return f"{kept} has it no longer"
        except (LibvirtError, Refused, StoreError) as error:
            return str(error)
        log.error("the stale copy of a domain was suspended", domain=move.domain, host=stale, goes_on=kept)
        return None
