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

from annotated_types import Ge, Gt, Le, Lt, MinLen

# Read by the border's validator: unknown keys, NaN and infinities are refused.
STRICT: Mapping[str, Any] = {"extra": "forbid", "allow_inf_nan": False}

Name = Annotated[str, MinLen(1)]
# Of CPUs and the like: far above any machine there is, and low enough to be reckoned with.
MOST_COUNTED = 65536
Count = Annotated[int, Ge(1), Le(MOST_COUNTED)]
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
    """One host. ``cpu_ratio`` holds the last readings without a gap, one a step, newest last; so do the other windows, where known.

    ``uplink_bytes_per_second``: what its busiest uplink can carry in each direction; where it is not known, uplinks count as equal.

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
    memory_ratio_window: tuple[Ratio, ...] = ()
    rx_ratio_window: tuple[Amount, ...] = ()
    tx_ratio_window: tuple[Amount, ...] = ()
    uplink_bytes_per_second: Annotated[float, Gt(0)] | None = None
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
class Placement:
    """What a domain's own metadata asks for: names of groups to be kept together or apart, hosts (shell patterns) to be on or not."""

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

    ``cpu_cores`` counts its vCPUs and QEMU's own threads; ``cpu_delay_cores`` how long vCPUs waited for a CPU. The two with
    ``_unsaturated`` are the same, averaged over those recent steps in which its host was not saturated; None: there were none.
    ``memory_resident_bytes``: what its process holds of ``memory_bytes``; ``migrating_to``: the destination of a migration under way;
    ``recent_moves``: how often it was moved in the time that is remembered.
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = STRICT
    name: Name
    uuid: Name
    host: Name
    state: DomainState = DomainState.RUNNING
    vcpus: Count = 1
    cpu_cores: Amount = 0.0
    cpu_delay_cores: Amount = 0.0
    cpu_cores_unsaturated: Amount | None = None
    cpu_delay_cores_unsaturated: Amount | None = None
    memory_bytes: Bytes = 0
    memory_resident_bytes: Bytes | None = None
    rx_bytes_per_second: Amount = 0.0
    tx_bytes_per_second: Amount = 0.0
    dirty_bytes_per_second: Amount | None = None
    rx_ratio: Amount = 0.0
    tx_ratio: Amount = 0.0
    last_moved: float | None = None
    recent_moves: Annotated[int, Ge(0)] = 0
    migrating_to: Name | None = None
    placement: Placement | None = None
    labels: Mapping[str, str] = field(default_factory=dict)


class Role(StrEnum):
    SOURCE = "source"
    DESTINATION = "destination"


@dataclass(frozen=True, slots=True, kw_only=True)
class Residual:
    """How far the formula for a host's CPU load was off once: measured less its word, and the spread it was predicted with."""

    __pydantic_config__: ClassVar[Mapping[str, Any]] = STRICT
    role: Role
    saturated: bool
    error_ratio: float
    spread_ratio: Annotated[float, Gt(0)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """How fast earlier migrations between two hosts went."""

    __pydantic_config__: ClassVar[Mapping[str, Any]] = STRICT
    source: Name
    destination: Name
    bytes_per_second: Annotated[float, Gt(0)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The group at one moment, with what earlier migrations taught: ``residuals`` of the predictions and the speed of ``links``."""

    __pydantic_config__: ClassVar[Mapping[str, Any]] = STRICT
    format: Literal["virtpoise/snapshot/1"] = "virtpoise/snapshot/1"
    time: float
    step_seconds: Annotated[float, Gt(0)] = 10.0
    hosts: tuple[Host, ...]
    domains: tuple[Domain, ...]
    residuals: tuple[Residual, ...] = ()
    links: tuple[Link, ...] = ()

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


class RuleKind(StrEnum):
    TOGETHER = "together"
    APART = "apart"
    ONLY_ON = "only_on"
    NEVER_ON = "never_on"
    PREFER = "prefer"
    IGNORE = "ignore"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Where domains may be. ``domains`` and ``hosts`` are names or shell patterns; a domain's uuid fits as well.

    ``hard``: never broken by a move. A soft rule is kept wherever that costs no move and leaves no overload.
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = STRICT
    name: Name
    kind: RuleKind
    domains: Annotated[tuple[Name, ...], MinLen(1)]
    hosts: tuple[Name, ...] = ()
    hard: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How many migrations may be under way at once: from one host, to one host, in all."""

    __pydantic_config__: ClassVar[Mapping[str, Any]] = STRICT
    per_source: Count = 1
    per_destination: Count = 1
    total: Count = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationCost:
    """What a migration is taken to cost where nothing was learned of the two hosts yet.

    ``overhead_ratio``: how much more than the domain's memory its destination needs while it arrives.
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = STRICT
    bytes_per_second: Annotated[float, Gt(0)] = 100e6
    overhead_ratio: Amount = 0.03


@dataclass(frozen=True, slots=True, kw_only=True)
class Imbalance:
    """Also move while the standard deviation of the hosts' CPU load is above ``deviation_ratio`` and a move lowers it by the gain."""

    __pydantic_config__: ClassVar[Mapping[str, Any]] = STRICT
    deviation_ratio: Annotated[float, Gt(0), Lt(1)] = 0.15
    least_gain_ratio: Annotated[float, Gt(0), Lt(1)] = 0.005


@dataclass(frozen=True, slots=True, kw_only=True)
class Trend:
    """How many steps ahead a host's load is forecast from its readings; 0: none. Used only where it did better than the last reading."""

    __pydantic_config__: ClassVar[Mapping[str, Any]] = STRICT
    steps: Annotated[int, Ge(0), Le(60)] = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What the administrator wants; the section ``policy`` of the configuration.

    ``rest_seconds``: how long a moved domain stays put unless nothing else helps, times ``rest_growth`` for each further move of it
    that is remembered, at most ``rest_max_seconds``. ``least_gain_ratio``: what a move must take off its source's load at least, unless
    nothing else helps. ``saturation_ratio``: from this load on a host hides demand. ``coverage``: the share of predictions that their
    intervals hold. ``repair_rules``: also move domains only because a rule is broken. ``metadata``: whether a domain's own metadata
    binds that domain, or nothing.
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = STRICT
    strategy: Literal["default", "thesis"] = "default"
    cpu: Trigger = Trigger()
    memory: SpaceTrigger = SpaceTrigger()
    network: SpaceTrigger = SpaceTrigger()
    penalty: Penalty = Penalty()
    weights: Weights = Weights()
    rest_seconds: Amount = 1800.0
    rest_growth: Annotated[float, Ge(1)] = 2.0
    rest_max_seconds: Amount = 86400.0
    least_gain_ratio: Annotated[float, Ge(0), Lt(1)] = 0.01
    saturation_ratio: Threshold = 0.9
    coverage: Annotated[float, Gt(0), Lt(1)] = 0.9
    limits: Limits = Limits()
    migration: MigrationCost = MigrationCost()
    rules: tuple[Rule, ...] = ()
    repair_rules: bool = False
    metadata: Literal["own", "ignore"] = "own"
    imbalance: Imbalance | None = None
    trend: Trend = Trend()


class InconsistentPolicy(ValueError):
    """Two parts of a policy contradict each other; the message names the field and what was expected."""


def check_policy(policy: Policy) -> None:
    """Raise InconsistentPolicy when a recovery level lies above its threshold, or when a rule says nothing."""
    for resource, trigger in (("cpu", policy.cpu), ("memory", policy.memory), ("network", policy.network)):
        if trigger.recovery_ratio > trigger.threshold:
            raise InconsistentPolicy(
                f"{resource}.recovery: expected at most the threshold ({trigger.threshold:g}), got {trigger.recovery_ratio:g}"
            )
    names: set[str] = set()
    for i, rule in enumerate(policy.rules):
        if rule.name in names:
            raise InconsistentPolicy(f"rules.{i}.name: expected each name once, got {rule.name!r} again")
        names.add(rule.name)
        about_hosts = rule.kind in (RuleKind.ONLY_ON, RuleKind.NEVER_ON, RuleKind.PREFER)
        if about_hosts is not bool(rule.hosts):
            expected = "at least one host" if about_hosts else f"none with {rule.kind}"
            raise InconsistentPolicy(f"rules.{i}.hosts: expected {expected}, got {', '.join(rule.hosts) or 'none'}")
        if rule.kind in (RuleKind.TOGETHER, RuleKind.APART) and len(rule.domains) == 1 and rule.domains[0].isalnum():
            raise InconsistentPolicy(f"rules.{i}.domains: expected at least two, or a pattern, got {rule.domains[0]}")


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
    HOST_OVERLOADED = "host_overloaded"
    # a domain on a destination
    DESTINATION_CPU = "destination_cpu"
    DESTINATION_CPUS = "destination_cpus"
    DESTINATION_MEMORY = "destination_memory"
    DESTINATION_NETWORK = "destination_network"
    NAME_TAKEN = "name_taken"
    RULE_TOGETHER = "rule_together"
    RULE_APART = "rule_apart"
    RULE_ONLY_ON = "rule_only_on"
    RULE_NEVER_ON = "rule_never_on"
    # a domain by itself
    NOT_RUNNING = "not_running"
    NOT_NEEDED = "not_needed"
    MIGRATING = "migrating"
    RESTING = "resting"
    LEAST_GAIN = "least_gain"
    RULE_IGNORE = "rule_ignore"
    RULE_CONFLICT = "rule_conflict"
    RULE_BROKEN = "rule_broken"
    NO_DESTINATION = "no_destination"
    COSTLIER = "costlier"
    # a host that the plan does not relieve
    UNSOLVED = "unsolved"


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
    """The load of one host after a move, with the interval that the strategy vouches for.

    ``cpu_spread_ratio``: how unsure the strategy is of itself, before earlier errors widen or narrow the interval; ``cpu_bias_ratio``:
    how far earlier errors moved ``cpu_ratio`` from the formula's word; ``saturated``: the source hid demand when this was predicted. All
    three go into the Residual that the prediction will leave.
    """

    cpu_ratio: float
    cpu_ratio_lower: float
    cpu_ratio_upper: float
    cpu_spread_ratio: float | None = None
    cpu_bias_ratio: float = 0.0
    saturated: bool | None = None
    memory_ratio: float | None = None
    memory_ratio_lower: float | None = None
    memory_ratio_upper: float | None = None
    rx_ratio: float | None = None
    rx_ratio_lower: float | None = None
    rx_ratio_upper: float | None = None
    tx_ratio: float | None = None
    tx_ratio_lower: float | None = None
    tx_ratio_upper: float | None = None

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
    """One migration. Moves of one ``wave`` may run at the same time, once all earlier waves are done; ``why`` says it in words.

    ``cost_bytes``: what it is expected to transfer. Moves with the same ``bundle`` belong together: all of them or none.
    """

    domain: str
    uuid: str
    source: str
    destination: str
    predicted: PredictedLoads
    wave: int = 0
    why: str = ""
    cost_bytes: int | None = None
    bundle: str | None = None


class Problem(StrEnum):
    OVERLOAD = "overload"
    DRAIN = "drain"
    RULE = "rule"
    IMBALANCE = "imbalance"


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
    """How one move ended. ``why`` is empty when it is done; the figures are known only for a migration that ran.

    ``dirty_bytes_per_second``: how fast the domain last wrote to its memory while it was watched; ``lost``: it runs on neither host any
    more.
    """

    result: Result
    why: str = ""
    seconds: float | None = None
    downtime_seconds: float | None = None
    transferred_bytes: int | None = None
    dirty_bytes_per_second: float | None = None
    lost: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """A migration under way, as libvirt's job statistics give it."""

    elapsed_seconds: float
    total_bytes: int
    processed_bytes: int
    remaining_bytes: int
    dirty_bytes_per_second: float | None = None
