"""The store: what is written down survives, and what an earlier process left behind is found."""

from dataclasses import replace
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, insert, literal, select, text

from builders import domain, group, host, thesis_policy
from virtpoise_balancer.analyse.backoff import Standing
from virtpoise_balancer.analyse.learned import with_experience
from virtpoise_balancer.analyse.measure import Measured
from virtpoise_balancer.errors import BadInput
from virtpoise_balancer.knowledge.leader import Leadership
from virtpoise_balancer.knowledge.schema import metadata, predictions
from virtpoise_balancer.knowledge.store import Store
from virtpoise_balancer.model import Move, Outcome, Plan, Policy, Residual, Result, Role
from virtpoise_balancer.plan import plan

DONE = Outcome(result=Result.DONE, seconds=5.9, downtime_seconds=0.14, transferred_bytes=1000)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/state.db"


@pytest.fixture
def store(url: str) -> Store:
    return Store.open(url)


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


def entries(store: Store, now: float = 1000.0) -> tuple[tuple[int, Move], ...]:
    return store.record_plan(made_plan(), now, acted=True)


def test_the_tables_are_those_of_the_schema(store: Store, url: str) -> None:
    with create_engine(url).connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_a_store_of_before_is_brought_up_to_date_with_what_it_holds(store: Store, url: str) -> None:
    entries(store)
    store.close()
    with create_engine(url).begin() as connection:
        connection.execute(text("ALTER TABLE migrations DROP COLUMN dirty_bytes_per_second"))
        connection.execute(text("ALTER TABLE predictions DROP COLUMN bias"))
        connection.execute(text("UPDATE alembic_version SET version_num = '0001'"))
    again = Store.open(url)
    assert len(again.history(10)) == 3
    with create_engine(url).connect() as connection:
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
    (record,) = [record for record in Store.open(url).history(10) if record.result]
    assert (record.result, record.seconds, record.downtime_seconds) == ("done", 5.9, 0.14)


def test_what_an_earlier_process_left_is_found_begun_and_not_begun_apart(store: Store, url: str) -> None:
    first, second, third = entries(store)
    store.begin(first[0])
    store.end(first[0], DONE)
    store.begin(second[0])
    store.close()
    begun, not_begun = Store.open(url).unfinished()
    assert begun == (second,)
    assert not_begun == (third[0],)


def test_a_plan_has_ended_when_all_its_moves_have_and_is_settled_once(store: Store) -> None:
    ids = [migration_id for migration_id, _ in entries(store)]
    for migration_id in ids[:-1]:
        store.end(migration_id, DONE)
    assert store.ended_plans() == ()
    store.end(ids[-1], Outcome(result=Result.FAILED, why="refused"))
    (ended,) = store.ended_plans()
    assert ended.results == (Result.DONE, Result.DONE, Result.FAILED)
    assert ended.plan == made_plan()
    standing = Standing(host="h1", penalty_until=5.0, failures=1)
    store.settle(ended.id, {"h1": standing})
    assert store.ended_plans() == ()
    assert store.standings() == {"h1": standing}


def test_a_plan_without_moves_has_ended_when_it_was_made(store: Store) -> None:
    stuck = plan(group(host("h1", 0.9, 0.9), host("h2", 0.5, 0.5), domain("a", "h1", 4.0)), thesis_policy())
    assert store.record_plan(stuck, 1234.0, acted=True) == ()
    assert [(ended.plan, ended.ended) for ended in store.ended_plans()] == [(stuck, 1234.0)]


def test_a_recommendation_is_written_once_while_it_stays_the_same_and_never_journalled(store: Store) -> None:
    for now in (1000.0, 1010.0):
        assert store.record_plan(made_plan(), now, acted=False) == ()
    with store._engine.connect() as connection:
        assert connection.exec_driver_sql("select count(*) from plans").scalar() == 1
    assert (store.history(10), store.ended_plans()) == ((), ())


def test_a_prediction_is_due_after_its_migration_and_gone_once_it_has_a_verdict(store: Store) -> None:
    (first, second, _) = entries(store)
    store.begin(first[0])
    store.end(first[0], DONE)
    store.begin(second[0])
    source, destination = store.due_predictions(before=9e9)
    assert (source.role, destination.role) == ("source", "destination")
    assert store.ends(source.id) == store.ends(destination.id) == (first[1].source, first[1].destination)
    assert source.disturbed_from is not None  # by the second migration of the same two hosts
    verdict = Measured(verdict="measured", window=(1.0, 2.0), ratio=0.5, error=0.1)
    store.record_verdict(source.id, verdict)
    assert [due.id for due in store.due_predictions(before=9e9)] == [destination.id]
    (record,) = [record for record in store.history(10) if record.id == first[0]]
    assert (record.predictions[0].measured, record.predictions[0].error) == (0.5, 0.1)


def test_a_move_that_was_not_made_has_no_prediction_to_measure(store: Store) -> None:
    for migration_id, _ in entries(store):
        store.end(migration_id, Outcome(result=Result.SKIPPED, why="gone"))
    assert store.due_predictions(before=9e9) == ()
    assert store.open_predictions() == ()


def test_a_prediction_is_disturbed_by_a_migration_that_began_earlier_and_is_still_under_way(store: Store) -> None:
    first, second, _ = entries(store)
    store.begin(first[0])
    store.begin(second[0])
    store.end(second[0], DONE)
    due = store.due_predictions(before=9e9)
    assert [one.role for one in due] == ["source", "destination"]
    assert all(one.disturbed_from is not None and one.disturbed_from < one.migrated for one in due)


def test_experience_knows_the_moves_that_were_done_and_those_under_way(store: Store) -> None:
    first, second, third = entries(store)
    for migration_id, _ in (first, second, third):
        store.begin(migration_id)
    store.end(first[0], DONE)
    store.end(second[0], Outcome(result=Result.FAILED, why="refused"))
    (again, *_) = entries(store)
    store.begin(again[0])
    store.end(again[0], DONE)
    experience = store.experience(moved_since=0)
    assert {uuid: moved.times for uuid, moved in experience.moved.items()} == {first[1].uuid: 2}
    assert experience.migrating == {third[1].uuid: "h2"}
    assert store.experience(moved_since=9e9).moved == {}


def test_experience_knows_how_fast_each_two_hosts_were(store: Store) -> None:
    first, second, _ = entries(store)
    store.end(first[0], DONE)
    store.end(second[0], Outcome(result=Result.DONE, seconds=0.1, transferred_bytes=5000))
    (link,) = store.experience(moved_since=0).links
    assert (link.source, link.destination) == ("h1", "h2")
    assert link.bytes_per_second == pytest.approx(6000 / 6.0)


def test_experience_knows_how_fast_a_domain_wrote_to_its_memory_when_it_was_last_watched(store: Store) -> None:
    first, second, third = entries(store)
    store.end(first[0], replace(DONE, dirty_bytes_per_second=1e6))
    store.end(second[0], Outcome(result=Result.FAILED, why="aborted", dirty_bytes_per_second=2e6))
    store.end(third[0], DONE)
    assert store.experience(moved_since=0).dirtying == {first[1].uuid: 1e6, second[1].uuid: 2e6}
    (again, *_) = entries(store)
    store.end(again[0], replace(DONE, dirty_bytes_per_second=3e6))
    experience = store.experience(moved_since=0)
    assert experience.dirtying[first[1].uuid] == 3e6
    seen = with_experience(group(host("h1"), domain(first[1].domain, "h1"), domain("new", "h1")), experience)
    assert [domain.dirty_bytes_per_second for domain in seen.domains] == [3e6, None]


def test_experience_has_the_residuals_of_measured_predictions_with_their_spread(store: Store) -> None:
    busy = group(host("h1", 0.95, 0.95, 0.95), host("h2", 0.1, 0.1, 0.1), domain("a", "h1", 2.0, vcpus=4))
    made = plan(busy, Policy())
    ((migration_id, move),) = store.record_plan(made, 1000.0, acted=True)
    store.begin(migration_id)
    store.end(migration_id, DONE)
    assert store.experience(moved_since=0).residuals == ()
    source, _ = store.due_predictions(before=9e9)
    store.record_verdict(source.id, Measured(verdict="measured", window=(1.0, 2.0), ratio=0.5, error=-0.03))
    (residual,) = store.experience(moved_since=0).residuals
    predicted = move.predicted.source
    assert predicted.saturated is not None
    assert predicted.cpu_spread_ratio is not None
    assert residual == Residual(
        role=Role.SOURCE, saturated=predicted.saturated, error_ratio=-0.03, spread_ratio=predicted.cpu_spread_ratio
    )


def test_a_residual_is_of_the_formulas_word_not_of_what_earlier_errors_made_of_it(store: Store) -> None:
    learned = tuple(
        Residual(role=Role.SOURCE, saturated=False, error_ratio=-0.02, spread_ratio=0.03) for _ in range(20)
    )
    busy = group(host("h1", 0.85, 0.85, 0.85), host("h2", 0.1, 0.1, 0.1), domain("a", "h1", 2.0, vcpus=4))
    made = plan(replace(busy, residuals=learned), Policy())
    ((migration_id, move),) = store.record_plan(made, 1000.0, acted=True)
    assert move.predicted.source.cpu_bias_ratio == pytest.approx(-0.02)
    store.begin(migration_id)
    store.end(migration_id, DONE)
    source, _ = store.due_predictions(before=9e9)
    store.record_verdict(source.id, Measured(verdict="measured", window=(1.0, 2.0), ratio=0.5, error=0.005))
    (residual,) = store.experience(moved_since=0).residuals
    assert residual.error_ratio == pytest.approx(-0.015)


def test_a_strategy_without_intervals_leaves_no_residual(store: Store) -> None:
    (first, *_) = entries(store)
    store.begin(first[0])
    store.end(first[0], DONE)
    for due in store.due_predictions(before=9e9):
        store.record_verdict(due.id, Measured(verdict="measured", window=(1.0, 2.0), ratio=0.5, error=0.1))
    assert store.experience(moved_since=0).residuals == ()


def test_draining_is_an_order_that_can_be_taken_back(store: Store) -> None:
    assert store.set_draining("h1", draining=True)
    assert not store.set_draining("h1", draining=True)
    assert store.standings()["h1"].draining
    assert store.set_draining("h1", draining=False)
    assert not store.standings()["h1"].draining
    assert not store.set_draining("h2", draining=False)


def test_what_is_old_is_forgotten_with_all_that_hangs_on_it(store: Store) -> None:
    for migration_id, _ in entries(store, now=0.0):
        store.end(migration_id, DONE)
    (ended,) = store.ended_plans()
    store.settle(ended.id, {})
    store.record_cycle(started=0.0, seconds=0.1, mode="automatic", result="moved", sentence="x")
    store.forget(now=91 * 86400.0)
    assert store.history(10) == ()


@pytest.mark.parametrize("url", ["sqlit:////x.db", "mysql+nosuch://h/x", "postgresql://h:port/x"])
def test_an_address_that_is_none_is_named_in_one_line(url: str) -> None:
    with pytest.raises(BadInput, match=r"^state\.url: .*: cannot be opened: .+") as refused:
        Store.open(url)
    assert "\n" not in str(refused.value)


def test_a_place_that_cannot_be_had_is_named_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"state.url: sqlite:///.*/missing/x.db: cannot be opened: .*unable to open"):
        Store.open(f"sqlite:///{tmp_path}/missing/x.db")


def test_only_one_leads_until_it_lets_go(tmp_path: Path) -> None:
    first, second = Leadership(tmp_path / "lock"), Leadership(tmp_path / "lock")
    assert first.take()
    assert first.take()
    assert not second.take()
    first.release()
    assert second.take()
    second.release()


def test_a_plan_that_is_not_settled_is_never_forgotten(store: Store) -> None:
    ids = [migration_id for migration_id, _ in entries(store, now=0.0)]
    store.forget(now=91 * 86400.0)
    for migration_id in ids:
        store.end(migration_id, DONE)
    store.forget(now=91 * 86400.0)
    (ended,) = store.ended_plans()
    assert ended.plan == made_plan()
    store.settle(ended.id, {})
    store.forget(now=91 * 86400.0)
    assert store.history(10) == ()


def test_a_prediction_is_disturbed_by_a_migration_that_ended_after_its_own(store: Store) -> None:
    first, second, _ = entries(store)
    store.begin(first[0])
    store.begin(second[0])
    store.end(second[0], DONE)
    store.end(first[0], DONE)
    of_second = store.due_predictions(before=9e9)[2:]
    assert [one.role for one in of_second] == ["source", "destination"]
    assert all(one.disturbed_from is not None and one.disturbed_from < one.migrated for one in of_second)


def test_experience_has_the_newest_two_hundred_residuals(store: Store) -> None:
    busy = group(host("h1", 0.95, 0.95, 0.95), host("h2", 0.1, 0.1, 0.1), domain("a", "h1", 2.0, vcpus=4))
    made = plan(busy, Policy())
    ((migration_id, _),) = store.record_plan(made, 1000.0, acted=True)
    store.begin(migration_id)
    store.end(migration_id, DONE)
    source, _ = store.due_predictions(before=9e9)
    store.record_verdict(source.id, Measured(verdict="measured", window=(1.0, 2.0), ratio=0.5, error=0.0))
    copied = [column for column in predictions.c if column.name not in ("id", "error")]
    with store._engine.begin() as connection:  # the same prediction again, each time with another error
        for number in range(1, 201):
            again = select(*copied, literal(number / 1000)).where(predictions.c.id == source.id)
            connection.execute(insert(predictions).from_select([*copied, predictions.c.error], again))
    errors = [residual.error_ratio for residual in store.experience(moved_since=0).residuals]
    assert sorted(errors) == pytest.approx([number / 1000 for number in range(1, 201)])
