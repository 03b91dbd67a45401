"""The verdict on a migration, for every combination of what its hosts may answer."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from virtpoise_balancer.execute.facts import Presence
from virtpoise_balancer.execute.verdict import (
    Answer,
    Arrived,
    Silent,
    StillOpen,
    Verdict,
    may_be_elsewhere,
    reconcile,
    stale_copy,
)
from virtpoise_balancer.model import JournalEntry, Move, PredictedLoads, Prediction, Progress, Result, UnsettledKind

LOADS = PredictedLoads(source=Prediction.exact(0.5), destination=Prediction.exact(0.5))
ENTRY = JournalEntry(
    id=7, move=Move(domain="a", uuid="u", source="h1", destination="h2", predicted=LOADS), began=1000.0
)
JOB = Progress(elapsed_seconds=1, total_bytes=2, processed_bytes=1, remaining_bytes=1)
SILENT = Silent("no answer")
ANSWERS: tuple[Answer, ...] = (*Presence, SILENT)
SETTLED = (Presence.RUNNING, Presence.PAUSED)
ACTIVE = (*SETTLED, Presence.MIGRATING, Presence.TORN)
LATER = 2000.0


def test_no_combination_of_answers_breaks_a_law() -> None:
    for answers in itertools.product((None, JOB, SILENT), ANSWERS, ANSWERS, (None, *ANSWERS), (None, "h2", "h3")):
        check(*answers)


def check(
    job: Progress | Silent | None, here: Answer, there: Answer, other: Answer | None, left_from: str | None
) -> None:
    for result, doubled in itertools.product((None, Result.FAILED), (False, True)):
        check_entry(
            JournalEntry(id=7, move=ENTRY.move, began=1000.0, left_from=left_from, result=result, doubled=doubled),
            job,
            here,
            there,
            other,
        )


def check_entry(
    entry: JournalEntry, job: Progress | Silent | None, here: Answer, there: Answer, other: Answer | None
) -> None:
    left_from = entry.left_from
    others = {} if other is None else {"h3": other}
    found = reconcile(entry, job, here, there, others, LATER)
    case = f"{job}, {here}, {there}, {others}, {left_from}: {found}"
    settled = [answer for answer in (here, there, other) if answer in SETTLED]
    if isinstance(found, Arrived):  # only a paused domain that nothing can start elsewhere
        assert (job, there, entry.result, left_from) == (None, Presence.PAUSED, None, None), case
        assert here not in (*SETTLED, SILENT, Presence.SHUT_OFF, Presence.DESTROYED), case
        assert other not in SETTLED, case
        assert not entry.doubled, case
        return
    if Presence.TORN in (here, there):
        assert isinstance(found, StillOpen), case
        assert found.kind is (UnsettledKind.TWICE if len(settled) > 1 else UnsettledKind.BETWEEN), case
        return
    if job is JOB or SILENT in (job, here, there) or Presence.MIGRATING in (here, there):
        assert isinstance(found, StillOpen), case  # no verdict while a job may run, or an end is not known
    if len(settled) > 1 and job is not JOB:
        assert isinstance(found, StillOpen), case
        assert found.kind is UnsettledKind.TWICE, case
    if isinstance(found, StillOpen):
        assert {"h1", "h2"} <= set(found.hosts), case
        return
    assert here not in ACTIVE or there not in ACTIVE, case
    assert not found.lost or not any(answer in ACTIVE for answer in (here, there, other)), case
    if there in SETTLED:
        assert (found.result, found.lost) == (Result.DONE, False), case
        assert found.leftover is (here is not Presence.ABSENT), case
    elif here in SETTLED:
        assert (found.result, found.lost) == (Result.FAILED, False), case
    elif found.result is Result.DONE:
        assert left_from == "h2" or (here is Presence.ABSENT and there in (Presence.SHUT_OFF, Presence.DESTROYED)), case


@pytest.mark.parametrize(
    ("here", "there", "elsewhere", "result", "lost"),
    [
        (Presence.ABSENT, Presence.RUNNING, {}, Result.DONE, False),
        (Presence.DEFINED, Presence.RUNNING, {}, Result.DONE, False),
        (Presence.RUNNING, Presence.ABSENT, {}, Result.FAILED, False),
        (Presence.PAUSED, Presence.DEFINED, {}, Result.FAILED, False),
        (Presence.DEFINED, Presence.ABSENT, {}, Result.FAILED, True),  # its process died
        (Presence.DESTROYED, Presence.ABSENT, {}, Result.FAILED, True),  # in the midst of a migration
        (Presence.ABSENT, Presence.ABSENT, {}, Result.FAILED, True),
        (Presence.DEFINED, Presence.SHUT_OFF, {}, Result.FAILED, True),  # the latter may be of years ago
        (Presence.SHUT_OFF, Presence.ABSENT, {}, Result.FAILED, False),  # its guest shut down on the way
        (Presence.ABSENT, Presence.SHUT_OFF, {}, Result.DONE, False),  # it arrived, and was shut down
        (Presence.ABSENT, Presence.ABSENT, {"h3": Presence.RUNNING}, Result.FAILED, False),
        (Presence.ABSENT, Presence.ABSENT, {"h3": Presence.SHUT_OFF}, Result.FAILED, False),
        (Presence.ABSENT, Presence.ABSENT, {"h3": SILENT}, Result.FAILED, True),
    ],
)
def test_the_verdict(here: Presence, there: Presence, elsewhere: dict[str, Answer], result: Result, lost: bool) -> None:
    found = reconcile(ENTRY, None, here, there, elsewhere, LATER)
    assert isinstance(found, Verdict)
    assert (found.result, found.lost) == (result, lost)


def test_a_domain_that_waits_on_its_destination_is_to_be_started_where_its_source_cannot_start_it() -> None:
    def at(here: Answer, job: Progress | Silent | None = None) -> object:
        return reconcile(ENTRY, job, here, Presence.PAUSED, {}, LATER)

    for gone in (Presence.ABSENT, Presence.DEFINED, Presence.MIGRATING):  # paused for good, without a job
        assert isinstance(at(gone), Arrived)
    for unclear in (Presence.RUNNING, Presence.PAUSED, SILENT):
        assert isinstance(at(unclear), StillOpen)
    assert isinstance(at(Presence.MIGRATING, JOB), StillOpen)
    assert isinstance(at(Presence.MIGRATING, SILENT), StillOpen)


@pytest.mark.parametrize(
    ("here", "there"),
    [
        (Presence.TORN, Presence.RUNNING),  # the network broke: the destination may still fetch the rest
        (Presence.TORN, Presence.DEFINED),  # the destination's QEMU died
        (Presence.DEFINED, Presence.TORN),  # the source's QEMU died
    ],
)
@pytest.mark.parametrize("job", [None, JOB], ids=["no job", "a job that libvirt keeps"])
def test_what_post_copy_has_torn_is_left_alone_and_is_no_migration_under_way(
    here: Presence, there: Presence, job: Progress | None
) -> None:
    found = reconcile(ENTRY, job, here, there, {}, LATER)
    assert isinstance(found, StillOpen)
    assert (found.kind, found.progress) == (UnsettledKind.BETWEEN, None)
    assert found.text == (
        f"the migration of a from h1 to h2 broke after the switch to post-copy: {here} on h1, {there} on h2. "
        "Each host may have a part of its memory"
    )


def test_a_migration_that_was_switched_says_that_nothing_can_abort_it() -> None:
    found = reconcile(ENTRY, replace(JOB, switched=True), Presence.MIGRATING, Presence.RUNNING, {}, LATER)
    assert isinstance(found, StillOpen)
    assert found.kind is UnsettledKind.MIGRATING
    assert found.text.endswith(" is still under way and has been switched to post-copy: nothing can abort it")


def test_which_of_two_running_copies_is_stale() -> None:
    both, failed = ("h1", "h2"), replace(ENTRY, result=Result.FAILED)
    assert stale_copy(ENTRY, both, started=False) == "h2"  # a person started it there; it ran on at its source
    assert stale_copy(ENTRY, both, started=True) == "h1"  # the source had given it up
    assert stale_copy(failed, both, started=None) == "h2"
    assert stale_copy(ENTRY, both, started=None) is None  # after a restart: not known
    assert stale_copy(ENTRY, ("h1",), started=False) is None
    assert stale_copy(ENTRY, ("h1", "h3"), started=True) is None


def test_a_migration_whose_request_was_not_spent_may_begin_for_a_while_yet() -> None:
    def at(now: float, *, spent: bool) -> object:
        return reconcile(ENTRY, None, Presence.RUNNING, Presence.ABSENT, {}, now, spent=spent)

    assert isinstance(at(1029.0, spent=False), StillOpen)
    assert isinstance(at(1029.0, spent=True), Verdict)
    assert isinstance(at(1030.0, spent=False), Verdict)


def test_of_two_attempts_the_first_was_done_where_the_second_began() -> None:
    left_again = JournalEntry(id=7, move=ENTRY.move, began=1000.0, left_from="h2")
    found = reconcile(left_again, None, Presence.ABSENT, Presence.ABSENT, {"h3": Presence.RUNNING}, LATER)
    assert isinstance(found, Verdict)
    assert found.result is Result.DONE


def test_the_other_hosts_are_asked_only_where_it_may_run_on_one_of_them() -> None:
    assert [may_be_elsewhere(here, there) for here, there in itertools.product(ANSWERS, ANSWERS)] == [
        not {here, there} & {*ACTIVE, SILENT} or (there is Presence.PAUSED and here not in {*ACTIVE, SILENT})
        for here, there in itertools.product(ANSWERS, ANSWERS)
    ]
