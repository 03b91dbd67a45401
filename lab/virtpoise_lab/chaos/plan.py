"""What a seed stands for: a task, a fault, the moment at which it comes, and its length. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from random import Random

from virtpoise_lab.floors import DURATIONS

# A short fault is played more often than one that takes most of a minute.
_WEIGHTS = dict(zip(DURATIONS, (4, 3, 2, 1), strict=True))
_APART = 1_000_000_007


class Task(StrEnum):
    """What the balancer has to do."""

    DRAIN = "drain"
    OVERLOAD = "overload"


# Where each domain is before a run.
HOMES: Mapping[str, str] = {"vm1": "h1", "vm2": "h1", "vm3": "h2", "vm4": "h3"}
# What is added to the name of one that a person renames.
RENAMED = "-renamed"
# The share of its memory from which a host counts as overloaded.
THRESHOLD = 0.7
# How many guests a host has room for below the threshold; for all of them where it is not named.
ROOM: Mapping[Task, Mapping[str, int]] = {Task.DRAIN: {}, Task.OVERLOAD: {"h1": 1, "h2": 1}}


class Moment(StrEnum):
    """Where in the first migration the fault comes."""

    JOURNAL_BEGIN = "journal-begin"  # its beginning is in the journal, and libvirt may not have been asked yet
    BEGIN = "begin"  # libvirt is being asked
    PREPARE = "prepare"  # the destination has just started a QEMU
    PERFORM = "perform"  # memory is being copied
    FINISH = "finish"  # the source's QEMU has just stopped for good
    CONFIRM = "confirm"  # the destination's QEMU has just taken over
    JOURNAL_END = "journal-end"  # its end is in the journal
    NEXT_CYCLE = "next-cycle"  # the first cycle after that has ended
    TAKE_OVER = "take-over"  # the balancer was killed while memory was copied, and the next one has just taken over


class Need(StrEnum):
    """What a fault needs from the beginning of its run."""

    POSTGRESQL = "postgresql"  # the store is a database of a server
    STANDBY = "standby"  # a second balancer waits
    CLOCK = "clock"  # the balancer's machine has a clock that can be stepped
    IMAGES = "images"  # the domains have disks, whose images QEMU locks
    PROMETHEUS = "prometheus"  # the way from the balancer to Prometheus leads through us
    EXPORTERS = "exporters"  # the way from Prometheus to the exporters does


NEEDS: Mapping[str, frozenset[Need]] = {
    "postgresql-restarted": frozenset({Need.POSTGRESQL, Need.STANDBY}),
    "balancer-handed-over": frozenset({Need.POSTGRESQL, Need.STANDBY}),
    "clock-stepped": frozenset({Need.CLOCK}),
    "images-held": frozenset({Need.IMAGES}),
    "prometheus-slow": frozenset({Need.PROMETHEUS}),
    "prometheus-behind": frozenset({Need.PROMETHEUS}),
    "prometheus-garbage": frozenset({Need.PROMETHEUS}),
    "exporter-empty": frozenset({Need.EXPORTERS}),
    "exporter-miscounting": frozenset({Need.EXPORTERS}),
    "exporter-lying": frozenset({Need.EXPORTERS}),
}


@dataclass(frozen=True)
class Plan:
    """A run as its seed has drawn it. ``seconds``: how long the fault lasts. ``chance``: 0 to 1, of the moment."""

    seed: int
    task: Task
    fault: str
    moment: Moment
    seconds: float
    chance: float

    def needs(self, need: Need) -> bool:
        return need in NEEDS.get(self.fault, ())


def draw(seed: int, faults: list[str], fault: str | None = None) -> Plan:
    """The plan of a seed. ``faults``: those to draw from; ``fault`` takes the place of the one that is drawn."""
    random = Random(seed)
    return Plan(
        seed=seed,
        task=random.choice(list(Task)),
        moment=random.choice(list(Moment)),
        seconds=random.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0],
        chance=random.random(),
        # Drawn apart, so that a seed with its fault given is the same run.
        fault=fault or Random(seed + _APART).choice(sorted(faults)),
    )
