"""The volumes that are created for copies of disks: journalled before and after, and deleted where the migration has
failed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from virtpoise_balancer.clock import Clock
from virtpoise_balancer.errors import LibvirtError, Refused, StoreError
from virtpoise_balancer.execute.hosts import Hosts
from virtpoise_balancer.model import JournalEntry

log = structlog.get_logger()

# How long after a try in vain the volumes of an entry are left alone.
_AGAIN_SECONDS = 600.0
# How far the clock of a host may be ahead of this machine's.
_CLOCK_SECONDS = 60.0


class VolumeJournal(Protocol):
    """Where it is written down which volumes there are (knowledge keeps it). Any of it may fail."""

    def note_volumes(self, migration_id: int, volumes: Sequence[str], *, created: bool = True) -> None:
        """The volumes that were created for a migration, or are about to be, and are still to be deleted if it fails;
        none: nothing is.
        """
        ...

    def check_volumes(self, migration_id: int) -> None:
        """Refused when a later migration may create the same volumes, or when another balancer acts."""
        ...


@dataclass(slots=True)
class CreatedVolumes:
    """Deletes what failed migrations have copied. Never raises for what libvirt or the store says."""

    hosts: Callable[[], Hosts]
    journal: VolumeJournal
    clock: Clock
    _tried: dict[int, float] = field(default_factory=dict)  # when (monotonic), by the id in the journal

    def discard(self, entry: JournalEntry, volumes: Sequence[str]) -> None:
        """Delete the volumes that this process created for a migration which has just failed."""
        self._discard(entry, volumes, None)

    def is_due(self, entry: JournalEntry) -> bool:
        """Whether it is time to try (again) to delete the volumes that an entry has left."""
        tried = self._tried.get(entry.id)
        return tried is None or self.clock.monotonic() - tried >= _AGAIN_SECONDS

    def discard_left(self, entry: JournalEntry, *, runs_elsewhere: bool) -> None:
        """Delete the volumes that an entry has left, if its domain runs, and not on their host.

        One that has changed since the end of the migration is another one by now, and stays. So does what is not empty
        where it is not known that it was created: nothing is copied before that is written down.
        """
        self._tried[entry.id] = self.clock.monotonic()
        if runs_elsewhere and entry.ended is not None:
            self._discard(entry, entry.volumes, entry.ended + _CLOCK_SECONDS)

    def keep(self, entry: JournalEntry) -> None:
        """The domain has arrived after all: the volumes are its disks."""
        self._note_none(entry)

    def _discard(self, entry: JournalEntry, volumes: Sequence[str], changed_before: float | None) -> None:
        move = entry.move
        where = {"domain": move.domain, "host": move.destination, "volumes": list(volumes)}
        try:
            self.journal.check_volumes(entry.id)
            self.hosts().discard(
                move.destination, move.uuid, volumes, changed_before, only_empty=not entry.volumes_created
            )
        except (LibvirtError, Refused, StoreError) as error:
            log.warning("what a failed migration has copied is left", why=str(error), **where)
            return
        log.info("what a failed migration had copied is deleted", **where)
        self._note_none(entry)

    def _note_none(self, entry: JournalEntry) -> None:
        try:
            self.journal.note_volumes(entry.id, ())
        except StoreError as error:  # a later cycle finds that there are none
            log.warning("volumes stay in the journal", domain=entry.move.domain, why=str(error))
