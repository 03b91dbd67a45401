"""What hosts and domains are, as libvirt has it, as far as it decides which migrations libvirt would refuse."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any, ClassVar

from annotated_types import Ge

from virtpoise_balancer.model.units import STRICT, Bytes, Name, Ratio


class Need(StrEnum):
    """Kinds of what a domain needs of a host."""

    CPU = "cpu"  # a CPU that can do as much
    MACHINE = "machine"  # a hypervisor with its kind of machine
    NETWORK = "network"
    STORAGE = "storage"
    PINS = "pins"  # the CPUs or NUMA nodes that it is bound to


class Holder(StrEnum):
    """Kinds of what keeps a domain where it is."""

    DEVICE = "device"
    STORAGE = "storage"
    SNAPSHOTS = "snapshots"
    JOB = "job"
    SETTING = "setting"


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """What a domain needs of a host, and a host may lack. ``name``: in words, such as "bridge br0"."""

    __pydantic_config__: ClassVar[Mapping[str, Any]] = STRICT
    kind: Need
    name: Name


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """Why libvirt would migrate a domain nowhere now. ``why``: in words, such as "it has 2 snapshots"."""

    __pydantic_config__: ClassVar[Mapping[str, Any]] = STRICT
    kind: Holder
    why: Name


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskCopy:
    """A disk that is copied along with its domain. ``device``: in the guest; ``path``: on both hosts.

    ``format``: of the image; ``capacity_bytes``: what it may come to take; ``stored_bytes``: what it takes now.
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = STRICT
    device: Name
    path: Name
    format: Name
    capacity_bytes: Bytes
    stored_bytes: Bytes

    @property
    def folder(self) -> str:
        return self.path.rpartition("/")[0]


def not_copied(needed: Collection[DiskCopy], copies: Collection[DiskCopy]) -> bool:
    """Whether one of the disks that have to be copied is not."""
    return not {one.device for one in needed} <= {one.device for one in copies}


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryCell:
    """A part of a domain's memory that is bound for itself. ``share``: of all its memory; ``nodes``: the host's NUMA
    nodes that it must come from; none: any.
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = STRICT
    share: Ratio
    nodes: tuple[Annotated[int, Ge(0)], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What stands against migrations in a group. What nothing is known of stands against none.

    ``requires``: by uuid, of what a domain needs only that which some host lacks. ``lacks``: by host, what it lacks of
    all that is needed. ``holds``: by uuid. ``copies``: by uuid, the disks without a copy of which libvirt would migrate
    the domain nowhere. ``nodes``: by uuid, the NUMA nodes that a domain's memory must come from, if not from any.
    ``cells``: by uuid, the parts of its memory that are bound each for itself. ``room``: by host and folder, the bytes
    that are free for copies of disks. ``cards``: by uuid and libvirt network, the network cards of a host that a domain
    has to itself; ``cards_free``: by host and network, how many are free.
    """

    requires: Mapping[str, tuple[Requirement, ...]] = field(default_factory=dict)
    lacks: Mapping[str, tuple[Requirement, ...]] = field(default_factory=dict)
    holds: Mapping[str, tuple[Hold, ...]] = field(default_factory=dict)
    copies: Mapping[str, tuple[DiskCopy, ...]] = field(default_factory=dict)
    nodes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    cells: Mapping[str, tuple[MemoryCell, ...]] = field(default_factory=dict)
    room: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    cards: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    cards_free: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    def lacking_what_may_come(self) -> tuple[str, ...]:
        """The hosts that lack something which they may have again by itself: a network, a free card or storage."""
        kinds = (Need.NETWORK, Need.STORAGE)
        lacking = {host for host, lacks in self.lacks.items() if any(one.kind in kinds for one in lacks)}
        return tuple(sorted(lacking | {host for host, free in self.cards_free.items() if not all(free.values())}))

    def forbid(self, uuid: str, destination: str, copies: Collection[DiskCopy] = ()) -> bool:
        """Whether libvirt would refuse to migrate the domain to the host, with these disks copied."""
        lost = not_copied(self.copies.get(uuid, ()), copies)
        return bool(lost or self.holds.get(uuid) or self.missing(uuid, destination))

    def missing(self, uuid: str, destination: str) -> tuple[Requirement, ...]:
        """What the domain needs of the host, and the host lacks."""
        lacks = self.lacks.get(destination, ())
        return tuple(one for one in self.requires.get(uuid, ()) if one in lacks)
