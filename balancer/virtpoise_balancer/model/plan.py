"""What follows from a snapshot and a policy: the moves, and why everything else stays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Literal

from virtpoise_balancer.model.facts import DiskCopy
from virtpoise_balancer.model.snapshot import Domain
from virtpoise_balancer.model.units import Resource


class Reason(StrEnum):
    """Why a host or a domain was considered and not moved, or why a host took nothing."""

    # a host with a problem that was not attempted
    ALONE = "alone"
    PENALTY = "penalty"
    WAITING = "waiting"
    NOT_WORTH = "not_worth"
    # a host that is no destination
    HOST_UNKNOWN = "host_unknown"
    HOST_DRAINING = "host_draining"
    HOST_STANDBY = "host_standby"
    HOST_OVERLOADED = "host_overloaded"
    HOST_BUSY = "host_busy"
    # a domain on a destination
    DESTINATION_CPU = "destination_cpu"
    DESTINATION_CPUS = "destination_cpus"
    DESTINATION_MEMORY = "destination_memory"
    DESTINATION_HUGEPAGES = "destination_hugepages"
    DESTINATION_OVERCOMMIT = "destination_overcommit"
    DESTINATION_NETWORK = "destination_network"
    NAME_TAKEN = "name_taken"
    LACKS_CPU = "lacks_cpu"
    LACKS_MACHINE = "lacks_machine"
    LACKS_NETWORK = "lacks_network"
    LACKS_STORAGE = "lacks_storage"
    LACKS_PINS = "lacks_pins"
    BACKOFF = "backoff"
    RULE = "rule"
    RULE_TOGETHER = "rule_together"
    RULE_APART = "rule_apart"
    RULE_ONLY_ON = "rule_only_on"
    RULE_NEVER_ON = "rule_never_on"
    # a domain by itself
    NOT_RUNNING = "not_running"
    NOT_NEEDED = "not_needed"
    MIGRATING = "migrating"
    RESTING = "resting"
    NOT_CONVERGING = "not_converging"
    HELD_DEVICE = "held_device"
    HELD_STORAGE = "held_storage"
    HELD_SNAPSHOTS = "held_snapshots"
    HELD_JOB = "held_job"
    HELD_SETTING = "held_setting"
    LEAST_GAIN = "least_gain"
    RULE_IGNORE = "rule_ignore"
    RULE_CONFLICT = "rule_conflict"
    RULE_BROKEN = "rule_broken"
    SOFT_RULE_BROKEN = "soft_rule_broken"
    NO_DESTINATION = "no_destination"
    COSTLIER = "costlier"
    MOVE_LIMIT = "move_limit"
    # a host that the plan does not relieve
    UNSOLVED = "unsolved"


Detail = Mapping[str, float | int | str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Considered and refused: the domain, the host, or the domain on the host, with the numbers behind it.

    ``uuid``: the domain's, wherever ``domain`` is given; names may repeat. Plans of earlier versions have none.
    """

    domain: str | None = None
    uuid: str | None = None
    host: str | None = None
    reason: Reason
    detail: Detail = field(default_factory=dict)

    @classmethod
    def of(
        cls, domain: Domain, reason: Reason, detail: Detail = MappingProxyType({}), host: str | None = None
    ) -> Refusal:
        """The refusal of a domain where it is, or on another ``host``."""
        return cls(domain=domain.name, uuid=domain.uuid, host=host or domain.host, reason=reason, detail=dict(detail))


@dataclass(frozen=True, slots=True, kw_only=True)
class Overload:
    """A host whose last ``consecutive`` samples of ``resource`` were at or above the threshold; ``ratio`` is the
    newest.
    """

    host: str
    resource: Resource = Resource.CPU
    ratio: float
    consecutive: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """The load of one host after a move, with the interval that the strategy vouches for.

    ``cpu_spread_ratio``: how unsure the strategy is of itself, before earlier errors widen or narrow the interval;
    ``cpu_bias_ratio``: how far earlier errors moved ``cpu_ratio`` from the formula's estimate; ``saturated``: the
    source hid demand when this was predicted. All three go into the Residual that the prediction will leave.
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

    def ratio(self, resource: Resource) -> float | None:
        """The expected share in use, None where the strategy does not predict it."""
        return getattr(self, f"{resource}_ratio")  # type: ignore[no-any-return]

    def lower(self, resource: Resource) -> float | None:
        """The lower end of its interval, likewise."""
        return getattr(self, f"{resource}_ratio_lower")  # type: ignore[no-any-return]

    def upper(self, resource: Resource) -> float | None:
        """The upper end of its interval, likewise."""
        return getattr(self, f"{resource}_ratio_upper")  # type: ignore[no-any-return]

    @classmethod
    def exact(cls, cpu_ratio: float, memory_ratio: float | None = None) -> Prediction:
        """A prediction of a strategy that knows no interval."""
        return cls(cpu_ratio=cpu_ratio, cpu_ratio_lower=cpu_ratio, cpu_ratio_upper=cpu_ratio, memory_ratio=memory_ratio)


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictedLoads:
    """What is predicted of both hosts of a move, after it and all moves before it in the plan."""

    source: Prediction
    destination: Prediction


class Problem(StrEnum):
    """Why a host is worked on."""

    OVERLOAD = "overload"
    DRAIN = "drain"
    RULE = "rule"
    IMBALANCE = "imbalance"
    FORESEEN = "foreseen"


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """One migration. Moves of one ``wave`` may run at the same time, once all earlier waves are done; ``why`` says it
    in words.

    ``copies``: the disks that are copied along. ``cost_bytes``: what it is expected to transfer, disks included;
    ``link_bytes_per_second``: at most how fast, by the uplinks of its hosts, where both are known. ``seconds`` and
    ``downtime_seconds``: how long it takes, and for how long the domain is stopped, by earlier migrations between the
    two hosts; None without any.

    Moves with the same ``bundle`` belong together: all of them or none.

    ``needs``: uuids of the domains whose moves this one depends on: earlier ones that leave its destination, which make
    room there, and all others of its bundle. It must not be made without them. ``problem``: what it solves on its
    source; None where it makes room for another. ``destination_score``: the strategy's score of the destination after
    this move and all before it, comparable to ``Plan.scores.hosts``; ``destination_score_before``: the same without
    this move. ``domain_score``: that of the domain, comparable to ``Plan.scores.domains``. Plans of earlier versions
    have none of them.

    ``post_copy``: the domain runs on the destination before all of its memory is there, after one pass over it.
    ``saved_minutes``: what all moves that relieve the source are expected to save, and ``cost_minutes``: what they
    cost, both in minutes of one host; None where that was not weighed.
    """

    domain: str
    uuid: str
    source: str
    destination: str
    predicted: PredictedLoads
    wave: int = 0
    why: str = ""
    cost_bytes: int | None = None
    link_bytes_per_second: float | None = None
    seconds: float | None = None
    downtime_seconds: float | None = None
    bundle: str | None = None
    needs: tuple[str, ...] = ()
    problem: Problem | None = None
    domain_score: float | None = None
    destination_score_before: float | None = None
    destination_score: float | None = None
    saved_minutes: float | None = None
    cost_minutes: float | None = None
    copies: tuple[DiskCopy, ...] = ()
    post_copy: bool = False

    def because(self, reason: str) -> Move:
        """The move with a further reason."""
        return replace(self, why=f"{self.why}; {reason}" if self.why else reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A problem that the plan worked on; unsolved, it earns the host a penalty."""

    host: str
    problem: Problem
    solved: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """The scores before the first assignment, by name."""

    hosts: Mapping[str, float] = field(default_factory=dict)
    domains: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to do about a snapshot, in order.

    ``solved``: no problem stands once it is carried out. ``notes``: what does nothing.
    """

    format: Literal["virtpoise/plan/1"] = "virtpoise/plan/1"
    strategy: str
    solved: bool
    summary: str
    overloaded: tuple[Overload, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    moves: tuple[Move, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    scores: Scores = Scores()
    notes: tuple[str, ...] = ()

    def resources_of(self, move: Move) -> tuple[Resource, ...]:
        """What the move's source is overloaded in; the CPU where it is moved for another reason."""
        found = tuple(one.resource for one in self.overloaded if one.host == move.source)
        return found or (Resource.CPU,)
