"""Hosts, their libvirt daemons and QEMU processes: their state, and what changes it but for migrations (``migration``).

What is true here is true: the oracle goes by it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING

from virtpoise_balancer.execute.facts import Presence
from virtpoise_lab.campaign.kernel import Kernel, VirtualProcess
from virtpoise_lab.campaign.machines import Copy, Daemon, Guest, Machine

if TYPE_CHECKING:
    from virtpoise_lab.campaign.migration import Job

# The balancer, as an end of a way to a host.
WE = "balancer"
# A question to a host that does not answer is given up after this long.
SILENCE_SECONDS = 10.0

ACTIVE = (Presence.RUNNING, Presence.PAUSED, Presence.MIGRATING)
SETTLED = (Presence.RUNNING, Presence.PAUSED)


def disk_of(uuid: str) -> str:
    """The path of the domain's disk, on whatever host it is."""
    return f"/images/{uuid}"


@dataclass(eq=False)
class World:
    """The hosts and their domains on virtual time.

    ``perform_seconds``: what copying a domain takes.

    ``note``: called with each thing that happens, for the trace.
    """

    kernel: Kernel
    note: Callable[[str], None]
    machines: dict[str, Machine] = field(default_factory=dict)
    guests: dict[str, Guest] = field(default_factory=dict)
    jobs: list[Job] = field(default_factory=list)
    cut: dict[frozenset[str], float] = field(default_factory=dict)  # ways that are cut, by their ends, and since when
    perform_seconds: float = 8.0
    local_disks: bool = False  # each domain has a disk on its host alone
    aborts: str = ""  # "", refused, late, or unanswered
    harm: list[str] = field(default_factory=list)  # what was done that must never be, in words
    images_held: bool = False  # something else has the locks of all images: no QEMU goes on that does not have its own
    doubled_since: dict[str, float] = field(default_factory=dict)
    doubled_last: dict[str, float] = field(default_factory=dict)  # when a domain was last active on two hosts
    ran_twice: set[str] = field(default_factory=set)  # domains that ran on two hosts at once, if only for a moment
    on_step: list[Callable[[Job], None]] = field(default_factory=list)  # called right before a job takes its step
    process: VirtualProcess = field(default_factory=lambda: VirtualProcess("world"))

    # --- what is true -------------------------------------------------------------------------------------------------

    def hosts_of(self, group: str) -> list[str]:
        return sorted(name for name, machine in self.machines.items() if machine.group == group)

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

    def linked(self, a: str, b: str) -> bool:
        return frozenset((a, b)) not in self.cut and self.machines[a].powered and self.machines[b].powered

    # --- changes of copies --------------------------------------------------------------------------------------------

    def fill(self, host: str, cores: float, random: Random, *, named: str, uuids: str) -> None:
        """Start domains on the host, of its group, until they want all but 0.2 of these cores.

        ``named`` and ``uuids``: what their names and uuids begin with; a number of the group's follows.
        """
        group = self.machines[host].group
        while cores > 0.2:
            wanted = min(cores, random.choice((0.4, 0.8, 1.2, 1.6)))
            number = 1 + sum(guest.group == group for guest in self.guests.values())
            uuid = f"{uuids}{number:012d}"
            self.guests[uuid] = Guest(uuid, f"{named}{number}", wanted, group=group)
            self.put(uuid, host, Presence.RUNNING, persistent=True)
            cores -= wanted

    def put(self, uuid: str, host: str, state: Presence, *, persistent: bool | None = None) -> None:
        """Set how the domain stands on the host. What is neither active nor defined is gone."""
        copies = self.machines[host].copies
        copy = copies.get(uuid)
        if copy is None:
            copy = copies[uuid] = Copy(state=state, persistent=bool(persistent))
        before = copy.state
        copy.state = state
        copy.job = None
        others = [one.copies[uuid] for one in self.machines.values() if uuid in one.copies and one.name != host]
        runs_elsewhere = any(other.state is Presence.RUNNING for other in others)
        copy.old = state is Presence.PAUSED and (copy.old or runs_elsewhere)
        for other in others:
            other.old = other.old or (state is Presence.RUNNING and other.state is Presence.PAUSED)
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
        if uuid in self.doubled_since:
            self.doubled_last[uuid] = self.kernel.at
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
            if host == job.destination and not job.is_past_perform:
                job.fail("the destination's process died")
            elif host == job.source:
                job.fail("domain is not running")
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

    def start(self, uuid: str, host: str) -> None:
        """The balancer resumes it."""
        copy = self.machines[host].copies.get(uuid)
        if copy is not None and copy.old:
            self.harm.append(f"{self.guests[uuid].name} was started on {host} from a memory older than its disks")
        self.resume(uuid, host)

    def back_up(self, uuid: str, seconds: float) -> None:
        """A person aborts the domain's migration, if it is under way, and backs it up instead."""
        for job in self.running_jobs(uuid):
            job.aborted = True

        def begin() -> None:
            for host in self.active_on(uuid)[:1]:
                if not any(self.running_jobs(uuid)):
                    self.note(f"an administrator backs {uuid} up on {host}")
                    self.machines[host].backups[uuid] = self.kernel.at
                    self.kernel.after(seconds, self.machines[host].backups.clear)

        self.kernel.after(2.0, begin)

    def undefine(self, uuid: str, host: str) -> None:
        copy = self.machines[host].copies.get(uuid)
        if copy is not None:
            copy.persistent = False
            self.put(uuid, host, copy.state)

    def start_again(self, uuid: str) -> None:
        """A person starts a domain that is down: where it is defined, or else anywhere."""
        guest, places = self.guests[uuid], self.places(uuid)
        if any(state is Presence.MIGRATING for state in places.values()):
            return  # refused: where it is between hosts, it must be accounted for first
        guest.wanted_down = guest.lost = guest.crashed = False
        if any(state in ACTIVE for state in places.values()):
            return
        host = next((name for name in places if self.machines[name].powered), None)
        if host is None:
            guest.touched = True
            host = min(self.hosts_of(guest.group), key=lambda name: (self.used_cores(name), name))
        if self.local_disks:
            self.machines[host].images.add(disk_of(uuid))
        self.put(uuid, host, Presence.RUNNING, persistent=True)

    # --- disks --------------------------------------------------------------------------------------------------------

    def lay_disks(self) -> None:
        """Give each domain a disk on its host alone."""
        self.local_disks = True
        for machine in self.machines.values():
            machine.images.update(map(disk_of, machine.copies))

    def tidy_disks(self, moving: Collection[str]) -> None:
        """A person deletes the images that no domain uses. ``moving``: domains whose images are left alone."""
        for name, machine in self.machines.items():
            used = {disk_of(uuid) for uuid, copy in machine.copies.items() if copy.state in ACTIVE}
            used |= {disk_of(uuid) for uuid in moving}
            defined = {disk_of(uuid) for uuid in machine.copies if not self.active_on(uuid)}
            for path in sorted(machine.images - used - defined):
                self.note(f"a person deletes {path} on {name}")
                machine.images.discard(path)
                machine.ours.discard(path)
                machine.persons.discard(path)

    def delete_disk(self, host: str, path: str) -> None:
        """The balancer deletes it."""
        machine = self.machines[host]
        if path in machine.images and path not in machine.ours:
            self.harm.append(f"{path} on {host} was deleted, which the balancer has not made")
        for job in self.jobs:
            if path in job.copies and job.destination == host and not job.over:
                self.harm.append(f"{path} on {host} was deleted while a migration copies into it")
        uses = (uuid for uuid, copy in machine.copies.items() if copy.state in ACTIVE or not self.active_on(uuid))
        if path in map(disk_of, uses):
            self.harm.append(f"{path} on {host} was deleted, which a domain there uses")
        machine.images.discard(path)
        machine.ours.discard(path)

    def disk_is_stale(self, job: Job) -> None:
        """The domain goes on where it came from, so what was copied for it is of no use any more."""
        machine = self.machines[job.destination]
        machine.ours |= machine.images.intersection(job.copies)

    def disk_arrives(self, job: Job) -> None:
        """The disk of a domain that has arrived is where it was copied to."""
        machine, path = self.machines[job.destination], disk_of(job.uuid)
        if job.ours and path not in machine.images:
            self.harm.append(f"{self.guests[job.uuid].name} has arrived on {job.destination} without its disk")
        machine.images.add(path)
        machine.persons.discard(path)
        if job.ours:  # an administrator's migration leaves behind what was made for one of ours
            machine.ours.discard(path)

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
                job.recover()

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
        self.cut.setdefault(frozenset((a, b)), self.kernel.at)

    def mend_way(self, a: str, b: str) -> None:
        if frozenset((a, b)) in self.cut:
            self.note(f"the way between {a} and {b} is back")
            del self.cut[frozenset((a, b))]
            for end in (a, b):
                if end in self.machines:
                    self.machines[end].well_since = self.kernel.at
