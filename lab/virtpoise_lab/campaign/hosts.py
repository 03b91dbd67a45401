"""The world behind the balancer's port to libvirt (``execute.hosts``)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from virtpoise_balancer.errors import LibvirtError, NoRoom
from virtpoise_balancer.execute.facts import Bound, Hardware, HardwareVerdict, HostFacts, Presence
from virtpoise_balancer.execute.hosts import Completed
from virtpoise_balancer.model import DiskCopy, Progress
from virtpoise_lab.campaign.inventory import facts_of, images_on, words_on
from virtpoise_lab.campaign.kernel import VirtualProcess
from virtpoise_lab.campaign.migration import KEEPALIVE_SECONDS, Job, Step, migrate
from virtpoise_lab.campaign.world import ACTIVE, SILENCE_SECONDS, WE, World

Value = TypeVar("Value")
# The share of a slow host's answers that are late.
_SLOW_SHARE = 0.4
# After these an abort is carried out that libvirt has long answered.
_ABORT_TAKES_SECONDS = 40.0


@dataclass
class ModelRequest:
    """The balancer's end of a migration call. ``job``: None until the call has reached the source."""

    hosts: ModelHosts
    uuid: str
    source: str
    destination: str
    job: Job | None
    heard: float
    copies: tuple[str, ...] = ()
    asked: float = 0.0
    error: str | None = None
    lost: bool = False
    waited_seconds: float | None = None

    def arrive(self) -> None:
        """The source's daemon reads the call."""
        if self.job is None:
            self.job = migrate(
                self.hosts.world, self.uuid, self.source, self.destination, ours=True, copies=self.copies
            )

    def ended(self, seconds: float) -> bool:
        world, kernel = self.hosts.world, self.hosts.world.kernel
        until = kernel.at + seconds
        while True:
            self.hosts.process.check()
            there = world.reachable(WE, self.source)
            if there:
                self.heard = kernel.at
                if kernel.at - self.asked >= world.machines[self.source].slow_seconds:
                    self.arrive()  # it was sent again until now
            if self.job is not None and self.job.over and there:
                self.hosts.linger(self.source, world.machines[self.source].slow_seconds)
                self.error = self.job.error
                if self.error is None and world.reachable(WE, self.job.destination):
                    kernel.sleep(0.02)
                    self.hosts.linger(self.job.destination, world.machines[self.job.destination].slow_seconds)
                    if not world.images_held:
                        world.start(self.uuid, self.job.destination)
                    self.waited_seconds = 0.02
                return True
            if world.machines[self.source].daemon == "dead" or not world.machines[self.source].powered:
                self.error, self.lost = "connection reset by peer", True
                return True
            if kernel.at - self.heard > KEEPALIVE_SECONDS:
                self.error, self.lost = "connection closed due to keepalive timeout", True
                return True
            if kernel.at >= until:
                return False
            kernel.sleep(min(0.5, max(until - kernel.at, 0.01)))


@dataclass
class ModelHosts:
    """The world behind the port of ``execute.hosts``.

    ``on_request``: called before each request for a migration; ``on_act``: with what it is, the host and the domain (or
    empty), before anything else that changes a host.
    """

    world: World
    process: VirtualProcess
    on_request: Callable[[VirtualProcess, str, str, str], None]
    on_act: Callable[[VirtualProcess, str, str, str], None] = lambda _process, _act, _host, _uuid: None
    counting: dict[str, int] = field(default_factory=dict)  # how often a host is being asked for its number of domains
    most_counting: int = 0

    def active_domains(self, host: str) -> int:
        self.counting[host] = self.counting.get(host, 0) + 1
        self.most_counting = max(self.most_counting, self.counting[host])
        copies = self.world.machines[host].copies
        try:
            return self._answer(host, lambda: sum(copy.state in ACTIVE for copy in copies.values()))
        finally:
            self.counting[host] -= 1

    def presence(self, host: str, uuid: str) -> Presence:
        copies = self.world.machines[host].copies
        return self._answer(host, lambda: copies[uuid].state if uuid in copies else Presence.ABSENT)

    def between_hosts(self, host: str) -> tuple[tuple[str, str], ...]:
        self.process.check()
        if not self.world.reachable(WE, host):  # else it answers at once, right after it was asked for the domain
            self._reach(host)
        return tuple(
            (uuid, self.world.guests[uuid].name)
            for uuid, copy in sorted(self.world.machines[host].copies.items())
            if copy.state is Presence.MIGRATING
        )

    def progress(self, host: str, uuid: str) -> Progress | None:
        if uuid in self.world.machines[host].mute:
            self._reach(host)
            self._reach_monitor(host, uuid)
        return self._answer(host, lambda: self._progress(host, uuid))

    def _progress(self, host: str, uuid: str) -> Progress | None:
        for job in self.world.running_jobs(uuid):
            arriving = job.destination == host and job.step > Step.PREPARE and not job.arrived
            if (job.source == host and job.driver) or arriving:
                return Progress(
                    elapsed_seconds=self.world.kernel.at - job.asked,
                    total_bytes=int(job.seconds * 100),
                    processed_bytes=int(job.performed * 100),
                    remaining_bytes=max(int((job.seconds - job.performed) * 100), 0),
                )
        return None

    def is_worked_on(self, host: str, uuid: str) -> bool:
        return self.progress(host, uuid) is not None or uuid in self.world.machines[host].backups

    def completed(self, host: str, uuid: str) -> Completed:
        self._reach(host)
        return Completed(seconds=self.world.perform_seconds, downtime_seconds=0.1, transferred_bytes=2**30)

    @contextmanager
    def migration(
        self,
        uuid: str,
        source: str,
        destination: str,
        bandwidth_mib_per_second: int | None,
        copies: Sequence[DiskCopy] = (),
        *,
        post_copy: bool = False,
    ) -> Iterator[ModelRequest]:
        self.process.check()
        if post_copy:
            raise AssertionError("the model's libvirt has no post-copy")
        self.on_request(self.process, uuid, source, destination)
        world = self.world
        if missing := {one.path for one in copies} - world.machines[destination].images:
            raise AssertionError(f"{destination} has no room for {sorted(missing)}")
        paths, now = tuple(one.path for one in copies), world.kernel.at
        request = ModelRequest(self, uuid, source, destination, None, now, paths, now)
        if world.machines[source].slow_seconds:
            pass  # it is read later, if someone still waits for it
        elif world.reachable(WE, source):
            request.arrive()
        elif world.machines[source].daemon == "stopped" and world.kernel.random.random() < 0.5:
            # It lies in the socket of a stopped daemon, which carries it out when it goes on, wanted or not.
            life = world.machines[source].lives
            world.machines[source].late.append(
                lambda: request.arrive() if world.machines[source].lives == life else None
            )
        yield request

    def dirty_rate(self, host: str, uuid: str, least_bytes: int) -> float | None:
        return None  # its domains are small

    def switch(self, host: str, uuid: str) -> None:
        raise AssertionError("the model's libvirt has no post-copy")

    def set_bandwidth(self, host: str, uuid: str, bandwidth_mib_per_second: int | None) -> None:
        self.on_act(self.process, "a limit of the bandwidth", host, uuid)
        self._reach(host)

    def abort(self, host: str, uuid: str) -> None:
        aborts = self.world.aborts

        def end() -> None:
            for job in self.world.running_jobs(uuid):
                if job.source == host:
                    job.aborted = True

        def do() -> None:
            if uuid in self.world.machines[host].backups:
                raise LibvirtError("abort: the domain's job is no migration")
            if aborts == "refused":
                raise LibvirtError("abort: Requested operation is not valid: cannot abort now")
            if aborts == "late":
                self.world.kernel.after(_ABORT_TAKES_SECONDS, end)
            else:
                end()

        self._do(host, do, "an abort", uuid)
        if aborts == "unanswered":
            self.world.kernel.sleep(SILENCE_SECONDS)
            raise LibvirtError(f"{host}: no answer within {SILENCE_SECONDS:g} s")

    def undefine(self, host: str, uuid: str) -> None:
        self._do(host, lambda: self.world.undefine(uuid, host), "the end of a definition", uuid)

    def resume(self, host: str, uuid: str) -> None:
        def do() -> None:
            if self.world.images_held:
                raise LibvirtError(
                    "internal error: unable to execute QEMU command 'cont': Failed to get \"write\" lock"
                )
            self.world.start(uuid, host)

        self._do(host, do, "a start", uuid)

    def suspend(self, host: str, uuid: str) -> None:
        self._do(host, lambda: self.world.suspend(uuid, host), "a suspension", uuid)

    def describe(self, host: str, uuid: str) -> str:
        return f"{self.presence(host, uuid)}, 3 s of CPU time"

    def make_room(self, host: str, copies: Sequence[DiskCopy]) -> tuple[str, ...]:
        machine, paths = self.world.machines[host], tuple(one.path for one in copies)

        def do() -> None:
            if taken := machine.images.intersection(paths):
                raise NoRoom(f"storage volume '{sorted(taken)[0]}' exists already")
            if machine.full:
                raise NoRoom("the storage pool at /images has 0 bytes free")
            machine.images.update(paths)
            machine.ours.update(paths)

        self._do(host, do, "a volume", "")
        return paths

    def discard(
        self,
        host: str,
        uuid: str,
        paths: Sequence[str],
        changed_before: float | None = None,
        *,
        only_empty: bool = False,
    ) -> None:
        def do() -> None:
            copy = self.world.machines[host].copies.get(uuid)
            if copy is not None and copy.state in ACTIVE:
                raise LibvirtError(f"{uuid} is active here")
            ours = self.world.machines[host].ours  # persons' images are not empty
            for path in paths:
                if path in ours or not only_empty:
                    self.world.delete_disk(host, path)

        self._do(host, do, "the end of a volume", uuid)

    # --- facts --------------------------------------------------------------------------------------------------------

    def facts(self, host: str) -> HostFacts:
        return self._fact(host, lambda: facts_of(self.world, host))

    def leaving(
        self, host: str, uuids: Sequence[str], _copyable: Mapping[str, Sequence[str]]
    ) -> Mapping[str, Bound | None]:
        return self._fact(host, lambda: words_on(self.world, host, uuids))

    def present(self, host: str, images: Sequence[str]) -> Mapping[str, bool]:
        return self._fact(host, lambda: images_on(self.world, host, images))

    def verdicts(self, host: str, kinds: Sequence[Hardware]) -> tuple[HardwareVerdict, ...]:
        return self._fact(host, lambda: tuple(HardwareVerdict(machine=True) for _ in kinds))

    def reaches(self, host: str, destination: str) -> str | None:
        raise NotImplementedError

    def runs_cpu(self, host: str, cpu: str) -> bool | None:
        raise NotImplementedError

    def unseen(self, host: str, paths: Sequence[str]) -> tuple[str, ...]:
        raise NotImplementedError

    # --- how a host answers -------------------------------------------------------------------------------------------

    def _reach_monitor(self, host: str, uuid: str) -> None:
        """Wait for the domain's QEMU, as libvirt does. LibvirtError when it does not answer."""
        mute = self.world.machines[host].mute
        if uuid in mute and not self.world.kernel.wait_until(lambda: uuid not in mute, SILENCE_SECONDS):
            raise LibvirtError(f"{host}: no answer within {SILENCE_SECONDS:g} s")

    def _do(self, host: str, do: Callable[[], None], act: str, uuid: str) -> None:
        """Have the daemon do it; a stopped one may do it when it goes on, after the balancer has given it up."""
        self.process.check()
        self.on_act(self.process, act, host, uuid)
        self._reach_monitor(host, uuid)
        machine = self.world.machines[host]
        if machine.daemon == "stopped" and self.world.kernel.random.random() < 0.3:
            life = machine.lives
            machine.late.append(lambda: do() if machine.lives == life else None)
        self._answer(host, do)

    def _fact(self, host: str, read: Callable[[], Value]) -> Value:
        """What the daemon has to look at its storage for, which may hang while all else answers."""
        self._reach(host)
        self.linger(host, self.world.machines[host].slow_facts_seconds)
        return self._answer(host, read)

    def _answer(self, host: str, read: Callable[[], Value]) -> Value:
        """The host's answer. What a slow one answers was true at some moment before."""
        self._reach(host)
        slow = self.world.machines[host].slow_seconds
        if not slow or self.world.kernel.random.random() > _SLOW_SHARE:
            return read()
        before = slow * self.world.kernel.random.random()
        self.linger(host, before)
        self._reach(host)
        found = read()
        self.linger(host, slow - before)
        self._reach(host)
        return found

    def linger(self, host: str, seconds: float) -> None:
        """Wait for a host that is slow, while it is."""
        machine = self.world.machines[host]
        if seconds:
            self.world.kernel.wait_until(
                lambda: not (machine.slow_seconds or machine.slow_facts_seconds) or not self.world.reachable(WE, host),
                seconds,
            )

    def _reach(self, host: str) -> None:
        """Wait for the host's answer. LibvirtError when none comes."""
        self.process.check()
        kernel, machine = self.world.kernel, self.world.machines[host]
        kernel.sleep(0.002 + 0.02 * kernel.random.random())
        if machine.daemon == "dead" and machine.powered and frozenset((WE, host)) not in self.world.cut:
            raise LibvirtError(f"{host}: connection refused")
        if not kernel.wait_until(lambda: self.world.reachable(WE, host), SILENCE_SECONDS):
            raise LibvirtError(f"{host}: no answer within {SILENCE_SECONDS:g} s")
