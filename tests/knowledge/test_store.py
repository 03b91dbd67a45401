"""The store: what is written down survives, and what an earlier process left behind is found."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import NullPool, create_engine, insert, literal, select, text

from builders import FakeClock, domain, group, host, thesis_policy
from storing import BY_OTHERS, record
from virtpoise_balancer.analyse.backoff import Backoff
from virtpoise_balancer.analyse.brake import Brake, BrakeCause
from virtpoise_balancer.analyse.learned import Learned, with_learned
from virtpoise_balancer.analyse.measure import DuePrediction, Measured
from virtpoise_balancer.analyse.others import ChangeKind, OthersChange, Sightings
from virtpoise_balancer.errors import BadInput
from virtpoise_balancer.knowledge import others
from virtpoise_balancer.knowledge.records import Changes, EndedPlan, Look, NewCycle, OverrideValue
from virtpoise_balancer.knowledge.schema import metadata, predictions
from virtpoise_balancer.knowledge.store import Store
from virtpoise_balancer.model import (
    Cause,
    Entries,
    MigrationOutcome,
    Move,
    Plan,
    Policy,
    Residual,
    Result,
    Role,
    Written,
)
from virtpoise_balancer.plan import plan

DONE = MigrationOutcome(result=Result.DONE, seconds=5.9, downtime_seconds=0.14, transferred_bytes=1000)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/state.db"


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with closing(Store.open(url)) as opened:
        yield opened


def made_plan() -> Plan:
    made = plan(
        group(
            host("h1", 1.0, 1.0),
            host("h2", 0.05, 0.05),
            domain("a", "h1", 1.2),
            domain("b", "h1", 1.2),
            domain("c", "h1", 1.2),
        ),
        thesis_policy(),
    )
    assert len(made.moves) == 3
    return made


def entries(store: Store, now: float = 1000.0) -> Entries:
    return record(store, made_plan(), now, acted=True)


def ended_plans(store: Store) -> tuple[EndedPlan, ...]:
    return store.recall(moved_since=0, ended_since=0, judged_since=0).ended_plans


def due(store: Store) -> tuple[DuePrediction, ...]:
    return store.recall(moved_since=0, ended_since=0, judged_since=0).due


def learned(store: Store, moved_since: float = 0) -> Learned:
    return store.recall(moved_since=moved_since, ended_since=0, judged_since=0).learned


def give_verdict(store: Store, prediction: DuePrediction, verdict: Measured) -> None:
    store.commit(Changes(verdicts={prediction.id: verdict}), 1000.0)


def test_the_tables_are_those_of_the_schema(store: Store, url: str) -> None:
    with create_engine(url, poolclass=NullPool).connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_a_plan_is_journalled_with_its_moves_and_predictions_before_any_begins(store: Store) -> None:
    made = made_plan()
    written = entries(store)
    assert [move for _, move in written] == list(made.moves)
    records = store.history(10)
    assert [(r.domain, r.began, r.result) for r in reversed(records)] == [(m.domain, None, None) for m in made.moves]
    assert records[-1].predictions[0].predicted == pytest.approx(made.moves[0].predicted.source.cpu_ratio)


def test_history_outlives_the_process(store: Store, url: str) -> None:
    (first, *_) = entries(store)
    store.begin(first[0])
    store.end(first[0], DONE)
    store.close()
    with closing(Store.open(url)) as again:
        (record,) = [record for record in again.history(10) if record.result]
    assert (record.result, record.seconds, record.downtime_seconds) == ("done", 5.9, 0.14)


def test_what_an_earlier_process_left_is_found_begun_and_not_begun_apart(store: Store, url: str) -> None:
    first, second, third = entries(store)
    store.begin(first[0])
    store.end(first[0], DONE)
    store.begin(second[0])
    store.close()
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as database, database:
        database.execute("UPDATE plans SET document = x'00'")  # the journal alone is enough
    with closing(Store.open(url)) as again:
        left = {entry.id: entry for entry in again.watched()}
    assert {migration_id: entry.is_open for migration_id, entry in left.items()} == {second[0]: True, third[0]: False}
    move, wanted = left[second[0]].move, second[1]
    assert (move.domain, move.uuid, move.source, move.destination) == (
        wanted.domain,
        wanted.uuid,
        wanted.source,
        wanted.destination,
    )
    assert move.predicted.source.cpu_ratio == wanted.predicted.source.cpu_ratio


def test_a_plan_has_ended_when_all_its_moves_have_and_is_settled_once(store: Store) -> None:
    ids = [migration_id for migration_id, _ in entries(store)]
    for migration_id in ids[:-1]:
        store.end(migration_id, DONE)
    assert ended_plans(store) == ()
    store.end(ids[-1], MigrationOutcome(result=Result.FAILED, why="refused"))
    (ended,) = ended_plans(store)
    assert ended.results == (Result.DONE, Result.DONE, Result.FAILED)
    assert ended.plan == made_plan()
    backoff = Backoff(host="h1", penalty_until=5.0, failures=1)
    store.commit(Changes(settled=(ended.id,), backoffs=(backoff,)), 1010.0)
    assert ended_plans(store) == ()
    assert store.recall(moved_since=0, ended_since=0, judged_since=0).backoffs == {"h1": backoff}


def test_a_plan_without_moves_has_ended_when_it_was_made(store: Store) -> None:
    stuck = plan(group(host("h1", 0.9, 0.9), host("h2", 0.5, 0.5), domain("a", "h1", 4.0)), thesis_policy())
    assert record(store, stuck, 1234.0, acted=True) == ()
    assert [(ended.plan, ended.ended) for ended in ended_plans(store)] == [(stuck, 1234.0)]


def test_a_recommendation_is_never_journalled(store: Store) -> None:
    assert record(store, made_plan(), 1000.0, acted=False) == ()
    assert (store.history(10), ended_plans(store)) == ((), ())
    assert [(plan.moves, plan.acted) for plan in store.plans(10)] == [(3, False)]


def test_a_prediction_is_due_after_its_migration_and_gone_once_it_has_a_verdict(store: Store) -> None:
    (first, second, _) = entries(store)
    store.begin(first[0])
    store.end(first[0], DONE)
    store.begin(second[0])
    source, destination = due(store)
    assert (source.role, destination.role) == (Role.SOURCE, Role.DESTINATION)
    assert {(one.source, one.destination) for one in (source, destination)} == {(first[1].source, first[1].destination)}
    assert source.disturbed_from is not None  # by the second migration of the same two hosts
    verdict = Measured(verdict="measured", window=(1.0, 2.0), ratio=0.5, error=0.1)
    give_verdict(store, source, verdict)
    assert [one.id for one in due(store)] == [destination.id]
    (record,) = [record for record in store.history(10) if record.id == first[0]]
    assert (record.predictions[0].measured, record.predictions[0].error) == (0.5, 0.1)


def test_a_move_that_was_not_made_has_no_prediction_to_measure(store: Store) -> None:
    for migration_id, _ in entries(store):
        store.end(migration_id, MigrationOutcome(result=Result.SKIPPED, why="gone"))
    assert due(store) == ()
    assert store.open_predictions() == ()


def test_a_prediction_is_disturbed_by_a_migration_that_began_earlier_and_is_still_under_way(store: Store) -> None:
    first, second, _ = entries(store)
    store.begin(first[0])
    store.begin(second[0])
    store.end(second[0], DONE)
    found = due(store)
    assert [one.role for one in found] == ["source", "destination"]
    assert all(one.disturbed_from is not None and one.disturbed_from < one.migrated for one in found)


def test_the_journal_knows_the_moves_that_were_done_and_those_under_way(store: Store) -> None:
    first, second, third = entries(store)
    for migration_id, _ in (first, second, third):
        store.begin(migration_id)
    store.end(first[0], DONE)
    store.end(second[0], MigrationOutcome(result=Result.FAILED, why="refused"))
    (again, *_) = entries(store)
    store.begin(again[0])
    store.end(again[0], DONE)
    known = learned(store)
    assert {uuid: moved.times for uuid, moved in known.moved.items()} == {first[1].uuid: 2}
    open_ones = [
        one.uuid for one in store.recall(moved_since=0, ended_since=0, judged_since=0).commitments if one.is_open
    ]
    assert open_ones == [third[1].uuid]
    assert learned(store, moved_since=9e9).moved == {}


def test_the_journal_knows_how_fast_each_two_hosts_were(store: Store) -> None:
    first, second, _ = entries(store)
    store.end(first[0], DONE)
    store.end(second[0], MigrationOutcome(result=Result.DONE, seconds=0.1, transferred_bytes=5000))
    (link,) = learned(store).links
    assert (link.source, link.destination) == ("h1", "h2")
    assert link.bytes_per_second == pytest.approx(6000 / 6.0)


def test_the_journal_knows_for_how_long_migrations_between_two_hosts_stopped_their_domains(store: Store) -> None:
    for (migration_id, _), downtime in zip(entries(store), (0.2, None, 0.6), strict=True):
        store.end(migration_id, replace(DONE, downtime_seconds=downtime))
    assert {(one.source, one.destination): one.downtime_seconds for one in learned(store).links} == {
        ("h1", "h2"): pytest.approx(0.4)
    }


def test_the_journal_knows_how_fast_a_domain_wrote_to_its_memory_when_it_was_last_watched(store: Store) -> None:
    first, second, third = entries(store)
    store.end(first[0], replace(DONE, dirty_bytes_per_second=1e6))
    store.end(second[0], MigrationOutcome(result=Result.FAILED, why="aborted", dirty_bytes_per_second=2e6))
    store.end(third[0], DONE)
    assert learned(store).dirtying == {first[1].uuid: 1e6, second[1].uuid: 2e6}
    (again, *_) = entries(store)
    store.end(again[0], replace(DONE, dirty_bytes_per_second=3e6))
    known = learned(store)
    assert known.dirtying[first[1].uuid] == 3e6
    seen = with_learned(group(host("h1"), domain(first[1].domain, "h1"), domain("new", "h1")), known)
    assert [domain.dirty_bytes_per_second for domain in seen.domains] == [3e6, None]


def test_how_fast_a_domain_wrote_counts_for_a_week(store: Store) -> None:
    clock = store.clock = FakeClock()
    migration_id, move = entries(store)[0]
    skipped = MigrationOutcome(
        result=Result.SKIPPED, why="it would not converge", cause=Cause.SLOW, dirty_bytes_per_second=2e8
    )
    store.end(migration_id, skipped)
    assert learned(store).dirtying == {move.uuid: 2e8}
    assert attempts(store) == {None: (1, "it would not converge")}
    clock.at += 7 * 86400 + 1
    assert learned(store).dirtying == {}


def fail(store: Store, cause: Cause | None, why: str = "refused", at: int = 0) -> Move:
    """The first move of a new plan fails."""
    migration_id, move = entries(store)[at]
    store.begin(migration_id)
    result = Result.SKIPPED if cause is Cause.OBSTACLE else Result.FAILED
    store.end(migration_id, MigrationOutcome(result=result, why=why, cause=cause))
    return move


def attempts(store: Store) -> dict[str | None, tuple[int, str]]:
    return {one.destination: (one.failures, one.why) for one in learned(store).attempts}


@pytest.mark.parametrize("cause", [None, Cause.ERROR, Cause.OBSTACLE])
def test_the_journal_counts_failures_in_a_row_with_the_last_reason(url: str, store: Store, cause: Cause | None) -> None:
    assert learned(store).attempts == ()
    fail(store, cause, "the CPU lacks avx")
    move = fail(store, cause, "no such disk" + "!" * 500)
    with closing(Store.open(url)) as another:
        (one,) = learned(another).attempts
    assert (one.uuid, one.destination, one.failures, len(one.why)) == (move.uuid, "h2", 2, 200)
    assert one.why.startswith("no such disk!")
    migration_id, _ = entries(store)[0]
    store.begin(migration_id)
    store.end(migration_id, DONE)
    assert learned(store).attempts == ()
    fail(store, cause)
    assert attempts(store) == {"h2": (1, "refused")}


def test_a_migration_that_did_not_end_in_time_counts_for_every_destination(store: Store) -> None:
    fail(store, Cause.SLOW, "aborted: longer than 600 s")
    fail(store, Cause.ERROR)
    assert attempts(store) == {None: (1, "aborted: longer than 600 s"), "h2": (1, "refused")}


def test_what_was_only_skipped_or_stopped_teaches_nothing(store: Store) -> None:
    fail(store, Cause.STOPPED)
    migration_id, _ = entries(store)[0]
    store.end(migration_id, MigrationOutcome(result=Result.SKIPPED, why="Prometheus cannot be asked"))
    assert learned(store).attempts == ()


def migrated(store: Store) -> Move:
    """A migration off a busy host that was made; its predictions have no verdict yet."""
    busy = group(host("h1", 0.95, 0.95, 0.95), host("h2", 0.1, 0.1, 0.1), domain("a", "h1", 2.0, vcpus=4))
    ((migration_id, move),) = record(store, plan(busy, Policy()), 1000.0, acted=True)
    store.begin(migration_id)
    store.end(migration_id, DONE)
    return move


def test_the_journal_has_the_residuals_of_measured_predictions_with_their_spread(store: Store) -> None:
    move = migrated(store)
    assert learned(store).residuals == ()
    source, _ = due(store)
    give_verdict(store, source, Measured(verdict="measured", window=(1.0, 2.0), ratio=0.5, error=-0.03))
    (residual,) = learned(store).residuals
    predicted = move.predicted.source
    assert predicted.saturated is not None
    assert predicted.cpu_spread_ratio is not None
    assert residual == Residual(
        role=Role.SOURCE, saturated=predicted.saturated, error_ratio=-0.03, spread_ratio=predicted.cpu_spread_ratio
    )


def test_an_error_is_forgotten_after_thirty_days(url: str) -> None:
    clock = FakeClock(1000.0)
    with closing(Store.open(url, clock=clock)) as store:
        migrated(store)
        source, _ = due(store)
        give_verdict(store, source, Measured(verdict="measured", window=(1.0, 2.0), ratio=0.9, error=0.4))
        assert learned(store).residuals
        clock.at += 30 * 86400 + 1
        assert learned(store).residuals == ()


def test_a_residual_is_of_the_formulas_word_not_of_what_earlier_errors_made_of_it(store: Store) -> None:
    earlier = tuple(
        Residual(role=Role.SOURCE, saturated=False, error_ratio=-0.02, spread_ratio=0.03) for _ in range(20)
    )
    busy = group(host("h1", 0.85, 0.85, 0.85), host("h2", 0.1, 0.1, 0.1), domain("a", "h1", 2.0, vcpus=4))
    made = plan(replace(busy, residuals=earlier), Policy())
    ((migration_id, move),) = record(store, made, 1000.0, acted=True)
    assert move.predicted.source.cpu_bias_ratio == pytest.approx(-0.02)
    store.begin(migration_id)
    store.end(migration_id, DONE)
    source, _ = due(store)
    give_verdict(store, source, Measured(verdict="measured", window=(1.0, 2.0), ratio=0.5, error=0.005))
    (residual,) = learned(store).residuals
    assert residual.error_ratio == pytest.approx(-0.015)


def test_the_last_look_before_a_move_remembers_what_a_cycle_does_of_all_that_decides_it(store: Store) -> None:
    seen = group(host("h1", 0.9, 0.9, 0.9), host("h2", 0.1, 0.1, 0.1), domain("a", "h1", 3.0), domain("b", "h1", 3.0))
    made = plan(seen, Policy())
    moved, failed, *_ = [one for _ in range(2) for one in record(store, made, 1000.0, acted=True)]
    for migration_id, outcome in ((moved[0], DONE), (failed[0], MigrationOutcome(result=Result.FAILED, why="full"))):
        store.begin(migration_id)
        store.end(migration_id, outcome)
    give_verdict(store, due(store)[0], Measured(verdict="measured", window=(1020.0, 1080.0), ratio=0.5, error=0.1))
    lately = store.clock.now() - 60
    started = OthersChange(kind=ChangeKind.STARTED, domain="c", uuid="c", destination="h1", before=lately, at=lately)
    changes = Changes(
        backoffs=(Backoff(host="h1", penalty_until=5.0, failures=1),),
        brake=Brake(at=1005.0, cause=BrakeCause.OTHERS, why="two balancers"),
        look=Look(sightings=Sightings(at=1000.0), changes=(started,), same=False),
    )
    store.commit(changes, 1010.0)
    store.order_drain("h1", draining=True)
    store.override("mode", OverrideValue(value="automatic", instead_of="recommend", at=1.0, who="alice"))
    look = store.recall_for_look(ended_since=0, judged_since=0)
    memory = store.recall(moved_since=0, ended_since=0, judged_since=0)
    for name in ("orders", "backoffs", "watched", "commitments", "brake", "track_record", "others"):
        assert getattr(look, name), f"{name}: the test has none"
        assert getattr(look, name) == getattr(memory, name)
    assert look.learned.residuals
    assert look.learned.residuals == memory.learned.residuals
    assert look.learned.attempts
    assert look.learned.attempts == memory.learned.attempts
    assert look.orders.drains
    assert look.orders.overrides.mode


def test_a_strategy_without_intervals_leaves_no_residual(store: Store) -> None:
    (first, *_) = entries(store)
    store.begin(first[0])
    store.end(first[0], DONE)
    for prediction in due(store):
        give_verdict(store, prediction, Measured(verdict="measured", window=(1.0, 2.0), ratio=0.5, error=0.1))
    assert learned(store).residuals == ()


FAILED = MigrationOutcome(result=Result.FAILED, why="refused")


def test_a_failure_is_not_corrected_by_what_the_domains_next_migration_does(store: Store) -> None:
    ((first, _), *_) = entries(store)
    ((second, _), *_) = entries(store)
    store.begin(first)
    store.end(first, FAILED)
    store.begin(second)
    store.reopen(first, "it is still under way")
    assert store.end(first, DONE) is Written.NOTHING
    results = {record.id: record.result for record in store.history(10)}
    assert (results[first], results[second]) == ("failed", None)


def test_a_failure_is_still_watched_after_a_move_that_was_skipped(store: Store) -> None:
    ((first, _), *_) = entries(store)
    ((second, _), *_) = entries(store)
    store.begin(first)
    store.end(first, FAILED)
    store.begin(second)
    store.end(second, MigrationOutcome(result=Result.SKIPPED, why="another job"))
    assert first in {entry.id for entry in store.watched()}
    assert store.end(first, DONE) is Written.CORRECTED


def test_draining_is_an_order_that_can_be_taken_back(store: Store) -> None:
    assert store.order_drain("h1", draining=True)
    assert not store.order_drain("h1", draining=True)
    assert store.standing_orders().drains["h1"].draining
    assert store.order_drain("h1", draining=False)
    assert not store.standing_orders().drains["h1"].draining
    assert not store.order_drain("h2", draining=False)


def test_what_is_old_is_forgotten_with_all_that_hangs_on_it(store: Store) -> None:
    for migration_id, _ in entries(store, now=0.0):
        store.end(migration_id, DONE)
    (ended,) = ended_plans(store)
    cycle = NewCycle(at=0.0, result="moved", sentence="x", gist="x")
    store.commit(Changes(settled=(ended.id,), cycle=cycle), 0.0)
    store.forget(now=91 * 86400.0, keep_days=90, keep_bytes=10**9)
    assert (store.history(10), store.cycles(10), store.plans(10)) == ((), (), ())


def test_of_too_many_changes_by_others_the_newest_stay(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(others, "_MOST_KEPT", 3)
    changes = tuple(replace(BY_OTHERS, at=float(at)) for at in range(5))
    store.commit(Changes(look=Look(sightings=Sightings(at=9.0), changes=changes, same=False)), 9.0)
    store.forget(now=10.0, keep_days=90, keep_bytes=1)
    assert [one.at for one in store.others(9)] == [4.0, 3.0, 2.0]


def test_of_too_many_bytes_the_oldest_plans_go_but_no_migration(store: Store) -> None:
    day = 86_400.0
    acted = [record(store, made_plan(), now * day, acted=True, snapshot=group(host("h1"))) for now in (1, 2)]
    for now in (3, 4, 5):
        record(store, made_plan(), now * day, acted=False, snapshot=group(host("h1")))
    newest, second, *_ = store.plans(10)
    sizes = {plan.id: size(store, plan.id) for plan in store.plans(10)}
    store.forget(now=10 * day, keep_days=90, keep_bytes=sizes[newest.id] + sizes[second.id])
    left = {plan.made / day: plan.replayable for plan in store.plans(10)}
    assert left == {5.0: True, 4.0: True, 2.0: False, 1.0: False}
    assert len(store.history(10)) == sum(len(entries) for entries in acted)
    assert store.inputs(newest.id) is not None
    assert store.inputs(min(plan.id for plan in store.plans(10))) is None


def test_one_day_of_plans_does_not_take_the_place_of_the_others(store: Store) -> None:
    """At 1,000 hosts a plan's snapshot has 0.8 MB, and a day may have a thousand plans."""
    day = 86_400.0
    for acted, at in ((False, 0.5), *((number % 2 == 0, 1 + number / 100) for number in range(8))):
        record(store, made_plan(), at * day, acted=acted, snapshot=group(host("h1")))
    (one, *_) = {size(store, plan.id) for plan in store.plans(10)}
    store.forget(now=2 * day, keep_days=90, keep_bytes=16 * one)
    kept = {round(plan.made / day, 2): plan.replayable for plan in store.plans(10)}
    assert kept == {0.5: True, **{round(1 + number / 100, 2): number >= 6 for number in range(8)}}


def size(store: Store, plan_id: int) -> int:
    with store.database.reading() as connection:
        return int(connection.execute(text("SELECT bytes FROM plans WHERE id = :id"), {"id": plan_id}).scalar_one())


def test_one_broken_plan_is_left_out_and_named_and_the_others_are_read(store: Store) -> None:
    for now in (1000.0, 2000.0, 3000.0):
        for migration_id, _ in entries(store, now):
            store.end(migration_id, DONE)
    with store.database.writing() as connection:
        connection.execute(text("UPDATE plans SET document = x'00' WHERE id = 1"))
        connection.execute(text("UPDATE migrations SET result = 'dome' WHERE plan_id = 2 AND position = 1"))
    memory = store.recall(moved_since=0, ended_since=0, judged_since=0)
    assert [ended.id for ended in memory.ended_plans] == [3]
    assert {line.partition(":")[2].strip().partition(":")[0] for line in memory.broken} == {"plan 1", "plan 2"}
    with pytest.raises(BadInput, match=r"^state\.url: plan 1: cannot be read: "):
        store.plan(1)


@pytest.mark.parametrize("url", ["sqlit:////x.db", "mysql+nosuch://h/x", "postgresql://h:port/x"])
def test_an_address_that_is_none_is_named_in_one_line(url: str) -> None:
    with pytest.raises(BadInput, match=r"^state\.url: .*: cannot be opened: .+") as refused:
        Store.open(url)
    assert "\n" not in str(refused.value)


def test_a_place_that_cannot_be_had_is_named_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"state.url: sqlite:///.*/missing/x.db: cannot be opened: .*unable to open"):
        Store.open(f"sqlite:///{tmp_path}/missing/x.db")


def test_a_plan_that_is_not_settled_is_never_forgotten(store: Store) -> None:
    ids = [migration_id for migration_id, _ in entries(store, now=0.0)]
    store.forget(now=91 * 86400.0, keep_days=90, keep_bytes=2**20)
    for migration_id in ids:
        store.end(migration_id, DONE)
    store.forget(now=91 * 86400.0, keep_days=90, keep_bytes=2**20)
    (ended,) = ended_plans(store)
    assert ended.plan == made_plan()
    store.commit(Changes(settled=(ended.id,)), 1000.0)
    store.forget(now=91 * 86400.0, keep_days=90, keep_bytes=2**20)
    assert store.history(10) == ()


def test_a_prediction_is_disturbed_by_a_migration_that_ended_after_its_own(store: Store) -> None:
    first, second, _ = entries(store)
    store.begin(first[0])
    store.begin(second[0])
    store.end(second[0], DONE)
    store.end(first[0], DONE)
    of_second = due(store)[2:]
    assert [one.role for one in of_second] == ["source", "destination"]
    assert all(one.disturbed_from is not None and one.disturbed_from < one.migrated for one in of_second)


def test_a_measurement_that_cannot_be_teaches_nothing_and_pulls_no_brake(store: Store) -> None:
    """An earlier version wrote down what Prometheus had answered, whatever it was."""
    migrated(store)
    source, destination = due(store)
    give_verdict(store, source, Measured(verdict="measured", window=(1.0, 2.0), ratio=2.5, error=2.0))
    give_verdict(store, destination, Measured(verdict="measured", window=(1.0, 2.0), ratio=0.5, error=0.1))
    memory = store.recall(moved_since=0, ended_since=0, judged_since=0)
    assert [residual.error_ratio for residual in memory.learned.residuals] == [0.1]
    assert [one.error_ratio for one in memory.track_record.errors] == [0.1]


def test_the_journal_has_the_newest_two_hundred_residuals(store: Store) -> None:
    migrated(store)
    source, _ = due(store)
    give_verdict(store, source, Measured(verdict="measured", window=(1.0, 2.0), ratio=0.5, error=0.0))
    copied = [column for column in predictions.c if column.name not in ("id", "error")]
    with store.database.writing() as connection:  # the same prediction again, each time with another error
        for number in range(1, 201):
            again = select(*copied, literal(number / 1000)).where(predictions.c.id == source.id)
            connection.execute(insert(predictions).from_select([*copied, predictions.c.error], again))
    errors = [residual.error_ratio for residual in learned(store).residuals]
    assert sorted(errors) == pytest.approx([number / 1000 for number in range(1, 201)])
