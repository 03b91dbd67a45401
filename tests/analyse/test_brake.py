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
from virtpoise_balancer.model import BrakeBounds

BOUNDS = BrakeBounds()
NOW = 100_000.0


def migration(domain: str, ended: float, *, failed: bool = True) -> EndedMigration:
    why = "no route to host" if failed else ""
    return EndedMigration(
        domain=domain, uuid=f"uuid-of-{domain}", destination="h2", ended=ended, failed=failed, why=why
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
