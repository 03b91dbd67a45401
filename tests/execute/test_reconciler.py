"""The journal and the world agree in the end, whatever fails between: on hosts that are a state machine, in virtual
time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError
from structlog.testing import capture_logs

from builders import FakeClock
from storing import record
from virtpoise_balancer.errors import Deposed, LibvirtError
from virtpoise_balancer.execute.accounts import LibvirtAccounts
from virtpoise_balancer.execute.copies import Copies, SeenTwice
from virtpoise_balancer.execute.executor import LibvirtExecutor
from virtpoise_balancer.execute.facts import Presence
from virtpoise_balancer.execute.migrate import Migrator
from virtpoise_balancer.execute.reconciler import Reconciler
from virtpoise_balancer.knowledge.records import MigrationRecord
from virtpoise_balancer.knowledge.store import Store
from virtpoise_balancer.model import (
    Cause,
    DiskCopy,
    MigrationOutcome,
    Move,
    Plan,
    PredictedLoads,
    Prediction,
    Progress,
    Result,
    UnsettledKind,
)
from virtpoise_lab.campaign.machines import Machine
from virtpoise_lab.campaign.migration import Step, migrate
from worlds import World

LOADS = PredictedLoads(source=Prediction.exact(0.5), destination=Prediction.exact(0.5))
GROUP = ("h1", "h2", "h3", "h4")
STEP_SECONDS = 10.0


def move(domain: str, source: str, destination: str, wave: int = 0) -> Move:
    return Move(domain=domain, uuid=domain, source=source, destination=destination, predicted=LOADS, wave=wave)


@dataclass
class Balancer:
    """What starts, asks and writes, without what plans. A new one over the same store is what a restart leaves."""

    world: World
    store: Store
    ended: list[tuple[str, Result]] = field(default_factory=list)
    causes: list[Cause | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        hosts, clock, threads = self.world.hosts, self.world.clock, self.world.threads
        self.reconciler = Reconciler(lambda: hosts, self.store, self.on_end, clock, threads=threads)
        self.accounts = LibvirtAccounts(self.reconciler, Copies(lambda: hosts, threads=threads))
        migrator = Migrator(hosts=hosts, timeout_seconds=600, stop_grace_seconds=5, clock=clock)
        self.executor = LibvirtExecutor(migrator, self.reconciler, lambda _hosts: None, threads=threads)

    def on_end(self, move: Move, outcome: MigrationOutcome) -> None:
        self.ended.append((move.domain, outcome.result))
        self.causes.append(outcome.cause)

    def make(self, *moves: Move, recheck: Callable[[Move], str | None] = lambda _move: None) -> None:
        made = Plan(strategy="default", solved=True, summary="", overloaded=(), moves=moves, refusals=())
        entries = record(self.store, made, self.world.clock.now(), acted=True)
        self.world.do(lambda: self.executor.carry_out(entries, recheck))
        assert self.world.do(lambda: self.executor.wait(20))

    def cycle(self, times: int = 1) -> None:
        for _ in range(times):
            self.world.advance(STEP_SECONDS)
            self.world.do(lambda: self.accounts.keep_up(self.store.watched(), GROUP, {}))
            self.world.do(lambda: self.reconciler.wait(200))
            self.world.do(self.executor.go_on)

    @property
    def held(self) -> dict[str, UnsettledKind]:
        """The hosts that all action is kept off, and why."""
        return {host: one.kind for one in self.accounts.unsettled(self.store.watched()) for host in sorted(one.hosts)}

    @property
    def journal(self) -> list[MigrationRecord]:
        return list(reversed(self.store.history(10)))

    @property
    def results(self) -> list[str | None]:
        return [record.result for record in self.journal]


@pytest.fixture
def world() -> World:
    made = World()
    made.put("a", "h1")
    made.put("b", "h3")
    return made


@pytest.fixture
def balancer(world: World, tmp_path: Path) -> Iterator[Balancer]:
    with closing(Store.open(f"sqlite:///{tmp_path}/state.db", clock=world.clock)) as store:
        yield Balancer(world, store)


class Full:
    """A store that cannot be written for a while."""

    def __init__(self, balancer: Balancer, monkeypatch: pytest.MonkeyPatch) -> None:
        self.yes = False
        for name in ("begin", "end", "reopen"):
            monkeypatch.setattr(balancer.store, name, self._wrap(getattr(balancer.store, name)))

    def _wrap(self, write: Callable[..., object]) -> Callable[..., object]:
        def wrapped(*arguments: object) -> object:
            if self.yes:
                raise OperationalError("UPDATE migrations", None, Exception("database or disk is full"))
            return write(*arguments)

        return wrapped


def test_a_migration_that_nothing_disturbs(balancer: Balancer, world: World) -> None:
    balancer.make(move("a", "h1", "h2"))
    (first,) = balancer.journal
    assert (first.result, first.why) == ("done", "")
    assert first.downtime_seconds == pytest.approx(0.12), "also what the domain waited for its start"
    assert (world.places("a"), balancer.held, balancer.ended) == ({"h2": "running"}, {}, [("a", Result.DONE)])


@pytest.mark.parametrize("seconds", [4.0, 15.0, 26.0, 45.0])
@pytest.mark.parametrize("after", [0.0, 1.0, 9.0, 10.0, 11.0])
@pytest.mark.parametrize("host", ["h1", "h2"])
def test_a_daemon_that_is_stopped_for_a_while(
    balancer: Balancer, world: World, host: str, after: float, seconds: float
) -> None:
    """V2 among them: the source is stopped for 26 s in mid-migration, and the job runs on."""
    world.silence(host, after, seconds)
    balancer.make(move("a", "h1", "h2"))
    balancer.cycle(10)
    (first,) = balancer.journal
    where = world.places("a")
    assert world.ran_twice == set()
    if len(where) == 2:  # a copy is left on the destination that never ran (V1)
        assert where == {"h1": "running", "h2": "paused"}
        assert (first.result, balancer.held) == (None, dict.fromkeys(("h1", "h2"), UnsettledKind.TWICE))
    else:
        assert where == ({"h2": "running"} if first.result == "done" else {"h1": "running"})
        assert (first.result is None, balancer.held) == (False, {})


def test_a_job_that_its_source_does_not_report_any_more_runs_on_without_a_verdict(
    balancer: Balancer, world: World
) -> None:
    """After the silence no job is reported, and the domain waits on the destination and arrives."""
    world.copy_takes(160.0)
    world.silence("h1", 16.0, 32.0)
    world.after(16.0, lambda: world.answering.jobless.add("h1"))
    balancer.make(move("a", "h1", "h2"))
    balancer.cycle(2)
    assert world.places("a") == {"h1": "running", "h2": "migrating"}
    assert (balancer.results, set(balancer.held)) == ([None], {"h1", "h2"})
    balancer.cycle(12)
    assert (balancer.results, world.places("a")) == (["done"], {"h2": "running"})


def test_a_second_copy_keeps_both_hosts_still_until_it_is_gone_and_is_suspended_as_soon_as_it_runs(
    balancer: Balancer, world: World
) -> None:
    world.on[Step.FINISH] = lambda: world.silence("h2", 0.0, 45.0)
    balancer.make(move("a", "h1", "h2"))
    balancer.cycle(6)
    assert (world.places("a"), world.ran_twice) == ({"h1": "running", "h2": "paused"}, set())
    assert balancer.held == dict.fromkeys(("h1", "h2"), UnsettledKind.TWICE)
    assert balancer.executor.in_flight == ()
    world.put("a", "h2")  # someone starts it
    balancer.cycle()
    assert world.places("a") == {"h1": "running", "h2": "paused"}
    (one,) = balancer.accounts.unsettled(balancer.store.watched())
    assert one.kind is UnsettledKind.TWICE
    assert "On h1: running, 3 s of CPU time" in one.text
    assert one.text.endswith("The copy on h2 is stale, and was suspended")
    world.put("a", "h2", Presence.ABSENT)  # a person destroys it
    balancer.cycle()
    assert (balancer.results, balancer.held, world.places("a")) == (["failed"], {}, {"h1": "running"})


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize(
    "ended", [Presence.SHUT_OFF, Presence.DESTROYED, Presence.DEFINED, Presence.ABSENT], ids=lambda one: one.name
)
def test_a_copy_that_was_left_is_not_started_when_the_domain_ends_on_its_source(
    balancer: Balancer, world: World, ended: Presence, restarted: bool
) -> None:
    """The domain had gone on there: its disks are not those that the copy remembers."""
    world.on[Step.FINISH] = lambda: world.silence("h2", 0.0, 45.0)
    balancer.make(move("a", "h1", "h2"))
    balancer.cycle(6)
    assert world.places("a") == {"h1": "running", "h2": "paused"}
    again = Balancer(world, balancer.store) if restarted else balancer
    world.put("a", "h1", ended)
    again.cycle(3)
    assert world.places("a")["h2"] == "paused"
    assert world.model.harm == []
    (one,) = again.accounts.unsettled(again.store.watched())
    assert (one.kind, one.hosts) == (UnsettledKind.WAITING, ("h1", "h2"))


def test_the_campaign_sees_a_start_from_a_memory_older_than_the_disks(world: World) -> None:
    world.put("a", "h2", Presence.PAUSED)
    world.put("a", "h1", Presence.ABSENT)
    world.do(lambda: world.hosts.resume("h2", "a"))
    assert world.model.harm == ["a was started on h2 from a memory older than its disks"]


def test_a_copy_that_was_left_is_not_started_while_the_domain_runs_on_a_third_host(
    balancer: Balancer, world: World
) -> None:
    """While no balancer ran, it had gone on at its source, and an administrator migrated it on from there."""
    world.on[Step.FINISH] = lambda: world.silence("h2", 0.0, 45.0)
    balancer.make(move("a", "h1", "h2"))
    world.go_on()
    world.advance(45.0)
    world.put("a", "h1", Presence.ABSENT)
    world.put("a", "h4")
    again = Balancer(world, balancer.store)
    again.cycle(3)
    assert (world.places("a"), world.ran_twice) == ({"h2": "paused", "h4": "running"}, set())
    assert again.held == dict.fromkeys(("h1", "h2", "h4"), UnsettledKind.TWICE)
    world.put("a", "h2", Presence.ABSENT)
    again.cycle(3)
    assert (again.held, again.results) == ({}, ["failed"])


def test_a_copy_that_someone_starts_after_a_failure_is_suspended_each_time(balancer: Balancer, world: World) -> None:
    world.after(3.0, lambda: world.abort("a"))
    balancer.make(move("a", "h1", "h2"))
    assert balancer.results == ["failed"]
    for _ in range(2):
        world.put("a", "h2")
        balancer.cycle()
        assert world.places("a") == {"h1": "running", "h2": "paused"}
        assert balancer.held == dict.fromkeys(("h1", "h2"), UnsettledKind.TWICE)
    world.put("a", "h2", Presence.ABSENT)
    balancer.cycle(4)
    assert (balancer.results, balancer.held) == (["failed"], {})


def test_copies_of_which_none_is_proven_to_be_stale_are_left_as_they_are(balancer: Balancer, world: World) -> None:
    """A restarted balancer does not know whether the earlier one had started the domain on its destination."""
    world.on[Step.FINISH] = lambda: world.silence("h2", 0.0, 45.0)
    balancer.make(move("a", "h1", "h2"))
    world.go_on()
    world.advance(1.0)
    world.put("a", "h2")
    again = Balancer(world, balancer.store)
    again.cycle(3)
    assert world.places("a") == {"h1": "running", "h2": "running"}
    assert again.held == dict.fromkeys(("h1", "h2"), UnsettledKind.TWICE)


def test_a_request_from_while_the_clock_was_ahead_is_not_waited_for_until_then(
    balancer: Balancer, world: World
) -> None:
    plan = Plan(strategy="default", solved=True, summary="", overloaded=(), moves=(move("a", "h1", "h2"),), refusals=())
    ((migration_id, _),) = record(balancer.store, plan, world.clock.now(), acted=True)
    balancer.store.clock = FakeClock(at=world.clock.now() + 1e6)
    balancer.store.begin(migration_id)
    balancer.store.clock = world.clock
    again = Balancer(world, balancer.store)
    again.cycle(2)
    assert again.results == [None], "it may still begin"
    again.cycle(4)
    assert (again.results, again.held) == (["failed"], {})


def test_a_domain_that_waits_on_its_destination_is_started_by_the_next_balancer(
    balancer: Balancer, world: World
) -> None:
    """The one that asked for the migration was killed in between."""
    plan = Plan(strategy="default", solved=True, summary="", overloaded=(), moves=(move("a", "h1", "h2"),), refusals=())
    ((migration_id, _),) = record(balancer.store, plan, world.clock.now(), acted=True)
    balancer.store.begin(migration_id)
    with world.hosts.migration("a", "h1", "h2", None):
        world.advance(10.0 + 5.0)
    assert world.places("a") == {"h2": "paused"}
    again = Balancer(world, balancer.store)
    world.stop("h2")
    again.cycle(2)
    assert (again.results, world.places("a")) == ([None], {"h2": "paused"}), "it cannot be started yet"
    world.go_on()
    again.cycle(2)
    assert (again.results, world.places("a"), world.ran_twice) == (["done"], {"h2": "running"}, set())


def test_a_domain_that_anyone_starts_twice_is_found_out_by_what_prometheus_sees_and_libvirt_confirms(
    balancer: Balancer, world: World
) -> None:
    seen = {"a": SeenTwice("a", ("h1", "h4"))}

    def look(seen: dict[str, SeenTwice]) -> dict[str, UnsettledKind]:
        world.do(lambda: balancer.accounts.keep_up((), GROUP, seen))
        world.do(lambda: balancer.accounts.copies.wait(200))
        return balancer.held

    assert look(seen) == {}, "libvirt denies it: one of the samples is old"
    world.put("a", "h4")
    assert look(seen) == {"h1": UnsettledKind.TWICE, "h4": UnsettledKind.TWICE}
    assert look({}) == {"h1": UnsettledKind.TWICE, "h4": UnsettledKind.TWICE}, "Prometheus may lose sight of it"
    (one,) = balancer.accounts.unsettled(())
    assert one.text.endswith("at once. On h1: running, 3 s of CPU time; On h4: running, 3 s of CPU time")
    assert world.places("a") == {"h1": "running", "h4": "running"}, "no journal proves that one of them is stale"
    world.stop("h4")
    assert look(seen) == {"h1": UnsettledKind.UNKNOWN, "h4": UnsettledKind.UNKNOWN}
    world.go_on()
    world.put("a", "h4", Presence.ABSENT)
    assert look({}) == {}


def test_samples_from_before_our_migration_keep_no_host_from_being_acted_on_but_what_libvirt_answers_does(
    balancer: Balancer, world: World
) -> None:
    seen = {"a": SeenTwice("a", ("h1", "h4"), expected=True)}
    world.stop("h4")
    world.do(lambda: balancer.accounts.keep_up((), GROUP, seen))
    assert balancer.held == {}, "the hosts have not answered yet"
    world.do(lambda: balancer.accounts.copies.wait(200))
    assert balancer.held == {"h1": UnsettledKind.UNKNOWN, "h4": UnsettledKind.UNKNOWN}
    world.go_on()
    world.put("a", "h4")
    world.do(lambda: balancer.accounts.keep_up((), GROUP, seen))
    world.do(lambda: balancer.accounts.copies.wait(200))
    assert balancer.held == {"h1": UnsettledKind.TWICE, "h4": UnsettledKind.TWICE}


def test_a_request_that_is_stuck_in_a_stopped_daemon_is_no_failure_for_good(balancer: Balancer, world: World) -> None:
    """The daemon carries it out when it goes on, long after the balancer has given the request up."""
    world.copy_takes(30.0)
    world.on[Step.BEGIN] = lambda: world.silence("h1", 0.0, 60.0)
    balancer.make(move("a", "h1", "h2"))
    assert balancer.results == [None]
    balancer.cycle(12)
    assert (balancer.results, world.places("a")) == (["done"], {"h2": "running"})


def test_a_verdict_that_the_world_contradicts_is_taken_back_and_corrected(balancer: Balancer, world: World) -> None:
    balancer.make(move("a", "h1", "h4"))
    world.put("a", "h1")
    world.put("a", "h4", Presence.ABSENT)
    # as an error would leave it that no one has thought of
    ((entry, _),) = record(
        balancer.store,
        Plan(strategy="default", solved=True, summary="", overloaded=(), moves=(move("a", "h1", "h2"),), refusals=()),
        world.clock.now(),
        acted=True,
    )
    balancer.store.begin(entry)
    balancer.store.end(entry, MigrationOutcome(result=Result.FAILED, why="refused"))
    balancer.cycle()
    assert balancer.journal[1].result == "failed"
    with world.hosts.migration("a", "h1", "h2", None):
        balancer.cycle()
    assert balancer.journal[1].result is None, "the job runs"
    assert balancer.held == {"h1": UnsettledKind.MIGRATING, "h2": UnsettledKind.MIGRATING}
    balancer.cycle(2)
    assert balancer.journal[1].result == "done"
    assert balancer.journal[1].why.startswith("corrected, was failed: refused")
    assert balancer.ended[-1] == ("a", Result.DONE)


def test_a_loss_is_known_soon_while_a_rack_is_dark(
    balancer: Balancer, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    dark = tuple(f"x{number:02d}" for number in range(50))
    for name in dark:
        world.model.machines[name] = Machine(name)
        world.model.stop_daemon(name)
    monkeypatch.setattr(f"{__name__}.GROUP", (*GROUP, *dark))
    left_by_an_earlier_process(balancer, world)
    world.advance(5.0)
    world.ends("a", "h1", Presence.DEFINED)  # its QEMU dies in mid-migration
    began = world.clock.monotonic()
    balancer.cycle()
    assert balancer.held == {"h1": UnsettledKind.NOWHERE, "h2": UnsettledKind.NOWHERE}
    assert world.clock.monotonic() - began <= STEP_SECONDS + 35.0
    assert balancer.journal[0].why.endswith("active on no host; no answer from x00, x01, x02 and 47 more")


def test_an_end_that_cannot_be_written_is_written_later_and_meanwhile_no_move_begins(
    balancer: Balancer, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = Full(balancer, monkeypatch)
    world.after(5.0, lambda: setattr(full, "yes", True))
    balancer.make(move("a", "h1", "h2"))
    balancer.make(move("b", "h3", "h4"))
    assert (world.places("a"), world.places("b")) == ({"h2": "running"}, {"h3": "running"})
    balancer.cycle(3)
    assert balancer.results == [None, None]
    full.yes = False
    balancer.cycle()
    first, second = balancer.journal
    assert (first.result, second.result) == ("done", "skipped")
    assert "the store cannot be written" in second.why
    balancer.make(move("b", "h3", "h4"))
    assert balancer.results[-1] == "done"


def test_a_domain_that_cannot_be_started_where_it_has_arrived_waits_and_is_shown_as_such(
    balancer: Balancer, world: World
) -> None:
    world.model.images_held = True
    balancer.make(move("a", "h1", "h2"))
    balancer.cycle(2)
    (one,) = balancer.accounts.unsettled(balancer.store.watched())
    assert (one.kind, one.hosts, one.unaccounted) == (UnsettledKind.WAITING, ("h1", "h2"), True)
    assert one.text.startswith("a waits on h2 to be started: ")
    assert one.text.endswith('Failed to get "write" lock')
    assert balancer.results == [None]
    world.model.images_held = False
    balancer.cycle()
    assert (balancer.results, balancer.held) == (["done"], {})
    assert world.places("a") == {"h2": "running"}


def test_after_a_restart_only_the_hosts_of_an_open_migration_wait_for_one_that_hangs(
    balancer: Balancer, world: World
) -> None:
    made = Plan(strategy="default", solved=True, summary="", overloaded=(), moves=(move("a", "h1", "h2"),), refusals=())
    ((entry, _),) = record(balancer.store, made, world.clock.now(), acted=True)
    balancer.store.begin(entry)
    world.stop("h2")
    restarted = Balancer(world, balancer.store)
    restarted.cycle()
    assert restarted.held == {"h1": UnsettledKind.UNKNOWN, "h2": UnsettledKind.UNKNOWN}
    assert not restarted.executor.busy
    restarted.make(move("b", "h3", "h4"))
    assert restarted.results == [None, "done"]
    world.go_on()
    restarted.cycle(3)
    assert (restarted.results, restarted.held) == (["failed", "done"], {})


def test_what_an_earlier_process_had_not_begun_is_skipped(balancer: Balancer, world: World) -> None:
    made = Plan(strategy="default", solved=True, summary="", overloaded=(), moves=(move("a", "h1", "h2"),), refusals=())
    record(balancer.store, made, world.clock.now(), acted=True)
    restarted = Balancer(world, balancer.store)
    restarted.cycle()
    assert (restarted.results, world.answering.requests) == (["skipped"], [])


def test_after_an_unforeseen_error_the_world_is_asked_until_it_answers(
    balancer: Balancer, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_off(*_: object) -> None:
        raise ZeroDivisionError("no one has thought of this")

    world.after(4.0, lambda: monkeypatch.setattr(world.answering, "progress", break_off))
    world.after(30.0, monkeypatch.undo)
    with capture_logs() as logged:
        balancer.make(move("a", "h1", "h2"))
        assert balancer.results == [None]
        balancer.cycle(4)
    assert (balancer.results, world.places("a")) == (["done"], {"h2": "running"})
    assert "a request for a migration failed in an unforeseen way" in {one["event"] for one in logged}


@pytest.mark.parametrize("died", [Presence.DEFINED, Presence.DESTROYED])
def test_a_domain_that_dies_on_the_way_is_lost_until_the_world_accounts_for_it(
    balancer: Balancer, world: World, died: Presence
) -> None:
    world.after(5.0, lambda: world.ends("a", "h1", died))
    balancer.make(move("a", "h1", "h2"))
    assert balancer.results == ["failed"]
    balancer.cycle(60)  # no sample is asked, and no time makes it less lost
    assert balancer.held == {"h1": UnsettledKind.NOWHERE, "h2": UnsettledKind.NOWHERE}
    world.put("a", "h3" if died is Presence.DEFINED else "h1")
    world.put("a", "h1", Presence.ABSENT if died is Presence.DEFINED else Presence.RUNNING)
    balancer.cycle()
    assert balancer.held == {}


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize(
    ("ended", "teaches"),
    [(Presence.SHUT_OFF, False), (Presence.DESTROYED, False), (Presence.DEFINED, True)],
    ids=["shut off", "destroyed", "died"],
)
def test_a_domain_that_is_ended_on_its_source_says_nothing_against_its_destination(
    balancer: Balancer, world: World, ended: Presence, teaches: bool, restarted: bool
) -> None:
    """An administrator destroyed it, and started it again. Its host was to be drained, and waited for that pair."""
    if restarted:
        world.copy_takes(1e9)
        left_by_an_earlier_process(balancer, world)
        balancer.cycle()
        world.ends("a", "h1", ended)
        balancer.cycle(5)
    else:
        world.after(5.0, lambda: world.ends("a", "h1", ended))
        balancer.make(move("a", "h1", "h2"))
    assert balancer.results == ["failed"]
    assert (balancer.causes == [Cause.STOPPED]) is not teaches
    learned = balancer.store.recall(moved_since=0, ended_since=0, judged_since=0).learned
    assert bool(learned.attempts) is teaches


def test_a_lost_domain_that_is_started_again_at_once_is_accounted_for_at_once(balancer: Balancer, world: World) -> None:
    """libvirt has answered the request, so that nothing is left that could still begin."""
    world.after(5.0, lambda: world.ends("a", "h1", Presence.DESTROYED))
    balancer.make(move("a", "h1", "h2"))
    world.put("a", "h1")
    balancer.cycle()
    assert (balancer.results, balancer.held) == (["failed"], {})


def test_a_lost_domain_is_settled_by_a_shut_off_on_purpose_or_by_a_person(balancer: Balancer, world: World) -> None:
    world.after(5.0, lambda: world.ends("a", "h1", Presence.DEFINED))
    balancer.make(move("a", "h1", "h2"))
    world.put("a", "h1", Presence.SHUT_OFF)
    balancer.cycle()
    assert balancer.held == {}
    world.after(5.0, lambda: world.ends("b", "h3", Presence.DEFINED))
    balancer.make(move("b", "h3", "h4"))
    balancer.cycle()
    assert set(balancer.held) == {"h3", "h4"}
    assert balancer.store.acknowledge("b", "by alice")
    balancer.cycle()
    assert balancer.held == {}


def test_two_attempts_of_one_domain_are_two(balancer: Balancer, world: World) -> None:
    """h1 falls silent when the domain has left it, and the domain leaves h2 as well, by an order before the first end
    is known.
    """
    world.on[Step.CONFIRM] = lambda: world.silence("h1", 0.0, 200.0)
    balancer.make(move("a", "h1", "h2"))
    assert (balancer.results, world.places("a")) == ([None], {"h1": "migrating", "h2": "paused"})
    world.put("a", "h2")  # a person does not want to wait for h1
    balancer.make(move("a", "h2", "h3"))
    assert balancer.results == [None, "done"]
    balancer.cycle(25)
    assert (balancer.results, world.places("a")) == (["done", "done"], {"h3": "running"})


def test_a_migration_is_as_old_as_the_journal_has_it(balancer: Balancer, world: World) -> None:
    world.silence("h1", 5.0, 1000.0)
    balancer.make(move("a", "h1", "h2"))
    began = balancer.journal[0].began
    restarted = Balancer(world, balancer.store)
    for _ in range(3):
        restarted.cycle()
        assert [flight.began for flight in restarted.executor.in_flight] == [began]


def test_a_definition_that_stays_behind_is_named_and_the_migration_is_done(balancer: Balancer, world: World) -> None:
    world.answering.undefinable.add("h1")
    world.on[Step.CONFIRM] = lambda: world.after(0.16, lambda: world.put("a", "h1", Presence.DEFINED))
    balancer.make(move("a", "h1", "h2"))
    (first,) = balancer.journal
    assert first.result == "done"
    assert first.why == "its definition is still on h1: undefine: cannot undefine domain with nvram"


def test_an_abort_is_an_end_with_its_reason(balancer: Balancer, world: World) -> None:
    world.copy_takes(1e9)
    balancer.make(move("a", "h1", "h2"))
    (first,) = balancer.journal
    assert (first.result, first.why) == ("failed", "aborted: longer than 600 s: running on h1, absent on h2")


def left_by_an_earlier_process(balancer: Balancer, world: World, asked_after: float = 1.0) -> None:
    """Domain a migrates from h1 to h2, and whoever asked for it is gone. The journal has it ``asked_after`` seconds
    before libvirt was asked.
    """
    made = Plan(strategy="default", solved=True, summary="", overloaded=(), moves=(move("a", "h1", "h2"),), refusals=())
    ((migration_id, _),) = record(balancer.store, made, world.clock.now(), acted=True)
    balancer.store.begin(migration_id)
    world.advance(asked_after)
    with world.hosts.migration("a", "h1", "h2", None):
        pass


def test_a_migration_of_an_earlier_process_has_the_same_time_limit(balancer: Balancer, world: World) -> None:
    world.copy_takes(1e9)
    left_by_an_earlier_process(balancer, world)
    balancer.cycle(58)
    assert (balancer.results, world.places("a")["h1"]) == ([None], "running")
    balancer.cycle(4)
    (first,) = balancer.journal
    assert (first.result, first.why) == ("failed", "aborted: longer than 600 s: running on h1, absent on h2")
    assert (balancer.causes, world.places("a")) == ([Cause.SLOW], {"h1": "running"})


@pytest.mark.parametrize("ahead_seconds", [120.0, 1e6])
def test_a_migration_that_began_while_the_clock_was_ahead_has_the_same_time_limit(
    balancer: Balancer, world: World, ahead_seconds: float
) -> None:
    world.copy_takes(1e9)
    balancer.store.clock = FakeClock(at=world.clock.now() + ahead_seconds)
    left_by_an_earlier_process(balancer, world)
    balancer.store.clock = world.clock
    balancer.cycle(62)
    (first,) = balancer.journal
    assert (first.result, first.why) == ("failed", "aborted: longer than 600 s: running on h1, absent on h2")


def test_a_migration_of_an_earlier_process_that_does_not_converge_is_aborted(
    balancer: Balancer, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.copy_takes(1e9)
    progress = world.answering.progress

    def look(host: str, uuid: str) -> Progress | None:
        found = progress(host, uuid)
        # Two passes a second. Each leaves as much as the one before.
        passes = 0 if found is None else int(found.elapsed_seconds * 2)
        return found and replace(found, passes=passes, remaining_bytes=50, dirty_bytes_per_second=1e6)

    monkeypatch.setattr(world.answering, "progress", look)
    left_by_an_earlier_process(balancer, world)
    balancer.cycle(5)
    (first,) = balancer.journal
    assert first.result == "failed"
    assert first.why.startswith("aborted: it does not converge: each of the last ")
    assert (balancer.causes, world.places("a")) == ([Cause.SLOW], {"h1": "running"})


def test_a_migration_of_an_earlier_process_follows_the_windows_of_its_bandwidth(
    balancer: Balancer, world: World
) -> None:
    world.copy_takes(1e9)
    began = world.clock.now()
    limited = replace(balancer.executor.migrator, bandwidth=lambda at: 50 if 100 <= at - began < 200 else None)
    balancer.executor.migrator = limited
    left_by_an_earlier_process(balancer, world)
    for limits in ([None], [None, 50], [None, 50, None]):
        balancer.cycle(9)
        assert world.answering.bandwidths == limits


@pytest.mark.parametrize(("cycles", "copy_seconds"), [(1, None), (3, None), (3, 33.0)])
def test_when_the_balancer_ends_a_migration_of_an_earlier_process_ends_like_its_own(
    balancer: Balancer, world: World, cycles: int, copy_seconds: float | None
) -> None:
    world.copy_takes(copy_seconds or 1e9)
    left_by_an_earlier_process(balancer, world)
    balancer.cycle(cycles)  # it is under way, and ends after the grace of 5 s, or before that
    began = world.clock.now()
    world.do(lambda: balancer.executor.close(leads=True))
    assert world.clock.now() - began < 10
    (first,) = balancer.journal
    if copy_seconds:
        assert (first.result, world.places("a")) == ("done", {"h2": "running"})
    else:
        assert (first.result, first.why) == (
            "failed",
            "aborted: the balancer was stopping: running on h1, absent on h2",
        )
        assert (balancer.causes, world.places("a")) == ([Cause.STOPPED], {"h1": "running"})


@pytest.mark.parametrize("leads", [True, False])
def test_what_cannot_be_ended_when_the_balancer_ends_is_left_to_the_next_one(
    balancer: Balancer, world: World, leads: bool
) -> None:
    world.copy_takes(1e9)
    left_by_an_earlier_process(balancer, world)
    balancer.cycle(3)
    if leads:
        world.stop("h1")
    began = world.clock.now()
    world.do(lambda: balancer.executor.close(leads=leads))
    assert world.clock.now() - began < (60 if leads else 1)
    world.go_on()
    world.advance(30)
    assert len([*world.model.running_jobs("a")]) == 1
    assert balancer.results == [None]


def test_a_domain_of_an_earlier_process_is_started_as_soon_as_it_has_arrived(balancer: Balancer, world: World) -> None:
    world.copy_takes(25.0)
    left_by_an_earlier_process(balancer, world)
    balancer.cycle(2)
    waited = 0.0
    while world.places("a").get("h2") != "running":
        world.advance(0.1)
        waited += 0.1 if world.places("a") == {"h2": "paused"} else 0.0
    assert waited < 1.0
    balancer.cycle()
    assert balancer.results == ["done"]


def test_a_persons_job_is_not_aborted_for_an_entry_whose_migration_never_began(
    balancer: Balancer, world: World
) -> None:
    world.copy_takes(1e9)
    left_by_an_earlier_process(balancer, world, asked_after=300.0)
    balancer.cycle(70)
    assert len([*world.model.running_jobs("a")]) == 1
    assert balancer.results == [None]


@pytest.mark.parametrize("ends", ["after a failure", "at the stop", "while it is asked for"])
def test_a_persons_backup_is_no_migration(balancer: Balancer, world: World, ends: str) -> None:
    """It was taken for the migration that had failed before: the verdict was taken back, and the backup aborted."""
    if ends == "while it is asked for":
        world.on[Step.BEGIN] = lambda: world.back_up("a", "h1")
    else:
        world.after(3.0, lambda: world.abort("a"))
    balancer.make(move("a", "h1", "h2"))
    assert balancer.results == ["failed"]
    world.back_up("a", "h1")
    balancer.cycle(3 if ends == "at the stop" else 70)
    assert (balancer.results, balancer.held, world.places("a")) == (["failed"], {}, {"h1": "running"})
    assert "corrected" not in balancer.journal[0].why
    world.do(lambda: balancer.executor.close(leads=True))
    assert "a" in world.model.machines["h1"].backups


def test_an_abort_that_is_refused_is_not_tried_in_each_cycle(
    balancer: Balancer, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: object) -> None:
        raise LibvirtError("abort: access denied")

    monkeypatch.setattr(world.answering, "abort", denied)
    world.copy_takes(1e9)
    left_by_an_earlier_process(balancer, world)
    with capture_logs() as logged:
        balancer.cycle(70)
    assert [line["event"] for line in logged] == ["a migration could not be aborted"]
    world.abort("a")
    balancer.cycle()
    (first,) = balancer.journal
    assert first.why.startswith("longer than 600 s, and it could not be aborted (abort: access denied): it goes on: ")


def test_a_hanging_migration_holds_up_no_unrelated_one(balancer: Balancer, world: World) -> None:
    world.put("c", "h3")
    world.silence("h1", after=2, seconds=300)
    balancer.make(move("a", "h1", "h2"), move("b", "h3", "h4"), move("c", "h3", "h4"))
    assert balancer.results == [None, "done", "done"]
    assert balancer.held.keys() == {"h1", "h2"}
    balancer.cycle(30)
    assert balancer.results == ["done", "done", "done"]
    assert balancer.held == {}


def test_a_domain_that_was_started_on_a_third_host_meanwhile_is_not_lost(balancer: Balancer, world: World) -> None:
    balancer.cycle()  # which hosts there are
    world.after(5.0, lambda: world.ends("a", "h1", Presence.DEFINED))
    world.after(5.0, lambda: world.put("a", "h3"))
    balancer.make(move("a", "h1", "h2"))
    (first,) = balancer.journal
    assert (first.result, balancer.held) == ("failed", {})
    assert first.why.endswith("running on h3")


def test_a_job_that_goes_on_when_its_watch_ends_is_asked_about_in_cycles_only(
    balancer: Balancer, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is a person's, so the balancer hands nothing over."""
    asked: list[float] = []
    presence = world.answering.presence

    def note(host: str, uuid: str) -> Presence:
        asked.append(world.clock.now())
        return presence(host, uuid)

    world.copy_takes(1e9)
    left_by_an_earlier_process(balancer, world, asked_after=300.0)
    balancer.cycle()
    monkeypatch.setattr(world.answering, "presence", note)
    world.advance(1.0)
    asked.clear()
    world.advance(STEP_SECONDS - 1.0)
    assert asked == []


def slow_answer(world: World, host: str, meanwhile: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """The next answer about a domain from this host takes 12 s, in which something happens."""
    presence = type(world.answering).presence
    waiting = [meanwhile]

    def slow(asked: str, uuid: str) -> Presence:
        if asked == host and waiting:
            waiting.pop()()
            world.kernel.sleep(12.0)
        return presence(world.answering, asked, uuid)

    monkeypatch.setattr(world.answering, "presence", slow)


@pytest.mark.parametrize("ours", [True, False])
def test_the_only_copy_is_never_suspended_when_it_moved_between_two_answers(
    balancer: Balancer, world: World, monkeypatch: pytest.MonkeyPatch, ours: bool
) -> None:
    """The source was asked before it was migrated, and the destination after that: both said that it runs."""
    world.after(3.0, lambda: world.abort("a"))
    balancer.make(move("a", "h1", "h2"))
    assert balancer.results == ["failed"]
    world.copy_takes(2.0)

    def again() -> None:
        if ours:
            made = Plan(
                strategy="default", solved=True, summary="", overloaded=(), moves=(move("a", "h1", "h2"),), refusals=()
            )
            balancer.executor.carry_out(record(balancer.store, made, world.clock.now(), acted=True), lambda _move: None)
        else:
            migrate(world.model, "a", "h1", "h2", ours=False)

    suspended: list[str] = []
    monkeypatch.setattr(world.answering, "suspend", lambda host, _uuid: suspended.append(host))
    slow_answer(world, "h2", again, monkeypatch)
    balancer.cycle(3)
    assert (suspended, world.places("a"), balancer.held) == ([], {"h2": "running"}, {})


def test_a_copy_is_not_suspended_when_the_other_one_does_not_run_any_more(
    balancer: Balancer, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.after(3.0, lambda: world.abort("a"))
    balancer.make(move("a", "h1", "h2"))
    world.put("a", "h2")
    describe = type(world.answering).describe

    def dies(host: str, uuid: str) -> str:
        world.put("a", "h1", Presence.DEFINED)
        return describe(world.answering, host, uuid)

    monkeypatch.setattr(world.answering, "describe", dies)
    balancer.cycle()
    assert world.places("a") == {"h1": "defined", "h2": "running"}


def test_a_copy_that_was_suspended_while_the_other_one_came_to_it_goes_on(
    balancer: Balancer, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.after(3.0, lambda: world.abort("a"))
    balancer.make(move("a", "h1", "h2"))
    world.put("a", "h2")
    suspend = type(world.answering).suspend

    def late(host: str, uuid: str) -> None:
        world.put("a", "h1", Presence.ABSENT)
        suspend(world.answering, host, uuid)

    monkeypatch.setattr(world.answering, "suspend", late)
    balancer.cycle()
    assert world.places("a") == {"h2": "running"}


def test_a_suspended_copy_that_is_the_only_one_left_is_shown_and_left_to_a_person(
    balancer: Balancer, world: World
) -> None:
    """The other one may have crashed, and its disks have gone on since: only a person resumes this one."""
    world.after(3.0, lambda: world.abort("a"))
    balancer.make(move("a", "h1", "h2"))
    world.put("a", "h2")
    balancer.cycle()
    assert world.places("a") == {"h1": "running", "h2": "paused"}
    world.put("a", "h1", Presence.DEFINED)
    balancer.cycle(3)
    assert world.places("a") == {"h1": "defined", "h2": "paused"}
    (one,) = balancer.accounts.unsettled(balancer.store.watched())
    assert (one.kind, one.hosts) == (UnsettledKind.WAITING, ("h1", "h2"))
    assert one.text.startswith("a was active on two hosts at once, and is now paused on h2 alone; its disks may have ")
    world.put("a", "h2")
    balancer.cycle()
    assert balancer.held == {}


@pytest.mark.parametrize("act", ["resume", "abort"])
def test_a_balancer_that_another_one_has_deposed_does_nothing_more_to_hosts(
    balancer: Balancer, world: World, monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    world.copy_takes(25.0 if act == "resume" else 1e9)
    left_by_an_earlier_process(balancer, world)
    balancer.cycle(2)
    assert len(balancer.executor.in_flight) == 1

    def deposed(*_: object) -> None:
        raise Deposed("another balancer acts")

    for name in ("begin", "end", "reopen", "check_open", "check_newest"):
        monkeypatch.setattr(balancer.store, name, deposed)
    acts: list[str] = []
    for name in ("resume", "undefine", "suspend", "abort", "set_bandwidth"):
        monkeypatch.setattr(world.answering, name, lambda *_, name=name: acts.append(name))
    if act == "resume":
        world.advance(100.0)
    else:
        world.do(lambda: balancer.executor.close(leads=True))
    assert acts == []


def test_a_balancer_that_does_not_act_shows_no_migration_and_watches_none(balancer: Balancer, world: World) -> None:
    world.copy_takes(1e9)
    left_by_an_earlier_process(balancer, world)
    balancer.cycle(2)
    assert len(balancer.executor.in_flight) == 1
    balancer.executor.leads = lambda: False
    world.advance(700.0)
    assert not balancer.executor.in_flight
    assert len([*world.model.running_jobs("a")]) == 1, "the balancer that acts now watches it"


# --- what a failed copy of disks leaves -------------------------------------------------------------------------------

VOLUME = "/srv/a"
DISK = DiskCopy(device="vda", path=VOLUME, format="raw", capacity_bytes=2, stored_bytes=1)


def left_half_copied(balancer: Balancer, world: World) -> Balancer:
    """A balancer after one that was killed while it copied the disk of a domain; the copy failed after that."""
    copying = replace(move("a", "h1", "h2"), copies=(DISK,))
    plan = Plan(strategy="default", solved=True, summary="", overloaded=(), moves=(copying,), refusals=())
    ((migration_id, _),) = record(balancer.store, plan, world.clock.now(), acted=True)
    balancer.store.begin(migration_id)
    balancer.store.note_volumes(migration_id, world.do(lambda: world.hosts.make_room("h2", [DISK])))
    with world.hosts.migration("a", "h1", "h2", None, [DISK]):
        world.advance(5.0)
        world.abort("a")
        world.advance(1.0)
    again = Balancer(world, balancer.store)
    again.cycle(6)
    assert again.results == ["failed"]
    assert images(world) == {VOLUME}, "the request may still be carried out"
    return again


def images(world: World) -> set[str]:
    return world.model.machines["h2"].images


def test_what_a_copy_has_left_is_deleted_once_its_failure_is_certain(balancer: Balancer, world: World) -> None:
    again = left_half_copied(balancer, world)
    again.cycle(30)
    assert images(world) == set()
    assert [entry.volumes for entry in balancer.store.watched()] == []


@pytest.mark.parametrize("there", ["created", "nothing", "another's"])
def test_a_balancer_that_was_killed_between_a_volume_and_its_note_leaves_none(
    balancer: Balancer, world: World, there: str
) -> None:
    """What another has put there in the meantime is not empty, and stays."""
    copying = replace(move("a", "h1", "h2"), copies=(DISK,))
    plan = Plan(strategy="default", solved=True, summary="", overloaded=(), moves=(copying,), refusals=())
    ((migration_id, _),) = record(balancer.store, plan, world.clock.now(), acted=True)
    balancer.store.begin(migration_id)
    balancer.store.note_volumes(migration_id, [VOLUME], created=False)
    if there == "created":
        world.do(lambda: world.hosts.make_room("h2", [DISK]))
    elif there == "another's":
        images(world).add(VOLUME)
    again = Balancer(world, balancer.store)
    again.cycle(40)
    assert again.results == ["failed"]
    assert images(world) == ({VOLUME} if there == "another's" else set())
    assert world.model.harm == []
    assert [entry.volumes for entry in balancer.store.watched()] == []


def test_it_is_deleted_where_the_domain_has_moved_on(balancer: Balancer, world: World) -> None:
    again = left_half_copied(balancer, world)
    again.make(move("a", "h1", "h3"))
    again.cycle(30)
    assert (world.places("a"), images(world)) == ({"h3": "running"}, set())


def test_it_stays_while_the_domain_runs_nowhere_or_on_its_host(balancer: Balancer, world: World) -> None:
    again = left_half_copied(balancer, world)
    world.ends("a", "h1", Presence.SHUT_OFF)
    again.cycle(40)
    assert images(world) == {VOLUME}, "whoever starts the domain may do so there"
    world.put("a", "h1", Presence.ABSENT)
    world.put("a", "h2")
    again.cycle(60)
    assert images(world) == {VOLUME}
    assert [entry.volumes for entry in balancer.store.watched()] == []


def test_it_stays_while_its_host_does_not_answer(balancer: Balancer, world: World) -> None:
    again = left_half_copied(balancer, world)
    world.stop("h2")
    again.cycle(40)
    assert images(world) == {VOLUME}
    world.go_on()
    again.cycle(61)
    assert images(world) == set()


def test_the_volume_of_a_copy_that_has_arrived_is_no_longer_the_journals(balancer: Balancer, world: World) -> None:
    balancer.make(replace(move("a", "h1", "h2"), copies=(DISK,)))
    assert (balancer.results, images(world)) == (["done"], {VOLUME})
    balancer.cycle(60)
    assert images(world) == {VOLUME}


def test_nothing_is_deleted_that_the_next_migration_may_create(balancer: Balancer, world: World) -> None:
    again = left_half_copied(balancer, world)
    plan = Plan(strategy="default", solved=True, summary="", overloaded=(), moves=(move("a", "h1", "h2"),), refusals=())
    ((migration_id, _),) = record(balancer.store, plan, world.clock.now(), acted=True)
    again.reconciler.hold([migration_id])
    again.cycle(40)
    assert images(world) == {VOLUME}
    balancer.store.end(migration_id, MigrationOutcome(result=Result.SKIPPED, why="its turn never came"))
    again.cycle(61)
    assert images(world) == set()
