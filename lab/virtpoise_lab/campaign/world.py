"""Hosts, their libvirt daemons and QEMU processes as state machines. What is true here is true: the oracle goes by it.

A migration goes the way of libvirt's peer-to-peer protocol, version 3: begin (source), prepare (destination), perform
(the two QEMUs, whatever their daemons do), finish (destination), confirm (source). Each message needs both daemons and
the way between them. The source gives one up that is not answered within the keep-alive. It stays in the other end's
socket, and may be carried out late. After an unanswered finish the source resumes the domain, as libvirt does
(qemu_migration.c: "if ddomain is NULL, then we were unable to start the guest on the target, and must restart on the
source"). A domain that the balancer migrates arrives paused; who asked for the migration starts it there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

from virtpoise_balancer.execute.facts import Presence
from virtpoise_lab.campaign.kernel import Kernel, VirtualProcess

KEEPALIVE_SECONDS = 27.0
# A question to a host that does not answer is given up after this long.
SILENCE_SECONDS = 10.0
_LOOK_SECONDS = 0.5
BOOT_SECONDS = 30.0

ACTIVE = (Presence.RUNNING, Presence.PAUSED, Presence.MIGRATING)
SETTLED = (Presence.RUNNING, Presence.PAUSED)


class Daemon(StrEnum):
    UP = "up"
    STOPPED = "stopped"
    DEAD = "dead"


class Step(IntEnum):
    BEGIN = 0
    PREPARE = 1
    PERFORM = 2
    FINISH = 3
    CONFIRM = 4


class DriverDied(Exception):
    """The source's daemon, which drives the migration, has died."""


class Gone(Exception):
    """No answer came."""


@dataclass(eq=False)
class Copy:
    """A domain on one host: its process, its definition, or both."""

    state: Presence
    persistent: bool = True
    job: Job | None = None  # on its destination, while it has not arrived


@dataclass(eq=False)
class Guest:
    """A domain, wherever it is. ``cores``: what it uses while it runs."""

    uuid: str
    name: str
    cores: float
    touched: bool = False  # by an administrator: where it is then follows from no journal
    wanted_down: bool = False  # an administrator shut it off, and has not started it again
    lost: bool = False  # its process died while we migrated it
    crashed: bool = False  # its process died otherwise


@dataclass(eq=False)
class Job:
    """A migration that a source's daemon was asked for.

    ``ours``: by the balancer. ``error``: libvirt's answer, once it is ``over``.
    """

    uuid: str
    source: str
    destination: str
    seconds: float
    ours: bool
    asked: float
    step: Step = Step.BEGIN
    performed: float = 0.0
    unheard: float = 0.0  # for how long the source has not heard of the destination
    over: bool = False
    ended: float | None = None
    error: str | None = None
    aborted: bool = False
    driver: int = 0  # which life of the source's daemon drives it
    arrived: bool = False  # finish was carried out: the domain has run on the destination


@dataclass(eq=False)
class Machine:
    """A host. ``late``: what its stopped daemon does when it goes on."""

    name: str
    cpus: int = 8
    daemon: Daemon = Daemon.UP
    powered: bool = True
    lives: int = 0  # of its daemon
    silent_since: float | None = None
    well_since: float = 0.0
    strange_at: float = 0.0  # when something last happened to a domain here that no job of ours did
    late: list[Callable[[], None]] = field(default_factory=list)
    copies: dict[str, Copy] = field(default_factory=dict)


@dataclass(eq=False)
class World:
    """``perform_seconds``: what copying a domain takes.

    ``note``: called with each thing that happens, for the trace.
    """

    kernel: Kernel
    note: Callable[[str], None]
    machines: dict[str, Machine] = field(default_factory=dict)
    guests: dict[str, Guest] = field(default_factory=dict)
    jobs: list[Job] = field(default_factory=list)
    cut: set[frozenset[str]] = field(default_factory=set)  # ways that are cut; "balancer" is an end as well
    perform_seconds: float = 8.0
    doubled_since: dict[str, float] = field(default_factory=dict)
    ran_twice: set[str] = field(default_factory=set)  # domains that ran on two hosts at once, if only for a moment
    on_step: list[Callable[[Job], None]] = field(default_factory=list)  # called right before a job takes its step
    process: VirtualProcess = field(default_factory=lambda: VirtualProcess("world"))

    # --- what is true -------------------------------------------------------------------------------------------------

    def places(self, uuid: str) -> dict[str, Presence]:
        return {name: one.copies[uuid].state for name, one in self.machines.items() if uuid in one.copies}

    def active_on(self, uuid: str) -> list[str]:
        return [name for name, state in self.places(uuid).items() if state in SETTLED]

    def lately_moved(self, uuid: str, seconds: float) -> bool:
        """Whether a migration of the domain is under way, or has ended within these seconds."""
        return any(
            job.uuid == uuid and (job.ended is None or self.kernel.at - job.ended < seconds) for job in self.jobs
        )

    def running_jobs(self, uuid: str) -> Iterator[Job]:
        return (job for job in self.jobs if job.uuid == uuid and not job.over)

    def used_cores(self, host: str) -> float:
        return sum(
            self.guests[uuid].cores
            for uuid, copy in self.machines[host].copies.items()
            if copy.state is Presence.RUNNING
        )

    def reachable(self, a: str, b: str) -> bool:
        """Whether the daemons of two hosts, or the balancer and a daemon, can talk now."""
        ends = [self.machines[end] for end in (a, b) if end in self.machines]
        return frozenset((a, b)) not in self.cut and all(one.daemon is Daemon.UP and one.powered for one in ends)

    def _linked(self, a: str, b: str) -> bool:
        return frozenset((a, b)) not in self.cut and self.machines[a].powered and self.machines[b].powered

    # --- changes of copies --------------------------------------------------------------------------------------------

    def put(self, uuid: str, host: str, state: Presence, *, persistent: bool | None = None) -> None:
        """Set how the domain stands on the host. What is neither active nor defined is gone."""
        copies = self.machines[host].copies
        copy = copies.get(uuid)
        if copy is None:
            copy = copies[uuid] = Copy(state=state, persistent=bool(persistent))
        before = copy.state
        copy.state = state
        copy.job = None
        if persistent is not None:
            copy.persistent = persistent
        if (state not in ACTIVE and not copy.persistent) or state is Presence.ABSENT:
            del copies[uuid]
        if state is Presence.RUNNING and not any(job.ours and job.arrived for job in self.running_jobs(uuid)):
            self.machines[host].strange_at = self.kernel.at
        self.note(f"{self.guests[uuid].name} on {host}: {before} -> {state if uuid in copies else 'absent'}")
        self._count(uuid)

    def _count(self, uuid: str) -> None:
        if list(self.places(uuid).values()).count(Presence.RUNNING) > 1:
            self.ran_twice.add(uuid)
        if len(self.active_on(uuid)) > 1:
            self.doubled_since.setdefault(uuid, self.kernel.at)
        else:
            self.doubled_since.pop(uuid, None)

    def end_process(self, uuid: str, host: str, *, as_: Presence, by_person: bool) -> None:
        """The domain's QEMU on this host ends."""
        copy = self.machines[host].copies.get(uuid)
        if copy is None or copy.state not in ACTIVE:
            return
        guest = self.guests[uuid]
        jobs = list(self.running_jobs(uuid))
        incoming = copy.job is not None
        was_main = self.active_on(uuid) in ([host], []) and not incoming
        self.put(uuid, host, as_)
        for job in jobs:
            if host == job.destination and job.step <= Step.PERFORM:
                self._fail(job, "the destination's process died")
            elif host == job.source:
                self._fail(job, "domain is not running")
        if was_main and not self.active_on(uuid):
            ours = any(job.ours for job in jobs) or self._half_way(uuid)
            meant = not ours or as_ is Presence.SHUT_OFF or any(job.destination == host for job in jobs)
            if by_person and meant:
                guest.wanted_down = True
            elif ours:
                guest.lost = True
            else:
                guest.crashed = True

    def _half_way(self, uuid: str) -> bool:
        """Whether one of our migrations of the domain has stopped half way: it is between its hosts."""
        return any(state is Presence.MIGRATING for state in self.places(uuid).values())

    def suspend(self, uuid: str, host: str) -> None:
        if self.places(uuid).get(host) is Presence.RUNNING:
            self.put(uuid, host, Presence.PAUSED)

    def resume(self, uuid: str, host: str) -> None:
        if self.places(uuid).get(host) is Presence.PAUSED:
            self.put(uuid, host, Presence.RUNNING)

    def undefine(self, uuid: str, host: str) -> None:
        copy = self.machines[host].copies.get(uuid)
        if copy is not None:
            copy.persistent = False
            self.put(uuid, host, copy.state)

    def start_again(self, uuid: str) -> None:
        """A person starts a domain that is down: where it is defined, or else anywhere."""
        guest, places = self.guests[uuid], self.places(uuid)
        guest.wanted_down = guest.lost = guest.crashed = False
        if any(state in ACTIVE for state in places.values()):
            return
        host = next((name for name in places if self.machines[name].powered), None)
        if host is None:
            guest.touched = True
            host = min(self.machines, key=lambda name: (self.used_cores(name), name))
        self.put(uuid, host, Presence.RUNNING, persistent=True)

    # --- a migration --------------------------------------------------------------------------------------------------

    def migrate(self, uuid: str, source: str, destination: str, *, ours: bool) -> Job:
        """Ask the source's daemon for a migration, which it begins once it can."""
        seconds = self.perform_seconds * (0.5 + self.kernel.random.random())
        job = Job(uuid, source, destination, seconds, ours, self.kernel.at)
        self.jobs.append(job)
        self.note(f"asked: {self.guests[uuid].name} from {source} to {destination}{'' if ours else ' (administrator)'}")
        self.kernel.start(self.process, lambda: self._drive(job), f"migration of {uuid}")
        return job

    def _drive(self, job: Job) -> None:
        try:
            self._go(job)
        except DriverDied:
            return  # what becomes of it is decided when the daemon starts again
        except Gone as error:
            self._fail(job, str(error))

    def _go(self, job: Job) -> None:
        uuid, source = job.uuid, job.source
        self._wait_for_daemon(job, first=True)
        self._take(job, Step.BEGIN)
        if self.machines[source].copies.get(uuid) is None or self.places(uuid)[source] is not Presence.RUNNING:
            raise Gone("domain is not running")
        if any(other is not job and other.step > Step.BEGIN for other in self.running_jobs(uuid)):
            raise Gone("another job is active")
        self._take(job, Step.PREPARE)
        self._message(job, lambda: self._prepare(job))
        self._take(job, Step.PERFORM)
        self._perform(job)
        self._take(job, Step.FINISH)
        self._message(job, lambda: self._finish(job))
        self._take(job, Step.CONFIRM)
        self._wait_for_daemon(job)
        self._confirm(job)

    def _take(self, job: Job, step: Step) -> None:
        job.step = step
        for act in list(self.on_step):
            act(job)
        self.kernel.sleep(0.05 + 0.2 * self.kernel.random.random())
        if job.over:
            raise DriverDied
        self._wait_for_daemon(job, first=step is Step.BEGIN)

    def _wait_for_daemon(self, job: Job, *, first: bool = False) -> None:
        """The source's daemon must be there to go on. DriverDied when it was another life of it that drove the job."""
        machine = self.machines[job.source]
        if first and job.step is Step.BEGIN and job.driver == 0:
            while machine.daemon is Daemon.STOPPED:
                self.kernel.sleep(_LOOK_SECONDS)
            if machine.daemon is Daemon.DEAD or not machine.powered:
                raise Gone("connection refused")
            job.driver = machine.lives + 1
            return
        while True:
            if job.over or machine.lives + 1 != job.driver or machine.daemon is Daemon.DEAD or not machine.powered:
                raise DriverDied
            if machine.daemon is Daemon.UP:
                return
            self.kernel.sleep(_LOOK_SECONDS)

    def _message(self, job: Job, carry_out: Callable[[], str | None]) -> None:
        """Send a request to the destination and wait for its answer. Gone when there is none, or it is a refusal."""
        delivered = False
        answer: list[str | None] = []

        def deliver() -> None:
            if not answer:
                answer.append(carry_out())

        machine = self.machines[job.destination]
        waited = job.unheard
        life = machine.lives
        while True:
            self._wait_for_daemon(job)
            if not delivered and self.reachable(job.source, job.destination):
                deliver()
                delivered = True
                self.kernel.sleep(0.02 + 0.3 * self.kernel.random.random())
                self._wait_for_daemon(job)
            if (delivered and machine.lives != life) or machine.daemon is Daemon.DEAD or not machine.powered:
                raise Gone("connection reset by peer")
            if delivered and self.reachable(job.source, job.destination):
                break
            self.kernel.sleep(_LOOK_SECONDS)
            waited += _LOOK_SECONDS
            if waited > KEEPALIVE_SECONDS:
                if not delivered:  # it lies in the socket
                    self._late(job, life, deliver)
                raise Gone("connection closed due to keepalive timeout")
        if answer and answer[0] is not None:
            raise Gone(answer[0])

    def _late(self, job: Job, life: int, deliver: Callable[[], None]) -> None:
        machine = self.machines[job.destination]
        finish = job.step is Step.FINISH and self.kernel.random.random() < 0.8

        def go_on() -> None:
            if machine.lives != life or not machine.powered:
                return
            if finish:
                self.note(f"late: {job.destination} carries out an old request of {job.source}")
                deliver()
            else:
                self._drop_incoming(job)

        if machine.daemon is Daemon.STOPPED:
            machine.late.append(go_on)
        else:  # the way is cut: it comes when the way is back

            def later() -> None:
                while not self._linked(job.source, job.destination) or machine.daemon is Daemon.STOPPED:
                    self.kernel.sleep(_LOOK_SECONDS)
                go_on()

            self.kernel.start(self.process, later, "late message")

    def _prepare(self, job: Job) -> str | None:
        copy = self.machines[job.destination].copies.get(job.uuid)
        if copy is not None and copy.state in ACTIVE:
            return "domain is already active"
        self.put(job.uuid, job.destination, Presence.MIGRATING)
        self.machines[job.destination].copies[job.uuid].job = job
        return None

    def _perform(self, job: Job) -> None:
        source, destination = self.machines[job.source], self.machines[job.destination]
        stalled = 0.0
        while True:
            copy, incoming = source.copies.get(job.uuid), destination.copies.get(job.uuid)
            if job.performed < job.seconds:
                if not self._linked(job.source, job.destination):
                    stalled += _LOOK_SECONDS
                    if stalled > 30.0:
                        raise Gone("unable to write to the socket: connection timed out")
                elif copy is not None and copy.state is Presence.RUNNING:
                    stalled = 0.0
                    job.performed += _LOOK_SECONDS
            if incoming is None or incoming.job is not job:
                self._wait_for_daemon(job)
                raise Gone("the destination's process died")
            if job.performed >= job.seconds and copy is not None and copy.state is Presence.RUNNING:
                self.put(job.uuid, job.source, Presence.MIGRATING)
            if source.daemon is Daemon.UP:
                self._wait_for_daemon(job)
                if job.aborted and job.performed < job.seconds:
                    raise Gone("operation aborted")
                if job.performed >= job.seconds:
                    return
                job.unheard = 0.0 if self.reachable(job.source, job.destination) else job.unheard + _LOOK_SECONDS
                if job.unheard > KEEPALIVE_SECONDS:
                    raise Gone("lost connection to destination host")
                if destination.daemon is Daemon.DEAD:
                    raise Gone("lost connection to destination host")
            elif source.daemon is Daemon.DEAD or not source.powered:
                raise DriverDied
            self.kernel.sleep(_LOOK_SECONDS)
            if job.over:
                raise DriverDied

    def _finish(self, job: Job) -> str | None:
        copy = self.machines[job.destination].copies.get(job.uuid)
        if copy is None or copy.job is not job:
            return "domain is not there any more"
        job.arrived = True
        arrived = Presence.PAUSED if job.ours else Presence.RUNNING
        self.put(job.uuid, job.destination, arrived, persistent=True)
        return None

    def _confirm(self, job: Job) -> None:
        job.over, job.ended = True, self.kernel.at
        if self.places(job.uuid).get(job.source) in ACTIVE:
            self.put(job.uuid, job.source, Presence.ABSENT)
        self.note(f"migrated: {self.guests[job.uuid].name} from {job.source} to {job.destination}")

    def _fail(self, job: Job, error: str) -> None:
        """The source's daemon gives the migration up, and resumes the domain."""
        if job.over:
            return
        job.over, job.ended, job.error = True, self.kernel.at, error
        self.note(f"not migrated: {self.guests[job.uuid].name} from {job.source} to {job.destination}: {error}")
        source = self.machines[job.source].copies.get(job.uuid)
        if source is not None and source.state is Presence.MIGRATING and source.job is None:
            self.put(job.uuid, job.source, Presence.RUNNING)
        if "keepalive" not in error:
            self._drop_incoming(job)

    def _drop_incoming(self, job: Job) -> None:
        """The destination's daemon ends a process that waits for a migration whose connection is closed."""
        machine = self.machines[job.destination]

        def drop() -> None:
            copy = machine.copies.get(job.uuid)
            if copy is not None and copy.job is job:
                self.put(job.uuid, job.destination, Presence.DEFINED if copy.persistent else Presence.ABSENT)

        if machine.daemon is Daemon.STOPPED:
            machine.late.append(drop)
        elif machine.daemon is Daemon.UP and machine.powered:
            drop()

    # --- what happens to hosts ----------------------------------------------------------------------------------------

    def stop_daemon(self, host: str) -> None:
        machine = self.machines[host]
        if machine.daemon is Daemon.UP:
            self.note(f"{host}: libvirtd stopped")
            machine.daemon = Daemon.STOPPED
            machine.silent_since = self.kernel.at

    def continue_daemon(self, host: str) -> None:
        machine = self.machines[host]
        if machine.daemon is Daemon.STOPPED:
            self.note(f"{host}: libvirtd goes on")
            machine.daemon = Daemon.UP
            machine.silent_since = None
            machine.well_since = self.kernel.at
            late, machine.late = machine.late, []
            for act in late:
                act()

    def kill_daemon(self, host: str) -> None:
        machine = self.machines[host]
        if machine.daemon is not Daemon.DEAD:
            self.note(f"{host}: libvirtd dies")
            machine.daemon, machine.late = Daemon.DEAD, []
            machine.lives += 1
            machine.silent_since = machine.silent_since or self.kernel.at

    def start_daemon(self, host: str) -> None:
        """The daemon starts again and decides about the migrations that it drove, or that were coming in."""
        machine = self.machines[host]
        if machine.daemon is not Daemon.DEAD or not machine.powered:
            return
        self.note(f"{host}: libvirtd starts")
        machine.daemon, machine.silent_since, machine.well_since = Daemon.UP, None, self.kernel.at
        for uuid, copy in list(machine.copies.items()):
            if copy.job is not None:
                self.put(uuid, host, Presence.DEFINED if copy.persistent else Presence.ABSENT)
        for job in self.jobs:
            if job.source == host and not job.over and job.driver:
                self._recover(job)

    def _recover(self, job: Job) -> None:
        if job.step is Step.CONFIRM:
            self._confirm(job)
        elif job.step is Step.FINISH:  # libvirt does not know whether it runs there, and leaves it paused
            job.over, job.ended, job.error = True, self.kernel.at, "the source's daemon died"
            if not job.arrived:
                self._drop_incoming(job)
            self.note(f"given up half way: {self.guests[job.uuid].name} from {job.source} to {job.destination}")
        else:
            self._fail(job, "the source's daemon died")

    def power_off(self, host: str) -> None:
        machine = self.machines[host]
        if not machine.powered:
            return
        self.note(f"{host}: power is lost")
        self.kill_daemon(host)
        machine.powered = False
        for uuid, copy in list(machine.copies.items()):
            if copy.state in ACTIVE:
                self.end_process(uuid, host, as_=Presence.DEFINED, by_person=False)

    def power_on(self, host: str) -> None:
        machine = self.machines[host]
        if not machine.powered:
            self.note(f"{host}: boots")
            machine.powered = True
            self.start_daemon(host)

    def cut_way(self, a: str, b: str) -> None:
        self.note(f"the way between {a} and {b} is cut")
        self.cut.add(frozenset((a, b)))

    def mend_way(self, a: str, b: str) -> None:
        if frozenset((a, b)) in self.cut:
            self.note(f"the way between {a} and {b} is back")
            self.cut.discard(frozenset((a, b)))
            for end in (a, b):
                if end in self.machines:
                    self.machines[end].well_since = self.kernel.at
