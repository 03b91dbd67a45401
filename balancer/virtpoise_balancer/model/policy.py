"""What the administrator wants: thresholds, limits, placement rules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from annotated_types import Ge, Gt, Le, Lt, MinLen

from virtpoise_balancer.model.units import MOST_BYTES, STRICT, Amount, Count, Name, Resource, Threshold

# How plans are made; ``plan.STRATEGIES`` has the functions, ``_TRAITS`` what each asks of the rest.
StrategyName = Literal["default", "thesis"]
# What the balancer does with a plan: leave it to a person, or carry it out.
Mode = Literal["recommend", "automatic"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trigger:
    """When a resource is a problem: after ``consecutive`` samples at or above ``threshold``, one after another.

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
    """The trigger of memory and uplinks, which work well while nearly full."""

    threshold: Threshold = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Penalty:
    """How long a host waits after an attempt that did not solve its problem, and how much longer after each further
    one.
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = STRICT
    initial_seconds: Amount = 190.0
    step_seconds: Amount = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationBackoff:
    """How long a domain is not sent again to a destination to which its migration failed: after the first failure, how
    much longer after each further one, and at most.
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = STRICT
    initial_seconds: Amount = 600.0
    growth: Annotated[float, Ge(1)] = 2.0
    max_seconds: Amount = 43200.0

    def seconds(self, failures: int) -> float:
        """The length after this number of failures in a row."""
        try:
            return min(self.initial_seconds * self.growth ** (failures - 1), self.max_seconds)
        except OverflowError:  # no float is so large
            return self.max_seconds if self.initial_seconds else 0.0


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
    """The weights of the scores of hosts and domains (docs/scoring.md)."""

    __pydantic_config__: ClassVar[Mapping[str, Any]] = STRICT
    host: HostWeights = HostWeights()
    domain: DomainWeights = DomainWeights()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Where domains may be. ``kind``: one of ``rules.KINDS``. ``domains`` and ``hosts`` are names or shell
    patterns; a domain's uuid fits as well, and so do hosts by a label, as in ``rack=r1``.

    ``over``: a label of hosts, such as their rack. Hosts with the same value of it count as one. ``most``: how many of
    the domains one host may have, or one value of the label; by default one.

    ``hard``: never broken by a move. A soft rule is kept wherever that costs no move and leaves no overload.
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = STRICT
    name: Name
    kind: Name
    domains: Annotated[tuple[Name, ...], MinLen(1)]
    hosts: tuple[Name, ...] = ()
    over: Name | None = None
    most: Count | None = None
    hard: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How many migrations may be under way at once: from one host, to one host, in all. And how many moves a plan has,
    and how many are made within an hour, besides those of drains; None: any number.
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = STRICT
    per_source: Count = 1
    per_destination: Count = 1
    total: Count = 4
    per_plan: Count | None = None
    per_hour: Count | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainLimit:
    """How many of the hosts with the same value of ``label``, such as those of one rack, may drain at once: this share,
    and always one.
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = STRICT
    label: Name
    most_ratio: Annotated[float, Gt(0), Le(1)] = 0.5

    def most(self, hosts: int) -> int:
        """The number of ``hosts`` that may drain."""
        return max(int(self.most_ratio * hosts + 1e-9), 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationCost:
    """What a migration is taken to cost where nothing was learned of the two hosts yet.

    ``overhead_ratio``: how much more than the domain's memory its destination needs while it arrives.
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = STRICT
    bytes_per_second: Annotated[float, Gt(0)] = 100e6
    overhead_ratio: Amount = 0.03


@dataclass(frozen=True, slots=True, kw_only=True)
class Reserve:
    """Memory that hosts keep for themselves: it does not count as available.

    ``hosts``: names or shell patterns, or a label of their targets as in ``rack=r1*``; without any, every host.
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = STRICT
    memory_bytes: Annotated[int, Ge(0), Le(MOST_BYTES)]
    hosts: tuple[Name, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class HostLimits:
    """Thresholds of some hosts in place of the common ones, and what moves to them must leave free.

    ``hosts``: as of a reserve. ``free_cores`` and ``free_memory_bytes`` are no problem of a host that has less free: it
    just takes nothing.
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = STRICT
    hosts: Annotated[tuple[Name, ...], MinLen(1)]
    cpu: Threshold | None = None
    memory: Threshold | None = None
    network: Threshold | None = None
    free_cores: Amount = 0.0
    free_memory_bytes: Annotated[int, Ge(0), Le(MOST_BYTES)] = 0

    def threshold(self, resource: Resource) -> float | None:
        """The threshold of a resource; both directions of an uplink share one. None: the common one counts."""
        if resource is Resource.CPU:
            return self.cpu
        return self.memory if resource is Resource.MEMORY else self.network


@dataclass(frozen=True, slots=True, kw_only=True)
class Overcommit:
    """How much memory a host may promise: ``memory_ratio`` times its own, less what is reserved.

    Promised is the maximum of each domain that runs or is paused there.
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = STRICT
    memory_ratio: Annotated[float, Gt(0), Le(100)] = 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Imbalance:
    """Also move while the standard deviation of the hosts is above ``deviation_ratio`` and a move gains enough.

    ``by``: of their CPU load; of the share of their memory that is used, or promised to domains; of their number of
    domains, or of vCPUs for each CPU, as a share of the mean of all. The least gain is that of the CPU.
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = STRICT
    by: Literal["cpu", "memory", "promised", "domains", "vcpus"] = "cpu"
    deviation_ratio: Annotated[float, Gt(0), Lt(1)] = 0.15
    least_gain_ratio: Annotated[float, Gt(0), Lt(1)] = 0.005

    @property
    def what(self) -> str:
        """What is to be even, in words."""
        return _EVENED[self.by]


_EVENED = {
    "cpu": "load",
    "memory": "memory use",
    "promised": "promised memory",
    "domains": "numbers of domains",
    "vcpus": "vCPUs for each CPU",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Foresight:
    """Also move what keeps hosts from an overload that they are expected to have, by what their domains usually use.

    ``least_saved_minutes``: how many minutes of overload each move must be expected to save beyond what it costs.
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = STRICT
    least_saved_minutes: Amount = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Trend:
    """How many steps ahead a host's load is forecast from its samples; 0: none.

    Used only where it did better than the last sample.
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = STRICT
    steps: Annotated[int, Ge(0), Le(60)] = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class BrakeBounds:
    """When the brake is pulled: moves are then only recommended, until a person releases it.

    ``failed_domains`` and ``failed_ratio``: this many domains, and this share of those migrated, whose newest migration
    failed. ``opposed_moves``: how many of each other's moves the balancer and others undid. ``predictions`` and
    ``error_ratio``: the median error of this many predicted loads. ``window_seconds``: only what ended in this time
    counts.
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = STRICT
    failed_domains: Count = 3
    failed_ratio: Annotated[float, Gt(0), Le(1)] = 0.5
    opposed_moves: Count = 2
    predictions: Count = 10
    error_ratio: Annotated[float, Gt(0), Le(1)] = 0.15
    window_seconds: Annotated[float, Gt(0)] = 86400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BlackoutWindow:
    """A time in which mode automatic begins no migration.

    ``cron``: when it begins, as five fields of cron in the ``time_zone``; ``duration_seconds``: how long it lasts.
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = STRICT
    name: Name
    cron: Name
    duration_seconds: Annotated[float, Ge(60), Le(31 * 86400)]
    time_zone: Name = "UTC"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What the administrator wants; the section ``policy`` of the configuration.

    ``rest_seconds``: how long a moved domain stays put unless nothing else helps, times ``rest_growth`` for each
    further move of it that is remembered, at most ``rest_max_seconds``. ``least_gain_ratio``: what a move must take off
    its source's load at least, unless nothing else helps. ``reserve`` and ``hosts``: the first entry that fits a host
    counts. ``overcommit``: no move brings a host above it; None: no such limit. ``saturation_ratio``: from this load on
    a host hides demand. ``coverage``: the share of predictions that their intervals hold. ``repair_rules``: also move
    domains only because a hard rule is broken. ``repair_soft_rules``: likewise because a soft one is. ``metadata``:
    whether a domain's own metadata binds that domain, or nothing. ``windows``: when mode automatic begins no migration.
    ``drains``: how many hosts of a rack may drain at once.
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = STRICT
    strategy: StrategyName = "default"
    cpu: Trigger = Trigger()
    memory: SpaceTrigger = SpaceTrigger()
    network: SpaceTrigger = SpaceTrigger()
    penalty: Penalty = Penalty()
    backoff: MigrationBackoff = MigrationBackoff()
    weights: Weights = Weights()
    rest_seconds: Amount = 1800.0
    rest_growth: Annotated[float, Ge(1)] = 2.0
    rest_max_seconds: Amount = 86400.0
    least_gain_ratio: Annotated[float, Ge(0), Lt(1)] = 0.01
    saturation_ratio: Threshold = 0.9
    coverage: Annotated[float, Gt(0), Lt(1)] = 0.9
    limits: Limits = Limits()
    migration: MigrationCost = MigrationCost()
    reserve: tuple[Reserve, ...] = ()
    hosts: tuple[HostLimits, ...] = ()
    overcommit: Overcommit | None = None
    rules: tuple[Rule, ...] = ()
    repair_rules: bool = False
    repair_soft_rules: bool = False
    metadata: Literal["own", "ignore"] = "own"
    imbalance: Imbalance | None = None
    foresight: Foresight | None = None
    trend: Trend = Trend()
    brake: BrakeBounds = BrakeBounds()
    windows: tuple[BlackoutWindow, ...] = ()
    drains: DrainLimit | None = None

    @property
    def traits(self) -> StrategyTraits:
        """What the strategy asks of all that stands around it."""
        return _TRAITS[self.strategy]

    def trigger(self, resource: Resource) -> Trigger:
        """When a resource is a problem; both directions of an uplink share one trigger."""
        if resource is Resource.CPU:
            return self.cpu
        return self.memory if resource is Resource.MEMORY else self.network


class StrategyTraits(NamedTuple):
    """In what the strategies differ outside of their plans.

    ``watched``: the resources that can be a problem of a host. ``one_at_a_time``: while moves are under way no host is
    judged, and moves are made one after another; otherwise only the hosts concerned wait. ``newest_sample_alone``: only
    the newest sample can end a host's back-off, since it must be low for every watched resource; otherwise any sample
    since the back-off began. ``forecasts``: a trend may stand for samples that are missing to an overload.
    ``habits``: what domains usually use decides.
    ``second_try``: a host that a first attempt relieved in part is attempted again without a back-off.
    ``limits_of_hosts``: hosts may have thresholds of their own.
    """

    watched: tuple[Resource, ...] = tuple(Resource)
    one_at_a_time: bool = False
    newest_sample_alone: bool = True
    forecasts: bool = True
    habits: bool = True
    second_try: bool = True
    limits_of_hosts: bool = True


_TRAITS: Mapping[StrategyName, StrategyTraits] = {
    "default": StrategyTraits(),
    "thesis": StrategyTraits(
        watched=(Resource.CPU,),
        one_at_a_time=True,
        newest_sample_alone=False,
        forecasts=False,
        habits=False,
        second_try=False,
        limits_of_hosts=False,
    ),
}


def policy_problems(policy: Policy) -> Iterator[str]:
    """A line for each recovery level above its threshold, and each reserve that hides others: the field, and what was
    expected. Rules: ``rules.check``.
    """
    for i, entry in enumerate(policy.reserve[:-1]):
        if not entry.hosts:
            yield f"reserve.{i}: expected hosts, or the last place: it fits every host, so no later entry counts"
    for resource, trigger in (("cpu", policy.cpu), ("memory", policy.memory), ("network", policy.network)):
        if trigger.recovery_ratio > trigger.threshold:
            yield f"{resource}.recovery: expected at most the threshold ({trigger.threshold:g}), got {trigger.recovery_ratio:g}"
