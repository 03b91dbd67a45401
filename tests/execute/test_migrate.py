"""One request for a migration, against hosts that are a state machine: the last look, and the request's end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import structlog

from virtpoise_balancer.errors import LibvirtError, StoreError
from virtpoise_balancer.execute.facts import Presence
from virtpoise_balancer.execute.migrate import Migrator, WriteRate
from virtpoise_balancer.execute.reconciler import Requested
from virtpoise_balancer.model import Cause, DiskCopy, JournalEntry, Move, PredictedLoads, Prediction, Progress
from worlds import World

LOADS = PredictedLoads(source=Prediction.exact(0.5), destination=Prediction.exact(0.5))
MOVE = Move(domain="a", uuid="u", source="h1", destination="h2", predicted=LOADS)


BY_POST_COPY = replace(MOVE, post_copy=True)


@pytest.fixture
def world() -> World:
    made = World()
    made.put("u", "h1")
    return made


def migrator(world: World, timeout: float = 600) -> Migrator:
    return Migrator(hosts=world.hosts, timeout_seconds=timeout, stop_grace_seconds=5, clock=world.clock)


def obstacle(world: World) -> str | None:
    return world.do(lambda: migrator(world).obstacle(MOVE))


def request(
    world: World, timeout: float = 600, watch: Callable[[Progress], None] = lambda _: None, stop: bool = False
) -> Requested:
    stopping = threading.Event()
    if stop:
        stopping.set()
    return world.do(lambda: migrator(world, timeout).request(MOVE, watch, stopping))


def test_a_migration_is_asked_for_as_the_move_says_and_watched(world: World) -> None:
    seen: list[Progress] = []
    requested = request(world, watch=seen.append)
    assert (requested.why, requested.answered, world.answering.requests) == (None, True, [("u", "h1", "h2")])
    assert requested.seconds == pytest.approx(10.0, abs=3)
    copied = [progress.processed_bytes or 0 for progress in seen]
    assert copied == sorted(copied)


@pytest.mark.parametrize(
    ("here", "there", "why"),
    [
        (Presence.RUNNING, Presence.ABSENT, None),
        (Presence.RUNNING, Presence.DEFINED, None),
        (Presence.PAUSED, Presence.ABSENT, "a is paused on h1, no longer running there"),
        (Presence.DEFINED, Presence.ABSENT, "a is defined on h1, no longer running there"),
        (Presence.ABSENT, Presence.RUNNING, "a is absent on h1, no longer running there"),
        (Presence.RUNNING, Presence.RUNNING, "a is already running on h2"),
        (Presence.RUNNING, Presence.PAUSED, "a is already paused on h2"),
        (Presence.RUNNING, Presence.MIGRATING, "a is already between hosts on h2"),
        (Presence.RUNNING, Presence.TORN, "a is already torn by post-copy on h2"),
        (Presence.TORN, Presence.ABSENT, "a is torn by post-copy on h1, no longer running there"),
    ],
)
def test_the_last_look_before_a_move(world: World, here: Presence, there: Presence, why: str | None) -> None:
    world.put("u", "h1", here)
    world.put("u", "h2", there)
    assert obstacle(world) == why


def test_another_job_or_a_silent_host_is_an_obstacle(world: World) -> None:
    with world.hosts.migration("u", "h1", "h3", None):
        assert obstacle(world) == "a is being worked on by another job"
    world.stop("h2")
    assert obstacle(world) == "h2: no answer within 10 s"


def test_a_persons_backup_is_an_obstacle(world: World) -> None:
    world.back_up("u", "h1")
    assert obstacle(world) == "a is being worked on by another job"


@pytest.mark.parametrize("host", ["h1", "h2"])
def test_a_migration_of_others_to_or_from_one_of_the_hosts_is_an_obstacle(world: World, host: str) -> None:
    world.put("theirs", "h3")
    with world.hosts.migration("theirs", "h3", host, None):
        world.advance(5.0)
        assert world.places("theirs") == {"h3": "running", host: "migrating"}
        assert obstacle(world) == f"{host} takes part in a migration of theirs that this balancer did not begin"
        assert world.do(lambda: migrator(world).obstacle(MOVE, {"theirs"})) is None
    world.advance(30.0)
    assert obstacle(world) is None


@pytest.mark.parametrize("host", ["h1", "h2"])
def test_what_libvirt_does_not_answer_is_no_error_of_ours(world: World, host: str) -> None:
    world.silence(host, 5.0, 100.0)
    requested = request(world)
    assert requested.why == "connection closed due to keepalive timeout"
    assert requested.answered is (host == "h2"), "the source has answered, or may still carry it out"


@pytest.mark.parametrize(
    ("timeout", "stop", "why"), [(20, False, "longer than 20 s"), (600, True, "the balancer was stopping")]
)
def test_a_migration_past_its_bound_is_aborted(world: World, timeout: float, stop: bool, why: str) -> None:
    world.copy_takes(1e6)
    requested = request(world, timeout, stop=stop)
    assert (requested.why, requested.answered) == (f"aborted: {why}", True)
    assert world.places("u") == {"h1": "running"}


def test_an_abort_that_libvirt_does_not_follow_is_no_answer(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.copy_takes(1e6)
    monkeypatch.setattr(world.answering, "abort", lambda *_: None)
    requested = request(world, 20)
    assert requested.answered is False
    assert requested.why == "aborted: longer than 20 s, and libvirt has not ended it after 60 s more"


@pytest.mark.parametrize(
    ("perform_seconds", "answered", "why"),
    [
        (1e6, False, "longer than 20 s, and it could not be aborted (abort: access denied): it goes on"),
        (50.0, True, None),
    ],
)
def test_a_migration_that_may_not_be_aborted_goes_on_and_the_reason_is_given(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    perform_seconds: float,
    answered: bool,
    why: str | None,
) -> None:
    def denied(*_: object) -> None:
        raise LibvirtError("abort: access denied")

    world.copy_takes(perform_seconds)
    monkeypatch.setattr(world.answering, "abort", denied)
    with structlog.testing.capture_logs() as logged:
        requested = request(world, 20)
    assert (requested.answered, requested.why) == (answered, why)
    assert [(line["event"], line["why"]) for line in logged] == [
        ("a migration could not be aborted", "abort: access denied")
    ]


def test_where_nothing_can_be_asked_the_error_is_the_reason(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_process(*_: object, **_named: object) -> None:
        raise LibvirtError("no process can be started to ask: Cannot allocate memory")

    monkeypatch.setattr(world.answering, "migration", no_process)
    requested = request(world)
    assert requested.why == "no process can be started to ask: Cannot allocate memory"


def test_how_fast_memory_was_written_to_is_kept_of_what_was_seen_last(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Before QEMU has been through the memory once it knows no rate; when the migration has ended, libvirt reports none
    # any more.
    rates = [None, 0.0, 40960.0, None]

    def look(_host: str, _uuid: str) -> Progress | None:
        rate = rates.pop(0) if rates else None
        return Progress(
            elapsed_seconds=1, total_bytes=2, processed_bytes=1, remaining_bytes=1, dirty_bytes_per_second=rate
        )

    monkeypatch.setattr(world.answering, "progress", look)
    assert request(world).dirty_bytes_per_second == 40960


@pytest.mark.parametrize(
    ("timeout", "stop", "broken", "cause"),
    [
        (600, False, False, None),
        (600, False, True, Cause.ERROR),
        (3, False, False, Cause.SLOW),
        (600, True, False, Cause.STOPPED),
    ],
)
def test_what_a_request_teaches(world: World, timeout: float, stop: bool, broken: bool, cause: Cause | None) -> None:
    if broken:
        world.after(2, lambda: world.ends("u", "h1", Presence.DEFINED))
    assert request(world, timeout, stop=stop).cause is cause


def test_a_migration_that_does_not_converge_is_aborted_and_teaches_that(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.copy_takes(1e6)

    def look(_host: str, _uuid: str) -> Progress | None:
        seconds = world.clock.now()
        return Progress(
            elapsed_seconds=seconds,
            total_bytes=100,
            processed_bytes=int(seconds),
            remaining_bytes=50,
            dirty_bytes_per_second=1e6,
            passes=int(seconds),
            throttle_ratio=0.99,
        )

    monkeypatch.setattr(world.answering, "progress", look)
    requested = request(world)
    assert requested.why is not None
    assert requested.why.startswith("aborted: it does not converge: each of the last ")
    assert (requested.cause, requested.answered) == (Cause.SLOW, True)
    assert (requested.seconds or 0) < 30
    assert world.places("u") == {"h1": "running"}


def test_the_bandwidth_limit_follows_its_windows_while_a_migration_runs(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = world.clock.now()
    refused = iter([True])
    set_bandwidth = world.answering.set_bandwidth

    def sometimes(host: str, uuid: str, bandwidth: int | None) -> None:
        if next(refused, False):
            raise LibvirtError("bandwidth: no answer within 5 s")
        set_bandwidth(host, uuid, bandwidth)

    monkeypatch.setattr(world.answering, "set_bandwidth", sometimes)
    limited = replace(migrator(world), bandwidth=lambda at: 50 if 3 <= at - began < 6 else None)
    assert world.do(lambda: limited.request(MOVE, lambda _: None, threading.Event())).why is None
    assert world.answering.bandwidths == [None, 50, None]


@pytest.mark.parametrize(
    ("written", "link", "beside", "bandwidth", "throttles", "why"),
    [
        (90, 100, 0, None, False, None),
        (110, 100, 0, None, True, None),
        (110, 100, 0, None, False, "it writes 110 MiB/s to its memory, and at most 100 MiB/s are copied"),
        (60, 100, 1, None, False, "it writes 60 MiB/s to its memory, and at most 50 MiB/s are copied"),
        (60, 100, 0, 40, False, "it writes 60 MiB/s to its memory, and at most 40 MiB/s are copied"),
        (60, None, 0, 40, False, "it writes 60 MiB/s to its memory, and at most 40 MiB/s are copied"),
        (11000, 100, 0, None, True, "it writes 11000 MiB/s to its memory, and at most 100 MiB/s are copied"),
        (11000, None, 5, None, False, None),
    ],
)
def test_whether_a_domain_would_converge_is_known_before_it_is_migrated(
    world: World,
    written: float,
    link: float | None,
    beside: int,
    bandwidth: int | None,
    throttles: bool,
    why: str | None,
) -> None:
    world.answering.memory_bytes, world.answering.dirty_bytes_per_second = 64 << 30, written * (1 << 20)
    made = replace(migrator(world), throttles=throttles, bandwidth=lambda _at: bandwidth)
    move = replace(MOVE, link_bytes_per_second=None if link is None else link * (1 << 20))
    assert world.do(lambda: made.measure(move, beside)) == WriteRate(
        dirty_bytes_per_second=written * (1 << 20), why=why and f"it would not converge: {why}"
    )


def test_small_domains_and_silent_hosts_are_not_measured(world: World) -> None:
    world.answering.dirty_bytes_per_second, world.answering.memory_bytes = 1e9, 999 << 20
    move = replace(MOVE, link_bytes_per_second=100.0 * (1 << 20))
    assert world.do(lambda: migrator(world).measure(move, 0)) == WriteRate()
    world.answering.memory_bytes = 1000 << 20
    assert world.do(lambda: migrator(world).measure(move, 0)).why is not None
    world.stop("h1")
    assert world.do(lambda: migrator(world).measure(move, 0)) == WriteRate()


# --- disks that are copied --------------------------------------------------------------------------------------------

MIB = 2**20
DISK = DiskCopy(device="vda", path="/srv/a", format="raw", capacity_bytes=2**34, stored_bytes=1600 * MIB)
COPYING = replace(MOVE, copies=(DISK,))


def request_copy(world: World, timeout: float = 600) -> Requested:
    return world.do(lambda: migrator(world, timeout).request(COPYING, lambda _: None, threading.Event()))


def test_room_is_made_before_disks_are_copied(world: World) -> None:
    requested = request_copy(world)
    assert (requested.why, requested.made_room) == (None, ("/srv/a",))
    assert world.model.machines["h2"].images == {"/srv/a"}


def test_what_is_there_already_is_never_written_to(world: World) -> None:
    world.model.machines["h2"].images = {"/srv/a"}
    requested = request_copy(world)
    assert (requested.cause, requested.made_room, world.answering.requests) == (Cause.REFUSED, (), [])
    assert requested.why == "no room for a copy of its disks: storage volume '/srv/a' exists already"


def test_a_migration_may_take_longer_by_the_bytes_of_its_disks(world: World) -> None:
    """At 16 MiB/s, 1,600 MiB take 100 s."""
    world.copy_takes(100.0)
    assert request_copy(world, timeout=5).why is None
    world.put("u", "h2", Presence.ABSENT)
    world.put("u", "h1")
    world.model.machines["h2"].images.clear()
    world.copy_takes(200.0)
    assert request_copy(world, timeout=5).why == "aborted: longer than 105 s"


def test_the_job_tells_of_its_disks_where_the_move_does_not(world: World) -> None:
    """After a restart only the source knows how much it copies."""
    entry = JournalEntry(id=1, move=MOVE, began=world.clock.now())
    world.copy_takes(100.0)
    world.answering.disk_bytes = 1600 * MIB
    with_job = world.hosts.migration("u", "h1", "h2", None)

    def watch() -> list[Requested]:
        noted: list[Requested] = []
        with with_job:
            migrator(world, 5).watch_over(entry, lambda: True, noted.append, threading.Event())
        return noted

    assert world.do(watch) == []


@pytest.mark.parametrize("taken", [False, True])
def test_what_is_to_be_created_is_written_down_first(world: World, taken: bool) -> None:
    """And that there is nothing, where libvirt has refused to."""
    noted: list[tuple[tuple[str, ...], bool, bool]] = []
    images = world.model.machines["h2"].images
    images.update({"/srv/a"} if taken else ())

    def note(volumes: Sequence[str], *, created: bool) -> None:
        noted.append((tuple(volumes), created, "/srv/a" in images))

    world.do(lambda: migrator(world).request(COPYING, lambda _: None, threading.Event(), lambda: None, note))
    assert noted == [(("/srv/a",), False, taken), ((), True, True) if taken else (("/srv/a",), True, True)]


@pytest.mark.parametrize("fails_after", [False, True])
def test_nothing_is_asked_for_while_its_volumes_cannot_be_written_down(world: World, fails_after: bool) -> None:
    def note(volumes: Sequence[str], *, created: bool) -> None:
        if created is fails_after:
            raise StoreError("the disk is full")

    requested = world.do(
        lambda: migrator(world).request(COPYING, lambda _: None, threading.Event(), lambda: None, note)
    )
    why = "the volumes for a copy of its disks cannot be written down: the disk is full"
    made = tuple(one.path for one in COPYING.copies) if fails_after else ()
    assert (requested.why, requested.made_room) == (why, made)
    assert world.model.machines["h2"].images == set(made)
    assert world.do(lambda: world.hosts.presence("h2", "u")) is Presence.ABSENT


def by_post_copy(world: World, timeout: float = 600, stopping: threading.Event | None = None) -> Requested:
    stop = stopping or threading.Event()
    return world.do(lambda: migrator(world, timeout).request(BY_POST_COPY, lambda _: None, stop))


def test_a_migration_by_post_copy_is_switched_once_after_its_first_pass(world: World) -> None:
    world.copy_takes(30.0)
    world.answering.passes = 1

    def second_pass() -> None:
        world.answering.passes = 2

    world.after(10.0, second_pass)
    began = world.clock.now()
    assert by_post_copy(world).why is None
    assert world.answering.switches == [True]
    assert [at - began for at in world.answering.switched] == [pytest.approx(10.0, abs=2.0)]


def test_no_other_migration_is_switched(world: World) -> None:
    world.copy_takes(30.0)
    world.answering.passes = 5
    assert request(world).why is None
    assert (world.answering.switches, world.answering.switched) == ([False], [])


def test_what_is_switched_is_not_aborted_however_long_it_takes(world: World) -> None:
    world.copy_takes(100.0)
    world.answering.passes = 2
    requested = by_post_copy(world, timeout=20)
    assert (requested.why, world.answering.aborted) == (None, 0)


def test_what_cannot_be_switched_has_the_bounds_of_any_other(world: World) -> None:
    world.copy_takes(100.0)
    world.answering.passes, world.answering.unswitchable = 2, True
    with structlog.testing.capture_logs() as logs:
        requested = by_post_copy(world, timeout=20)
    assert requested.why == "aborted: longer than 20 s"
    assert [one["why"] for one in logs if "post-copy" in one["event"]] == ["post-copy: QEMU does not want to"]


def test_a_balancer_that_stops_leaves_what_is_switched_and_switches_nothing(world: World) -> None:
    world.copy_takes(1000.0)
    world.answering.passes = 2
    stopping = threading.Event()
    world.after(10.0, stopping.set)
    requested = by_post_copy(world, stopping=stopping)
    assert requested.answered is False
    assert requested.why == (
        "the balancer was stopping, and it could not be aborted (abort: it has been switched to post-copy): it goes on"
    )
    assert world.places("u")["h2"] != "absent"
