"""Guards against hosts that are slow, wrong or unfit, and against a lead that was lost, taken away from today's code.

The campaign must find each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection

from mutants import Mutant, Patch
from virtpoise_balancer.control import cycle as cycle_module
from virtpoise_balancer.execute import copies, elsewhere, inventory, reconciler
from virtpoise_balancer.execute.hosts import Hosts
from virtpoise_balancer.execute.inventory import Inventory
from virtpoise_balancer.execute.migrate import Migrator
from virtpoise_balancer.execute.reconciler import NOT_BEGUN, Reconciler, Requested
from virtpoise_balancer.execute.stale import StaleCopies
from virtpoise_balancer.execute.verdict import Answer, StillOpen
from virtpoise_balancer.knowledge import learned
from virtpoise_balancer.knowledge.store import Store
from virtpoise_balancer.model import FailedAttempts, JournalEntry, MigrationOutcome, Move, Result
from virtpoise_balancer.service.leading import Leadership


def _twice_is_believed_at_once(patch: Patch) -> None:
    """Two answers of different times are taken for two copies."""

    def believed(_hosts: Hosts, answers: Mapping[str, Answer], _uuid: str) -> dict[str, Answer]:
        return dict(answers)

    for module in (reconciler, copies, elsewhere):
        patch.setattr(module, "confirmed", believed)


def _the_stale_copy_is_suspended_unseen(patch: Patch) -> None:
    """And the one that seems stale is suspended without another look."""
    _twice_is_believed_at_once(patch)

    def suspend(self: StaleCopies, hosts: Hosts, entry: JournalEntry, stale: str) -> None:
        hosts.suspend(stale, entry.move.uuid)
        self._suspended[entry.id] = stale

    patch.setattr(StaleCopies, "_suspend", suspend)


def _looks_are_waited_for(patch: Patch) -> None:
    """A cycle waits until the hosts of its moves have said what they would refuse."""
    patch.setattr(inventory, "_MOST_WAIT_SECONDS", 60.0)
    patch.setattr(cycle_module, "_MOST_ASKING_SECONDS", 60.0)


def _what_a_host_lacked_it_lacks(patch: Patch) -> None:
    """A host is believed for an hour to lack what it lacked at a look."""
    patch.setattr(Inventory, "look_soon", lambda _self, _hosts: None)


def _failures_teach_nothing(patch: Patch) -> None:
    """What libvirt refused is planned again in the next cycle."""

    def none(_connection: Connection, _now: float, _broken: list[str]) -> tuple[FailedAttempts, ...]:
        return ()

    patch.setattr(learned, "_attempts", none)


def _what_could_not_be_made_is_deleted(patch: Patch) -> None:
    """A volume that is there already counts as one that the balancer has created."""
    request = Migrator.request

    def careless(self: Migrator, move: Move, *given: Any) -> Requested:
        return replace(request(self, move, *given), made_room=tuple(one.path for one in move.copies))

    patch.setattr(Migrator, "request", careless)


def _an_abort_is_an_end(patch: Patch) -> None:
    """A migration that was to be aborted has failed, whether libvirt has ended it or not."""
    settle = Reconciler.settle

    def hasty(self: Reconciler, entry: JournalEntry) -> MigrationOutcome | StillOpen:
        requested = self._requested.get(entry.id)
        if requested is not None and requested.why and ("abort" in requested.why or "longer than" in requested.why):
            outcome = MigrationOutcome(result=Result.FAILED, why=requested.why)
            self.end(entry.id, entry.move, outcome)
            return outcome
        return settle(self, entry)

    patch.setattr(Reconciler, "settle", hasty)


def _acts_need_no_lead(patch: Patch) -> None:
    """A balancer that was deposed goes on acting on hosts."""
    patch.setattr(Store, "check_newest", lambda _self, _id: None)
    patch.setattr(Leadership, "why_not", _always_leads(Leadership.why_not))


def _always_leads(why_not: Callable[[Leadership, Store], str | None]) -> Callable[[Leadership, Store], str | None]:
    def once(self: Leadership, store: Store) -> str | None:
        return None if self.leads else why_not(self, store)

    return once


def _what_no_one_makes_stays(patch: Patch) -> None:
    """A move that is in the journal, and that this process does not know, is left open."""
    end = Reconciler.end

    def only_begun(self: Reconciler, migration_id: int, move: Move, outcome: MigrationOutcome) -> None:
        if outcome is not NOT_BEGUN:
            end(self, migration_id, move, outcome)

    patch.setattr(Reconciler, "end", only_begun)


OF_HOSTS: Sequence[Mutant] = (
    Mutant("twice is believed at once", _twice_is_believed_at_once, ("administrator-insists",), 4, "and does not"),
    Mutant(
        "the only copy is suspended",
        _the_stale_copy_is_suspended_unseen,
        ("administrator-insists",),
        4,
        "runs nowhere else",
    ),
    Mutant("looks are waited for", _looks_are_waited_for, ("destination-facts-slow",), 27, "a turn took"),
    Mutant(
        "what a host lacked it lacks",
        _what_a_host_lacked_it_lacks,
        ("destination-qemu-killed", "exporter-empty", "destination-facts-wrong"),
        930641,
        "was not finished",
    ),
    Mutant("failures teach nothing", _failures_teach_nothing, ("host-unfit",), 7, "was not finished"),
    Mutant(
        "what could not be made is deleted",
        _what_could_not_be_made_is_deleted,
        ("facts-old", "storage-taken"),
        2,
        "which the balancer has not made",
    ),
    Mutant("an abort is an end", _an_abort_is_an_end, ("aborts-refused",), 0, "has ended it"),
    Mutant(
        "acts need no lead", _acts_need_no_lead, ("balancer-lock-removed", "aborts-late"), 1, "another balancer acts"
    ),
    Mutant("what no one makes stays", _what_no_one_makes_stays, ("store-in-doubt",), 10, "has no end"),
)
