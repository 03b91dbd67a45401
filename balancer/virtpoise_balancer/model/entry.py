"""A migration as the journal has it, and the domains that are not accounted for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from virtpoise_balancer.model.migration import Result
from virtpoise_balancer.model.plan import Move

# Moves with their ids in the journal.
Entries = Sequence[tuple[int, Move]]


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalEntry:
    """A journalled migration, identified by its ``id`` alone: a domain may have had several.

    ``began``: in Unix seconds, None before it begins. ``result``: None while its end is not known. ``lost``: the domain
    ran nowhere when it ended, and has not been accounted for since. ``left_from``: the source of the domain's next
    migration that began, if any. ``doubled``: the domain was active on two hosts since it began, so a paused copy may
    be older than its disks. ``ended``: in Unix seconds, as far as it is known. ``volumes``: what was created for copies
    of its disks on the destination and is to be deleted, now that the migration has failed for good; not
    ``volumes_created``: only about to be created when it was written down.
    """

    id: int
    move: Move
    began: float | None = None
    result: Result | None = None
    lost: bool = False
    left_from: str | None = None
    doubled: bool = False
    ended: float | None = None
    volumes: tuple[str, ...] = ()
    volumes_created: bool = True

    @property
    def is_open(self) -> bool:
        return self.began is not None and self.result is None


class Written(StrEnum):
    """What writing an end has changed in the journal."""

    NOTHING = "nothing"
    ENDED = "ended"
    CORRECTED = "corrected"


class UnsettledKind(StrEnum):
    """Why a domain keeps all action off its hosts."""

    MIGRATING = "migrating"  # a migration of the balancer goes on, though no plan is being made
    UNKNOWN = "unknown"  # a host does not say where the domain is
    WAITING = "waiting"  # it stands, paused, where it has arrived, and could not be started yet
    BETWEEN = "between"  # it stands between its hosts, where no job takes it on: its CPUs run nowhere
    TWICE = "twice"  # it is active on more than one host
    NOWHERE = "nowhere"  # it was migrated, and is active on no host


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsettled:
    """A domain that keeps all action off its hosts. ``text`` completes "h1 is unknown: "."""

    domain: str
    uuid: str
    hosts: tuple[str, ...]
    kind: UnsettledKind
    text: str

    @property
    def unaccounted(self) -> bool:
        """Whether it is not known to exist exactly once."""
        return self.kind is not UnsettledKind.MIGRATING
