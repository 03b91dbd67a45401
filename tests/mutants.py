"""The faults V1 to V9 of the first months, put back into today's code one at a time, and guards that are taken away.

The campaign must find each.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from prometheus_client import Metric
from sqlalchemy import Connection, select, update

from virtpoise_balancer.analyse import others
from virtpoise_balancer.analyse.silence import Silence
from virtpoise_balancer.control import cycle as cycle_module
from virtpoise_balancer.control.cycle import Cycle, Report
from virtpoise_balancer.control.decide import Situation, why_not_now
from virtpoise_balancer.errors import MonitorError
from virtpoise_balancer.execute import reach
from virtpoise_balancer.execute import reconciler as reconciler_module
from virtpoise_balancer.execute.copies import Copies
from virtpoise_balancer.execute.executor import InFlight, LibvirtExecutor
from virtpoise_balancer.execute.facts import Presence
from virtpoise_balancer.execute.reach import Reach
from virtpoise_balancer.execute.reconciler import Reconciler
from virtpoise_balancer.execute.verdict import Arrived, StillOpen, Verdict, reconcile
from virtpoise_balancer.knowledge import brakes, journal, learned, overrides, redating
from virtpoise_balancer.knowledge.records import Overrides
from virtpoise_balancer.knowledge.schema import migrations, predictions
from virtpoise_balancer.knowledge.store import Store
from virtpoise_balancer.model import (
    DomainState,
    JournalEntry,
    MigrationOutcome,
    Move,
    Policy,
    Progress,
    Residual,
    Result,
    Role,
    Snapshot,
    UnsettledKind,
    Written,
)
from virtpoise_balancer.monitor import doubt, observe
from virtpoise_balancer.plan.default.group import Group
from virtpoise_balancer.service.roster import Roster
from virtpoise_balancer.web.metrics import _StateCollector
from virtpoise_lab.campaign.beside import BESIDE, FIRST
from virtpoise_lab.campaign.hosts import ModelHosts
from virtpoise_lab.campaign.prometheus import ModelClient

Patch = pytest.MonkeyPatch


@dataclass(frozen=True)
class Mutant:
    """``faults``, ``seed`` and ``groups``: of a run that finds it. ``found``: a part of that run's violation."""

    name: str
    put_back: Callable[[Patch], None]
    faults: tuple[str, ...]
    seed: int
    found: str
    groups: int | None = None


def _twice_is_not_seen(patch: Patch) -> None:
    """V1: a domain that runs on both hosts is a failure with nothing to do."""

    def blind(
        entry: JournalEntry, job: Any, here: Any, there: Any, *rest: Any, **more: Any
    ) -> Verdict | StillOpen | Arrived:
        if here is Presence.RUNNING:
            there = Presence.ABSENT
        return reconcile(entry, job, here, there, *rest, **more)

    patch.setattr(reconciler_module, "reconcile", blind)
    patch.setattr(Copies, "unsettled", lambda _self: ())


def _a_job_is_no_obstacle(patch: Patch) -> None:
    """V2: a verdict while the job runs on."""

    def hasty(
        entry: JournalEntry, job: Any, here: Any, there: Any, *rest: Any, **more: Any
    ) -> Verdict | StillOpen | Arrived:
        between = here is Presence.MIGRATING or there is Presence.MIGRATING
        if between or job is not None:
            return Verdict(result=Result.FAILED, places=f"{here} here, {there} there")
        return reconcile(entry, job, here, there, *rest, **more)

    patch.setattr(reconciler_module, "reconcile", hasty)


def _an_end_is_not_kept(patch: Patch) -> None:
    """V3: what cannot be written ends the thread, with its entry in hand."""

    def end(self: Reconciler, migration_id: int, move: Any, outcome: MigrationOutcome) -> None:
        self.on_end(move, outcome)
        self.journal.end(migration_id, outcome)

    patch.setattr(Reconciler, "end", end)
    patch.setattr(Reconciler, "release", lambda _self, _id: None)


def _moves_begin_without_a_store(patch: Patch) -> None:
    """V3: without a store moves go on."""
    begin = Store.begin

    def careless(self: Store, migration_id: int) -> float:
        try:
            return begin(self, migration_id)
        except Exception:
            return self.clock.now()

    patch.setattr(Store, "begin", careless)
    patch.setattr(Store, "check_open", lambda _self, _id: None)
    patch.setattr(Reconciler, "can_write", property(lambda _self: True))


def _a_cycle_waits_for_hosts(patch: Patch) -> None:
    """V4: while a host of an open migration hangs, the whole group stands still."""
    patch.setattr(Reconciler, "_begin_to_ask", lambda self, entry: self._ask_beside(entry))


def _asked_only_once(patch: Patch) -> None:
    """V5: an entry without an end is not looked up again."""
    begin = Reconciler._begin_to_ask

    def once(self: Reconciler, entry: JournalEntry) -> None:
        asked = vars(Reconciler).get("asked_of_test")
        assert isinstance(asked, set)
        if (id(self), entry.id) not in asked:
            asked.add((id(self), entry.id))
            begin(self, entry)

    patch.setattr(Reconciler, "asked_of_test", set(), raising=False)
    patch.setattr(Reconciler, "_begin_to_ask", once)


def _a_sample_ends_a_loss(patch: Patch) -> None:
    """V6: a lost domain counts as found when Prometheus shows it running, by a sample from before."""
    run = Cycle.run

    def trusting(self: Cycle, now: float, *early: Any) -> Report:
        report = run(self, now, *early)
        if report.observation is not None:
            domains = report.observation.snapshot.domains
            running = {one.uuid for one in domains if one.state is DomainState.RUNNING}
            for entry in self.store.watched():
                if entry.lost and entry.move.uuid in running:
                    self.store.acknowledge(entry.move.uuid, "seen")
        return report

    patch.setattr(Cycle, "run", trusting)


def _attempts_share_a_key(patch: Patch) -> None:
    """V7: an end is that of all attempts of the domain."""
    end = journal.end

    def shared(connection: Connection, migration_id: int, outcome: MigrationOutcome, now: float) -> Any:
        written = end(connection, migration_id, outcome, now)
        uuid = connection.scalar(select(migrations.c.uuid).where(migrations.c.id == migration_id))
        others = update(migrations).where(migrations.c.uuid == uuid, migrations.c.result.is_not(None))
        connection.execute(others.values(result=outcome.result.value))
        return written

    patch.setattr(journal, "end", shared)


def _an_error_is_an_end(patch: Patch) -> None:
    """V7: any error after the request for a migration is a failure at once."""
    settle = Reconciler.settle

    def hasty(self: Reconciler, entry: JournalEntry) -> MigrationOutcome | StillOpen:
        requested = self._requested.get(entry.id)
        if requested is not None and requested.why:
            outcome = MigrationOutcome(result=Result.FAILED, why=requested.why)
            self.end(entry.id, entry.move, outcome)
            return outcome
        return settle(self, entry)

    patch.setattr(Reconciler, "settle", hasty)


def _a_silent_host_is_empty(patch: Patch) -> None:
    """V8: a host whose list of domains contradicts libvirt's count is idle, and a destination."""
    patch.setattr(doubt, "of_lists", lambda _lists, _replaced: None)
    patch.setattr(Reach, "silence", lambda _self: Silence())


def _the_time_begins_anew(patch: Patch) -> None:
    """V9: how long a migration has taken is counted from when it was last looked at."""
    in_flight = LibvirtExecutor.in_flight

    def anew(self: LibvirtExecutor) -> tuple[InFlight, ...]:
        found: Sequence[InFlight] = in_flight.fget(self)  # type: ignore[attr-defined]
        return tuple(replace(one, began=self.reconciler.clock.now()) for one in found)

    patch.setattr(LibvirtExecutor, "in_flight", property(anew))


def _an_end_is_not_written(patch: Patch) -> None:
    """An entry whose migration was not made never gets an end."""
    end = journal.end

    def only_done(connection: Connection, migration_id: int, outcome: MigrationOutcome, now: float) -> Written:
        return end(connection, migration_id, outcome, now) if outcome.result is Result.DONE else Written.NOTHING

    patch.setattr(journal, "end", only_done)


def _what_was_ended_begins(patch: Patch) -> None:
    """A balancer that leads again begins what another one has ended."""

    def begin(connection: Connection, migration_id: int, now: float, term: int | None) -> None:
        of_id = update(migrations).where(migrations.c.id == migration_id)
        connection.execute(of_id.values(began=now, term=term))

    patch.setattr(journal, "begin", begin)
    patch.setattr(journal, "check_open", lambda _connection, _id: None)


def _a_release_counts_by_its_date(patch: Patch) -> None:
    """What was dated while the clock was ahead is later than any release."""
    patch.setattr(redating, "redate_before_release", lambda *_: None)
    patch.setattr(redating, "redate", lambda *_: None)


def _each_group_has_the_hosts_of_all(patch: Patch) -> None:
    def all_hosts(client: ModelClient) -> tuple[str, ...]:
        return tuple(sorted(client.server.world.machines))

    patch.setattr(ModelClient, "_hosts", all_hosts)
    patch.setattr(Roster, "shared", lambda _roster, _group: {})


def _orders_are_those_of(group: str) -> Callable[[Patch], None]:
    """What a person ordered for one group holds for each."""

    def put_back(patch: Patch) -> None:
        read = overrides.read
        patch.setattr(overrides, "read", lambda connection, _group, broken: read(connection, group, broken))

    return put_back


def _a_brake_is_that_of_any_group(patch: Patch) -> None:
    newest = brakes.newest
    patch.setattr(brakes, "newest", lambda connection, _group, broken: newest(connection, BESIDE, broken))


def _a_group_that_fails_ends_the_turn(patch: Patch) -> None:
    """A bad selector of one group fails the look at all."""

    def keep_up(_roster: Roster, ask: Mapping[str, Callable[[], frozenset[str]]]) -> None:
        if not all(members() for members in ask.values()):
            raise MonitorError("no host is scraped")

    patch.setattr(Roster, "keep_up", keep_up)


def _a_turn_fails_now_and_then(patch: Patch) -> None:
    """A turn fails by a fault of the code. The next one goes on, and the task is finished."""
    keep_up, turns = Roster.keep_up, itertools.count()

    def fail(roster: Roster, *asked: Any, **options: Any) -> None:
        if next(turns) % 3 == 0:
            raise RuntimeError("cannot switch to a different thread")
        keep_up(roster, *asked, **options)

    patch.setattr(Roster, "keep_up", fail)


class _Questions(dict[str, Any]):
    """Takes any number of questions to one host."""

    def get(self, _host: str, _default: Any = None) -> Any:
        return None

    def __setitem__(self, host: str, answered: Any) -> None:
        self.setdefault(host, []).append(answered)

    def pop(self, host: str, *_default: Any) -> Any:
        return self[host].pop(0)


def _questions_pile_up(patch: Patch) -> None:
    """V9: a host that hangs is asked again by a further thread in each cycle."""
    begin = Reach._begin

    def again(self: Reach, hosts: Any) -> Any:
        if not isinstance(self._under_way, _Questions):
            self._under_way = _Questions()
        return begin(self, hosts)

    patch.setattr(Reach, "_begin", again)
    patch.setattr(reach, "_AGAIN_SECONDS", 0.0)


def _orders_are_not_read_again(patch: Patch) -> None:
    """A pause or a changed mode does not end what has not begun."""

    def deaf(situation: Situation, move: Move, *, ordered: bool) -> str | None:
        memory = replace(situation.memory, orders=replace(situation.memory.orders, overrides=Overrides()))
        unheard = replace(situation, memory=memory, standing=replace(situation.standing, held=None))
        return why_not_now(unheard, move, ordered=ordered)

    patch.setattr(cycle_module, "why_not_now", deaf)


def _destinations_are_filled(patch: Patch) -> None:
    """All goes to the fullest host that is known, beyond its threshold."""
    init, takers = Group.__init__, vars(Group)["takers"].fget

    def only_the_fullest(self: Group) -> Any:
        mask = takers(self)
        use = np.where(~mask | np.isinf(self.use[0]), -1.0, self.use[0])
        return mask & (np.arange(len(mask)) == use.argmax())

    patch.setattr(Group, "takers", property(only_the_fullest))

    def generous(self: Group, snapshot: Snapshot, policy: Policy) -> None:
        init(self, snapshot, policy)
        assert isinstance(self.overloads, tuple)  # found by the true limit
        self.limit = self.limit * 2

    patch.setattr(Group, "__init__", generous)


def _nothing_is_moved(patch: Patch) -> None:
    """Each move is skipped."""
    patch.setattr(LibvirtExecutor, "_make_one", lambda self, id_, move: self._skip(id_, move, "not today"))


def _an_alert_has_no_figure(patch: Patch) -> None:
    """The page shows a domain that runs twice, and no alert can."""
    counted = _StateCollector._unaccounted

    def empty(self: _StateCollector) -> Metric:
        family = counted(self)
        family.samples = [sample._replace(value=0.0) for sample in family.samples]
        return family

    patch.setattr(_StateCollector, "_unaccounted", empty)


def _half_way_is_merely_unknown(patch: Patch) -> None:
    """A domain that stands between its hosts, where no job takes it on, has no alert of its own."""

    def vague(*given: Any, **more: Any) -> Verdict | StillOpen | Arrived:
        found = reconcile(*given, **more)
        if isinstance(found, StillOpen) and found.kind is UnsettledKind.BETWEEN:
            return replace(found, kind=UnsettledKind.UNKNOWN)
        return found

    patch.setattr(reconciler_module, "reconcile", vague)


def _any_job_is_a_migration(patch: Patch) -> None:
    """A person's backup is taken for the migration that failed before, and may be aborted."""
    progress = ModelHosts.progress

    def any_job(self: ModelHosts, host: str, uuid: str) -> Progress | None:
        since = self.world.machines[host].backups.get(uuid)
        if since is None:
            return progress(self, host, uuid)
        return Progress(
            elapsed_seconds=self.world.kernel.at - since, total_bytes=9, processed_bytes=1, remaining_bytes=8
        )

    patch.setattr(ModelHosts, "progress", any_job)


def _one_that_does_not_act_shows_migrations(patch: Patch) -> None:
    """A balancer that was deposed goes on watching what it had under way."""
    made = LibvirtExecutor.__post_init__

    def always(self: LibvirtExecutor) -> None:
        self.leads = lambda: True
        made(self)

    patch.setattr(LibvirtExecutor, "__post_init__", always)


def _silence_is_not_heard(patch: Patch) -> None:
    """A host that the balancer does not reach is shown as one that answers."""
    answers = Reach.answers
    patch.setattr(Reach, "answers", lambda self: {host: replace(one, why="") for host, one in answers(self).items()})


def _an_old_sample_counts(patch: Patch) -> None:
    """A domain that a sample shows on the source of a move, from before its end, was migrated back."""
    patch.setattr(others._Journal, "may_be_outdated", lambda _self, *_seen: False)


def _a_stuck_exporter_is_believed(patch: Patch) -> None:
    """A domain that an exporter shows on the source long after its move is there."""
    patch.setattr(others._Journal, "has_left", lambda _self, *_seen: False)


def _any_load_is_measured(patch: Patch) -> None:
    """A prediction is measured by whatever Prometheus answers, and teaches it."""
    measured = select(predictions).where(predictions.c.verdict == "measured", predictions.c.spread > 0)

    def residuals(connection: Connection, _broken: list[str]) -> tuple[Residual, ...]:
        return tuple(
            Residual(role=Role(row.role), saturated=row.saturated, error_ratio=row.error, spread_ratio=row.spread)
            for row in connection.execute(measured)
        )

    patch.setattr(observe, "is_ratio", math.isfinite)
    patch.setattr(learned, "_residuals", residuals)


MUTANTS = (
    Mutant("V1 a domain that runs twice is not seen", _twice_is_not_seen, ("destination-stopped",), 10, "no alert"),
    Mutant("V2 a verdict while the job runs", _a_job_is_no_obstacle, ("source-stopped",), 10, "journal"),
    Mutant("V3 an end that cannot be written is not kept", _an_end_is_not_kept, ("store-full",), 1, "open"),
    Mutant(
        "V3 moves begin without a store", _moves_begin_without_a_store, ("store-full",), 83, "journal does not have"
    ),
    Mutant(
        "V4 a cycle waits for hosts", _a_cycle_waits_for_hosts, ("source-stopped", "balancer-killed"), 10, "a turn took"
    ),
    Mutant("V5 an open entry is asked about once", _asked_only_once, ("source-stopped",), 10, "still open"),
    Mutant("V5 an end is not written", _an_end_is_not_written, ("source-daemon-killed",), 10887, "has no end"),
    Mutant(
        "what was ended begins",
        _what_was_ended_begins,
        ("balancer-lock-removed", "balancer-killed"),
        337,
        "journal does not have",
    ),
    Mutant(
        "a release counts by its date",
        _a_release_counts_by_its_date,
        ("clock-stepped", "prometheus-blind"),
        610898,
        "the brake was released, and is still on",
    ),
    Mutant("V6 an older sample ends a loss", _a_sample_ends_a_loss, ("source-qemu-killed",), 1, "no alert"),
    Mutant("V7 attempts share a key", _attempts_share_a_key, ("source-stopped",), 2, "but was on"),
    Mutant("V7 an error is an end", _an_error_is_an_end, ("source-stopped",), 10, "journal"),
    Mutant(
        "V8 a silent host counts as empty", _a_silent_host_is_empty, ("emptiest-daemon-killed",), 17, "long been silent"
    ),
    Mutant("orders are not read again", _orders_are_not_read_again, ("person-pauses",), 1, "against a person's order"),
    Mutant("destinations are filled", _destinations_are_filled, ("administrator-suspends",), 14, "pushed over"),
    Mutant("nothing is moved", _nothing_is_moved, ("administrator-suspends",), 0, "the task was not finished"),
    Mutant(
        "an alert has no figure",
        _an_alert_has_no_figure,
        ("destination-stopped",),
        10,
        "VirtpoiseDomainRunningTwice does not fire",
    ),
    Mutant("an old sample counts", _an_old_sample_counts, ("source-stopped",), 400402, "taken for another's"),
    Mutant(
        "a stuck exporter is believed",
        _a_stuck_exporter_is_believed,
        ("hosts-apart", "exporter-stuck", "source-stopped"),
        600996,
        "taken for another's",
    ),
    Mutant("any load is measured", _any_load_is_measured, ("exporter-lying",), 406930, "the task was not finished"),
    Mutant(
        "any job is a migration",
        _any_job_is_a_migration,
        ("administrator-backs-up",),
        1,
        "is taken for its migration",
    ),
    Mutant(
        "one that does not act shows migrations",
        _one_that_does_not_act_shows_migrations,
        ("balancer-lock-removed",),
        1,
        "does not act, and shows",
    ),
    Mutant(
        "half way is merely unknown",
        _half_way_is_merely_unknown,
        ("source-daemon-killed",),
        36,
        "stands half way on h1, and no alert says so",
    ),
    Mutant("silence is not heard", _silence_is_not_heard, ("source-away",), 10, "no alert says so"),
    Mutant(
        "V9 the time of a migration starts over", _the_time_begins_anew, ("bystander-stopped",), 1, "not the journal's"
    ),
    Mutant("V9 questions pile up", _questions_pile_up, ("bystander-stopped",), 6, "two threads"),
    Mutant("a group has the hosts of another", _each_group_has_the_hosts_of_all, (), 1, "of another group", 2),
    Mutant("a pause of one group pauses all", _orders_are_those_of(BESIDE), (), 1, "was not finished", 2),
    Mutant("a pause of one group is none", _orders_are_those_of(FIRST), (), 1, "stands still", 2),
    Mutant("a brake of one group brakes all", _a_brake_is_that_of_any_group, (), 0, "is still on", 2),
    Mutant("a group that fails holds up all", _a_group_that_fails_ends_the_turn, (), 5, "was not finished", 2),
    Mutant("a turn fails now and then", _a_turn_fails_now_and_then, (), 5, "unforeseen: RuntimeError", 2),
)
