"""Faults of what migrations need of hosts: that they can be aborted, what hosts say of themselves, room for disks."""

from __future__ import annotations

from virtpoise_lab.campaign.faults.parts import Begin, Met, of_host, switched
from virtpoise_lab.campaign.inventory import facts_of
from virtpoise_lab.campaign.run import Run
from virtpoise_lab.campaign.world import disk_of

# Longer than a migration may take then.
LONG_COPY_SECONDS = 60.0

_STORAGE_HANGS_SECONDS = 25.0
_LARGEST_CORES = 1.6  # of a domain
_ABORTS_LATE = ("late", "unanswered")


def _late(run: Run, met: Met, seconds: float) -> None:
    switched("world", "aborts", run.random.choice(_ABORTS_LATE), "")(run, met, seconds)


def _old_facts(run: Run, met: Met, seconds: float) -> None:
    """A host answers with what it once had."""
    host = run.random.choice([met.source, met.destination, met.destination])
    machine = run.world.machines[host]
    run.note(f"{host}: its facts stay as they are")
    machine.old_facts, machine.old_images = facts_of(run.world, host), frozenset(machine.images)

    def end() -> None:
        run.note(f"{host}: its facts are true again")
        machine.old_facts = machine.old_images = None

    run.kernel.after(seconds, end)


def _unfit(run: Run, _met: Met, _seconds: float) -> None:
    """A host that a plan would choose takes no domain, to the end of the run. What it says of itself does not tell.

    It is one that the others can do without, if there is any, also when domains that are down now run again.
    """
    world = run.world
    used = {host: sum(world.guests[uuid].cores for uuid in world.machines[host].copies) for host in run.hosts}
    first = run.hosts[0]  # the one that drains or is overloaded
    leaves = used[first] if run.draining else used[first] - run.limit_cores
    for host in sorted(run.hosts[1:], key=lambda host: (used[host], host)):
        room = sum(run.limit_cores - used[other] for other in run.hosts[1:] if other != host)
        if room > leaves + _LARGEST_CORES:
            run.note(f"{host}: takes no domain")
            run.world.machines[host].unfit = True
            return


def _taken(run: Run, met: Met, seconds: float) -> None:
    """Persons' images lie where copies of the disks of the source's domains would."""
    machine = run.world.machines[met.destination]
    mine = {disk_of(uuid) for uuid in run.world.machines[met.source].copies} - machine.images
    run.note(f"{machine.name}: persons' images at {', '.join(sorted(mine))}")
    machine.images |= mine
    machine.persons |= mine

    def end() -> None:
        run.note(f"{machine.name}: the persons' images are gone")
        machine.images -= mine & machine.persons
        machine.persons -= mine

    run.kernel.after(seconds, end)


OF_MIGRATIONS: dict[str, Begin] = {
    "aborts-refused": switched("world", "aborts", "refused", ""),
    "aborts-late": _late,
    "source-facts-slow": of_host("source", "slow_facts_seconds", lambda _run: _STORAGE_HANGS_SECONDS),
    "destination-facts-slow": of_host("destination", "slow_facts_seconds", lambda _run: _STORAGE_HANGS_SECONDS),
    "source-facts-wrong": of_host("source", "lacks_network", lambda _run: True),
    "destination-facts-wrong": of_host("destination", "lacks_network", lambda _run: True),
    "facts-old": _old_facts,
    "host-unfit": _unfit,
    "storage-full": of_host("destination", "full", lambda _run: True),
    "storage-taken": _taken,
}


def need_aborts(names: tuple[str, ...]) -> bool:
    """Whether migrations must run into their time-out for these faults to be met."""
    return any(name.startswith("aborts-") for name in names)


def need_facts(names: tuple[str, ...]) -> bool:
    """Whether hosts must be asked for facts for these faults to be met."""
    return need_copies(names) or any("facts-" in name or name == "host-unfit" for name in names)


def need_copies(names: tuple[str, ...]) -> bool:
    """Whether domains must have disks of their own for these faults to be met."""
    return any(name.startswith("storage-") for name in names)
