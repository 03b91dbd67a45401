"""The values that walk through the loop: what was seen (Snapshot), what is wanted (Policy), what follows (Plan).

Frozen, without I/O. Units are in the names: ``_bytes``, ``_cores`` (CPU seconds per second), ``_seconds``; a ``_ratio`` is 0..1; times are
Unix seconds. The annotations double as the schema of the files and replies that are read at the border (``formats``, ``config``), so
that a range is written once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Le, MinLen

# Read by the border's validator: unknown keys, NaN and infinities are refused.
STRICT: Mapping[str, Any] = {"extra": "forbid", "allow_inf_nan": False}

Name = Annotated[str, MinLen(1)]
Count = Annotated[int, Ge(1)]
Amount = Annotated[float, Ge(0)]
Bytes = Annotated[int, Ge(0)]
Threshold = Annotated[float, Gt(0), Le(1)]

# A ratio measured from two samples may pass 1 by the jitter of their times; anything further is a broken query.
RATIO_TOLERANCE = 1.05
Ratio = Annotated[float, Ge(0), Le(RATIO_TOLERANCE)]


class HostState(StrEnum):
    ACTIVE = "active"
    DRAINING = "draining"
    STANDBY = "standby"
    WAKING = "waking"
    UNKNOWN = "unknown"


class DomainState(StrEnum):
    RUNNING = "running"
    PAUSED = "paused"
    SHUTOFF = "shutoff"


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """One host. ``cpu_ratio`` holds the last readings without a gap, one a step, newest last.

    ``counted_from``: readings whose step began earlier do not count towards N (an attempt ended then, or the host was alone).
    ``penalty_until``: until then the host makes no attempt.
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = STRICT
    name: Name
    state: HostState = HostState.ACTIVE
    cpus: Count
    cpu_speed: Annotated[float, Gt(0)] = 1.0
    cpu_ratio: tuple[Ratio, ...] = ()
    memory_bytes: Annotated[int, Gt(0)]
    memory_used_bytes: Bytes = 0
    rx_ratio: Amount = 0.0
    tx_ratio: Amount = 0.0
    counted_from: float | None = None
    penalty_until: float | None = None
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
    def memory_ratio(self) -> float:
        return self.memory_used_bytes / self.memory_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Domain:
    """One domain, listed once, on the host where it runs (or, shut off, where it is defined)."""

    __pydantic_config__: ClassVar[Mapping[str, Any]] = STRICT
    name: Name
    uuid: Name
    host: Name
    state: DomainState = DomainState.RUNNING
    vcpus: Count = 1
    cpu_cores: Amount = 0.0
    cpu_delay_cores: Amount = 0.0
    memory_bytes: Bytes = 0
    rx_bytes_per_second: Amount = 0.0
    tx_bytes_per_second: Amount = 0.0
    dirty_bytes_per_second: Amount | None = None
    rx_ratio: Amount = 0.0
    tx_ratio: Amount = 0.0
    last_moved: float | None = None
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The group at one moment."""

    __pydantic_config__: ClassVar[Mapping[str, Any]] = STRICT
    format: Literal["virtpoise/snapshot/1"] = "virtpoise/snapshot/1"
    time: float
    step_seconds: Annotated[float, Gt(0)] = 10.0
    hosts: tuple[Host, ...]
    domains: tuple[Domain, ...]

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Trigger:
    """When a resource is a problem: ``consecutive`` readings in a row at or above ``threshold``.

    ``recovery``: how low a plan may bring the host before it stops; by default 0.05 below the threshold.
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = STRICT
    threshold: Threshold = 0.8
    consecutive: Count = 3
    recovery: Threshold | None = None

    @property
    def recovery_ratio(self) -> float:
        return max(self.threshold - 0.05, 0.0) if self.recovery is None else self.recovery


@dataclass(frozen=True, slots=True, kw_only=True)
class SpaceTrigger(Trigger):
    """For memory and uplinks, which bear being nearly full better than CPUs do."""

    threshold: Threshold = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Penalty:
    """How long a host waits after an attempt that did not solve its problem, and how much longer after each further one."""

    __pydantic_config__: ClassVar[Mapping[str, Any]] = STRICT
    initial_seconds: Amount = 190.0
    step_seconds: Amount = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HostWeights:
    """The thesis' six host weights (Figure 10): the first two count for a host, the others against it."""

    __pydantic_config__: ClassVar[Mapping[str, Any]] = STRICT
    cpus: Amount = 0.4
    memory: Amount = 0.6
    load: Amount = 0.4
    active: Amount = 0.2
    inactive: Amount = 0.05
    memory_ratio: Amount = 0.35


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainWeights:
    """The thesis' three domain weights (they follow from Figure 11)."""

    __pydantic_config__: ClassVar[Mapping[str, Any]] = STRICT
    load: Amount = 0.7
    downlink: Amount = 0.2
    uplink: Amount = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    __pydantic_config__: ClassVar[Mapping[str, Any]] = STRICT
    host: HostWeights = HostWeights()
    domain: DomainWeights = DomainWeights()


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What the administrator wants; the section ``policy`` of the configuration."""

    __pydantic_config__: ClassVar[Mapping[str, Any]] = STRICT
    strategy: Literal["default", "thesis"] = "default"
    cpu: Trigger = Trigger()
    memory: SpaceTrigger = SpaceTrigger()
    network: SpaceTrigger = SpaceTrigger()
    penalty: Penalty = Penalty()
    weights: Weights = Weights()
    rest_seconds: Amount = 1800.0


class InconsistentPolicy(ValueError):
    """Two parts of a policy contradict each other; the message names the field and what was expected."""


def check_policy(policy: Policy) -> None:
    """Raise InconsistentPolicy when a recovery level lies above its threshold."""
    for resource, trigger in (("cpu", policy.cpu), ("memory", policy.memory), ("network", policy.network)):
        if trigger.recovery_ratio > trigger.threshold:
            raise InconsistentPolicy(
                f"{resource}.recovery: expected at most the threshold ({trigger.threshold:g}), got {trigger.recovery_ratio:g}"
            )


class Reason(StrEnum):
    """Why a host or a domain was considered and not moved, or why a host took nothing."""

    # a host with a problem that was not attempted
    ALONE = "alone"
    PENALTY = "penalty"
    WAITING = "waiting"
    # a host that is no destination
    HOST_UNKNOWN = "host_unknown"
    HOST_DRAINING = "host_draining"
    HOST_STANDBY = "host_standby"
    # a domain on a destination
    DESTINATION_CPU = "destination_cpu"
    DESTINATION_MEMORY = "destination_memory"
    NAME_TAKEN = "name_taken"
    # a domain by itself
    NOT_RUNNING = "not_running"
    NOT_NEEDED = "not_needed"


Detail = Mapping[str, float | int | str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Considered and refused: the domain, the host, or the domain on the host, with the numbers behind it."""

    domain: str | None = None
    host: str | None = None
    reason: Reason
    detail: Detail = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Overload:
    """A host whose last ``consecutive`` readings of ``resource`` were at or above the threshold; ``ratio`` is the newest."""

    host: str
    resource: str = "cpu"
    ratio: float
    consecutive: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """The load of one host after a move, with the interval that the strategy vouches for."""

    cpu_ratio: float
    cpu_ratio_lower: float
    cpu_ratio_upper: float
    memory_ratio: float | None = None

    @classmethod
    def exact(cls, cpu_ratio: float, memory_ratio: float | None = None) -> Prediction:
        """A prediction of a strategy that knows no interval."""
        return cls(cpu_ratio=cpu_ratio, cpu_ratio_lower=cpu_ratio, cpu_ratio_upper=cpu_ratio, memory_ratio=memory_ratio)


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictedLoads:
    """Of both ends of a move, after it and all moves before it in the plan."""

    source: Prediction
    destination: Prediction


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    domain: str
    uuid: str
    source: str
    destination: str
    predicted: PredictedLoads


class Problem(StrEnum):
    OVERLOAD = "overload"
    DRAIN = "drain"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A problem that the plan worked on; unsolved, it earns the host a penalty."""

    host: str
    problem: Problem
    solved: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """As they were before the first assignment, by name."""

    hosts: Mapping[str, float] = field(default_factory=dict)
    domains: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to do about a snapshot, in order. ``solved``: no problem stands once it is carried out."""

    format: Literal["virtpoise/plan/1"] = "virtpoise/plan/1"
    strategy: str
    solved: bool
    summary: str
    overloaded: tuple[Overload, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    moves: tuple[Move, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    scores: Scores = Scores()


class Result(StrEnum):
    DONE = "done"
    SKIPPED = "skipped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How one move ended. ``why`` is empty when it is done; the figures are known only for a migration that ran."""

    result: Result
    why: str = ""
    seconds: float | None = None
    downtime_seconds: float | None = None
    transferred_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """A migration under way, as libvirt's job statistics give it."""

    elapsed_seconds: float
    total_bytes: int
    processed_bytes: int
    remaining_bytes: int
    dirty_bytes_per_second: float | None = None
