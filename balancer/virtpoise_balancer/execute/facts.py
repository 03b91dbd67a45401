"""What a host's libvirt reports, as plain values. It imports nothing else, since each worker process loads it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from hashlib import sha256

# An IP address, as far as no DNS name looks like it.
_ADDRESS = re.compile(r"[0-9.]+|.*:.*")


# No storage or memory has more, and no more can be kept.
LARGEST_BYTES = 2**63 - 1


class Presence(StrEnum):
    """What a host's libvirt reports of a domain."""

    ABSENT = "absent"
    DEFINED = "defined"  # does not run, for no known reason: its process crashed, or libvirt was restarted
    SHUT_OFF = "shut off"  # by its guest or a person: shut down, saved, or made from a snapshot
    DESTROYED = "destroyed"  # its process was ended over libvirt
    PAUSED = "paused"  # active, but its CPUs do not run
    MIGRATING = "between hosts"  # paused by a migration, on either of its hosts
    TORN = "torn by post-copy"  # a migration broke after the switch: a part of its memory is on the other host
    RUNNING = "running"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """The machine that a hypervisor makes for a domain. Domains with the same are of one kind.

    ``type``: kvm or qemu. ``cpu``: the live definition of its CPU, XML, or that of its host's own CPU where it has that
    (``own_cpu``); None where it has neither.
    """

    type: str
    arch: str
    machine: str
    emulator: str
    cpu: str | None = None
    own_cpu: bool = False

    @property
    def key(self) -> str:
        """Short, and of no other kind."""
        return _key(self)


@lru_cache(maxsize=4096)
def _key(kind: Hardware) -> str:
    whole = "\n".join((kind.type, kind.arch, kind.machine, kind.emulator, kind.cpu or "", str(kind.own_cpu)))
    return sha256(whole.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True, kw_only=True)
class HardwareVerdict:
    """Whether a host has a kind of hardware, as libvirt reports it; None where it does not."""

    machine: bool | None = None
    cpu: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """Why libvirt refuses to migrate a domain now, whatever the destination. ``kind``: a value of model's Holder.

    ``cured_by``: the disks, by their devices in the guest, with a copy of which libvirt would migrate it; empty where
    that helps nothing or was not asked.
    """

    kind: str
    why: str
    cured_by: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """An active storage pool. ``target``: the folder in which its volumes are. ``type``: empty where libvirt does not
    describe it, and then nothing else is known of it.

    ``source``: what distinguishes its storage from that of other pools of its type, None where that cannot be known (a
    folder may be shared). ``free_bytes``: None where it was not asked.
    """

    type: str = "dir"
    target: str | None = None
    source: str | None = None
    free_bytes: int | None = None

    def differs(self, other: Pool) -> bool:
        """Whether the two are known to stand on different storage.

        A server of network storage may have several names, so of a full name its first part counts, and of an address
        nothing.
        """
        if self.type != other.type or self.source is None or other.source is None:
            return False
        (here, one), (there, another) = _server(self.source), _server(other.source)
        return one != another or (here != there and not _ADDRESS.fullmatch(here) and not _ADDRESS.fullmatch(there))


def _server(source: str) -> tuple[str, str]:
    """The server and the rest of "SERVER:/FOLDER"; no server where it is no such thing."""
    server, colon, folder = source.partition(":/")
    if not colon:
        return "", source
    return server if _ADDRESS.fullmatch(server) else server.partition(".")[0], folder


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyableDisk:
    """A disk that libvirt can copy along with its domain. ``device``: in the guest; ``path``: on its host.

    ``format``: of the image; ``capacity_bytes``: what it may come to take; ``stored_bytes``: what it takes now.
    """

    device: str
    path: str
    format: str
    capacity_bytes: int
    stored_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A NUMA node of a guest. ``nodes``: those of the host that its memory must come from; none: any."""

    memory_bytes: int
    nodes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What a running domain needs on any host it is moved to.

    ``disks``: files and block devices by their paths; ``pools``: those from which disks come as volumes; ``images``:
    what of both has to be there, volumes as "POOL/VOLUME"; ``copyable``: only where disks may be copied; ``secrets``:
    what disks over a network (rbd, iscsi) are opened with, by uuid or usage; ``unlocked``: disks it writes to that are
    no image files, so that QEMU does not lock them against other hosts, and that no lease protects, by their devices in
    the guest. ``devices``: of the host's network, bridges not included; ``filters``: libvirt's network filters.
    ``cpus``, ``nodes``: CPUs and NUMA nodes of the host that it is bound to, by their numbers; ``cells``: only where
    its memory is bound to nodes cell by cell. ``bound``: what keeps it where it is. ``unread``: its description could
    not be read, so the rest is not known.
    """

    name: str
    uuid: str = ""
    hardware: Hardware | None = None
    disks: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    copyable: tuple[CopyableDisk, ...] = ()
    unlocked: tuple[str, ...] = ()
    pools: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()  # libvirt networks, once for each of its network cards
    bridges: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    filters: tuple[str, ...] = ()
    cpus: tuple[int, ...] = ()
    nodes: tuple[int, ...] = ()
    cells: tuple[Cell, ...] = ()
    bound: tuple[Bound, ...] = ()
    unread: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """What a host's libvirt reports of the host.

    ``cpu``: the host's own CPU as libvirt describes it, XML; versions as libvirt counts them (major * 10^6 + minor *
    10^3 + release).

    ``uuid``: by which libvirt tells hosts apart; ``networks`` and ``pools`` (by name) are the active ones; ``secrets``
    by uuid and usage; all None where libvirt does not list them now. ``cards_free``: by network that gives each domain
    a network card of the host to have alone, how many are free. ``cpus``: those online; ``nodes``: of NUMA.
    ``may_abort``: whether libvirt's access control lets the account that asks abort a migration, None where no domain
    runs or it is not found out.
    """

    libvirt_version: int
    hypervisor_version: int | None  # None where libvirt does not know it
    cpu: str | None
    devices: frozenset[str] | None  # network devices; None where libvirt does not list them
    uuid: str | None = None
    networks: frozenset[str] | None = frozenset()
    cards_free: Mapping[str, int] = field(default_factory=dict)
    filters: frozenset[str] | None = frozenset()
    pools: Mapping[str, Pool] | None = field(default_factory=dict)
    secrets: frozenset[str] | None = frozenset()
    cpus: frozenset[int] | None = None
    nodes: frozenset[int] | None = None
    domains: tuple[Needs, ...] = ()
    may_abort: bool | None = None
