"""What must hold in every run, judged by the world's own truth, by the journal and by what the balancer shows to
people.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field

from virtpoise_balancer.analyse.brake import Brake
from virtpoise_balancer.execute.facts import Presence
from virtpoise_balancer.model import UnsettledKind
from virtpoise_lab.campaign.alerts import CALLS_FOR, firing
from virtpoise_lab.campaign.balancer import Balancer, Part
from virtpoise_lab.campaign.beside import BESIDE
from virtpoise_lab.campaign.kernel import VirtualProcess
from virtpoise_lab.campaign.machines import Daemon
from virtpoise_lab.campaign.stage import Stage
from virtpoise_lab.campaign.world import ACTIVE, WE
from virtpoise_lab.floors import JOURNAL, Entry, replayed

# Of one process at once. A group of four hosts with two moves needs a dozen.
_MOST_THREADS = 30
_SLACK_CORES = 1e-6
# How old the answers may be that a look at a few hosts goes by.
_LONGEST_LOOK_SECONDS = 90.0


@dataclass
class Oracle:
    """Judges a run after each event. ``violations``: what was wrong, in words."""

    run: Stage
    threshold_ratio: float
    interval_seconds: float
    violations: list[str] = field(default_factory=list)
    doubled: bool = False
    lost: bool = False
    _first: dict[str, str] = field(default_factory=dict)
    _forbidden_since: float | None = None  # since when people's orders have it that no move of the task begins
    # When a turn first showed an entry without an end, by its id and whether it has begun.
    _endless_since: dict[tuple[int, bool], float] = field(default_factory=dict)
    _released: dict[float, float] = field(default_factory=dict)  # when a brake was released, by when it was pulled

    def begin(self) -> None:
        self._first = {uuid: self.run.world.active_on(uuid)[0] for uuid in self.run.world.guests}

    def _wrong(self, what: str) -> None:
        if what not in self.violations:
            self.violations.append(what)
            self.run.note(f"VIOLATION: {what}")

    def _has(self, *prefixes: str) -> bool:
        return any(name.startswith(prefixes) for name in self.run.setting.faults)

    def entries(self) -> list[Entry]:
        return [Entry(*row) for row in self.run.disk.driver.execute(JOURNAL)]

    def taken_for_others(self) -> list[str]:
        """The uuids of domains with a migration that the balancer does not take for its own."""
        rows = self.run.disk.driver.execute("SELECT DISTINCT uuid FROM others WHERE kind = 'migrated'")
        return [str(uuid) for (uuid,) in rows]

    def drain_ordered_at(self) -> float | None:
        """When a drain was ordered that stands (Unix seconds, by the clock of the balancer)."""
        (at,) = self.run.disk.driver.execute("SELECT max(at) FROM drains WHERE draining").fetchone()
        return None if at is None else float(at)

    def released(self, brake: Brake) -> None:
        """After a person has released this brake."""
        self._released[brake.at] = self.run.kernel.at

    def ordered(self) -> None:
        """After an order of a person was followed, or may have been: a balancer that is killed gives no answer."""
        rows = self.run.disk.driver.execute(
            "SELECT name, value FROM overrides WHERE group_name = ?", (self.run.setting.group,)
        )
        over = {str(name): str(value) for name, value in rows}
        forbidden = "paused" in over or over.get("mode") == "recommend"
        forbidden |= self.run.draining is not None and self.drain_ordered_at() is None
        since = self.run.kernel.at if self._forbidden_since is None else self._forbidden_since
        self._forbidden_since = since if forbidden else None

    # --- while it runs ------------------------------------------------------------------------------------------------

    def request(self, process: VirtualProcess, uuid: str, source: str, destination: str) -> None:
        """Before the balancer asks for a migration."""
        world, now = self.run.world, self.run.kernel.at
        name = world.guests[uuid].name
        written = [one for one in self.entries() if one.uuid == uuid and one.began is not None and one.result is None]
        if not any((one.source, one.destination) == (source, destination) for one in written):
            self._wrong(
                f"{name}: a migration from {source} to {destination} was asked for that the journal does not have"
            )
        self._stays_in_its_group(name, source, destination)
        self.ordered()
        # The last look reads the orders, and asks both hosts after that.
        patience = 0.5 if len(set(self.run.setting.faults)) == 1 else 3 * self.interval_seconds
        forbidden_since = self._forbidden_since if source in self.run.hosts else None
        if forbidden_since is not None and now - forbidden_since > patience:
            self._wrong(f"{name} was moved from {source} to {destination} against a person's order")
        self._has_the_newest_number(process, f"a migration from {source} to {destination}")
        if len([one for one in self.run.balancers if one.process.alive and one.leadership.leads]) > 1:
            self._wrong("two balancers act")
        patience = 3 * self.interval_seconds
        for twice, since in world.doubled_since.items():
            hosts = world.active_on(twice)
            if now - since > patience and {source, destination} & set(hosts) and self._long_well(hosts, patience):
                self._wrong(
                    f"{name} was moved from {source} to {destination} while {world.guests[twice].name} runs twice there"
                )
        arriving = sum(
            world.guests[job.uuid].cores
            for job in world.jobs
            if job.ours and not job.over and not job.arrived and job.destination == destination and job.uuid != uuid
        )
        after = world.used_cores(destination) + arriving + world.guests[uuid].cores
        limit = self.threshold_ratio * world.machines[destination].cpus
        if after > limit + _SLACK_CORES and not self._strange(destination):
            self._wrong(f"{destination} was pushed over its threshold: {after:.2f} of {limit:.2f} cores, by {name}")

    def act(self, process: VirtualProcess, what: str, host: str, uuid: str) -> None:
        """Before the balancer does anything else on a host."""
        self._has_the_newest_number(process, f"{what} on {host}")
        if what == "a suspension" and len(self.run.world.active_on(uuid)) < 2:
            self._wrong(f"{self.run.world.guests[uuid].name} is suspended on {host}, and runs nowhere else")

    def _has_the_newest_number(self, process: VirtualProcess, what: str) -> None:
        (newest,) = self.run.disk.driver.execute("SELECT max(term) FROM leaders").fetchone()
        for one in self.run.balancers:
            if one.process is process and one.term != newest:
                self._wrong(f"{one.name} asks for {what}, and another balancer acts")

    def _stays_in_its_group(self, name: str, source: str, destination: str) -> None:
        here, there = (self.run.world.machines[host].group for host in (source, destination))
        if here != there:
            self._wrong(f"{name} was moved from {source} to {destination}, which is of another group")
        if here == BESIDE and self.run.setting.still:
            self._wrong(f"{name} was moved from {source} to {destination}, in a group that stands still")

    def _long_well(self, hosts: list[str], seconds: float) -> bool:
        """Whether these hosts have answered for so long."""
        machines = [self.run.world.machines[host] for host in hosts]
        return all(
            one.daemon is Daemon.UP and self.run.kernel.at - one.well_since > seconds for one in machines
        ) and not self._has("prometheus", "exporter", "store", "balancer", "clock")

    def _strange(self, host: str) -> bool:
        """Whether something happened there lately that the balancer may not have seen yet."""
        return self.run.kernel.at - self.run.world.machines[host].strange_at < 5 * self.interval_seconds or self._has(
            "exporter", "prometheus"
        )

    def turn(self, balancer: Balancer) -> None:
        """After each turn of a balancer."""
        run = self.run
        if len(balancer.process.tasks) > _MOST_THREADS * len(balancer.parts):
            self._wrong(f"{len(balancer.process.tasks)} threads at once")
        if balancer.longest_turn > self.interval_seconds and not self._has("prometheus", "store"):
            self._wrong(f"a turn took {balancer.longest_turn:.1f} s")
        if balancer.hosts.most_counting > 1:
            self._wrong("two threads ask a host for its domains at once")
        if not balancer.leads:
            self._shows_nothing_under_way(balancer)
            return
        self._silence_of_a_draining_host_is_shown(balancer)
        entries = self.entries()
        self._no_verdict_while_a_job_runs(entries)
        for part in balancer.parts:
            for flight in part.published.in_flight():
                here = run.world.machines[flight.move.source].backups.get(flight.move.uuid)
                jobs = any(run.world.running_jobs(flight.move.uuid))
                if here is not None and not jobs and run.kernel.at - here > 5 * self.interval_seconds:
                    self._wrong(f"a backup of {flight.move.domain} is taken for its migration")
        endless = [(one.id, one.is_open) for one in entries if one.result is None]
        self._endless_since = {one: self._endless_since.get(one, run.kernel.at) for one in endless}
        open_entries = [one for one in entries if one.is_open]
        began = {one.began for one in open_entries}
        for part in balancer.parts:
            self._what_is_shown(part, began)

    def _shows_nothing_under_way(self, balancer: Balancer) -> None:
        """One that does not act shows no migration: the alert about slow ones would fire for it, and for ever."""
        for part in balancer.parts:
            for flight in part.published.in_flight():
                self._wrong(f"{balancer.name} does not act, and shows {flight.move.domain} under way")

    def _what_is_shown(self, part: Part, began: set[float | None]) -> None:
        """Check what the balancer shows. ``began``: when the migrations began that are open in the journal."""
        run = self.run
        brake = part.published.state.brake
        if brake and run.kernel.at - self._released.get(brake.at, run.kernel.at) > 2 * self.interval_seconds:
            self._wrong("the brake was released, and is still on")
        for flight in part.published.in_flight():
            if began and flight.began not in began:
                self._wrong(f"{flight.move.domain}: the time of its migration is not the journal's")
        state = part.published.state
        for one in state.unsettled:
            last = (
                run.kernel.at
                if one.uuid in run.world.doubled_since
                else run.world.doubled_last.get(one.uuid, -math.inf)
            )
            if one.kind is UnsettledKind.TWICE and run.kernel.at - last > _LONGEST_LOOK_SECONDS:
                self._wrong(f"{one.domain} is shown as running twice, and does not")
        if state.plan is None or state.result != "moved" or self._has("prometheus", "exporter"):
            return
        for move in state.plan.moves:
            machine = run.world.machines[move.destination]
            if machine.silent_since is not None and run.kernel.at - machine.silent_since > 2.5 * self.interval_seconds:
                self._wrong(f"a move to {move.destination} was planned, whose libvirt has long been silent")

    def _silence_of_a_draining_host_is_shown(self, balancer: Balancer) -> None:
        """That the way to it is cut is seen by the balancer alone, which asks it in each cycle. VirtpoiseLibvirtSilent
        must be able to fire.
        """
        run, host = self.run, self.run.draining
        cut_at, ordered_at = run.world.cut.get(frozenset((WE, host or ""))), self.drain_ordered_at()
        if host is None or cut_at is None or ordered_at is None:
            return
        # Before the order it is asked less often than once in each cycle.
        if run.kernel.at - max(cut_at, ordered_at) < 3 * self.interval_seconds:
            return
        if self._has("prometheus", "exporter", "store", "clock", "balancer", "second"):
            return
        if balancer.first.metrics.registry.get_sample_value("virtpoise_host_libvirt_answers", {"host": host}) != 0.0:
            self._wrong(f"{host} has long been silent, and no alert says so")

    def _no_verdict_while_a_job_runs(self, entries: list[Entry]) -> None:
        """A migration of the balancer that goes on is open in the journal, or opened again soon."""
        newest = {(one.uuid, one.source, one.destination): one for one in entries}
        for job in self.run.world.jobs:
            entry = newest.get((job.uuid, job.source, job.destination))
            if job.over or not job.ours or entry is None or self._has("store"):
                continue
            hosts = [job.source, job.destination]
            since = self.run.kernel.at - job.asked
            if since > 3 * self.interval_seconds and self._long_well(hosts, 0.0) and entry.result is not None:
                self._wrong(
                    f"{self.run.world.guests[job.uuid].name}: its migration runs since {since:.0f} s, "
                    f"and the journal has ended it as {entry.result}"
                )

    def exception(self, what: str) -> None:
        """Something was logged with a traceback, or is an unforeseen error."""
        error = sys.exc_info()[1]
        text = what if error is None else f"{what}: {type(error).__name__}: {error}"
        if not (self._has("store") and any(f": {name}: " in text for name in ("StoreFails", "StoreError"))):
            self._wrong(text)

    # --- after it -----------------------------------------------------------------------------------------------------

    def after_healing(self) -> None:
        """Five intervals after the last fault: what a person must see is shown, and nothing else is open."""
        run, world = self.run, self.run.world
        leader = run.leader
        if leader is None:
            self._wrong("no balancer acts")
            return
        shown = {one.uuid: one.kind for one in leader.unaccounted}
        fire = {alert for part in leader.parts for alert in firing(part.metrics.registry)}
        for one in leader.unaccounted:
            if one.kind in CALLS_FOR and CALLS_FOR[one.kind] not in fire:
                self._wrong(f"{one.domain} is shown as {one.kind}, and {CALLS_FOR[one.kind]} does not fire")
        for uuid, guest in world.guests.items():
            places = world.places(uuid)
            half_way = [host for host, state in places.items() if state is Presence.MIGRATING]
            working = world.lately_moved(uuid, 2 * self.interval_seconds)
            active = world.active_on(uuid)
            if len(active) > 1:
                self.doubled = True
                if shown.get(uuid) is not UnsettledKind.TWICE:
                    self._wrong(f"{guest.name} runs on {' and '.join(active)}, and no alert says so")
            elif guest.lost and not active and not half_way:
                self.lost = True
                if uuid not in shown:
                    self._wrong(f"{guest.name} was lost in its migration, and no alert says so")
            elif half_way and not working and self._is_ours(uuid):
                if uuid not in shown or (not active and shown[uuid] not in CALLS_FOR):
                    self._wrong(f"{guest.name} stands half way on {', '.join(half_way)}, and no alert says so")
            elif len(active) == 1 and not half_way and not working and uuid in shown:
                self._wrong(f"{guest.name} runs once, on {active[0]}, and is shown as {shown[uuid]}")
        for entry in self.entries():
            if entry.is_open and entry.uuid not in shown and not self._is_being_made(entry):
                self._wrong(f"entry {entry.id} of {world.guests[entry.uuid].name} is still open")

    def _is_being_made(self, entry: Entry) -> bool:
        """Whether an entry without an end is new, or the world is at work on it or was lately.

        A move waits for its turn while others of its stream are made. When it begins, the journal has it open a moment
        before the world is asked for its migration.
        """
        now, lately = self.run.kernel.at, 2 * self.interval_seconds
        since = self._endless_since.get((entry.id, entry.is_open), now)
        return now - since < lately or self.run.world.lately_moved(entry.uuid, lately)

    def something_is_being_made(self) -> bool:
        lately = 2 * self.interval_seconds
        return any(self.run.world.lately_moved(uuid, lately) for uuid in self.run.world.guests) or any(
            self._is_being_made(one) for one in self.entries() if one.result is None
        )

    def _left_definitions(self, uuid: str, journal: list[Entry]) -> set[str]:
        """The hosts where a failed migration of the balancer has left its definition, as the journal says.

        The host had finished it, and lost its power or had it shut off before the source heard of that. A person must
        remove it: the balancer cannot know whether it was there before.
        """
        finished = {
            job.destination
            for job in self.run.world.jobs
            if (job.uuid, job.ours, job.arrived) == (uuid, True, True) and job.error is not None
        }
        return {
            one.destination
            for one in journal
            if one.uuid == uuid
            and one.destination in finished
            and one.result == "failed"
            and any(f"{state} on {one.destination}" in one.why for state in (Presence.DEFINED, Presence.SHUT_OFF))
        }

    def _is_ours(self, uuid: str) -> bool:
        last = [job for job in self.run.world.jobs if job.uuid == uuid][-1:]
        return bool(last) and last[0].ours

    def after_mending(self) -> None:
        """A person has accounted for all: no alert is left."""
        leader = self.run.leader
        if leader is not None:
            for one in leader.unaccounted:
                if not self.run.world.lately_moved(one.uuid, 2 * self.interval_seconds):
                    self._wrong(f"{one.domain} was accounted for, and is still shown as {one.kind}: {one.text}")

    def task_is_done(self) -> bool:
        world = self.run.world
        beside = [] if self.run.setting.still else world.hosts_of(BESIDE)
        if self.run.draining:
            return (
                self.drain_ordered_at() is not None
                and not any(copy.state in ACTIVE for copy in world.machines[self.run.draining].copies.values())
                and self._is_relieved(beside)
            )
        return self._is_relieved([*self.run.hosts, *beside])

    def _is_relieved(self, hosts: list[str]) -> bool:
        # A load that is exactly the threshold may be measured a rounding below it, and is no task then.
        world = self.run.world
        return all(
            world.used_cores(host) < self.threshold_ratio * world.machines[host].cpus + _SLACK_CORES for host in hosts
        )

    def at_end(self) -> None:
        run, world = self.run, self.run.world
        if not self.task_is_done():
            self._wrong(f"the task was not finished: {'drain' if run.draining else 'overload'}")
        journal = self.entries()
        for uuid, guest in world.guests.items():
            active = world.active_on(uuid)
            defined = [
                name for name, machine in world.machines.items() if (c := machine.copies.get(uuid)) and c.persistent
            ]
            if len(active) != 1:
                self._wrong(f"{guest.name} runs on {len(active)} hosts at the end: {world.places(uuid)}")
                continue
            left = self._left_definitions(uuid, journal)
            defined = [host for host in defined if host in active or host not in left]
            if len(defined) != 1 and not self._has("administrator-undefines"):
                self._wrong(f"{guest.name} is defined on {len(defined)} hosts at the end: {world.places(uuid)}")
            if not guest.touched:
                entries = [one for one in journal if one.uuid == uuid]
                for wrong in replayed(guest.name, self._first[uuid], active[0], entries):
                    self._wrong(wrong)
        for uuid in self.taken_for_others():
            if not world.guests[uuid].touched and all(job.ours for job in world.jobs if job.uuid == uuid):
                self._wrong(f"a migration of {world.guests[uuid].name} is taken for another's")
        for entry in journal:
            if entry.result is None or entry.lost:
                self._wrong(f"entry {entry.id} of {world.guests[entry.uuid].name} has no end")
        for uuid in sorted(world.ran_twice):
            if all(job.ours for job in world.jobs if job.uuid == uuid):
                self._wrong(f"{world.guests[uuid].name} ran on two hosts at once")
        for what in world.harm:
            self._wrong(what)
        for what in run.kernel.escaped:
            self._wrong(f"an error reached the top of a thread: {what}")
