"""The file of a scenario: hosts, domains, their loads, events, and what is expected. One schema, read from YAML."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from virtpoise_balancer.config import Config, Measurement
from virtpoise_balancer.config.file import read_values
from virtpoise_balancer.config.groups import consistent_policy
from virtpoise_balancer.config.migration import Migration
from virtpoise_balancer.config.prometheus import Prometheus
from virtpoise_balancer.config.section import HostName, Seconds, Section, inconsistent
from virtpoise_balancer.errors import BadInput
from virtpoise_balancer.formats import problems
from virtpoise_balancer.model import Policy
from virtpoise_balancer.simulate.expect import Expectations
from virtpoise_balancer.simulate.shapes import Cores, LongMinutes, Minutes, Shape, Spike

# What a scenario may ask for: its loads are held in memory, a number for each domain and step.
_MOST_NUMBERS = 20_000_000
_MOST_HOSTS, _MOST_DOMAINS = 10_000, 100_000

_T = TypeVar("_T")

_Name = Annotated[str, Field(min_length=1, max_length=200)]
_Gib = Annotated[float, Field(gt=0, le=2**20)]
_Rate = Annotated[float, Field(ge=0, le=1e6)]
_Part = Annotated[float, Field(ge=0, le=1)]


def _not_empty(entries: tuple[_T, ...]) -> tuple[_T, ...]:
    """Asked only of entries that are good themselves."""
    if not entries:
        raise ValueError("at least one entry")
    return entries


def _several(value: Any) -> Any:
    return [value] if isinstance(value, Mapping) else value


class HostEntry(Section):
    """One host, or ``count`` of them, numbered from 1.

    ``own_cores`` and ``own_memory_gib``: what it uses for itself. ``link_mib_per_second``: of its uplink, each way.
    """

    name: HostName
    count: Annotated[int, Field(ge=1, le=_MOST_HOSTS)] | None = None
    cpus: Annotated[int, Field(ge=1, le=8192)]
    memory_gib: _Gib
    link_mib_per_second: Annotated[float, Field(gt=0, le=1e6)] | None = 1192.0
    own_cores: Cores = 0.0
    own_memory_gib: Annotated[float, Field(ge=0, le=2**20)] = 0.0
    labels: dict[str, str] = Field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        return _numbered(self.name, self.count)


class DomainEntry(Section):
    """One domain, or ``count`` of them, numbered from 1. ``hosts``: names or shell patterns of hosts, taken in turn.

    ``guest``: ``elastic`` does later what it cannot do now, ``fixed_rate`` loses it. ``noise_ratio``: how far the load
    of each step is off, and ``spread_ratio`` how far domains and seeds differ in size, as standard deviations.
    ``load``: shapes that add up.
    """

    name: _Name
    count: Annotated[int, Field(ge=1, le=_MOST_DOMAINS)] | None = None
    hosts: Annotated[tuple[_Name, ...], AfterValidator(_not_empty)] = ("*",)
    vcpus: Annotated[int, Field(ge=1, le=8192)] = 2
    memory_gib: _Gib = 4.0
    guest: Literal["elastic", "fixed_rate"] = "elastic"
    dirty_mib_per_second: _Rate = 0.0
    rx_mib_per_second: _Rate = 0.0
    tx_mib_per_second: _Rate = 0.0
    noise_ratio: Annotated[float, Field(ge=0, le=10)] = 0.0
    spread_ratio: Annotated[float, Field(ge=0, le=3)] = 0.0
    load: Annotated[tuple[Shape, ...], BeforeValidator(_several), AfterValidator(_not_empty)]

    @property
    def names(self) -> tuple[str, ...]:
        return _numbered(self.name, self.count)


class _Event(Section):
    """What happens from ``at_minutes`` on, for good or for ``for_minutes``."""

    at_minutes: Minutes = 0.0
    for_minutes: LongMinutes | None = None

    def lasts(self, minutes: float) -> bool:
        """Whether it is in force at this time."""
        return self.at_minutes <= minutes and (self.for_minutes is None or minutes < self.at_minutes + self.for_minutes)


class HostDown(_Event):
    """The host fails with its domains, which run again when it is back."""

    event: Literal["host_down"]
    host: _Name


class NoFigures(_Event):
    """The host runs, and Prometheus has no figures of it."""

    event: Literal["no_figures"]
    host: _Name


class Drain(_Event):
    """A person orders a drain, and after ``for_minutes`` its end."""

    event: Literal["drain"]
    host: _Name


class HostLoad(_Event):
    """Programs of the host's own use ``cores``."""

    event: Literal["overload"]
    host: _Name
    cores: Cores


class MigrationsFail(_Event):
    """Migrations of ``domain`` to the host ``to`` (shell patterns) break half way."""

    event: Literal["migrations_fail"]
    domain: _Name = "*"
    to: _Name = "*"


class Stopped(_Event):
    """A person stops the domain, and starts it on its first host after ``for_minutes``."""

    event: Literal["stopped"]
    domain: _Name


class Migrated(_Event):
    """A person migrates the domain, if the balancer has not moved it."""

    event: Literal["migrated"]
    domain: _Name
    to: _Name


ScenarioEvent = Annotated[
    HostDown | NoFigures | Drain | HostLoad | MigrationsFail | Stopped | Migrated, Field(discriminator="event")
]


class Settings(Section):
    """The configuration of the balancer, as far as it matters here: the sections of virtpoise.yml. It acts."""

    interval_seconds: Annotated[float, Field(ge=0.1, le=86400)] = 10.0
    scrape_interval_seconds: Seconds | None = None
    policy: Annotated[Policy, AfterValidator(consistent_policy)] = Policy()
    migration: Migration = Migration()
    measurement: Measurement = Measurement()

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        if self.scrape_interval_seconds is not None and self.scrape_interval_seconds > self.interval_seconds:
            raise inconsistent([f"scrape_interval_seconds: expected at most the interval ({self.interval_seconds:g})"])
        return self

    @property
    def config(self) -> Config:
        return Config(
            prometheus=Prometheus(scrape_interval_seconds=self.scrape_interval_seconds),
            interval_seconds=self.interval_seconds,
            policy=self.policy,
            migration=self.migration,
            measurement=self.measurement,
        )


class Scenario(Section):
    """A simulation: hosts, domains, events and what is expected.

    ``about``: what it shows. ``seeds``: how often it is played, with the seeds 1, 2 and so on; figures add up.
    """

    name: _Name
    about: str = ""
    duration_minutes: LongMinutes
    seeds: Annotated[int, Field(ge=1, le=10_000)] = 1
    config: Settings = Settings()
    hosts: Annotated[tuple[HostEntry, ...], AfterValidator(_not_empty)]
    domains: tuple[DomainEntry, ...] = ()
    events: tuple[ScenarioEvent, ...] = ()
    expect: Expectations = Expectations()

    @property
    def host_names(self) -> tuple[str, ...]:
        return tuple(name for one in self.hosts for name in one.names)

    @property
    def domain_names(self) -> tuple[str, ...]:
        return tuple(name for one in self.domains for name in one.names)

    @property
    def steps(self) -> int:
        return max(round(self.duration_minutes * 60 / self.config.interval_seconds), 1)

    @model_validator(mode="after")
    def _consistent(self) -> Scenario:
        found = [*self._problems()]
        if found:
            raise inconsistent(found)
        return self

    def _problems(self) -> Iterator[str]:
        """A line for each part that contradicts another."""
        if (numbers := self.steps * max(len(self.domain_names), 1)) > _MOST_NUMBERS:
            yield (
                f"duration_minutes: expected at most {_MOST_NUMBERS} steps of all domains together, got {numbers}: "
                "fewer domains, less time, or a longer config.interval_seconds"
            )
        hosts, domains, step_minutes = self.host_names, self.domain_names, self.config.interval_seconds / 60
        yield from _twice("hosts", self.hosts)
        yield from _twice("domains", self.domains)
        for number, entry in enumerate(self.domains):
            for at, pattern in enumerate(entry.hosts):
                if not any(fnmatchcase(host, pattern) for host in hosts):
                    yield f"domains.{number}.hosts.{at}: expected one of the hosts or a pattern of them, got {pattern!r}"
            for at, load in enumerate(entry.load):
                if isinstance(load, Spike) and load.every_minutes < step_minutes:
                    yield f"domains.{number}.load.{at}.every_minutes: expected at least a step ({step_minutes:g})"
        for number, event in enumerate(self.events):
            if event.at_minutes >= self.duration_minutes:
                yield f"events.{number}.at_minutes: expected less than duration_minutes ({self.duration_minutes:g})"
            named = {"host": hosts}
            if isinstance(event, Migrated):
                named |= {"to": hosts}
            if isinstance(event, Migrated | Stopped):
                named |= {"domain": domains}
            for field, known in named.items():
                value = getattr(event, field, None)
                if value is not None and value not in known:
                    yield f"events.{number}.{field}: expected the name of a {_KINDS[field]}, got {value!r}"


_KINDS = {"host": "host", "to": "host", "domain": "domain"}


def _numbered(name: str, count: int | None) -> tuple[str, ...]:
    return (name,) if count is None else tuple(f"{name}{number}" for number in range(1, count + 1))


def _twice(field: str, entries: Sequence[HostEntry | DomainEntry]) -> Iterator[str]:
    seen: set[str] = set()
    for number, entry in enumerate(entries):
        if again := next((name for name in entry.names if name in seen), None):
            yield f"{field}.{number}.name: expected each name once, got {again!r} again"
        seen.update(entry.names)


def read_scenario(path: Path) -> Scenario:
    """The scenario in the file; BadInput names the file and each field that is not as expected."""
    values, mistakes = read_values(path, "keys such as `hosts:`")
    try:
        scenario = Scenario.model_validate(values)
    except ValidationError as error:
        raise BadInput.of(str(path), [*mistakes, *problems(error)]) from None
    if mistakes:
        raise BadInput.of(str(path), mistakes)
    return scenario
