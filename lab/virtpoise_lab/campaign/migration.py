"""A migration between two hosts of the world, as libvirt's peer-to-peer protocol, version 3, has it: begin (source),
prepare (destination), perform (the two QEMUs, whatever their daemons do), finish (destination), confirm (source).

Each message needs both daemons and the way between them. The source gives one up that is not answered within the
keep-alive. It stays in the other end's socket, and may be carried out late. After an unanswered finish the source
resumes the domain, as libvirt does (qemu_migration.c: "if ddomain is NULL, then we were unable to start the guest on
the target, and must restart on the source"). A domain that the balancer migrates arrives paused; who asked for the
migration starts it there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum

from virtpoise_balancer.execute.facts import Presence
from virtpoise_lab.campaign.machines import Daemon
from virtpoise_lab.campaign.world import ACTIVE, SETTLED, World

KEEPALIVE_SECONDS = 27.0
_LOOK_SECONDS = 0.5


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
class Job:
    """A migration that a source's daemon was asked for.

    ``ours``: by the balancer. ``error``: libvirt's answer, once it is ``over``.
    """

    world: World = field(repr=False)
    uuid: str
    source: str
    destination: str
    seconds: float
    ours: bool
    asked: float
    copies: tuple[str, ...] = ()  # paths of the disks that it copies
    step: Step = Step.BEGIN
    performed: float = 0.0
    unheard: float = 0.0  # for how long the source has not heard of the destination
    over: bool = False
    ended: float | None = None
    error: str | None = None
    aborted: bool = False
    driver: int = 0  # which life of the source's daemon drives it
    arrived: bool = False  # finish was carried out: the domain has run on the destination

    @property
    def is_past_perform(self) -> bool:
        return self.step > Step.PERFORM

    @property
    def text(self) -> str:
        return f"{self.world.guests[self.uuid].name} from {self.source} to {self.destination}"

    # --- its steps ----------------------------------------------------------------------------------------------------

    def drive(self) -> None:
        try:
            self._go()
        except DriverDied:
            return  # what becomes of it is decided when the daemon starts again
        except Gone as error:
            self.fail(str(error))

    def _go(self) -> None:
        uuid, source = self.uuid, self.source
        self._wait_for_daemon(first=True)
        self._take(Step.BEGIN)
        if (
            self.world.machines[source].copies.get(uuid) is None
            or self.world.places(uuid)[source] is not Presence.RUNNING
        ):
            raise Gone("domain is not running")
        if uuid in self.world.machines[source].backups:
            raise Gone("cannot acquire state change lock: a backup runs")
        if self.world.local_disks and self.ours and not self.copies:
            raise Gone("Unsafe migration: migration without shared storage is unsafe")
        others = [other for other in self.world.running_jobs(uuid) if other is not self and other.step > Step.BEGIN]
        if any(other.source == source or not other.arrived for other in others):
            raise Gone("another job is active")
        self._take(Step.PREPARE)
        self._message(self._prepare)
        self._take(Step.PERFORM)
        self._perform()
        self._take(Step.FINISH)
        self._message(self._finish)
        self._take(Step.CONFIRM)
        self._wait_for_daemon()
        self._confirm()

    def _take(self, step: Step) -> None:
        self.step = step
        for act in list(self.world.on_step):
            act(self)
        self.world.kernel.sleep(0.05 + 0.2 * self.world.kernel.random.random())
        if self.over:
            raise DriverDied
        self._wait_for_daemon(first=step is Step.BEGIN)

    def _wait_for_daemon(self, *, first: bool = False) -> None:
        """The source's daemon must be there to go on. DriverDied when another life of it drove the migration."""
        machine = self.world.machines[self.source]
        if first and self.step is Step.BEGIN and self.driver == 0:
            while machine.daemon is Daemon.STOPPED:
                self.world.kernel.sleep(_LOOK_SECONDS)
            if machine.daemon is Daemon.DEAD or not machine.powered:
                raise Gone("connection refused")
            self.driver = machine.lives + 1
            return
        while True:
            if self.over or machine.lives + 1 != self.driver or machine.daemon is Daemon.DEAD or not machine.powered:
                raise DriverDied
            if machine.daemon is Daemon.UP:
                return
            self.world.kernel.sleep(_LOOK_SECONDS)

    def _message(self, carry_out: Callable[[], str | None]) -> None:
        """Send a request to the destination and wait for its answer. Gone when there is none, or it is a refusal."""
        delivered = False
        answer: list[str | None] = []

        def deliver() -> None:
            if not answer:
                answer.append(carry_out())

        machine = self.world.machines[self.destination]
        waited = self.unheard
        life = machine.lives
        while True:
            self._wait_for_daemon()
            if not delivered and self.world.reachable(self.source, self.destination):
                deliver()
                delivered = True
                self.world.kernel.sleep(0.02 + 0.3 * self.world.kernel.random.random())
                self._wait_for_daemon()
            if (delivered and machine.lives != life) or machine.daemon is Daemon.DEAD or not machine.powered:
                raise Gone("connection reset by peer")
            if delivered and self.world.reachable(self.source, self.destination):
                break
            self.world.kernel.sleep(_LOOK_SECONDS)
            waited += _LOOK_SECONDS
            if waited > KEEPALIVE_SECONDS:
                if not delivered:  # it lies in the socket
                    self._late(life, deliver)
                raise Gone("connection closed due to keepalive timeout")
        if answer and answer[0] is not None:
            raise Gone(answer[0])

    def _late(self, life: int, deliver: Callable[[], None]) -> None:
        machine = self.world.machines[self.destination]
        finish = self.step is Step.FINISH and self.world.kernel.random.random() < 0.8

        def go_on() -> None:
            if machine.lives != life or not machine.powered:
                return
            if finish:
                self.world.note(f"late: {self.destination} carries out an old request of {self.source}")
                deliver()
            else:
                self._drop_incoming()

        if machine.daemon is Daemon.STOPPED:
            machine.late.append(go_on)
        else:  # the way is cut: it comes when the way is back

            def later() -> None:
                while not self.world.linked(self.source, self.destination) or machine.daemon is Daemon.STOPPED:
                    self.world.kernel.sleep(_LOOK_SECONDS)
                go_on()

            self.world.kernel.start(self.world.process, later, "late message")

    def _prepare(self) -> str | None:
        copy = self.world.machines[self.destination].copies.get(self.uuid)
        if copy is not None and copy.state in ACTIVE:
            return "domain is already active"
        if self.world.machines[self.destination].unfit:
            return "unsupported configuration: the CPU of the domain is not known here"
        self.world.put(self.uuid, self.destination, Presence.MIGRATING)
        self.world.machines[self.destination].copies[self.uuid].job = self
        return None

    def _perform(self) -> None:
        source, destination = self.world.machines[self.source], self.world.machines[self.destination]
        stalled = 0.0
        while True:
            copy, incoming = source.copies.get(self.uuid), destination.copies.get(self.uuid)
            if self.performed < self.seconds:
                if not self.world.linked(self.source, self.destination):
                    stalled += _LOOK_SECONDS
                    if stalled > 30.0:
                        raise Gone("unable to write to the socket: connection timed out")
                elif copy is not None and copy.state in SETTLED and not self._is("stuck"):
                    stalled = 0.0
                    self.performed += _LOOK_SECONDS
            if incoming is None or incoming.job is not self:
                self._wait_for_daemon()
                raise Gone("the destination's process died")
            if self._is("mute"):  # their daemons do not hear that it is done
                self.world.kernel.sleep(_LOOK_SECONDS)
                if self.over:
                    raise DriverDied
                continue
            if self.performed >= self.seconds and copy is not None and copy.state in SETTLED:
                self.world.put(self.uuid, self.source, Presence.MIGRATING)
            if source.daemon is Daemon.UP:
                self._wait_for_daemon()
                if self.aborted and self.performed < self.seconds:
                    raise Gone("operation aborted")
                if self.performed >= self.seconds:
                    return
                self.unheard = (
                    0.0 if self.world.reachable(self.source, self.destination) else self.unheard + _LOOK_SECONDS
                )
                if self.unheard > KEEPALIVE_SECONDS:
                    raise Gone("lost connection to destination host")
                if destination.daemon is Daemon.DEAD:
                    raise Gone("lost connection to destination host")
            elif source.daemon is Daemon.DEAD or not source.powered:
                raise DriverDied
            self.world.kernel.sleep(_LOOK_SECONDS)
            if self.over:
                raise DriverDied

    def _is(self, how: str) -> bool:
        """Whether either QEMU is so: stuck or mute."""
        return any(self.uuid in getattr(self.world.machines[host], how) for host in (self.source, self.destination))

    def _finish(self) -> str | None:
        copy = self.world.machines[self.destination].copies.get(self.uuid)
        if copy is None or copy.job is not self:
            return "domain is not there any more"
        self.arrived = True
        if self.world.local_disks:
            self.world.disk_arrives(self)
        arrived = Presence.PAUSED if self.ours else Presence.RUNNING
        self.world.put(self.uuid, self.destination, arrived, persistent=True)
        return None

    def _confirm(self) -> None:
        self.over, self.ended = True, self.world.kernel.at
        if self.world.places(self.uuid).get(self.source) in ACTIVE:
            self.world.put(self.uuid, self.source, Presence.ABSENT)
        self.world.note(f"migrated: {self.text}")

    def fail(self, error: str) -> None:
        """The source's daemon gives the migration up, and resumes the domain."""
        if self.over:
            return
        self.over, self.ended, self.error = True, self.world.kernel.at, error
        self.world.note(f"not migrated: {self.text}: {error}")
        source = self.world.machines[self.source].copies.get(self.uuid)
        handed_over = self.step >= Step.PERFORM  # before that it is another migration that has stopped the domain
        if handed_over and source is not None and source.state is Presence.MIGRATING and source.job is None:
            self.world.put(self.uuid, self.source, Presence.RUNNING)
            if self.arrived:
                self.world.disk_is_stale(self)
        if "keepalive" not in error:
            self._drop_incoming()

    def _drop_incoming(self) -> None:
        """The destination's daemon ends a process that waits for a migration whose connection is closed."""
        machine = self.world.machines[self.destination]

        def drop() -> None:
            copy = machine.copies.get(self.uuid)
            if copy is not None and copy.job is self:
                self.world.put(self.uuid, self.destination, Presence.DEFINED if copy.persistent else Presence.ABSENT)

        if machine.daemon is Daemon.STOPPED:
            machine.late.append(drop)
        elif machine.daemon is Daemon.UP and machine.powered:
            drop()

    def recover(self) -> None:
        """The source's daemon starts again and decides by the step."""
        if self.step is Step.CONFIRM:
            self._confirm()
        elif self.step is Step.FINISH:  # libvirt does not know whether it runs there, and leaves it paused
            self.over, self.ended, self.error = True, self.world.kernel.at, "the source's daemon died"
            if not self.arrived:
                self._drop_incoming()
            self.world.note(f"given up half way: {self.text}")
        else:
            self.fail("the source's daemon died")


def migrate(world: World, uuid: str, source: str, destination: str, *, ours: bool, copies: tuple[str, ...] = ()) -> Job:
    """Ask the source's daemon for a migration, which it begins once it can. ``copies``: paths of disks."""
    seconds = world.perform_seconds * (0.5 + world.kernel.random.random())
    job = Job(world, uuid, source, destination, seconds, ours, world.kernel.at, copies)
    world.jobs.append(job)
    world.note(f"asked: {job.text}{'' if ours else ' (administrator)'}")
    world.kernel.start(world.process, job.drive, f"migration of {uuid}")
    return job
