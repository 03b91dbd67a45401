"""A host, a domain, and a domain on a host, as the world has them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from virtpoise_balancer.execute.facts import Presence

if TYPE_CHECKING:
    from virtpoise_balancer.execute.facts import HostFacts
    from virtpoise_lab.campaign.migration import Job


class Daemon(StrEnum):
    UP = "up"
    STOPPED = "stopped"
    DEAD = "dead"


@dataclass(eq=False)
class Copy:
    """A domain on one host: its process, its definition, or both.

    ``old``: paused, and the domain has run on another host since.
    """

    state: Presence
    persistent: bool = True
    old: bool = False
    job: Job | None = None  # on its destination, while it has not arrived


@dataclass(eq=False)
class Guest:
    """A domain, wherever it is. ``cores``: what it uses while it runs. ``group``: of its hosts."""

    uuid: str
    name: str
    cores: float
    group: str = ""
    touched: bool = False  # by an administrator: where it is then follows from no journal
    wanted_down: bool = False  # an administrator shut it off, and has not started it again
    lost: bool = False  # its process died while we migrated it
    crashed: bool = False  # its process died otherwise


@dataclass(eq=False)
class Machine:
    """A host. ``late``: what its stopped daemon does when it goes on.

    Its faults: ``slow_seconds``, ``slow_facts_seconds``: how long an answer takes, of any kind and about facts.
    ``lacks_network``: it claims so; ``old_facts``, ``old_images``: what it answers instead of the truth. ``unfit``: it
    refuses each domain. ``full``: it has no room for a disk.
    """

    name: str
    group: str = ""
    cpus: int = 8
    daemon: Daemon = Daemon.UP
    powered: bool = True
    lives: int = 0  # of its daemon
    silent_since: float | None = None
    well_since: float = 0.0
    strange_at: float = 0.0  # when something last happened to a domain here that no job of ours did
    late: list[Callable[[], None]] = field(default_factory=list)
    copies: dict[str, Copy] = field(default_factory=dict)
    slow_seconds: float = 0.0
    slow_facts_seconds: float = 0.0
    lacks_network: bool = False
    old_facts: HostFacts | None = None
    old_images: frozenset[str] | None = None
    unfit: bool = False
    full: bool = False
    images: set[str] = field(default_factory=set)  # paths of disk images that are here
    ours: set[str] = field(default_factory=set)  # those among them that were made for copies which have not arrived
    persons: set[str] = field(default_factory=set)  # those that belong to no domain of the run
    backups: dict[str, float] = field(default_factory=dict)  # domains that a person backs up, and since when
    stuck: set[str] = field(default_factory=set)  # domains whose QEMU here is stopped: it copies nothing
    mute: set[str] = field(default_factory=set)  # those whose QEMU here copies, and does not answer libvirt
