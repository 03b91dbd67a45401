"""One migration against hosts that are values: last looks, ends, and hosts that do not answer. (libvirt itself: on the lab.)"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from virtpoise_balancer.errors import LibvirtError
from virtpoise_balancer.execute import migrate
from virtpoise_balancer.execute.facts import Presence
from virtpoise_balancer.execute.hosts import Completed
from virtpoise_balancer.execute.migrate import Migrator
from virtpoise_balancer.model import Move, Outcome, PredictedLoads, Prediction, Progress, Result

LOADS = PredictedLoads(source=Prediction.exact(0.5), destination=Prediction.exact(0.5))
MOVE = Move(domain="a", uuid="u", source="h1", destination="h2", predicted=LOADS)
STARTED = Progress(elapsed_seconds=1, total_bytes=2, processed_bytes=1, remaining_bytes=1)


@dataclass
class Called:
    """A migration that was asked for: ended at once unless ``never``."""

    error: str | None = None
    never: bool = False

    def ended(self, seconds: float) -> bool:
        return not self.never


@dataclass
class World:
    """In the place of two hosts, and the one domain there is. ``does``: what a migration does; its error."""

    at: dict[str, Presence] = field(default_factory=lambda: {"h1": Presence.RUNNING, "h2": Presence.ABSENT})
    silent: set[str] = field(default_factory=set)
    job: Callable[[], Progress | None] = lambda: None
    does: Callable[[World], Called] | None = None
    keeps: bool = False  # the old definition cannot be removed
    begun: list[tuple[str, str, str, int | None]] = field(default_factory=list)
    aborted: list[str] = field(default_factory=list)

    def answers(self, host: str) -> None:
        if host in self.silent:
            raise LibvirtError(f"{host}: Connection refused")

    def presence(self, host: str, uuid: str) -> Presence:
        self.answers(host)
        return self.at[host]

    def progress(self, host: str, uuid: str) -> Progress | None:
        self.answers(host)
        return self.job()

    def completed(self, host: str, uuid: str) -> Completed:
        self.answers(host)
        return Completed(seconds=4.0, downtime_seconds=0.1, transferred_bytes=9)

    @contextmanager
    def migration(self, uuid: str, source: str, destination: str, bandwidth: int | None) -> Iterator[Called]:
        self.begun.append((uuid, source, destination, bandwidth))
        yield (self.does or arrives)(self)

    def abort(self, host: str, uuid: str) -> None:
        self.aborted.append(host)

    def undefine(self, host: str, uuid: str) -> None:
        if self.keeps:
            raise LibvirtError("undefine: cannot undefine domain with nvram")
        self.at[host] = Presence.ABSENT


def arrives(world: World) -> Called:
    world.at.update(h1=Presence.ABSENT, h2=Presence.RUNNING)
    return Called()


def migrator(world: World, timeout: float = 5) -> Migrator:
    return Migrator(hosts=world, timeout_seconds=timeout, stop_grace_seconds=5)  # type: ignore[arg-type]


def made(world: World) -> Outcome | None:
    return migrator(world).migrate(MOVE, lambda _: None, threading.Event())


def settled(world: World) -> Outcome | None:
    return migrator(world).settle(MOVE, lambda _: None, threading.Event())


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrate, "_WATCH_SECONDS", 0.01)


def test_a_migration_is_asked_for_as_the_move_says_and_told_with_libvirts_figures() -> None:
    world = World()
    outcome = made(world)
    assert outcome is not None
    assert (outcome.result, outcome.downtime_seconds, outcome.transferred_bytes) == (Result.DONE, 0.1, 9)
    assert world.begun == [("u", "h1", "h2", None)]


@pytest.mark.parametrize(
    ("here", "there", "job", "why"),
    [
        (Presence.PAUSED, Presence.ABSENT, None, "a is paused on h1, no longer running there"),
        (Presence.DEFINED, Presence.ABSENT, None, "a is defined on h1, no longer running there"),
        (Presence.ABSENT, Presence.RUNNING, None, "a is absent on h1, no longer running there"),
        (Presence.RUNNING, Presence.RUNNING, None, "a is already running on h2"),
        (Presence.RUNNING, Presence.PAUSED, None, "a is already paused on h2"),
        (Presence.RUNNING, Presence.ABSENT, STARTED, "a is being worked on by another job"),
    ],
)
def test_the_last_look_before_a_move(here: Presence, there: Presence, job: Progress | None, why: str) -> None:
    world = World(at={"h1": here, "h2": there}, job=lambda: job)
    assert made(world) == Outcome(result=Result.SKIPPED, why=why)
    assert world.begun == []


@pytest.mark.parametrize("silent", ["h1", "h2"])
def test_no_end_is_told_until_both_hosts_tell_it(silent: str) -> None:
    def falls_silent(world: World) -> Called:
        world.silent.add(silent)
        return arrives(world)

    world = World(does=falls_silent)
    assert made(world) is None
    assert settled(world) is None
    world.silent.clear()
    outcome = settled(world)
    assert outcome is not None
    assert (outcome.result, outcome.seconds) == (Result.DONE, 4.0)


def test_no_end_is_told_while_the_job_runs_on_though_the_request_for_it_was_lost() -> None:
    jobs = [None, STARTED, STARTED, None]  # before; after the loss; twice while it is waited for

    def loses_its_connection(world: World) -> Called:
        world.at["h2"] = Presence.PAUSED
        return Called(error="connection closed due to keepalive timeout")

    def ends() -> Progress | None:
        job = jobs.pop(0)
        if not jobs:
            arrives(world)
        return job

    world = World(job=ends, does=loses_its_connection)
    assert made(world) is None
    outcome = settled(world)
    assert outcome is not None
    assert outcome.result is Result.DONE


@pytest.mark.parametrize(("timeout", "stops", "ends"), [(0.05, False, False), (0.05, False, True), (60.0, True, True)])
def test_a_migration_past_its_bound_is_aborted_and_has_no_end_until_libvirt_ends_it(
    monkeypatch: pytest.MonkeyPatch, timeout: float, stops: bool, ends: bool
) -> None:
    monkeypatch.setattr(migrate, "_ABORT_SECONDS", 0.01)
    call = Called(never=True)
    world = World(does=lambda _: call)
    if ends:
        monkeypatch.setattr(world, "abort", lambda *_: call.__init__(error="operation aborted"))  # type: ignore[misc]
    stop = threading.Event()
    if stops:
        stop.set()
    hasty = Migrator(hosts=world, timeout_seconds=timeout, stop_grace_seconds=0)  # type: ignore[arg-type]
    outcome = hasty.migrate(MOVE, lambda _: None, stop)
    if not ends:
        assert (outcome, world.aborted) == (None, ["h1"])
        return
    assert outcome is not None
    told = "told to stop" if stops else "longer than 0.05 s"
    assert (outcome.result, outcome.why) == (Result.FAILED, f"aborted: {told}: running on h1, absent on h2")


def test_how_fast_memory_was_written_to_is_kept_of_what_was_seen_last() -> None:
    # Before QEMU has been through the memory once it knows no rate; when the migration has ended, libvirt tells none any more.
    rates = [None, 0.0, 40960.0, None]
    call = Called(never=True)

    def look() -> Progress | None:
        if not world.begun:
            return None
        rate = rates.pop(0)
        if not rates:
            arrives(world)
            call.never = False
        return Progress(
            elapsed_seconds=1, total_bytes=2, processed_bytes=1, remaining_bytes=1, dirty_bytes_per_second=rate
        )

    world = World(job=look, does=lambda _: call)
    outcome = made(world)
    assert outcome is not None
    assert (outcome.result, outcome.dirty_bytes_per_second) == (Result.DONE, 40960)


@pytest.mark.parametrize(
    ("source", "destination"),
    [
        (Presence.PAUSED, Presence.PAUSED),
        (Presence.PAUSED, Presence.RUNNING),
        (Presence.ABSENT, Presence.PAUSED),
        (Presence.RUNNING, Presence.RUNNING),
    ],
)
def test_a_domain_that_is_just_handed_over_is_looked_at_again(
    monkeypatch: pytest.MonkeyPatch, source: Presence, destination: Presence
) -> None:
    """The job has ended at the source, as one that took over sees it, and its hosts have not: no end yet, least of all a failure."""
    world = World(at={"h1": source, "h2": destination})
    monkeypatch.setattr(time, "sleep", lambda _seconds: arrives(world))
    outcome = settled(world)
    assert outcome is not None
    assert outcome.result is Result.DONE


def test_a_domain_that_stays_paused_at_its_destination_is_told_as_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrate, "_HANDOVER_SECONDS", 0.05)
    outcome = settled(World(at={"h1": Presence.ABSENT, "h2": Presence.PAUSED}))
    assert outcome is not None
    assert outcome.why == "the end of the migration was not seen: absent on h1, paused on h2"


def test_a_host_that_is_silent_before_anything_began_is_an_end() -> None:
    world = World(silent={"h2"})
    assert made(world) == Outcome(result=Result.SKIPPED, why="h2: Connection refused")
    assert world.begun == []


def test_a_definition_that_stayed_is_removed_or_told_and_not_asked_for_ever() -> None:
    def keeps(world: World) -> Called:
        arrives(world)
        world.at["h1"] = Presence.DEFINED
        return Called()

    world = World(does=keeps)
    outcome = made(world)
    assert outcome is not None
    assert (outcome.result, world.at["h1"]) == (Result.DONE, Presence.ABSENT)
    outcome = made(World(does=keeps, keeps=True))
    assert outcome is not None
    assert outcome.result is Result.FAILED
    assert outcome.why == "defined on h1, running on h2; undefine: cannot undefine domain with nvram"


@pytest.mark.parametrize(("left", "lost"), [(Presence.DEFINED, True), (Presence.RUNNING, False)])
def test_a_domain_whose_qemu_died_on_the_way_is_lost_though_it_is_still_defined(left: Presence, lost: bool) -> None:
    def fails(world: World) -> Called:
        world.at["h1"] = left
        return Called(error="domain is not running")

    outcome = made(World(does=fails))
    assert outcome is not None
    assert (outcome.result, outcome.lost) == (Result.FAILED, lost)
