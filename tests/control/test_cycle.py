"""One turn of the loop: what it does, what it says, what it remembers."""

from collections.abc import Callable, Collection, Iterator, Sequence, Set
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from sqlalchemy import Connection, event, text

from builders import GIB, FakeClock, domain, group, host, thesis_policy
from virtpoise_balancer.analyse.backoff import Backoff
from virtpoise_balancer.analyse.brake import Brake, BrakeCause
from virtpoise_balancer.analyse.silence import Silence
from virtpoise_balancer.config import Measurement
from virtpoise_balancer.control.cycle import Cycle, Report
from virtpoise_balancer.control.decide import CycleResult
from virtpoise_balancer.control.orders import By, Orders
from virtpoise_balancer.control.sentences import gist
from virtpoise_balancer.errors import Refused
from virtpoise_balancer.execute.copies import SeenTwice
from virtpoise_balancer.execute.executor import InFlight, Recheck, RecommendingExecutor
from virtpoise_balancer.knowledge.records import Changes, Committed, Memory, OverrideValue
from virtpoise_balancer.knowledge.store import Store
from virtpoise_balancer.model import (
    BlackoutWindow,
    BrakeBounds,
    Cause,
    Entries,
    HostState,
    JournalEntry,
    MigrationOutcome,
    Mode,
    Move,
    Policy,
    Progress,
    Reason,
    Reserve,
    Result,
    Role,
    Rule,
    SampleTimes,
    Trigger,
    Unsettled,
    UnsettledKind,
)
from virtpoise_balancer.monitor.observe import Observation
from virtpoise_balancer.plan import plan
from watching import Watching

DONE = MigrationOutcome(result=Result.DONE, seconds=6.0, downtime_seconds=0.1)
BUSY = (host("h1", 0.9, 0.9, 0.9), host("h2", 0.1, 0.1, 0.1), domain("a", "h1", 3.0))
STUCK = (host("h1", 0.9, 0.9, 0.9), host("h2", 0.5, 0.5, 0.5), domain("a", "h1", 3.0))


@dataclass
class Acting:
    """An executor that only takes note, as if its moves went on until the test ends them."""

    acts: bool = True
    busy: bool = False
    in_flight: tuple[InFlight, ...] = ()
    taken: list[tuple[Entries, Recheck]] = field(default_factory=list)
    withdraws: bool = True
    withdrawn: list[tuple[Set[str], str]] = field(default_factory=list)
    on_withdraw: Callable[[Set[str], str], None] = lambda uuids, why: None

    def carry_out(self, entries: Entries, recheck: Recheck) -> None:
        self.taken.append((entries, recheck))
        self.busy = True

    def withdraw(self, uuids: Set[str], why: str) -> bool:
        if self.withdraws:
            self.withdrawn.append((uuids, why))
            self.on_withdraw(uuids, why)
        return self.withdraws


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/state.db"


@pytest.fixture
def store(url: str, clock: FakeClock) -> Iterator[Store]:
    with closing(Store.open(url, clock=clock)) as opened:
        yield opened


def make(
    store: Store, *members: object, executor: object = None, mode: Mode = "automatic"
) -> tuple[Cycle, Watching, Acting]:
    watching = Watching(group(*members), warnings=("measured with a warning",))  # type: ignore[arg-type]
    acting = Acting()
    cycle = Cycle(
        observer=watching,
        store=store,
        executor=executor or acting,  # type: ignore[arg-type]
        policy=thesis_policy(),
        measurement=Measurement(settle_seconds=20, window_seconds=60),
        clock=store.clock,
        mode=mode,
    )
    return cycle, watching, acting


def run(cycle: Cycle, now: float) -> Report:
    cycle.clock.at = now  # type: ignore[attr-defined]
    return cycle.run(now)


def test_a_calm_group_is_left_alone(store: Store) -> None:
    cycle, _, acting = make(store, host("h1", 0.5, 0.5), host("h2", 0.1, 0.1))
    report = run(cycle, 1000.0)
    assert (report.result, acting.taken) == (CycleResult.IDLE, [])
    assert report.sentence == "no host has had 2 consecutive samples at or above a threshold (CPU 60%); nothing to do"


def test_an_overload_is_journalled_and_handed_over_with_a_sentence_that_says_why(store: Store) -> None:
    cycle, _, acting = make(store, *BUSY)
    report = run(cycle, 1000.0)
    assert report.result is CycleResult.MOVED
    assert report.sentence == (
        "h1 is overloaded (CPU load 90%, 3 consecutive samples): move a to h2 (h1's CPU load is predicted at 56%)"
    )
    ((entries, _),) = acting.taken
    assert [move.domain for _, move in entries] == ["a"]
    assert [record.result for record in store.history(5)] == [None]


def test_with_the_thesis_nothing_is_judged_while_a_migration_runs(store: Store) -> None:
    cycle, _, acting = make(store, *BUSY)
    run(cycle, 1000.0)
    ((entries, _),) = acting.taken
    begun(store, acting, 1001.0)
    progress = Progress(elapsed_seconds=3, total_bytes=100, processed_bytes=47, remaining_bytes=53)
    acting.in_flight = (InFlight(entries[0][1], progress),)
    report = run(cycle, 1010.0)
    assert (report.result, len(acting.taken)) == (CycleResult.WAITING, 1)
    assert report.sentence == "migrating a from h1 to h2 (47%, 3 s); no new plan until all have ended"
    acting.in_flight = (InFlight(entries[0][1], replace(progress, dirty_bytes_per_second=4 * 2**20)),)
    told = "migrating a from h1 to h2 (47%, 3 s, dirties 4.0 MiB/s); no new plan until all have ended"
    assert run(cycle, 1020.0).sentence == told


STREAM = Policy(cpu=Trigger(threshold=0.7, consecutive=2))
TWO_BUSY = (
    host("h1", 0.9, 0.9, 0.9),
    host("h2", 0.1, 0.1, 0.1),
    domain("a", "h1", 3.0),
    host("h3", 0.9, 0.9, 0.9),
    host("h4", 0.1, 0.1, 0.1),
    domain("b", "h3", 3.0),
)


def begun(store: Store, acting: Acting, at: float) -> list[int]:
    store.clock.at = at  # type: ignore[attr-defined]
    ids = [migration_id for migration_id, _ in acting.taken[-1][0]]
    for migration_id in ids:
        store.begin(migration_id)
    return ids


def ends(plan: object) -> list[tuple[str, str, str]]:
    return [(move.domain, move.source, move.destination) for move in plan.moves]  # type: ignore[attr-defined]


def test_a_host_that_comes_to_another_group_in_mid_migration_is_left_alone_there(store: Store) -> None:
    blue, red = (store.of_group(name, ("blue", "red")) for name in ("blue", "red"))
    here, _, acting = make(blue, *BUSY)
    run(here, 1000.0)
    begun(blue, acting, 1001.0)
    there, _, moved = make(red, host("h2", 0.1, 0.1, 0.1), host("h3", 0.9, 0.9, 0.9), domain("c", "h3", 3.0))
    there = replace(there, policy=STREAM)
    report = run(there, 1010.0)
    assert moved.taken == []
    assert report.observation is not None
    (unknown,) = (one.why_unknown for one in report.observation.snapshot.hosts if one.name == "h2")
    assert unknown is not None
    assert unknown.text == "the migration of a from h1 to h2 is under way in the group blue"
    ((migration_id, move),) = acting.taken[0][0]
    planned = replace(move, domain="c", uuid="uuid-of-c", source="h3", destination="h2")
    assert there.obstacle(planned, ordered=True) == f"h2 is unknown: {unknown.text}"
    blue.end(migration_id, MigrationOutcome(result=Result.FAILED, why="refused"))
    run(there, 1020.0)
    ((entries, _),) = moved.taken
    assert [(move.domain, move.destination) for _, move in entries] == [("c", "h2")]


def test_a_recommendation_that_waits_is_stored_once_an_hour_whichever_moves_the_noise_picks(store: Store) -> None:
    hot, quiet = (0.9, 0.9, 0.9), (0.1, 0.1, 0.1)
    cycle, watching, _ = make(store, executor=Acting(acts=False), mode="recommend")
    cycle = replace(cycle, policy=STREAM)

    def look(at: float, *hottest: str, second: bool) -> list[tuple[str, str]]:
        """The moves of the domains to their destinations. ``second``: the noise of the loads favours another host."""
        slightly = tuple(one + 0.05 for one in quiet)
        hosts = [host(name, *(hot if name in hottest else quiet)) for name in ("h1", "h4")]
        hosts += [host("h2", *(slightly if second else quiet)), host("h3", *(quiet if second else slightly))]
        watching.seen = group(*hosts, domain("a", "h1", 3.0), domain("b", "h4", 3.0))
        report = run(cycle, at)
        assert report.plan is not None
        return [(move.domain, move.destination) for move in report.plan.moves]

    found = [look(1000.0 + 10 * number, "h1", second=bool(number % 2)) for number in range(10)]
    assert found[0] != found[1]
    assert len(store.plans(100)) == 1
    look(1100.0, "h1", "h4", second=False)  # another problem
    assert len(store.plans(100)) == 2
    look(1110.0 + 3600, "h1", "h4", second=False)
    assert len(store.plans(100)) == 3


def test_an_overload_elsewhere_is_planned_beside_what_is_under_way_and_its_hosts_wait(store: Store) -> None:
    cycle, watching, acting = make(store, *TWO_BUSY[:3], host("h3", 0.5, 0.5, 0.5), *TWO_BUSY[4:])
    cycle = replace(cycle, policy=STREAM)
    first = run(cycle, 1000.0)
    ((_, source, destination),) = ends(first.plan)
    assert source == "h1"
    begun(store, acting, 1001.0)
    ((_, move),) = acting.taken[0][0]
    acting.in_flight = (InFlight(move),)
    watching.seen = group(*TWO_BUSY)
    report = run(cycle, 1010.0)
    assert report.result is CycleResult.MOVED
    other = {"h2": "h4", "h4": "h2"}[destination]
    assert ends(report.plan) == [("b", "h3", other)]  # the destination of the other would keep it waiting
    assert report.sentence.startswith(f"migrating a from h1 to {destination}; h3 is overloaded")
    assert report.sentence.endswith("h1 waits for the migration of a")
    assert report.plan is not None
    assert report.plan.solved
    again = run(cycle, 1020.0)
    assert (again.result, ends(again.plan), len(acting.taken)) == (CycleResult.WAITING, [], 2)


SLOW = (host("h1", 0.3, 0.3, 0.3, state=HostState.DRAINING), domain("big", "h1", 0.5), host("h3", 0.1, 0.1, 0.1))


def waiting_behind_a_slow_one(store: Store) -> tuple[Cycle, Watching, Acting]:
    """The cycle after h4's domain was planned to h3, where it waits for ``big``, since h2 had no room."""
    full = host("h2", 0.65, 0.65, 0.65)
    cycle, watching, acting = make(store, *SLOW, full, host("h4", 0.5, 0.5, 0.5), domain("a", "h4", 3.0))
    cycle = replace(cycle, policy=STREAM)
    assert ends(run(cycle, 1000.0).plan) == [("big", "h1", "h3")]
    begun(store, acting, 1001.0)
    ((_, move),) = acting.taken[0][0]
    acting.in_flight = (InFlight(move),)
    watching.seen = group(*SLOW, full, host("h4", 0.9, 0.9, 0.9), domain("a", "h4", 3.0))
    assert ends(run(cycle, 1010.0).plan) == [("a", "h4", "h3")]
    return cycle, watching, acting


def skips(store: Store, acting: Acting) -> Callable[[Set[str], str], None]:
    def skip(uuids: Set[str], why: str) -> None:
        for migration_id, move in acting.taken[-1][0]:
            assert move.uuid in uuids
            store.end(migration_id, MigrationOutcome(result=Result.SKIPPED, why=why))

    return skip


def test_a_move_that_waits_for_a_slow_migration_goes_elsewhere_as_soon_as_there_is_room(store: Store) -> None:
    cycle, watching, acting = waiting_behind_a_slow_one(store)
    acting.on_withdraw = skips(store, acting)
    still = run(cycle, 1020.0)
    assert (ends(still.plan), acting.withdrawn) == ([], [])  # nothing better: it keeps its turn
    watching.seen = group(*SLOW, host("h2", 0.1, 0.1, 0.1), host("h4", 0.9, 0.9, 0.9), domain("a", "h4", 3.0))
    report = run(cycle, 1030.0)
    assert ends(report.plan) == [("a", "h4", "h2")]
    ((uuids, why),) = acting.withdrawn
    assert (len(uuids), why) == (1, "it waited for its turn, and other moves relieve its host at once")
    assert len(acting.taken) == 3
    assert report.sentence.startswith("migrating big from h1 to h3; h4 is overloaded")
    begun(store, acting, 1031.0)
    after = run(cycle, 1040.0)
    assert (ends(after.plan), len(acting.withdrawn)) == ([], 1)
    assert not any(one.penalty_until for one in after.backoffs.values())  # what was withdrawn earns no penalty


def test_a_move_that_begins_before_it_can_be_withdrawn_is_made(store: Store) -> None:
    cycle, watching, acting = waiting_behind_a_slow_one(store)
    acting.withdraws = False
    watching.seen = group(*SLOW, host("h2", 0.1, 0.1, 0.1), host("h4", 0.9, 0.9, 0.9), domain("a", "h4", 3.0))
    report = run(cycle, 1020.0)
    assert (ends(report.plan), len(acting.taken)) == ([], 2)
    assert report.sentence.endswith("h4 waits for the migration of a")


def test_after_a_migration_only_its_hosts_count_afresh(store: Store) -> None:
    cycle, watching, acting = make(store, *TWO_BUSY[:3], host("h3", 0.5, 0.5, 0.5), *TWO_BUSY[4:])
    cycle = replace(cycle, policy=STREAM)
    destination = ends(run(cycle, 1000.0).plan)[0][2]
    ended(store, acting, 1012.0)
    acting.busy = False
    watching.seen = group(*TWO_BUSY)
    report = run(cycle, 1015.0)
    assert {name: one.counted_from for name, one in report.backoffs.items()} == {"h1": 1012.0, destination: 1012.0}
    assert [source for _, source, _ in ends(report.plan)] == ["h3"]


def test_a_domain_that_failed_to_one_host_is_sent_to_another_also_after_a_restart(store: Store) -> None:
    three = (*TWO_BUSY[:3], host("h3", 0.2, 0.2, 0.2))
    for at, destination in ((1000.0, "h2"), (1300.0, "h3"), (1800.0, "h2"), (2400.0, "h3")):
        cycle, _, acting = make(store, *three)  # a new process over the same store
        cycle = replace(cycle, policy=STREAM)
        assert ends(run(cycle, at).plan) == [("a", "h1", destination)]
        why = f"{destination} lacks a device"
        ended(store, acting, at + 5, MigrationOutcome(result=Result.FAILED, why=why, cause=Cause.ERROR))


def test_what_waits_is_counted_on_its_destination_and_not_planned_again(store: Store) -> None:
    small = host("h2", 0.1, 0.1, 0.1, memory_bytes=4 * GIB, memory_used_bytes=GIB)
    big = [domain(name, "h1", 3.0, memory_bytes=2 * GIB) for name in "ab"]
    cycle, _, acting = make(store, host("h1", 0.3, 0.3, state=HostState.DRAINING), small, *big)
    cycle = replace(cycle, policy=STREAM)
    assert ends(run(cycle, 1000.0).plan) == [("a", "h1", "h2")]  # the other does not fit beside it
    report = run(cycle, 1010.0)
    assert ends(report.plan) == []
    assert report.sentence == "1 more move waits; h1 waits for the migration of a"
    assert len(acting.taken) == 1


def test_after_a_migration_n_readings_are_counted_afresh(store: Store) -> None:
    cycle, _, acting = make(store, *BUSY)
    run(cycle, 1000.0)
    ended(store, acting, 1012.0)
    acting.busy = False
    results = [run(cycle, now).result for now in (1020.0, 1030.0, 1040.0)]
    assert results == [CycleResult.IDLE, CycleResult.IDLE, CycleResult.MOVED]


def ended(store: Store, acting: Acting, at: float, outcome: MigrationOutcome = DONE) -> None:
    store.clock.at = at  # type: ignore[attr-defined]
    for migration_id, _ in acting.taken[-1][0]:
        store.begin(migration_id)
        store.end(migration_id, outcome)


def test_an_end_from_while_the_clock_was_ahead_holds_nothing_up_for_longer_than_one_of_now(store: Store) -> None:
    cycle, _, acting = make(store, *BUSY)
    run(cycle, 1000.0)
    (migration_id,) = begun(store, acting, 1001.0)
    store.clock.at = 10_000.0  # type: ignore[attr-defined]
    store.end(migration_id, MigrationOutcome(result=Result.FAILED, why="no"))
    acting.busy = False
    report = run(cycle, 1010.0)
    assert [one.ended for one in store.history(5)] == [1010.0]
    (backoff,) = (one for one in report.backoffs.values() if one.penalty_until is not None)
    assert (backoff.host, backoff.penalty_from) == ("h1", 1010.0)


@pytest.mark.parametrize("released_first", [True, False])
def test_a_release_from_while_the_clock_was_ahead_lets_a_later_brake_come_on(
    store: Store, released_first: bool
) -> None:
    cycle, _, acting = make(store, *BUSY)
    brake = Brake(at=10_100.0, cause=BrakeCause.OTHERS, why="two act")
    store.clock.at = 10_000.0  # type: ignore[attr-defined]
    if not released_first:
        store.commit(Changes(brake=replace(brake, at=9_900.0)), 9_900.0)
    store.release(OverrideValue(value="others", instead_of="", at=10_000.0, who="alice"))
    if released_first:
        store.commit(Changes(brake=brake), 10_100.0)
    report = run(cycle, 1000.0)
    assert (report.standing.brake is not None) == released_first
    assert bool(acting.taken) == (not released_first)
    assert 999.0 < store.overrides().released_at <= 1000.0  # type: ignore[operator]
    store.clock.at = 1010.0  # type: ignore[attr-defined]
    store.commit(Changes(brake=replace(brake, at=1010.0)), 1010.0)
    assert run(cycle, 1020.0).standing.brake is not None


def test_failures_after_a_release_from_while_the_clock_was_ahead_pull_the_brake(store: Store) -> None:
    cycle, _, acting = make(store, *BUSY)
    cycle = replace(cycle, policy=replace(cycle.policy, brake=BrakeBounds(failed_domains=1)))
    store.release(OverrideValue(value="others", instead_of="", at=10_000.0, who="alice"))
    run(cycle, 1000.0)
    ended(store, acting, 1005.0, MigrationOutcome(result=Result.FAILED, why="no"))
    acting.busy = False
    assert run(cycle, 1010.0).standing.brake is not None


def test_an_undrain_from_while_the_clock_was_ahead_voids_no_later_penalty(store: Store) -> None:
    cycle, _, acting = make(store, *BUSY)
    store.clock.at = 10_000.0  # type: ignore[attr-defined]
    store.order_drain("h1", draining=True)
    store.order_drain("h1", draining=False)
    run(cycle, 1000.0)
    ended(store, acting, 1005.0, MigrationOutcome(result=Result.FAILED, why="no"))
    acting.busy = False
    assert store.standing_orders().drains["h1"].at == 1000.0
    assert [one.host for one in run(cycle, 1010.0).backoffs.values() if one.penalty_until] == ["h1"]
    assert [one.host for one in run(cycle, 1020.0).backoffs.values() if one.penalty_until] == ["h1"]


def test_a_penalty_from_while_the_clock_was_ahead_lasts_no_longer_than_one_of_now(store: Store) -> None:
    cycle, _, _ = make(store, *BUSY)
    ahead = Backoff(host="h2", penalty_from=10_000.0, penalty_until=10_090.0, failures=1)
    store.commit(Changes(backoffs=(ahead,)), 10_000.0)
    run(cycle, 1000.0)
    kept = store.recall(moved_since=0.0, ended_since=0.0, judged_since=0.0).backoffs["h2"]
    assert (kept.penalty_from, kept.penalty_until) in [(1000.0, 1090.0), (None, None)]


def test_a_migration_of_others_is_said_kept_and_lets_its_hosts_rest_until_the_figures_show_it(store: Store) -> None:
    small = domain("b", "h2", 0.2)
    calm = (host("h1", 0.5, 0.5, 0.5), host("h2", 0.1, 0.1, 0.1), domain("a", "h1", 3.0), small)
    cycle, watching, acting = make(store, *calm)
    cycle = replace(cycle, policy=STREAM)
    watching.sample_times = replace(watching.sample_times, reach_back_seconds=20.0)
    assert "changed by others" not in run(cycle, 1000.0).sentence
    other = make(store)[0]  # a new process over the same store
    cycle = replace(other, observer=watching, executor=acting, policy=STREAM)
    watching.seen = group(host("h1", 0.9, 0.9, 0.9), calm[1], calm[2], replace(small, host="h1"))
    report = run(cycle, 1010.0)
    assert (report.result, acting.taken) == (CycleResult.IDLE, [])
    assert report.sentence.endswith("; changed by others: b was migrated from h2 to h1")
    assert [(one.kind, one.source, one.destination) for one in report.others] == [("migrated", "h2", "h1")]
    assert store.others(5) == report.others
    results = {at: run(cycle, float(at)) for at in range(1020, 1060, 10)}
    assert all("changed by others" not in one.sentence for one in results.values())
    assert [at for at, one in results.items() if one.result is CycleResult.MOVED] == [1050], "2 steps after 1030"
    assert [one for one, *_ in ends(results[1050].plan)] == ["a"]


def test_a_drain_that_rests_after_changes_by_others_says_so(store: Store) -> None:
    """A drain began nothing for two minutes after several migrations of others, and said "nothing to do"."""
    seen = (host("h1", 0.3, 0.3), host("h2", 0.1, 0.1), domain("a", "h1", 1.0))
    cycle, watching, _ = make(store, *seen, domain("b", "h2", 0.4))
    run(cycle, 1000.0)
    watching.seen = group(*seen, domain("b", "h1", 0.4))
    store.order_drain("h1", draining=True)
    report = run(cycle, 1010.0)
    assert report.plan.moves == ()  # type: ignore[union-attr]
    assert report.sentence.startswith("h1 waits for figures from after the last change on it")


def test_what_the_balancer_moves_itself_is_never_taken_for_a_change_of_others(store: Store) -> None:
    cycle, watching, acting = make(store, *BUSY)
    run(cycle, 1000.0)
    ended(store, acting, 1005.0)
    acting.busy = False
    watching.seen = group(host("h1", 0.5, 0.5), host("h2", 0.5, 0.5), domain("a", "h2", 3.0))
    assert run(cycle, 1010.0).others == ()
    assert store.others(5) == ()


def test_a_look_that_cannot_be_read_is_no_look_and_is_named_once(store: Store) -> None:
    cycle, watching, _ = make(store, host("h1", 0.1), host("h2", 0.1), domain("a", "h1"))
    run(cycle, 1000.0)
    with store.database.writing() as connection:
        connection.execute(text("UPDATE looks SET document = 'x'"))
    watching.seen = group(host("h1", 0.1), host("h2", 0.1), domain("a", "h2"))
    report = run(cycle, 1010.0)
    assert report.others == ()
    assert [row for row in report.broken if "look" in row]
    assert run(cycle, 1020.0).broken == ()


NINE_TO_TEN = BlackoutWindow(name="backup", cron="0 9 * * *", duration_seconds=3600)
NINE = 9 * 3600.0


def in_window(store: Store) -> tuple[Cycle, Watching, Acting]:
    cycle, watching, acting = make(store, *BUSY)
    return replace(cycle, policy=replace(STREAM, windows=(NINE_TO_TEN,))), watching, acting


def test_in_a_blackout_window_nothing_begins_without_a_persons_word_and_the_sentence_says_until_when(
    store: Store,
) -> None:
    cycle, _, acting = in_window(store)
    report = run(cycle, NINE)
    assert (report.result, acting.taken) == (CycleResult.RECOMMENDED, [])
    assert report.sentence.startswith(
        "no migration begins until 1970-01-01 10:00 UTC (window backup); h1 is overloaded"
    )
    assert report.standing.mode == "automatic"
    cycle.apply({("uuid-of-a", "h2")}, NINE + 5)
    ((_, recheck),) = acting.taken
    assert recheck(move_of(cycle)) is None, "a person chose it"
    acting.busy = False
    ended(store, acting, NINE + 6)
    assert run(cycle, NINE + 3600).result is CycleResult.MOVED


def move_of(cycle: Cycle) -> Move:
    (move,) = plan(cycle.observer.observe(0.0).snapshot, STREAM).moves
    return move


def test_a_move_that_waited_when_the_window_opened_does_not_begin_and_one_under_way_goes_on(store: Store) -> None:
    cycle, _, acting = in_window(store)
    assert run(cycle, NINE - 10).result is CycleResult.MOVED
    ((_, recheck),) = acting.taken
    cycle.clock.at = NINE  # type: ignore[attr-defined]
    assert recheck(move_of(cycle)) == "no migration begins until 1970-01-01 10:00 UTC (window backup)"
    begun(store, acting, NINE - 5)
    acting.in_flight = (InFlight(move_of(cycle)),)
    assert "migrating a from h1 to h2" in run(cycle, NINE).sentence


def test_a_pause_and_the_brake_are_named_before_a_window(store: Store) -> None:
    cycle, _, _ = in_window(store)
    store.override("paused", OverrideValue(value="yes", instead_of="no", at=1.0, who="alice"))
    assert run(cycle, NINE).sentence.startswith("paused by alice: h1 is overloaded")
    assert run(replace(cycle, mode="recommend"), NINE + 10).standing.blackout is None


FAILED = MigrationOutcome(result=Result.FAILED, why="no route to host", cause=Cause.ERROR)


def of_three(store: Store, mode: Mode = "automatic") -> tuple[Cycle, Watching, Acting]:
    """A cycle for a draining host with three domains. Their migrations fail: ``fail_all``."""
    three = [domain(name, "h1", 0.5) for name in "abc"]
    cycle, watching, acting = make(store, host("h1", 0.3, 0.3), host("h2", 0.1, 0.1), *three, mode=mode)
    store.order_drain("h1", draining=True)
    return replace(cycle, policy=STREAM), watching, acting


def fail_all(store: Store, acting: Acting, at: float) -> None:
    ended(store, acting, at, FAILED)
    acting.busy = False


def test_when_migrations_fail_it_falls_back_to_recommending_until_a_person_releases_it(store: Store) -> None:
    cycle, _, acting = of_three(store)
    first = run(cycle, 1000.0)
    assert [one for one, *_ in ends(first.plan)] == ["a", "b", "c"]
    ((_, recheck),) = acting.taken
    fail_all(store, acting, 1005.0)
    at = 1700.0  # after the back-off
    report = run(cycle, at)
    assert (report.result, len(acting.taken)) == (CycleResult.RECOMMENDED, 1)
    assert report.sentence.startswith(
        "the brake is on: the newest migration of 3 of 3 domains failed, the last one of c to h2: no route to host "
        "(virtpoise release); "
    )
    assert "the brake is on" in str(recheck(first.plan.moves[0])), "what waits does not begin either"  # type: ignore[union-attr]
    again = of_three(store)  # a new process over the same store
    assert run(again[0], at + 86_400).result is CycleResult.RECOMMENDED, "the window has passed, but it stays on"
    assert again[0].apply({("uuid-of-a", "h2")}, at + 86_405).moves, "a person's choice is made"
    orders_of(cycle).release(By("alice", "command"))
    report = run(again[0], at + 86_420)
    assert (report.result, report.standing.brake) == (CycleResult.WAITING, None)
    again[2].busy = False
    ended(store, again[2], at + 86_421)
    assert run(again[0], at + 86_500).result is CycleResult.MOVED


def orders_of(cycle: Cycle) -> Orders:
    return Orders(store=cycle.store, look=group, mode=lambda: cycle.mode, clock=cycle.clock)


def test_in_mode_recommend_nothing_pulls_the_brake(store: Store) -> None:
    cycle, _, acting = of_three(store)
    run(cycle, 1000.0)
    fail_all(store, acting, 1005.0)
    assert run(replace(cycle, mode="recommend"), 1700.0).standing.brake is None
    assert store.brake() is None


def test_a_brake_is_pulled_once_and_keeps_its_first_reason(store: Store) -> None:
    cycle, _, acting = of_three(store)
    run(cycle, 1000.0)
    fail_all(store, acting, 1005.0)
    brakes = {run(cycle, now).standing.brake for now in (1700.0, 1710.0, 1720.0)}
    assert [one.at for one in brakes if one] == [1700.0]


def test_a_brake_is_pulled_while_prometheus_fails_as_well(store: Store) -> None:
    cycle, watching, acting = of_three(store)
    run(cycle, 1000.0)
    fail_all(store, acting, 1005.0)
    watching.failure = "no answer"
    assert run(cycle, 1010.0).result is CycleResult.FAILED
    assert store.brake() is not None


def test_an_attempt_that_solves_nothing_earns_190_seconds_and_then_200(store: Store) -> None:
    cycle, _, acting = make(store, *STUCK)
    assert run(cycle, 1000.0).result is CycleResult.IDLE
    attempts = []
    for now in range(1010, 1500, 10):
        report = run(cycle, float(now))
        if report.plan and report.plan.attempts:
            attempts.append(now)
        else:
            assert [r.reason for r in report.plan.refusals if r.host == "h1"] == [Reason.PENALTY]  # type: ignore[union-attr]
            assert report.result is CycleResult.WAITING
    assert attempts == [1190, 1390]
    assert acting.taken == []


def test_a_reading_below_cancels_the_penalty(store: Store) -> None:
    cycle, watching, _ = make(store, *STUCK)
    run(cycle, 1000.0)
    assert run(cycle, 1010.0).backoffs["h1"].penalty_until == 1190.0
    watching.seen = group(host("h1", 0.9, 0.9, 0.5), *STUCK[1:])
    assert run(cycle, 1020.0).backoffs["h1"].penalty_until is None
    watching.seen = group(*STUCK)
    assert run(cycle, 1050.0).plan.attempts  # type: ignore[union-attr]


def test_a_migration_that_failed_earns_a_penalty(store: Store) -> None:
    cycle, _, acting = make(store, *BUSY)
    run(cycle, 1000.0)
    ended(store, acting, 1005.0, MigrationOutcome(result=Result.FAILED, why="refused"))
    acting.busy = False
    assert run(cycle, 1010.0).backoffs["h1"].penalty_until == 1195.0


@pytest.mark.parametrize(
    "why", ["Prometheus cannot be asked", "a no longer fits: h2: the host's memory use would be too high"]
)
def test_a_move_that_was_skipped_earns_its_source_no_penalty(store: Store, why: str) -> None:
    cycle, _, acting = make(store, *BUSY)
    run(cycle, 1000.0)
    ended(store, acting, 1005.0, MigrationOutcome(result=Result.SKIPPED, why=why))
    acting.busy = False
    assert run(cycle, 1010.0).backoffs["h1"].penalty_until is None


def test_a_move_that_met_a_silent_host_earns_no_penalty_and_is_not_planned_again(store: Store) -> None:
    cycle, watching, acting = make(store, *BUSY, host("h3", 0.15, 0.15, 0.15))
    run(cycle, 1000.0)
    ((entries, _),) = acting.taken
    assert [move.destination for _, move in entries] == ["h2"]
    cycle = replace(cycle, silence=lambda: Silence(silent={"h2": "no answer within 10 s"}))
    ended(store, acting, 1005.0, MigrationOutcome(result=Result.SKIPPED, why="no answer within 10 s"))
    acting.busy = False
    assert run(cycle, 1010.0).backoffs["h1"].penalty_until is None
    watching.seen = group(*BUSY, host("h3", 0.15, 0.15, 0.15))
    report = run(cycle, 1040.0)
    assert [(move.source, move.destination) for move in report.plan.moves] == [("h1", "h3")]  # type: ignore[union-attr]
    assert report.sentence.endswith("; unknown: h2")
    ((_, recheck),) = acting.taken[1:]
    (move,) = report.plan.moves  # type: ignore[union-attr]
    assert recheck(move) is None
    cycle = replace(cycle, silence=lambda: Silence(silent={"h3": "no answer"}))
    assert cycle.obstacle(move, ordered=False) == "h3 is unknown: its libvirt does not answer the balancer: no answer"


def test_a_migration_that_failed_on_a_silent_host_still_earns_a_penalty(store: Store) -> None:
    cycle, _, acting = make(store, *BUSY)
    run(cycle, 1000.0)
    cycle = replace(cycle, silence=lambda: Silence(silent={"h2": "no answer"}))
    ended(store, acting, 1005.0, MigrationOutcome(result=Result.FAILED, why="it broke"))
    acting.busy = False
    assert run(cycle, 1010.0).backoffs["h1"].penalty_until == 1195.0


def test_a_new_process_over_the_same_store_goes_on_where_the_old_one_was(store: Store) -> None:
    first, _, _ = make(store, *STUCK)
    run(first, 1000.0)
    second, _, _ = make(store, *STUCK)
    assert run(second, 1010.0).result is CycleResult.WAITING  # the penalty stands
    assert run(second, 1190.0).plan.attempts  # type: ignore[union-attr]


def test_recommending_journals_nothing_and_goes_on_recommending(store: Store) -> None:
    cycle, _, _ = make(store, *BUSY, executor=RecommendingExecutor(Acting()))
    for now in (1000.0, 1010.0, 1020.0):
        report = run(cycle, now)
        assert report.result is CycleResult.RECOMMENDED
        assert [move.domain for move in report.plan.moves] == ["a"]  # type: ignore[union-attr]
    assert store.history(5) == ()


def test_without_prometheus_nothing_is_done_and_it_is_said(store: Store) -> None:
    cycle, watching, acting = make(store, *BUSY)
    watching.failure = "Prometheus at http://x cannot be asked: Connection refused"
    report = run(cycle, 1000.0)
    assert (report.result, acting.taken) == (CycleResult.FAILED, [])
    assert report.sentence == "nothing is done: Prometheus at http://x cannot be asked: Connection refused"


def test_an_unknown_host_is_named(store: Store) -> None:
    cycle, _, _ = make(store, host("h1", 0.1), host("h2", state=HostState.UNKNOWN))
    assert run(cycle, 1000.0).sentence.endswith("; unknown: h2")


@pytest.mark.parametrize(
    ("now_seen", "why"),
    [
        (BUSY, None),
        ((BUSY[0], BUSY[1]), "a is no longer seen running on h1"),
        ((BUSY[0], BUSY[1], domain("a", "h2", 3.0)), "a is no longer seen running on h1"),
        ((BUSY[0], BUSY[2]), "h2 has left the group"),
        (
            (BUSY[0], host("h2", state=HostState.UNKNOWN), BUSY[2]),
            "h2 is unknown: Prometheus has no fresh figures of it",
        ),
        ((host("h1", state=HostState.UNKNOWN), BUSY[1]), "h1 is unknown: Prometheus has no fresh figures of it"),
    ],
)
def test_the_world_is_looked_at_again_before_each_move(
    store: Store, now_seen: tuple[object, ...], why: str | None
) -> None:
    cycle, watching, acting = make(store, *BUSY)
    run(cycle, 1000.0)
    ((entries, recheck),) = acting.taken
    watching.seen = group(*now_seen)  # type: ignore[arg-type]
    assert recheck(entries[0][1]) == why


def test_a_destination_that_has_begun_to_drain_takes_nothing_more(store: Store) -> None:
    cycle, _, acting = make(store, *BUSY)
    run(cycle, 1000.0)
    ((entries, recheck),) = acting.taken
    store.order_drain("h2", draining=True)
    assert recheck(entries[0][1]) == "a no longer fits: h2: the host is being drained, so it takes no domains"


def test_a_move_needs_room_on_its_destination_when_it_begins_and_only_its_hosts_are_asked_for(store: Store) -> None:
    cycle, watching, acting = make(store, *BUSY, host("h3", 0.2, 0.2, 0.2))
    cycle = replace(cycle, policy=Policy(cpu=Trigger(threshold=0.6, consecutive=2)))
    run(cycle, 1000.0)
    ((entries, recheck),) = acting.taken
    assert recheck(entries[0][1]) is None
    watching.seen = group(BUSY[0], host("h2", 0.1, 0.1, 0.1, memory_ratio=0.89), BUSY[2])
    assert str(recheck(entries[0][1])).startswith(
        "a no longer fits: h2: the host's memory use would be too high with it"
    )
    watching.failure = "Prometheus cannot be asked"
    assert recheck(entries[0][1]) == "Prometheus cannot be asked"
    assert watching.asked_for == [{"h1", "h2"}] * 3


def test_what_is_reserved_counts_in_the_cycle_and_right_before_the_move(store: Store) -> None:
    cycle, _, acting = make(store, *BUSY, host("h3", 0.2, 0.2, 0.2))
    cycle = replace(cycle, policy=Policy(cpu=Trigger(threshold=0.6, consecutive=2)))
    report = run(cycle, 1000.0)
    ((entries, recheck),) = acting.taken
    assert recheck(entries[0][1]) is None
    entry = Reserve(memory_bytes=4 * GIB, hosts=("h2",))
    wary = replace(cycle, policy=replace(cycle.policy, reserve=(entry,)))
    assert str(wary.obstacle(entries[0][1], ordered=False)).startswith(
        "a no longer fits: h2: the host's memory use would be too high with it"
    )
    assert report.observation is not None
    seen = run(replace(wary, policy=replace(wary.policy, reserve=(replace(entry, hosts=("h3",)),))), 1010.0).observation
    assert seen is not None
    assert [one.memory_reserved_bytes for one in seen.snapshot.hosts] == [0, 0, 4 * GIB]


def test_what_is_on_its_way_to_the_destination_is_looked_for_as_well(store: Store) -> None:
    busy = (host("h1", 0.9, 0.9, 0.9), host("h2", 0.9, 0.9, 0.9), host("h3", 0.1, 0.1, 0.1, cpus=32))
    cycle, watching, acting = make(store, *busy, domain("a", "h1", 3.0), domain("b", "h2", 3.0))
    cycle = replace(cycle, policy=Policy(cpu=Trigger(threshold=0.7, consecutive=2)))
    run(cycle, 1000.0)
    ((entries, recheck),) = acting.taken
    assert [(move.source, move.destination) for _, move in entries] == [("h1", "h3"), ("h2", "h3")]
    store.begin(entries[0][0])
    assert recheck(entries[1][1]) is None
    assert watching.asked_for == [{"h1", "h2", "h3"}]
    watching.seen = group(
        *busy[:2], host("h3", 0.55, 0.55, 0.55, cpus=32), domain("a", "h1", 3.0), domain("b", "h2", 3.0)
    )
    assert recheck(entries[0][1]) is None  # it alone fits
    assert "CPU load would be too high" in str(recheck(entries[1][1]))  # with the other it does not


LONG_STEPS = SampleTimes(step_seconds=600.0, reach_back_seconds=900.0, samples=30)


def test_with_long_steps_a_move_that_the_figures_do_not_show_yet_still_counts_before_another(store: Store) -> None:
    busy = (host("h1", 0.9, 0.9, 0.9), host("h2", 0.9, 0.9, 0.9))
    cycle, watching, acting = make(store, *busy, domain("a", "h1", 3.0), domain("b", "h2", 3.0))
    cycle = replace(cycle, policy=Policy(cpu=Trigger(threshold=0.7, consecutive=2)))
    watching.sample_times = LONG_STEPS
    watching.seen = group(*busy, host("h3", 0.1, 0.1, 0.1, cpus=32), *watching.seen.domains, step=600.0)
    run(cycle, 60_000.0)
    ((entries, recheck),) = acting.taken
    assert [(move.source, move.destination) for _, move in entries] == [("h1", "h3"), ("h2", "h3")]
    h3 = host("h3", 0.54, 0.54, 0.54, cpus=32)
    watching.seen = group(*busy, h3, *watching.seen.domains, step=600.0)
    assert recheck(entries[1][1]) is None  # it alone fits
    store.begin(entries[0][0])
    store.end(entries[0][0], DONE)
    watching.seen = group(*busy, h3, domain("a", "h3", 3.0), domain("b", "h2", 3.0), step=600.0)
    cycle.clock.at = 60_000.0 + 1200.0  # type: ignore[attr-defined]  # the newest sample reaches back to before its end
    assert "CPU load would be too high" in str(recheck(entries[1][1]))
    assert watching.asked_for == [{"h2", "h3"}, {"h1", "h2", "h3"}]


def test_with_long_steps_n_starts_again_after_a_migration_also_if_the_balancer_was_down(store: Store) -> None:
    cycle, watching, acting = make(store)
    cycle = replace(cycle, policy=Policy(cpu=Trigger(threshold=0.7, consecutive=20)))
    watching.sample_times = LONG_STEPS
    busy, idle = [0.9] * 30, [0.1] * 30
    watching.seen = group(host("h1", *busy), host("h2", *idle), domain("a", "h1", 3.0), step=600.0)
    assert ends(run(cycle, 60_000.0).plan) == [("a", "h1", "h2")]
    ended(store, acting, 60_001.0)
    acting.busy = False
    watching.seen = group(host("h1", *idle), host("h2", *busy), domain("b", "h2", 3.0), step=600.0)
    back = 60_000.0 + 16 * 600.0
    assert ends(run(cycle, back).plan) == []  # of 20 samples some were taken before the migration ended
    assert ends(run(cycle, back + 6 * 600.0).plan) == [("b", "h2", "h1")]


def test_a_mode_that_was_changed_ends_what_has_not_begun_but_not_what_a_person_chose(store: Store) -> None:
    cycle, _, acting = make(store, *BUSY)
    run(cycle, 1000.0)
    ((entries, recheck),) = acting.taken
    store.override("mode", OverrideValue(value="recommend", instead_of="automatic", at=1001.0, who="alice"))
    assert recheck(entries[0][1]) == "the mode is recommend"
    assert cycle.obstacle(entries[0][1], ordered=True) is None


def test_undrain_ends_what_has_not_begun(store: Store) -> None:
    cycle, _, acting = make(store, host("h1", 0.3, 0.3), host("h2", 0.1, 0.1), domain("a", "h1", 1.0))
    store.order_drain("h1", draining=True)
    run(cycle, 1000.0)
    ((entries, recheck),) = acting.taken
    assert recheck(entries[0][1]) is None
    store.order_drain("h1", draining=False)
    assert recheck(entries[0][1]) == "h1 is no longer draining"


def test_predictions_are_held_against_what_was_measured_after_the_dust_settled(store: Store) -> None:
    cycle, watching, acting = make(store, *BUSY)
    run(cycle, 1000.0)
    ended(store, acting, 1006.0)
    acting.busy = False
    watching.seen = group(host("h1", 0.5), host("h2", 0.4), domain("a", "h2", 3.0))
    watching.measured = tuple((1000.0 + 10 * i, 0.5) for i in range(20))
    assert run(cycle, 1080.0).measured == ()
    report = run(cycle, 1090.0)
    verdicts = {due.role: verdict for due, verdict in report.measured}
    assert report.observation is not None
    assert report.observation.warnings == ("measured with a warning",)
    assert verdicts[Role.SOURCE].error == pytest.approx(0.5 - (0.9 - 0.9 * 3 / 8))
    assert run(cycle, 1100.0).measured == ()


def test_a_draining_host_is_emptied_and_stays_out(store: Store) -> None:
    cycle, watching, acting = make(store, host("h1", 0.3, 0.3), host("h2", 0.1, 0.1), domain("a", "h1", 1.0))
    store.order_drain("h1", draining=True)
    assert run(cycle, 1000.0).sentence == "h1 is draining: move a to h2"
    ended(store, acting, 1004.0)
    acting.busy = False
    watching.seen = group(host("h1", 0.0, 0.0), host("h2", 0.9, 0.9), domain("a", "h2", 7.0))
    later = run(cycle, 1100.0)
    assert later.plan.moves == ()  # type: ignore[union-attr]
    assert later.observation.snapshot.hosts[0].state is HostState.DRAINING  # type: ignore[union-attr]


TWO = (
    host("h1", 1.0, 1.0),
    host("h2", 0.05, 0.05),
    domain("a", "h1", 1.2),
    domain("b", "h1", 1.2),
    domain("c", "h1", 1.2),
)


def test_a_person_applies_a_plan_which_is_made_again_on_a_fresh_look(store: Store) -> None:
    cycle, _, acting = make(store, *BUSY)
    begun = cycle.apply({("uuid-of-a", "h2")}, 1000.0)
    assert [move.domain for move in begun.moves] == ["a"]
    ((entries, _),) = acting.taken
    assert [record.id for record in store.history(5)] == [entries[0][0]]


def test_a_plan_that_is_out_of_date_is_refused_in_words_and_nothing_begins(store: Store) -> None:
    cycle, watching, acting = make(store, *BUSY)
    watching.seen = group(host("h1", 0.4, 0.4), host("h2", 0.1, 0.1), domain("a", "h1", 3.0))
    with pytest.raises(
        Refused, match="out of date: the plan no longer has a to h2; now no host has had 2 consecutive samples"
    ):
        cycle.apply({("uuid-of-a", "h2")}, 1000.0)
    assert (acting.taken, store.history(5)) == ([], ())


def test_a_part_of_a_plan_can_be_applied(store: Store) -> None:
    cycle, _, _ = make(store, *TWO)
    plan = run(replace(cycle, mode="recommend"), 1000.0).plan
    assert plan is not None
    first, *_ = plan.moves
    assert cycle.apply({(first.uuid, "h2")}, 1000.0).moves == (first,)


def test_a_part_of_a_plan_is_refused_without_what_it_needs(store: Store) -> None:
    pair = Rule(name="pair", kind="together", domains=("a", "b"))
    cycle, _, _ = make(store, *TWO)
    cycle = replace(cycle, policy=replace(cycle.policy, strategy="default", rules=(pair,)))
    with pytest.raises(Refused, match="only together: a to h2 goes together with b to h2"):
        cycle.apply({("uuid-of-a", "h2")}, 1000.0)


def test_with_the_thesis_no_plan_can_be_applied_while_a_migration_runs(store: Store) -> None:
    cycle, _, acting = make(store, *BUSY)
    run(cycle, 1000.0)
    with pytest.raises(Refused, match="1 more move waits; no new plan until all have ended"):
        cycle.apply({("uuid-of-a", "h2")}, 1010.0)
    assert len(acting.taken) == 1


def test_a_pause_stops_the_moves_that_have_not_begun(store: Store) -> None:
    cycle, _, acting = make(store, *BUSY)
    run(cycle, 1000.0)
    ((entries, recheck),) = acting.taken
    assert recheck(entries[0][1]) is None
    store.override("paused", OverrideValue(value="yes", instead_of="no", at=1001.0, who="alice"))
    assert recheck(entries[0][1]) == "paused by alice"


def test_a_drain_waits_until_the_host_was_seen_since_its_moves_ended(store: Store) -> None:
    """Right after them Prometheus still has the domain on the source; a second attempt then could not but fail."""
    cycle, watching, acting = make(store, host("h1", 0.3, 0.3), host("h2", 0.1, 0.1), domain("a", "h1", 1.0))
    store.order_drain("h1", draining=True)
    run(cycle, 1000.0)
    ended(store, acting, 1004.0)
    acting.busy = False
    report = run(cycle, 1010.0)
    assert report.plan.attempts == ()  # type: ignore[union-attr]
    assert report.sentence == "h1 waits for figures from after the last change on it"  # "nothing to do" would mislead
    watching.seen = group(host("h1", 0.0, 0.0), host("h2", 0.4, 0.4), domain("a", "h2", 1.0))
    assert run(cycle, 1020.0).backoffs["h1"].penalty_until is None


@dataclass
class Open:
    """Accounts of these domains, whatever is asked."""

    found: tuple[Unsettled, ...]
    asked: list[tuple[Sequence[JournalEntry], Collection[str], object]] = field(default_factory=list)

    def keep_up(self, entries: Sequence[JournalEntry], group: Collection[str], seen_twice: object) -> None:
        self.asked.append((entries, group, seen_twice))

    def unsettled(self, entries: Sequence[JournalEntry]) -> tuple[Unsettled, ...]:
        return self.found


def unsettled(kind: UnsettledKind, *hosts: str) -> Unsettled:
    return Unsettled(domain="z", uuid="z", hosts=hosts, kind=kind, text=f"z is {kind}")


@pytest.mark.parametrize("kind", UnsettledKind)
def test_only_the_hosts_of_an_unsettled_domain_wait(store: Store, kind: UnsettledKind) -> None:
    cycle, _, acting = make(store, *BUSY, host("h3", 0.15, 0.15, 0.15), host("h4", 0.1, 0.1, 0.1))
    cycle = replace(cycle, accounts=Open((unsettled(kind, "h2", "h4"),)))
    report = run(cycle, 1000.0)
    assert [(move.source, move.destination) for move in report.plan.moves] == [("h1", "h3")]  # type: ignore[union-attr]
    assert report.sentence.endswith("; unknown: h2, h4")
    assert [one.kind for one in report.unsettled] == [kind]
    ((entries, recheck),) = acting.taken
    assert recheck(entries[0][1]) is None
    cycle = replace(cycle, accounts=Open((unsettled(kind, "h3", "h4"),)))
    assert cycle.obstacle(entries[0][1], ordered=False) == f"h3 is unknown: z is {kind}"


def test_a_domain_that_a_host_elsewhere_claims_is_not_moved_itself(store: Store) -> None:
    """Its own hosts go on, where the one that claims it contradicts many."""
    cycle, _, acting = make(store, *BUSY, host("h3", 0.15, 0.15, 0.15), host("h4", 0.1, 0.1, 0.1))
    run(cycle, 1000.0)
    ((entries, recheck),) = acting.taken
    move = entries[0][1]
    assert recheck(move) is None
    twice = replace(unsettled(UnsettledKind.TWICE, "elsewhere"), uuid=move.uuid)
    assert replace(cycle, accounts=Open((twice,))).obstacle(move, ordered=False) == "z is twice"


@pytest.mark.parametrize("failure", [None, "Prometheus at http://x cannot be asked"])
def test_every_cycle_asks_for_what_is_open_also_one_without_prometheus(store: Store, failure: str | None) -> None:
    cycle, watching, acting = make(store, *BUSY)
    run(cycle, 1000.0)
    ((entries, _),) = acting.taken
    store.begin(entries[0][0])
    accounts = Open(())
    watching.failure = failure
    run(replace(cycle, accounts=accounts), 1010.0)
    ((asked, group, _),) = accounts.asked
    assert [entry.id for entry in asked] == [entries[0][0]]
    assert set(group) == (set() if failure else {"h1", "h2"})


def test_a_domain_seen_twice_is_asked_about_by_name_and_hosts(store: Store) -> None:
    cycle, watching, _ = make(store, *BUSY)
    observe = watching.observe
    watching.observe = lambda now: replace(observe(now), duplicates={"uuid-of-a": ("h1", "h2")})  # type: ignore[method-assign]
    accounts = Open(())
    run(replace(cycle, accounts=accounts), 1000.0)
    assert accounts.asked[0][2] == {"uuid-of-a": SeenTwice("a", ("h1", "h2"))}


@pytest.mark.parametrize(
    ("hosts", "seconds", "expected"),
    [(("h1", "h2"), 3.0, True), (("h1", "h2"), 60.0, False), (("h1", "h3"), 3.0, False)],
    ids=["as before it", "when all samples show it", "elsewhere"],
)
def test_a_domain_that_samples_show_where_a_migration_of_ours_took_it_from_is_no_news(
    store: Store, hosts: tuple[str, ...], seconds: float, expected: bool
) -> None:
    cycle, watching, acting = make(store, *BUSY)
    run(cycle, 1000.0)
    ended(store, acting, 1005.0)
    acting.busy = False
    (((_, move), *_), _) = acting.taken[0]
    assert {move.source, move.destination} == {"h1", "h2"}
    observe = watching.observe
    watching.observe = lambda now: replace(observe(now), duplicates={move.uuid: hosts})  # type: ignore[method-assign]
    accounts = Open(())
    report = run(replace(cycle, accounts=accounts), 1005.0 + seconds)
    assert accounts.asked[0][2] == {move.uuid: SeenTwice(move.domain, hosts, expected)}, "libvirt is asked all the same"
    assert report.observation is not None
    assert report.observation.duplicates == ({} if expected else {move.uuid: hosts})


@contextmanager
def meanwhile(store: Store, act: Callable[[], object]) -> Iterator[None]:
    """Another process acts once, right after the store was read."""
    recall = store.recall
    left = [act]

    def and_act(**since: float) -> Memory:
        found = recall(**since)
        if left:
            left.pop()()
        return found

    store.recall = and_act  # type: ignore[method-assign]
    yield
    assert not left


@pytest.mark.parametrize("draining", [True, False])
def test_a_drain_ordered_while_a_cycle_decides_is_not_lost(store: Store, url: str, draining: bool) -> None:
    """The cycle has read that nothing drains (or that h2 does), and writes the back-offs of all hosts."""
    cycle, _, acting = make(store, *BUSY)
    with closing(Store.open(url, clock=FakeClock(1004.0))) as other:
        run(cycle, 1000.0)
        ended(store, acting, 1005.0)
        acting.busy = False
        if not draining:
            other.order_drain("h2", draining=True)
        with meanwhile(store, lambda: other.order_drain("h2", draining=draining)):
            run(cycle, 1010.0)
    assert set(store.recall(moved_since=0, ended_since=0, judged_since=0).backoffs) == {"h1", "h2"}
    assert store.standing_orders().drains["h2"].draining is draining
    states = {host.name: host.state for host in run(cycle, 1020.0).observation.snapshot.hosts}  # type: ignore[union-attr]
    assert states["h2"] is (HostState.DRAINING if draining else HostState.ACTIVE)


def test_only_what_changed_is_written(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    cycle, _, _ = make(store, *STUCK, host("h3", 0.55, 0.55, 0.55))
    run(cycle, 1000.0)  # an attempt without moves: of three hosts one earns a penalty
    committed: list[Changes] = []
    commit = store.commit

    def noted(changes: Changes, now: float) -> Committed:
        committed.append(changes)
        return commit(changes, now)

    monkeypatch.setattr(store, "commit", noted)
    for now in (1010.0, 1020.0):
        run(cycle, now)
    assert [[backoff.host for backoff in changes.backoffs] for changes in committed] == [["h1"], []]


def test_a_cycle_reads_in_one_transaction_and_writes_in_one(store: Store) -> None:
    begun: list[bool] = []
    cycle, watching, acting = make(store, host("h1", 0.5, 0.5), host("h2", 0.1, 0.1), domain("a", "h1", 3.0))
    run(cycle, 990.0)

    @event.listens_for(store.database.engine, "begin")
    def _begin(connection: Connection) -> None:
        begun.append(connection.get_execution_options().get("writes", False))

    run(cycle, 1000.0)
    assert begun == [False, True]
    watching.seen = group(*BUSY)
    run(cycle, 1010.0)
    assert (len(acting.taken), begun) == (1, [False, True] * 2)


def test_a_move_that_ends_while_the_group_is_looked_at_is_settled_before_anything_is_judged(store: Store) -> None:
    cycle, watching, acting = make(store, *BUSY)
    run(cycle, 1000.0)
    observe = watching.observe

    def and_end(now: float) -> Observation:
        seen = observe(now)
        ended(store, acting, 1009.0)
        acting.busy = False
        return seen

    watching.observe = and_end  # type: ignore[method-assign]
    report = run(cycle, 1010.0)
    assert (report.result, len(acting.taken)) == (CycleResult.IDLE, 1)
    assert report.backoffs["h1"].counted_from == 1009.0


def test_a_recommendation_that_waits_is_stored_once_while_only_its_figures_change(store: Store) -> None:
    cycle, watching, _ = make(store, *BUSY, mode="recommend")
    for i in range(5):
        watching.seen = group(host("h1", 0.9, 0.9, 0.9 + i / 100), *BUSY[1:])
        assert run(cycle, 1000.0 + 10 * i).result is CycleResult.RECOMMENDED
    assert len(store.plans(10)) == 1


def test_every_plan_is_stored_with_what_it_was_made_from_so_that_it_can_be_made_again(store: Store) -> None:
    cycle, watching, acting = make(store, *STUCK)
    run(cycle, 1000.0)  # an attempt that moves nothing
    run(cycle, 1010.0)  # waits for its penalty
    watching.seen = group(*BUSY)
    store.order_drain("h3", draining=True)
    run(replace(cycle, mode="recommend", policy=thesis_policy(0.7)), 1300.0)
    run(cycle, 1310.0)
    acting.busy = False
    assert [(plan.acted, plan.moves) for plan in store.plans(10)] == [(True, 1), (False, 1), (False, 0), (True, 0)]
    for record in store.plans(10):
        inputs = store.inputs(record.id)
        assert inputs is not None
        assert plan(inputs.snapshot, inputs.policy) == store.plan(record.id).plan


def test_a_chosen_part_of_a_plan_is_stored_with_the_choice(store: Store) -> None:
    cycle, _, _ = make(store, *TWO, mode="recommend")
    made = run(cycle, 1000.0).plan
    assert made is not None
    wanted = frozenset({(made.moves[0].uuid, "h2")})
    cycle.apply(wanted, 1010.0)
    newest, _ = store.plans(10)
    inputs = store.inputs(newest.id)
    assert inputs is not None
    assert inputs.wanted == wanted


def test_cycles_that_came_to_the_same_share_a_row(store: Store) -> None:
    cycle, watching, _ = make(store, *STUCK)
    for now in range(1000, 1060, 10):
        run(cycle, float(now))
    watching.failure = "Prometheus cannot be asked"
    run(cycle, 1060.0)
    rows = [(row.first, row.last, row.cycles, row.result) for row in store.cycles(10)]
    assert rows == [(1060, 1060, 1, "failed"), (1010, 1050, 5, "waiting"), (1000, 1000, 1, "idle")]
    assert [row.sentence for row in store.cycles(10)][1] == run_sentence(1050)


def run_sentence(now: int) -> str:
    return f"h1 waits {1190 - now} s more after an attempt that did not solve its problem"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (
            "h1 is overloaded (CPU 90%, 3 consecutive samples)",
            "h1 is overloaded (CPU 91%, 12 consecutive samples)",
            True,
        ),
        ("h1 is overloaded (cpu 90%, 1 sample)", "h1 is overloaded (cpu 91%, 2 consecutive samples)", True),
        (
            "migrating a from h1 to h2 (47%, 3 s, dirties 4.0 MiB/s)",
            "migrating a from h1 to h2 (9%, 1 s, dirties 12 KiB/s)",
            True,
        ),
        ("h1 waits 90 s more", "h2 waits 90 s more", False),
        ("migrating vm-3 from h1 to h2", "migrating vm-4 from h1 to h2", False),
        ("10.0.0.1 is draining", "10.0.0.2 is draining", False),
        ("moving db 2 to h1", "moving db 3 to h1", False),
    ],
)
def test_what_cycles_came_to_is_compared_without_the_figures(one: str, other: str, same: bool) -> None:
    assert (gist(one) == gist(other)) is same
