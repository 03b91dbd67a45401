"""What others did: recognised from two looks and the journal, never from what is missing, and never ours."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import domain, due_prediction, group, host, shut_off
from virtpoise_balancer.analyse.commitments import Commitment
from virtpoise_balancer.analyse.learned import PastMoves
from virtpoise_balancer.analyse.others import (
    MOST_OF_A_HOST,
    ChangeKind,
    Comparison,
    OthersChange,
    Sightings,
    as_commitments,
    compare,
    counting,
    disturbed,
    with_moved,
)
from virtpoise_balancer.model import Domain, Host, HostState, Result, SampleTimes

HOSTS = (host("h1", 0.5), host("h2", 0.5), host("h3", 0.5))
UNKNOWN = replace(HOSTS[0], state=HostState.UNKNOWN)


def look(
    before: Sightings | None, now: float, *members: Domain, hosts: tuple[Host, ...] = HOSTS, **more: object
) -> Comparison:
    ours = more.pop("ours", ())
    return compare(before, group(*hosts, *members), ours, now, **more)  # type: ignore[arg-type]


def first(*members: Domain, hosts: tuple[Host, ...] = HOSTS) -> Sightings:
    found = look(None, 1000.0, *members, hosts=hosts)
    assert found.changes == ()
    return found.sightings


def told(found: Comparison) -> list[tuple[str, str, str | None, str | None]]:
    return [(one.kind.value, one.domain, one.source, one.destination) for one in found.changes]


def ours(source: str = "h1", destination: str = "h2", **more: object) -> Commitment:
    values = {"began": 1001.0, "ended": 1005.0, "result": Result.DONE} | more
    return Commitment(domain="a", uuid="uuid-of-a", source=source, destination=destination, **values)  # type: ignore[arg-type]


def test_a_migration_a_start_and_a_stop_are_recognised_once() -> None:
    before = first(domain("a", "h1"), domain("b", "h1"), shut_off("c", "h2"))
    after = (domain("a", "h2"), shut_off("b", "h1"), domain("c", "h2"))
    found = look(before, 1010.0, *after)
    assert told(found) == [("migrated", "a", "h1", "h2"), ("started", "c", None, "h2")]
    assert (found.changes[0].before, found.changes[0].at) == (1000.0, 1010.0)
    at = 1010.0
    stopped = []
    for at in (1020.0, 1030.0, 1040.0, 1050.0, 1060.0):
        found = look(found.sightings, at, *after)
        stopped += [(at, *one) for one in told(found)]
    assert stopped == [(1040.0, "stopped", "b", "h1", None)], "not before it may be between two hosts"


def test_a_domain_that_is_seen_nowhere_between_its_hosts_was_migrated_not_stopped() -> None:
    found = look(first(domain("a", "h1")), 1010.0)
    assert told(found) == []
    assert told(look(found.sightings, 1020.0, domain("a", "h3"))) == [("migrated", "a", "h1", "h3")]
    assert told(look(found.sightings, 1020.0, domain("a", "h1"))) == []


def test_nothing_follows_from_a_host_that_is_unknown() -> None:
    before = first(domain("a", "h1"), domain("b", "h2"))
    found = look(before, 1010.0, domain("b", "h2"), hosts=(UNKNOWN, *HOSTS[1:]))
    for at in range(1020, 1200, 10):
        found = look(found.sightings, float(at), domain("b", "h2"), hosts=(UNKNOWN, *HOSTS[1:]))
        assert told(found) == []
    back = look(found.sightings, 1200.0, domain("a", "h1"), domain("b", "h2"), domain("new", "h1"))
    assert told(back) == [], "what was there before it fell silent, or came later, was not started now"


def test_a_host_that_joins_or_leaves_with_its_domains_is_no_change() -> None:
    before = first(domain("a", "h2"), hosts=HOSTS[1:])
    joined = look(before, 1010.0, domain("a", "h2"), domain("b", "h1"))
    assert told(joined) == []
    gone = look(joined.sightings, 1020.0, domain("a", "h2"), hosts=HOSTS[1:])
    assert told(gone) == []
    assert set(gone.sightings.domains) == {"uuid-of-a"}


@pytest.mark.parametrize(
    ("move", "seen_on"),
    [
        (ours(), "h2"),
        (ours(ended=None, result=None), "h2"),
        (ours("h3", "h1", result=Result.FAILED), "h3"),  # it was seen on its destination for a moment
        (ours(result=Result.FAILED), "h2"),  # the end is corrected later
    ],
)
def test_what_the_journal_explains_is_ours(move: Commitment, seen_on: str) -> None:
    assert told(look(first(domain("a", "h1")), 1010.0, domain("a", seen_on), ours=[move])) == []


@pytest.mark.parametrize(
    ("move", "seen_on"),
    [
        (ours(), "h3"),
        (ours(began=890.0, ended=900.0), "h2"),  # long ago
        (ours(began=None, ended=None, result=None), "h2"),  # it still waits
        (ours(result=Result.SKIPPED), "h2"),
    ],
)
def test_what_the_journal_does_not_explain_is_not_ours(move: Commitment, seen_on: str) -> None:
    found = look(first(domain("a", "h1")), 1010.0, domain("a", seen_on), ours=[move])
    assert told(found) == [("migrated", "a", "h1", seen_on)]


def test_an_old_sample_of_the_source_is_no_migration_back() -> None:
    """Found by the campaign: the source was unknown while the domain came in on its destination, where it was seen."""
    incoming, silent = domain("a", "h2"), (UNKNOWN, *HOSTS[1:])
    found = look(first(domain("a", "h1")), 1010.0, incoming, hosts=silent, ours=[ours(ended=None, result=None)])
    assert told(found) == []
    old = look(found.sightings, 1020.0, domain("a", "h1"), ours=[ours(ended=1019.0)])
    assert told(old) == []
    assert told(look(old.sightings, 1030.0, domain("a", "h2"), ours=[ours(ended=1019.0)])) == []


def test_a_migration_back_right_after_ours_is_recognised_once_no_sample_can_be_older() -> None:
    found = look(first(domain("a", "h1")), 1010.0, domain("a", "h2"), ours=[ours()])
    for at in (1020.0, 1030.0):
        found = look(found.sightings, at, domain("a", "h1"), ours=[ours()])
        assert told(found) == []
    found = look(found.sightings, 1040.0, domain("a", "h1"), ours=[ours()])
    assert told(found) == [("migrated", "a", "h2", "h1")]
    assert told(look(found.sightings, 1050.0, domain("a", "h1"), ours=[ours()])) == []


def test_a_move_of_ours_is_ours_when_a_stuck_exporter_shows_the_source_long_after_it() -> None:
    """Found by the campaign: the destination was unknown, so the domain was seen on its source alone."""
    silent = (HOSTS[0], replace(UNKNOWN, name="h2"), HOSTS[2])
    found = look(first(domain("a", "h1")), 1010.0, domain("a", "h1"), hosts=silent, ours=[ours()])
    for at in (1020.0, 1030.0, 1040.0, 1050.0):
        found = look(found.sightings, at, domain("a", "h1"), hosts=silent, ours=[ours()])
    assert told(look(found.sightings, 1060.0, domain("a", "h2"), ours=[ours()])) == []
    assert told(look(found.sightings, 1060.0, domain("a", "h3"), ours=[ours()])) == [("migrated", "a", "h1", "h3")]


def test_a_move_of_ours_is_ours_when_its_destination_is_unknown_and_a_stuck_exporter_shows_the_source_again() -> None:
    """Found by the campaign: the domain had been seen where it had arrived."""
    silent = (HOSTS[0], replace(UNKNOWN, name="h2"), HOSTS[2])
    found = look(first(domain("a", "h2")), 1060.0, domain("a", "h1"), hosts=silent, ours=[ours()])
    assert told(found) == []
    assert told(look(found.sightings, 1070.0, domain("a", "h2"), ours=[ours()])) == []
    assert told(look(found.sightings, 1070.0, domain("a", "h1"), ours=[ours()])) == [("migrated", "a", "h2", "h1")]


def test_a_move_of_ours_that_shows_late_is_ours_however_long_its_host_was_unknown() -> None:
    """Found by the campaign: the destination was unknown when the domain arrived, and for a while afterwards."""
    hosts = (HOSTS[0], replace(UNKNOWN, name="h2"), HOSTS[2])
    found = look(first(domain("a", "h1")), 1010.0, hosts=hosts, ours=[ours()])
    for at in range(1020, 1300, 10):
        found = look(found.sightings, float(at), hosts=hosts, ours=[ours()])
        assert told(found) == []
    assert told(look(found.sightings, 1300.0, domain("a", "h2"), ours=[ours()])) == []


def test_a_move_of_ours_is_ours_when_the_clock_was_set_back_while_it_ran() -> None:
    """Found by the campaign."""
    assert told(look(first(domain("a", "h1")), 1010.0, domain("a", "h2"), ours=[ours(ended=885.0)])) == []


def test_a_domain_of_a_migration_of_ours_that_is_seen_nowhere_is_not_stopped() -> None:
    found = look(first(domain("a", "h1")), 1010.0, ours=[ours(ended=None, result=None)])
    for at in range(1020, 1100, 10):
        found = look(found.sightings, float(at), ours=[ours(ended=None, result=None)])
        assert told(found) == []
    assert told(look(found.sightings, 1100.0, domain("a", "h2"), ours=[ours(ended=1099.0)])) == []


def test_nothing_follows_from_a_domain_that_is_twice_or_unaccounted_for() -> None:
    doubt = {"uuid-of-a"}
    found = look(first(domain("a", "h1")), 1010.0, domain("a", "h2"), doubtful=doubt)
    assert told(found) == []
    assert told(look(found.sightings, 1020.0, domain("a", "h2"))) == [("migrated", "a", "h1", "h2")]


def test_after_a_long_gap_nothing_is_compared() -> None:
    assert told(look(first(domain("a", "h1")), 5000.0, domain("a", "h2"))) == []


# --- what follows from it -------------------------------------------------------------------------------------------


def change(kind: str, at: float, on: str = "h1", to: str = "h2") -> OthersChange:
    ends = {"migrated": (on, to), "started": (None, on), "stopped": (on, None)}[kind]
    return OthersChange(
        kind=ChangeKind(kind),
        domain="a",
        uuid="uuid-of-a",
        source=ends[0],
        destination=ends[1],
        before=at - 10,
        at=at,
    )


def test_guests_that_come_and_go_keep_a_host_from_being_judged_for_five_minutes_at_most() -> None:
    busy = [change("started" if at % 60 else "stopped", float(at)) for at in range(1000, 9000, 30)]
    assert max(one.at for one in counting(busy)) == 1300.0
    again = [*busy, change("started", 9400.0)]
    assert counting(again)[-1].at == 9400.0, "after a pause a new series begins"
    elsewhere = [*busy, change("started", 9000.0, on="h2")]
    assert counting(elsewhere)[-1].hosts == ("h2",)


def test_all_migrations_count() -> None:
    moves = [change("migrated", float(at)) for at in range(1000, 9000, 30)]
    assert counting(moves) == tuple(moves)


def test_a_migration_of_others_counts_on_both_hosts_until_the_figures_show_it() -> None:
    (one,) = as_commitments([change("migrated", 1010.0), change("started", 1010.0)])
    assert (one.source, one.destination, one.result, one.figures_until) == ("h1", "h2", Result.DONE, 1000.0)
    assert not one.is_open
    times = SampleTimes(step_seconds=10.0, reach_back_seconds=20.0, samples=3)
    assert one.shows_from(times) == change("migrated", 1010.0).shows_from(times) == 1030.0


def test_a_domain_that_a_person_moved_rests_like_one_that_we_moved() -> None:
    moved = with_moved({"uuid-of-a": PastMoves(1, 500.0)}, [change("migrated", 1010.0), change("stopped", 1020.0)])
    assert moved == {"uuid-of-a": PastMoves(2, 1010.0)}
    assert with_moved({}, [change("migrated", 1010.0)]) == {"uuid-of-a": PastMoves(1, 1010.0)}


def test_a_change_of_others_ends_the_window_of_a_prediction_of_its_host() -> None:
    due = due_prediction(migrated=1000.0)
    assert disturbed([due], [change("migrated", 1100.0)])[0].disturbed_from == 1090.0
    assert disturbed([due], [change("migrated", 1005.0)])[0].disturbed_from == 1000.0
    assert disturbed([due], [change("migrated", 990.0), change("started", 1100.0, on="h3")])[0].disturbed_from is None
    assert disturbed([replace(due, disturbed_from=1050.0)], [change("started", 1100.0)])[0].disturbed_from == 1050.0


PLACES = st.dictionaries(st.sampled_from("abcdef"), st.sampled_from(["h1", "h2", "h3", ""]))


@given(st.lists(PLACES, min_size=2, max_size=8), st.lists(st.booleans(), min_size=8, max_size=8))
def test_changes_lead_from_each_look_to_the_next(looks: list[dict[str, str]], known: list[bool]) -> None:
    """Replayed on what was remembered, the changes give what is remembered then; and two equal looks none."""
    remembered: Sightings | None = None
    for number, places in enumerate(looks):
        hosts = HOSTS if known[number] else (UNKNOWN, *HOSTS[1:])
        shown = [domain(name, on) for name, on in places.items() if on and (known[number] or on != "h1")]
        found = look(remembered, 1000.0 + 10 * number, *shown, hosts=hosts)
        now = {uuid: one.host for uuid, one in found.sightings.domains.items()}
        if remembered is not None:
            replayed = {uuid: one.host for uuid, one in remembered.domains.items()}
            for one in found.changes:
                if one.destination is None:
                    assert replayed.pop(one.uuid) == one.source
                else:
                    assert replayed.get(one.uuid) == one.source
                    replayed[one.uuid] = one.destination
            added = now.keys() - replayed.keys()
            assert all(now[uuid] not in remembered.hosts for uuid in added)
            assert {uuid: on for uuid, on in now.items() if uuid not in added} == replayed
        for uuid in {f"uuid-of-{one.name}" for one in shown}:
            assert uuid in now
        again = look(found.sightings, 1001.0 + 10 * number, *shown, hosts=hosts)
        assert told(again) == []
        remembered = found.sightings


def test_of_a_host_whose_domains_come_and_go_in_thousands_no_more_is_told_than_counts() -> None:
    """A host's exporter may say each time that other domains run."""
    many = [f"x{n}" for n in range(3000)]
    running = [domain(name, "h1") for name in many]
    idle = [shut_off(name, "h1") for name in many]
    remembered: list[OthersChange] = []
    found, at = look(None, 1000.0, *idle), 1000.0
    for turn in range(4):
        here = "h2" if turn % 2 else "h3"
        for members in (running, idle):
            for _ in range(5):
                at += 10.0
                found = look(found.sightings, at, *members, domain("other", here), lately=remembered)
                remembered += found.changes
    of_host = [one for one in remembered if "h1" in one.hosts]
    assert len(of_host) == MOST_OF_A_HOST
    of_others = [one for one in remembered if "h1" not in one.hosts]
    assert [one.kind for one in of_others] == [ChangeKind.STARTED, *[ChangeKind.MIGRATED] * 3]
    assert found.sightings.domains.keys() == {"uuid-of-other"}
