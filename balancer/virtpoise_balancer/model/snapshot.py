"""The hosts and domains of a group at one moment, with what was learned from earlier migrations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from operator import attrgetter
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Le

from virtpoise_balancer.model.facts import DiskCopy, Hold, MemoryCell, Requirement
from virtpoise_balancer.model.habits import Habits
from virtpoise_balancer.model.units import (
    LEAST_CPU_SPEED,
    MOST_CPU_SPEED,
    STRICT,
    Bytes,
    Count,
    Name,
    Quantity,
    Ratio,
    Resource,
    Speed,
)


class HostState(StrEnum):
    """What is done with a host."""

    ACTIVE = "active"
    DRAINING = "draining"
    STANDBY = "standby"
    WAKING = "waking"
    UNKNOWN = "unknown"


class DomainState(StrEnum):
    """What a domain does, as libvirt reports it."""

    RUNNING = "running"
    PAUSED = "paused"
    SHUTOFF = "shutoff"


class UnknownKind(StrEnum):
    """Why nothing is known of a host, as a label of a metric."""

    STALE = "stale"  # no fresh figures
    FIGURES = "figures"  # figures that no host has
    TARGETS = "targets"  # two targets of Prometheus claim to be it
    GROUPS = "groups"  # it is in several groups
    LIBVIRT = "libvirt"  # its libvirt does not answer its exporter
    DOMAINS = "domains"  # its list of domains contradicts libvirt's own count
    SILENT = "silent"  # its libvirt does not answer the balancer
    UNACCOUNTED = "unaccounted"  # a domain of it is active twice or nowhere, or its place is unknown
    MIGRATING = "migrating"  # a migration from or to it has not ended, though its plan has


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """Why nothing is known of a host. ``text`` completes "h1 is unknown: "."""

    __pydantic_config__: ClassVar[Mapping[str, Any]] = STRICT
    kind: UnknownKind
    text: Name


NO_FIGURES = Unknown(kind=UnknownKind.STALE, text="Prometheus has no fresh figures of it")


@dataclass(frozen=True, slots=True, kw_only=True)
class HugePages:
    """Memory in static huge pages of one size. ``node``: the NUMA node of a host's, None where that is not known."""

    __pydantic_config__: ClassVar[Mapping[str, Any]] = STRICT
    page_bytes: Annotated[Bytes, Gt(0)]
    memory_bytes: Bytes
    node: Annotated[int, Ge(0)] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """One host. ``cpu_ratio`` holds the last samples without a gap, one a step, newest last; so do the other windows,
    where known.

    ``memory_bytes`` is its ordinary memory, without its pools of static huge pages; ``hugepages_free`` is what is free
    in them, None where that is not known. ``memory_reserved_bytes`` is kept for the host itself: it counts as in use on
    top of what is.

    ``labels``: those of its target in Prometheus, such as its rack.

    ``rx_ratio`` and ``tx_ratio``: of its busiest uplink. A direction without a figure is unknown, None: it is no
    problem of the host, and holds no domain off it.

    ``uplink_bytes_per_second``: what its busiest uplink can carry in each direction; where it is not known, uplinks
    count as equal.

    ``counted_from``: samples whose step began earlier do not count towards N (an attempt ended then, or the host was
    alone). ``penalty_until``: until then the host makes no attempt. ``unknown``: why nothing is known of it; only in
    state unknown. ``lacks``: what it is known to lack of all that the group's domains need. ``copy_room``: what is free
    for copies of disks, in bytes by the folder of a storage pool; where that is not known, none is listed.
    ``cards_free``: by each libvirt network that gives a domain a network card of the host to have alone, how many are
    free.
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = STRICT
    name: Name
    state: HostState = HostState.ACTIVE
    unknown: Unknown | None = None
    cpus: Count
    cpu_speed: Annotated[float, Ge(LEAST_CPU_SPEED), Le(MOST_CPU_SPEED)] = 1.0
    cpu_ratio: tuple[Ratio, ...] = ()
    memory_bytes: Annotated[Bytes, Gt(0)]
    memory_used_bytes: Bytes = 0
    memory_reserved_bytes: Bytes = 0
    hugepages_free: tuple[HugePages, ...] | None = ()
    rx_ratio: Quantity | None = None
    tx_ratio: Quantity | None = None
    memory_ratio_window: tuple[Ratio, ...] = ()
    rx_ratio_window: tuple[Quantity, ...] = ()
    tx_ratio_window: tuple[Quantity, ...] = ()
    uplink_bytes_per_second: Speed | None = None
    counted_from: float | None = None
    penalty_until: float | None = None
    lacks: tuple[Requirement, ...] = ()
    copy_room: Mapping[str, Bytes] = field(default_factory=dict)
    cards_free: Mapping[str, Annotated[int, Ge(0)]] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def load(self) -> float:
        """The newest CPU ratio; only for a host that is ``known``."""
        return self.cpu_ratio[-1]

    @property
    def known(self) -> bool:
        """Whether there is data to decide on: a host without it is neither idle nor a destination."""
        return self.state is not HostState.UNKNOWN and bool(self.cpu_ratio)

    @property
    def why_unknown(self) -> Unknown | None:
        """Why nothing is known of it, or None for a host that is ``known``."""
        return None if self.known else self.unknown or NO_FIGURES

    @property
    def memory_ratio(self) -> float:
        """The share of its memory that is in use or reserved. It passes 1 where less is free than is reserved."""
        return (self.memory_used_bytes + self.memory_reserved_bytes) / self.memory_bytes

    @property
    def memory_ratios(self) -> tuple[float, ...]:
        """The last samples of the same share, newest last; empty where no window is known."""
        if not self.memory_reserved_bytes:
            return self.memory_ratio_window
        reserved = self.memory_reserved_bytes / self.memory_bytes
        return tuple(ratio + reserved for ratio in self.memory_ratio_window)

    def ratio(self, resource: Resource) -> float | None:
        """The present share of a resource in use, None where it is unknown; of the CPU only for a host that is
        ``known``.
        """
        if resource is Resource.CPU:
            return self.load
        if resource is Resource.MEMORY:
            return self.memory_ratio
        now, window = self._uplink(resource)
        return window[-1] if now is None and window else now

    def samples(self, resource: Resource) -> tuple[float, ...]:
        """The last samples of a resource, newest last; where no window is known, the present ratio alone, if any."""
        if resource is Resource.CPU:
            return self.cpu_ratio
        if resource is Resource.MEMORY:
            return self.memory_ratios or (self.memory_ratio,)
        now, window = self._uplink(resource)
        return window or (() if now is None else (now,))

    def _uplink(self, resource: Resource) -> tuple[float | None, tuple[float, ...]]:
        if resource is Resource.RX:
            return self.rx_ratio, self.rx_ratio_window
        return self.tx_ratio, self.tx_ratio_window


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """What a domain's own metadata asks for: names of groups to be kept together or apart, hosts (shell patterns) to be
    on or not.
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = STRICT
    together: tuple[Name, ...] = ()
    apart: tuple[Name, ...] = ()
    only_on: tuple[Name, ...] = ()
    never_on: tuple[Name, ...] = ()
    prefer: tuple[Name, ...] = ()
    ignore: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Domain:
    """One domain, listed once, on the host where it runs (or, shut off, where it is defined).

    ``cpu_cores`` counts its vCPUs and QEMU's own threads; ``cpu_delay_cores`` how long vCPUs waited for a CPU (None:
    unknown). The two with ``_unsaturated`` are the same, averaged over those recent steps in which its host was not
    saturated; None: there were none.

    Where its traffic is None, it is not known, and counts as none in a plan.

    ``memory_bytes`` is assigned to it now (0: not known, as no domain has none), ``memory_maximum_bytes`` is what its
    balloon can grow to, and ``memory_resident_bytes`` what its process holds of ``ordinary_bytes``. ``hugepages``: its
    memory that lies in static huge pages. ``memory_nodes``: the NUMA nodes that its memory must come from; none: any.
    ``memory_cells``: where NUMA nodes of the guest are bound each for itself, which of the host's each is bound to.

    ``migrating_to``: the destination of a migration under way; ``recent_moves``: how often it was moved in the time
    that is remembered.

    ``requires``: what it needs of a host, as far as some host lacks it; ``holds``: why libvirt would migrate it nowhere
    now; ``copies``: the disks that a migration would have to copy; ``cards``: by libvirt network, how many network
    cards of a host it has to itself. Of what nothing is known nothing is listed.
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = STRICT
    name: Name
    uuid: Name
    host: Name
    state: DomainState = DomainState.RUNNING
    vcpus: Count = 1
    cpu_cores: Quantity = 0.0
    cpu_delay_cores: Quantity | None = 0.0
    cpu_cores_unsaturated: Quantity | None = None
    cpu_delay_cores_unsaturated: Quantity | None = None
    memory_bytes: Bytes = 0
    memory_maximum_bytes: Bytes | None = None
    memory_resident_bytes: Bytes | None = None
    hugepages: tuple[HugePages, ...] = ()
    memory_nodes: tuple[Annotated[int, Ge(0)], ...] = ()
    memory_cells: tuple[MemoryCell, ...] = ()
    rx_bytes_per_second: Quantity | None = 0.0
    tx_bytes_per_second: Quantity | None = 0.0
    dirty_bytes_per_second: Quantity | None = None
    rx_ratio: Quantity | None = 0.0
    tx_ratio: Quantity | None = 0.0
    last_moved: float | None = None
    recent_moves: Annotated[int, Ge(0)] = 0
    migrating_to: Name | None = None
    placement: Placement | None = None
    requires: tuple[Requirement, ...] = ()
    holds: tuple[Hold, ...] = ()
    copies: tuple[DiskCopy, ...] = ()
    cards: Mapping[str, Count] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def copied_bytes(self) -> int:
        """What a migration would copy of its disks."""
        return sum(one.stored_bytes for one in self.copies) if self.copies else 0

    @property
    def used_cores(self) -> float | None:
        """The cores that it uses, None of a paused domain, whose figures may only be missing."""
        return None if self.state is DomainState.PAUSED else self.cpu_cores

    @property
    def ordinary_bytes(self) -> int:
        """Its memory that does not lie in static huge pages."""
        return max(self.memory_bytes - self._in_hugepages, 0) if self.hugepages else self.memory_bytes

    @property
    def promised_bytes(self) -> int | None:
        """The ordinary memory that it may come to use without its host being asked: that of its maximum.

        None where neither its memory nor its maximum is known.
        """
        most = max(self.memory_maximum_bytes or 0, self.memory_bytes)
        return max(most - self._in_hugepages, 0) if most else None

    @property
    def _in_hugepages(self) -> int:
        return sum(pages.memory_bytes for pages in self.hugepages)


class Role(StrEnum):
    """Which end of a migration a host is."""

    SOURCE = "source"
    DESTINATION = "destination"


@dataclass(frozen=True, slots=True, kw_only=True)
class Residual:
    """One past prediction error: measured minus predicted (before bias correction), and the spread it was predicted
    with.
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = STRICT
    role: Role
    saturated: bool
    error_ratio: float
    spread_ratio: Annotated[float, Gt(0)]


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkSpeed:
    """The speed of earlier migrations between two hosts, and for how long they stopped their domains, on average;
    None where that is not known.
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = STRICT
    source: Name
    destination: Name
    bytes_per_second: Speed
    downtime_seconds: Quantity | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedAttempts:
    """The migrations of a domain to a destination that failed, one after another. ``failed_at``: the last one, in Unix
    seconds.

    ``destination`` None: they did not end in time, wherever they went: the domain does not converge. ``why``: of the
    last one.
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = STRICT
    uuid: Name
    destination: Name | None = None
    failures: Count
    failed_at: float
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The group at one moment, with what earlier migrations taught: ``residuals`` of the predictions, the speed of
    ``links``, and the ``attempts`` that failed. ``habits``: what domains usually use. ``post_copy``: domains that did
    not converge may be migrated by post-copy.
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = STRICT
    format: Literal["virtpoise/snapshot/1"] = "virtpoise/snapshot/1"
    time: float
    step_seconds: Annotated[float, Gt(0)] = 10.0
    hosts: tuple[Host, ...]
    domains: tuple[Domain, ...]
    residuals: tuple[Residual, ...] = ()
    links: tuple[LinkSpeed, ...] = ()
    attempts: tuple[FailedAttempts, ...] = ()
    habits: Habits | None = None
    post_copy: bool = False

    @property
    def migrating(self) -> tuple[Domain, ...]:
        """The domains that are being migrated, in the order of ``domains``."""
        return tuple(filter(attrgetter("migrating_to"), self.domains))

    def host(self, name: str) -> Host | None:
        return next((host for host in self.hosts if host.name == name), None)


class InconsistentSnapshot(ValueError):
    """The parts of a snapshot contradict each other; the message names the field and what was expected."""


def check_consistent(snapshot: Snapshot) -> None:
    """Raise InconsistentSnapshot unless names and uuids are unique and every domain is on a listed host."""
    hosts: set[str] = set()
    for i, host in enumerate(snapshot.hosts):
        if host.name in hosts:
            raise InconsistentSnapshot(f"hosts.{i}.name: expected each host once, got {host.name!r} again")
        if host.memory_used_bytes > host.memory_bytes:
            raise InconsistentSnapshot(
                f"hosts.{i}.memory_used_bytes: expected at most memory_bytes ({host.memory_bytes}), got {host.memory_used_bytes}"
            )
        hosts.add(host.name)
    uuids: dict[str, str] = {}
    for i, domain in enumerate(snapshot.domains):
        if domain.host not in hosts:
            raise InconsistentSnapshot(f"domains.{i}.host: expected a host of this snapshot, got {domain.host!r}")
        if domain.uuid in uuids:
            raise InconsistentSnapshot(
                f"domains.{i}.uuid: expected each uuid once, got {domain.uuid!r} of {uuids[domain.uuid]!r} again"
            )
        uuids[domain.uuid] = domain.name
