"""The brake: a property of the journal alone, and never pulled by one domain or by what a person has dealt with."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virtpoise_balancer.analyse.brake import (
    Brake,
    BrakeCause,
    EndedMigration,
    PredictionError,
    TrackRecord,
    in_force,
    judge,
)
from virtpoise_balancer.analyse.drains import DrainOrder
from virtpoise_balancer.analyse.others import ChangeKind, OthersChange
from virtpoise_balancer.model import BrakeBounds, Result

BOUNDS = BrakeBounds()
NOW = 100_000.0


def migration(domain: str, ended: float, *, failed: bool = True) -> EndedMigration:
    why = "no route to host" if failed else ""
    return moved(domain, "h1", "h2", ended, failed=failed, why=why)


def moved(domain: str, source: str, to: str, ended: float, *, failed: bool = False, why: str = "") -> EndedMigration:
    return EndedMigration(
        domain=domain,
        uuid=f"uuid-of-{domain}",
        source=source,
        destination=to,
        began=ended - 5,
        ended=ended,
        result=Result.FAILED if failed else Result.DONE,
        why=why,
    )


def theirs(domain: str, source: str, to: str, at: float) -> OthersChange:
    return OthersChange(
        kind=ChangeKind.MIGRATED,
        domain=domain,
        uuid=f"uuid-of-{domain}",
        source=source,
        destination=to,
        before=at - 10,
        at=at,
    )


def migrations(**ends: bool) -> TrackRecord:
    """Domains with whether their migration failed, in this order of time."""
    return TrackRecord(
        migrations=tuple(
            migration(name, NOW - 100 + at, failed=failed) for at, (name, failed) in enumerate(ends.items())
        )
    )


def errors(*ratios: float) -> TrackRecord:
    return TrackRecord(
        errors=tuple(PredictionError(measured=NOW - 100 + at, error_ratio=ratio) for at, ratio in enumerate(ratios))
    )


def test_three_domains_of_which_each_failed_pull_it_and_the_reason_has_libvirts_words() -> None:
    brake = judge(migrations(a=True, b=True, c=True), BOUNDS, None, NOW)
    assert brake == Brake(
        at=NOW,
        cause=BrakeCause.MIGRATIONS,
        why="the newest migration of 3 of 3 domains failed, the last one of c to h2: no route to host",
    )


@pytest.mark.parametrize(
    ("ends", "pulled"),
    [
        ({"a": True, "b": True}, False),
        ({"a": True, "b": True, "c": True, "d": False, "e": False, "f": False}, True),
        ({"a": True, "b": True, "c": True, "d": False, "e": False, "f": False, "g": False}, False),
    ],
)
def test_it_takes_three_domains_and_half_of_those_that_were_migrated(ends: dict[str, bool], pulled: bool) -> None:
    assert (judge(migrations(**ends), BOUNDS, None, NOW) is not None) is pulled


def test_one_domain_that_fails_again_and_again_counts_once() -> None:
    again = TrackRecord(migrations=tuple(migration("a", NOW - 50 + at) for at in range(40)))
    assert judge(again, BOUNDS, None, NOW) is None


def test_a_domain_that_was_migrated_after_all_does_not_count_as_failed() -> None:
    mended = migrations(a=True, b=True, c=True)
    mended = replace(mended, migrations=(*mended.migrations, migration("b", NOW - 1, failed=False)))
    assert judge(mended, BOUNDS, None, NOW) is None


def test_what_is_older_than_the_window_or_than_the_release_does_not_count() -> None:
    found = migrations(a=True, b=True, c=True)
    assert judge(found, BOUNDS, NOW - 99, NOW) is None  # a ended before it, b at that moment
    assert judge(found, BOUNDS, NOW - 100.5, NOW) is not None
    assert judge(found, replace(BOUNDS, window_seconds=50), None, NOW) is None


def test_predictions_that_are_off_by_15_points_in_the_middle_pull_it() -> None:
    near, far = 0.01, -0.15
    assert judge(errors(*[near] * 4, *[far] * 6), BOUNDS, None, NOW) is not None
    assert judge(errors(*[near] * 6, *[far] * 4), BOUNDS, None, NOW) is None
    assert judge(errors(*[far] * 9), BOUNDS, None, NOW) is None, "too few to judge"
    assert judge(errors(*[far] * 30, *[near] * 10), BOUNDS, None, NOW) is None, "only the newest count"
    brake = judge(errors(*[0.2] * 10), BOUNDS, None, NOW)
    assert brake is not None
    assert brake.cause is BrakeCause.PREDICTIONS
    assert brake.why == "half of the newest 10 predicted loads were off by 20% of a host or more"


def test_a_brake_is_on_until_a_release_that_is_not_older() -> None:
    brake = Brake(at=50.0, cause=BrakeCause.MIGRATIONS, why="x")
    assert [in_force(brake, released) for released in (None, 49.0, 50.0, 51.0)] == [brake, brake, None, None]
    assert in_force(None, None) is None


# --- moves that undo each other ---------------------------------------------------------------------------------------

THERE, BACK = ("a", "h1", "h2"), ("a", "h2", "h1")


def opposed(
    ours: list[EndedMigration], others: list[OthersChange], drains: dict[str, DrainOrder] | None = None
) -> Brake | None:
    found = judge(TrackRecord(migrations=tuple(ours), others=tuple(others)), BOUNDS, None, NOW, drains)
    assert found is None or found.cause is BrakeCause.OTHERS
    return found


def test_two_balancers_that_undo_each_others_moves_both_stop_after_the_same_migration() -> None:
    """A moves there, B back, A there: each has its own journal, and the other's moves are changes of others."""
    at = [NOW - 90, NOW - 60, NOW - 30]
    first = [moved(*THERE, at[0])], [theirs(*BACK, at[1] + 5)]
    second = [moved(*BACK, at[1])], [theirs(*THERE, at[0] + 5)]
    assert opposed(*first) is opposed(*second) is None, "one may be a person's"
    first[0].append(moved(*THERE, at[2]))
    second[1].append(theirs(*THERE, at[2] + 5))
    for brake in (opposed(*first), opposed(*second)):
        assert brake is not None
        assert brake.why.startswith(
            "it and others undid 2 of each other's moves (a from h2 to h1, a from h1 to h2); perhaps a second balancer"
        )


@pytest.mark.parametrize(
    ("ours", "others"),
    [
        ([moved(*THERE, NOW - 90)], [theirs("b", "h2", "h1", NOW - 60), theirs("c", "h2", "h1", NOW - 60)]),
        ([moved(*THERE, NOW - 9000)], [theirs(*BACK, NOW - 60), theirs("a", "h1", "h3", NOW - 30)]),
        ([moved(*THERE, NOW - 90, failed=True)], [theirs(*BACK, NOW - 60), theirs(*BACK, NOW - 30)]),
        ([moved(*THERE, NOW - 90)], [theirs("a", "h3", "h1", NOW - 60), theirs("a", "h3", "h1", NOW - 30)]),
        ([moved("a", "h2", "h3", NOW - 90), moved("b", "h2", "h3", NOW - 60)], []),
    ],
    ids=["other domains", "long ago", "failed", "from elsewhere", "ours alone"],
)
def test_migrations_of_others_that_undo_nothing_are_an_administrators_work(
    ours: list[EndedMigration], others: list[OthersChange]
) -> None:
    assert opposed(ours, others) is None


def test_whoever_fills_a_host_that_is_drained_works_against_us_and_emptying_it_does_not_work_against_them() -> None:
    drains = {"h2": DrainOrder(host="h2", draining=True, at=NOW - 1000)}
    ours = [moved("a", "h2", "h1", NOW - 30), moved("b", "h2", "h1", NOW - 20)]
    before = [theirs("a", "h1", "h2", NOW - 1500), theirs("b", "h1", "h2", NOW - 1500)]
    assert opposed(ours, before, drains) is None, "a person moved them by hand, and then ordered the drain"
    undrained = {"h2": DrainOrder(host="h2", draining=False, at=NOW - 10)}
    assert opposed(ours, before, undrained) is None
    assert opposed(ours, before) is not None
    since = [theirs("c", "h1", "h2", NOW - 500), theirs("d", "h1", "h2", NOW - 500)]
    assert opposed([], since, drains) is not None
    assert opposed([], since, undrained) is None


def test_what_was_undone_before_a_release_does_not_count() -> None:
    found = TrackRecord(
        migrations=(moved(*THERE, NOW - 90), moved(*THERE, NOW - 30)), others=(theirs(*BACK, NOW - 60),)
    )
    assert judge(found, BOUNDS, None, NOW) is not None
    assert judge(found, BOUNDS, NOW - 70, NOW) is None


ENDS = st.builds(
    migration,
    st.sampled_from("abcdefgh"),
    st.floats(NOW - 2e5, NOW),
    failed=st.booleans(),
)
ERRORS = st.builds(PredictionError, measured=st.floats(NOW - 2e5, NOW), error_ratio=st.floats(-1, 1))
RECORDS = st.builds(
    TrackRecord,
    migrations=st.lists(ENDS, max_size=30).map(lambda ends: tuple(sorted(ends, key=lambda one: one.ended))),
    errors=st.lists(ERRORS, max_size=30).map(lambda found: tuple(sorted(found, key=lambda one: one.measured))),
)


@given(RECORDS)
def test_after_a_release_nothing_from_before_pulls_it_again(found: TrackRecord) -> None:
    brake = judge(found, BOUNDS, None, NOW)
    assert judge(found, BOUNDS, NOW, NOW + 10) is None
    assert brake is None or in_force(brake, NOW) is None


@given(RECORDS)
def test_it_is_pulled_only_with_enough_failed_domains_or_enough_predictions(found: TrackRecord) -> None:
    brake = judge(found, BOUNDS, None, NOW)
    if brake is None:
        return
    if brake.cause is BrakeCause.MIGRATIONS:
        assert len({one.uuid for one in found.migrations if one.failed}) >= BOUNDS.failed_domains
    else:
        assert sum(abs(one.error_ratio) >= BOUNDS.error_ratio for one in found.errors) >= BOUNDS.predictions / 2


@given(RECORDS, st.sampled_from("abcdefgh"))
def test_one_more_done_migration_never_pulls_it_for_migrations(found: TrackRecord, domain: str) -> None:
    better = replace(found, migrations=(*found.migrations, migration(domain, NOW, failed=False)))
    after = judge(better, BOUNDS, None, NOW + 1)
    if after is not None and after.cause is BrakeCause.MIGRATIONS:
        before = judge(found, BOUNDS, None, NOW + 1)
        assert before is not None
        assert before.cause is BrakeCause.MIGRATIONS
