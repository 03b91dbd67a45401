"""Hosts as a state machine on virtual time, behind the port that the balancer's hands use (``execute.hosts``).

A migration goes the way libvirt's peer-to-peer protocol goes: begin (source), prepare (destination), perform (both
QEMUs, whatever their daemons do), finish (destination), confirm (source). A step waits for the daemons that it needs. A
daemon can be stopped and goes on later with all that was sent to it meanwhile, as a real one does. A domain arrives
paused, and whoever asked for its migration starts it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from builders import FakeClock
from virtpoise_balancer.errors import LibvirtError
from virtpoise_balancer.execute.facts import Presence
from virtpoise_balancer.execute.hosts import Completed
from virtpoise_balancer.model import Progress
from virtpoise_lab.campaign.world import Step

TICK_SECONDS = 0.5
# A peer that has not answered for this long is given up: the balancer's request, and the source's call to the
# destination.
KEEPALIVE_SECONDS = 25.0
# What a question to a stopped daemon takes until it is given up.
SILENCE_SECONDS = 5.0


@dataclass
class Job:
    """A migration that a source's daemon was asked for.

    It has ended when ``over``; then ``error`` is libvirt's answer.
    """

    uuid: str
    source: str
    destination: str
    seconds: float  # what perform takes
    step: Step = Step.BEGIN
    performed: float = 0.0
    unanswered: float = 0.0  # for how long the destination has not answered
    over: bool = False
    error: str | None = None


@dataclass
class Request:
    """The balancer's end of a migration call."""

    world: World
    job: Job
    error: str | None = None
    heard: float = 0.0  # when the source last answered
    waited_seconds: float | None = None

    def ended(self, seconds: float) -> bool:
        until = self.world.clock.at + seconds
        while True:
            if self.job.over and self.job.source not in self.world.stopped:
                self.error = self.job.error
                if self.error is None and self.job.destination not in self.world.stopped:
                    self.world.start(self.job.uuid, self.job.destination)
                    self.waited_seconds = 0.2
                return True
            if self.job.source not in self.world.stopped:
                self.heard = self.world.clock.at
            elif self.world.clock.at - self.heard > KEEPALIVE_SECONDS:
                self.error = "connection closed due to keepalive timeout"
                return True
            if self.world.clock.at >= until:
                return False
            self.world.advance(TICK_SECONDS)


@dataclass
class World:
    """``at``: where each domain (by uuid) stands, by host. ``perform_seconds``: what copying a domain takes."""

    clock: FakeClock = field(default_factory=FakeClock)
    at: dict[str, dict[str, Presence]] = field(default_factory=dict)
    perform_seconds: float = 10.0
    stopped: set[str] = field(default_factory=set)  # hosts whose daemon is stopped
    jobs: list[Job] = field(default_factory=list)
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    memory_bytes: int = 0
    dirty_bytes_per_second: float = 0.0
    bandwidths: list[int | None] = field(default_factory=list)  # of migrations, as asked for and as set later
    jobless: set[str] = field(default_factory=set)  # hosts that report no job, whatever they do
    undefinable: set[str] = field(default_factory=set)  # hosts that keep old definitions
    on: dict[Step, Callable[[], object]] = field(default_factory=dict)  # done once, right before a job takes that step
    ran_twice: set[str] = field(default_factory=set)  # domains that ran on two hosts at any time
    _due: list[tuple[float, Callable[[], object]]] = field(default_factory=list)
    _lost_finishes: list[Job] = field(default_factory=list)  # sent to a stopped destination whose source gave up
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        self.clock.sleep = self.advance  # type: ignore[method-assign]

    # --- what a test does ---------------------------------------------------------------------------------------------

    def put(self, uuid: str, host: str, presence: Presence = Presence.RUNNING) -> None:
        if presence is Presence.ABSENT:
            self.at.setdefault(uuid, {}).pop(host, None)
        else:
            self.at.setdefault(uuid, {})[host] = presence
        if list(self.at[uuid].values()).count(Presence.RUNNING) > 1:
            self.ran_twice.add(uuid)

    def places(self, uuid: str) -> dict[str, str]:
        return {host: presence.name.lower() for host, presence in sorted(self.at.get(uuid, {}).items())}

    def start(self, uuid: str, host: str) -> None:
        """A paused domain runs again."""
        if self.at[uuid].get(host) is Presence.PAUSED:
            self.put(uuid, host)

    def after(self, seconds: float, act: Callable[[], object]) -> None:
        """Do this once the world is that much older; at once for 0."""
        if seconds <= 0:
            act()
        else:
            self._due.append((self.clock.at + seconds, act))

    def silence(self, host: str, after: float, seconds: float) -> None:
        """Stop a host's daemon for a while."""
        self.after(after, lambda: self.stopped.add(host))
        self.after(after + seconds, lambda: self.stopped.discard(host))

    def ends(self, uuid: str, host: str, as_: Presence) -> None:
        """The domain's process on this host ends, and so does a migration of it."""
        self.put(uuid, host, as_)
        for job in self.running_jobs(uuid):
            self._fail(job, "domain is not running")

    def advance(self, seconds: float) -> None:
        with self._lock:
            until = self.clock.at + seconds
            while self.clock.at < until:
                self.clock.at += TICK_SECONDS
                for due in [due for due in self._due if due[0] <= self.clock.at]:
                    self._due.remove(due)
                    due[1]()
                for job in self.jobs:
                    if not job.over:
                        self._go_on(job)
                for job in [one for one in self._lost_finishes if one.destination not in self.stopped]:
                    self._lost_finishes.remove(job)
                    self.put(job.uuid, job.destination, Presence.PAUSED)

    def running_jobs(self, uuid: str) -> list[Job]:
        return [job for job in self.jobs if job.uuid == uuid and not job.over]

    # --- libvirt ------------------------------------------------------------------------------------------------------

    def _go_on(self, job: Job) -> None:
        uuid, source, destination = job.uuid, job.source, job.destination
        if act := self.on.pop(job.step, None):
            act()
        if job.step is Step.PERFORM:
            job.performed += TICK_SECONDS
            if job.performed >= job.seconds and self.at[uuid].get(source) is Presence.RUNNING:
                self.put(uuid, source, Presence.MIGRATING)
        if source in self.stopped:
            return
        if job.step in (Step.PREPARE, Step.FINISH) and destination in self.stopped:
            job.unanswered += TICK_SECONDS
            if job.unanswered > KEEPALIVE_SECONDS:
                if job.step is Step.FINISH:
                    self._lost_finishes.append(job)
                self._fail(job, "connection closed due to keepalive timeout")
            return
        if job.step is Step.BEGIN and self.at.get(uuid, {}).get(source) is not Presence.RUNNING:
            self._fail(job, "domain is not running")
            return
        if job.step is Step.PERFORM and job.performed < job.seconds:
            return
        if job.step is Step.PREPARE:
            self.put(uuid, destination, Presence.MIGRATING)
        elif job.step is Step.FINISH:
            self.put(uuid, destination, Presence.PAUSED)
        elif job.step is Step.CONFIRM:
            self.put(uuid, source, Presence.DEFINED if source in self.undefinable else Presence.ABSENT)
            job.over = True
            return
        job.step = Step(job.step + 1)

    def _fail(self, job: Job, error: str) -> None:
        job.over, job.error = True, error
        if self.at[job.uuid].get(job.source) is Presence.MIGRATING:
            self.put(job.uuid, job.source)  # the source resumes the domain
        if self.at[job.uuid].get(job.destination) is Presence.MIGRATING and job not in self._lost_finishes:
            self.put(job.uuid, job.destination, Presence.ABSENT)

    def _answers(self, host: str) -> None:
        if host in self.stopped:
            self.advance(SILENCE_SECONDS)
            raise LibvirtError(f"{host}: no answer within {SILENCE_SECONDS:g} s")

    # --- the port -----------------------------------------------------------------------------------------------------

    def presence(self, host: str, uuid: str) -> Presence:
        with self._lock:
            self._answers(host)
            return self.at.get(uuid, {}).get(host, Presence.ABSENT)

    def progress(self, host: str, uuid: str) -> Progress | None:
        with self._lock:
            self._answers(host)
            for job in self.running_jobs(uuid):
                if job.source == host and host not in self.jobless:
                    left = int(job.seconds - job.performed)
                    return Progress(
                        elapsed_seconds=job.performed,
                        total_bytes=int(job.seconds),
                        processed_bytes=int(job.performed),
                        remaining_bytes=max(left, 0),
                    )
            return None

    def completed(self, host: str, uuid: str) -> Completed:
        with self._lock:
            self._answers(host)
            return Completed(seconds=self.perform_seconds, downtime_seconds=0.1, transferred_bytes=9)

    @contextmanager
    def migration(self, uuid: str, source: str, destination: str, bandwidth: int | None) -> Iterator[Request]:
        with self._lock:
            self.requests.append((uuid, source, destination))
            self.bandwidths.append(bandwidth)
            job = Job(uuid, source, destination, self.perform_seconds)
            if act := self.on.pop(Step.BEGIN, None):
                act()
            self.jobs.append(job)
        yield Request(self, job, heard=self.clock.at)

    def dirty_rate(self, host: str, uuid: str, least_bytes: int) -> float | None:
        with self._lock:
            self._answers(host)
            return self.dirty_bytes_per_second if self.memory_bytes >= least_bytes else None

    def set_bandwidth(self, host: str, uuid: str, bandwidth: int | None) -> None:
        with self._lock:
            self._answers(host)
            self.bandwidths.append(bandwidth)

    def abort(self, host: str, uuid: str) -> None:
        with self._lock:
            self._answers(host)
            for job in self.running_jobs(uuid):
                if job.step <= Step.PERFORM:
                    self._fail(job, "operation aborted")

    def undefine(self, host: str, uuid: str) -> None:
        with self._lock:
            self._answers(host)
            if host in self.undefinable:
                raise LibvirtError("undefine: cannot undefine domain with nvram")
            self.put(uuid, host, Presence.ABSENT)

    def resume(self, host: str, uuid: str) -> None:
        with self._lock:
            self._answers(host)
            self.start(uuid, host)

    def suspend(self, host: str, uuid: str) -> None:
        with self._lock:
            self._answers(host)
            self.put(uuid, host, Presence.PAUSED)

    def describe(self, host: str, uuid: str) -> str:
        with self._lock:
            self._answers(host)
            return f"{self.at[uuid][host]}, 3 s of CPU time"
