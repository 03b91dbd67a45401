"""The campaign's hosts on virtual time, for tests of one part: nothing in them is left to chance."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from random import Random
from typing import TypeVar, cast

from virtpoise_balancer.errors import LibvirtError
from virtpoise_balancer.execute.facts import Presence
from virtpoise_balancer.execute.hosts import Hosts
from virtpoise_balancer.model import DiskCopy, Progress
from virtpoise_lab.campaign.hosts import ModelHosts, ModelRequest
from virtpoise_lab.campaign.kernel import Kernel, VirtualClock, VirtualProcess, VirtualThreads
from virtpoise_lab.campaign.machines import Guest, Machine
from virtpoise_lab.campaign.migration import Job, Step
from virtpoise_lab.campaign.world import World as Model

BEGAN = 1000.0
Value = TypeVar("Value")


class Even(Random):
    """No chance: a copy takes as long as the world says, and what is late is carried out."""

    def random(self) -> float:
        return 0.5


class Answering(ModelHosts):
    """``jobless``: hosts that report no job, whatever they do. ``undefinable``: hosts that keep old definitions.

    ``bandwidths``: of migrations, as asked for and as set later. ``passes``: that a migration has made. ``switches``:
    whether it may be switched to post-copy; ``switched``: when that was asked for, refused while ``unswitchable``.
    ``aborted``: how often an abort was asked for.
    """

    def __init__(self, world: Model, process: VirtualProcess) -> None:
        super().__init__(world, process, lambda _process, *request: self.requests.append(request))
        self.requests: list[tuple[str, str, str]] = []
        self.jobless: set[str] = set()
        self.undefinable: set[str] = set()
        self.memory_bytes = 0
        self.disk_bytes: int | None = None
        self.dirty_bytes_per_second = 0.0
        self.bandwidths: list[int | None] = []
        self.passes: int | None = None
        self.switches: list[bool] = []
        self.switched: list[float] = []
        self.unswitchable = False
        self.aborted = 0

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
        self.switches.append(post_copy)
        self.bandwidths.append(bandwidth_mib_per_second)
        with super().migration(uuid, source, destination, bandwidth_mib_per_second, copies) as request:
            yield request

    def dirty_rate(self, host: str, uuid: str, least_bytes: int) -> float | None:
        self._reach(host)
        return self.dirty_bytes_per_second if self.memory_bytes >= least_bytes else None

    def set_bandwidth(self, host: str, uuid: str, bandwidth_mib_per_second: int | None) -> None:
        super().set_bandwidth(host, uuid, bandwidth_mib_per_second)
        self.bandwidths.append(bandwidth_mib_per_second)

    def progress(self, host: str, uuid: str) -> Progress | None:
        found = super().progress(host, uuid)
        if host in self.jobless or found is None:
            return None
        return replace(found, disk_bytes=self.disk_bytes, passes=self.passes, switched=bool(self.switched))

    def switch(self, host: str, uuid: str) -> None:
        self._reach(host)
        if self.unswitchable:
            raise LibvirtError("post-copy: QEMU does not want to")
        self.switched.append(self.world.kernel.at)

    def abort(self, host: str, uuid: str) -> None:
        self.aborted += 1
        if self.switched:
            raise LibvirtError("abort: it has been switched to post-copy")
        super().abort(host, uuid)

    def undefine(self, host: str, uuid: str) -> None:
        if host in self.undefinable:
            raise LibvirtError("undefine: cannot undefine domain with nvram")
        super().undefine(host, uuid)


class World:
    """Four hosts. ``hosts``: the balancer's way to them. ``on``: done once, right before a migration takes a step."""

    def __init__(self) -> None:
        self.kernel = Kernel(Even(), BEGAN)
        self.model = Model(self.kernel, lambda _text: None)
        self.model.machines = {name: Machine(name) for name in ("h1", "h2", "h3", "h4")}
        self.process = VirtualProcess("the part under test")
        self.clock = VirtualClock(self.kernel, self.process)
        self.threads = VirtualThreads(self.kernel, self.process)
        self.answering = Answering(self.model, self.process)
        self.hosts = cast(Hosts, self.answering)
        self.on: dict[Step, Callable[[], object]] = {}
        self.model.on_step.append(self._step)
        self.copy_takes(10.0)

    def _step(self, job: Job) -> None:
        if act := self.on.pop(job.step, None):
            act()

    def copy_takes(self, seconds: float) -> None:
        self.model.perform_seconds = seconds

    # --- time ---------------------------------------------------------------------------------------------------------

    def advance(self, seconds: float) -> None:
        self.kernel.run(self.kernel.at + seconds)

    def do(self, act: Callable[[], Value]) -> Value:
        """Do it in a thread of the process, and return or raise what comes of it."""
        found: list[Value] = []
        errors: list[Exception] = []

        def whole() -> None:
            try:
                found.append(act())
            except Exception as error:
                errors.append(error)

        task = self.kernel.start(self.process, whole, "test")
        self.kernel.run(float("inf"), lambda: task.over)
        for error in errors:
            raise error
        return found[0]

    def after(self, seconds: float, act: Callable[[], object]) -> None:
        """Do this once the world is that much older; at once for 0."""
        if seconds <= 0:
            act()
        else:
            self.kernel.after(seconds, lambda: (act(), None)[1])

    # --- hosts and domains --------------------------------------------------------------------------------------------

    def put(self, uuid: str, host: str, presence: Presence = Presence.RUNNING) -> None:
        self.model.guests.setdefault(uuid, Guest(uuid, uuid, cores=1.0))
        if presence is not Presence.ABSENT or host in self.model.places(uuid):
            self.model.put(uuid, host, presence, persistent=presence is not Presence.MIGRATING)

    def places(self, uuid: str) -> dict[str, str]:
        return {host: presence.name.lower() for host, presence in sorted(self.model.places(uuid).items())}

    @property
    def ran_twice(self) -> set[str]:
        return self.model.ran_twice

    def stop(self, host: str) -> None:
        self.model.stop_daemon(host)

    def go_on(self) -> None:
        """Have all daemons that were stopped go on."""
        for host in self.model.machines:
            self.model.continue_daemon(host)

    def silence(self, host: str, after: float, seconds: float) -> None:
        """Stop a host's daemon for a while."""
        self.after(after, lambda: self.model.stop_daemon(host))
        self.after(after + seconds, lambda: self.model.continue_daemon(host))

    def ends(self, uuid: str, host: str, as_: Presence) -> None:
        """The domain's process on this host ends, and so does a migration of it."""
        self.model.end_process(uuid, host, as_=as_, by_person=False)

    def back_up(self, uuid: str, host: str) -> None:
        """A person begins to back the domain up, which takes for ever."""
        self.model.machines[host].backups[uuid] = self.kernel.at

    def abort(self, uuid: str) -> None:
        for job in self.model.running_jobs(uuid):
            job.aborted = True
