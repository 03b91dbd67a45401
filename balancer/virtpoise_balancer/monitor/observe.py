"""Builds the Snapshot of one moment from Prometheus.

Prometheus is not trusted (law 3): each sample's labels, finiteness, range and age are checked. A host whose figures are
missing, stale or out of range is listed as unknown, so that nothing is moved from or to it; a domain whose figures are
missing is listed, but not as running, so that it counts and stays.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import partial

from virtpoise_balancer.clock import SYSTEM, Clock
from virtpoise_balancer.errors import ClockError, MonitorError
from virtpoise_balancer.model import (
    MOST_BYTES,
    MOST_CPUS,
    NO_FIGURES,
    RATIO_TOLERANCE,
    Host,
    HostState,
    HugePages,
    SampleTimes,
    Snapshot,
    Unknown,
    check_consistent,
)
from virtpoise_balancer.monitor import doubt
from virtpoise_balancer.monitor.client import PrometheusClient, QueryAnswer, Series
from virtpoise_balancer.monitor.domain_figures import page_bytes, read_domains
from virtpoise_balancer.monitor.queries import (
    DEAREST,
    OF_THE_PAST,
    QUERIES,
    Ranges,
    narrowed,
    render,
)
from virtpoise_balancer.monitor.remembered import Remembered
from virtpoise_balancer.monitor.replica import of_one_replica, without
from virtpoise_balancer.monitor.sources import SOURCES, MetricsSource, SourceName
from virtpoise_balancer.monitor.targets import AdmittedTargets, RefusedTargets, host_of, labels_of

# How many samples a window has: enough for N and, after a restart, for a dip during a penalty.
_READINGS = 30
# The queries that return a window of samples, one a step.
_WINDOWS = ("host_cpu_ratio", "host_memory_ratio", "host_rx_ratio", "host_tx_ratio")
# How long a time, and how many hosts, one query for loads in the past covers.
_LONGEST_SECONDS = 3600.0
_MOST_HOSTS = 200
# How far this machine's clock and that of Prometheus may be apart.
_MOST_APART_SCRAPES = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """A snapshot and what goes with it.

    ``age_seconds``: of the newest sample of any host; None without any. ``warnings``: Prometheus' own. ``duplicates``:
    the hosts of domains that are seen running twice, by uuid. ``refused``: targets that are not hosts. ``gaps``: what
    the exporters do not report.
    """

    snapshot: Snapshot
    age_seconds: float | None
    warnings: tuple[str, ...] = ()
    duplicates: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    refused: RefusedTargets = field(default_factory=RefusedTargets)
    gaps: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HostWindow:
    """A host, and the time (Unix seconds) whose load samples are wanted."""

    host: str
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Loads:
    """The load samples in windows, as (Unix seconds, ratio), and what Prometheus warned of.

    A window without an entry was not answered; one of a host that is not known has no samples.
    """

    samples: Mapping[HostWindow, tuple[tuple[float, float], ...]]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Observer:
    """Looks at the group. ``step_seconds``: between two readings. ``consecutive``: the N that domains' figures are
    averaged over.

    ``source``: the exporters that are asked; ``queries``: the configuration's own, by name. ``matchers``: PromQL label
    matchers of the targets to look at. ``admits``: whether a target of this name may be a host. ``replica_label``: the
    label by which several Prometheus servers that scrape the same targets differ, if it is in their series.
    """

    client: PrometheusClient
    step_seconds: float
    scrape_interval_seconds: float
    consecutive: int
    saturation_ratio: float
    queries: Mapping[str, str]
    matchers: str
    admits: Callable[[str], bool]
    source: MetricsSource = SOURCES[SourceName.VIRTPOISE]
    replica_label: str | None = None
    clock: Clock = SYSTEM
    _remembered: Remembered = field(init=False, repr=False, compare=False, default_factory=Remembered)

    @property
    def ranges(self) -> Ranges:
        return Ranges.of(
            step_seconds=self.step_seconds,
            scrape_interval_seconds=self.scrape_interval_seconds,
            consecutive=self.consecutive,
            saturation_ratio=self.saturation_ratio,
        )

    @property
    def sample_times(self) -> SampleTimes:
        """Of each look. A sample may reach back before its step, since ``rate()`` needs two scrapes."""
        return SampleTimes(
            step_seconds=self.step_seconds,
            reach_back_seconds=self.ranges.reading - self.step_seconds,
            samples=max(_READINGS, self.consecutive),
        )

    def _queries(self, names: Iterable[str], matchers: str) -> dict[str, str]:
        """The queries of these names for the targets with these matchers. One that has no answer is left out."""
        asked = {**self.source.queries, **self.queries}
        return {name: render(asked[name], self.ranges, matchers) for name in names if name in asked}

    def _of_one_replica(self, at: float) -> str:
        """The matchers of the targets, at most those of one replica. MonitorError."""
        if not self.replica_label:
            return self.matchers
        (times,) = self._queries(["host_sample_time"], self.matchers).values()
        return of_one_replica(self.client, self.replica_label, self.matchers, times, at - self.ranges.stale, at)

    def observe(self, now: float) -> Observation:
        """The group at ``now``; readings lie on the grid of whole steps, so every balancer sees the same ones.
        MonitorError.

        ClockError where ``now`` is not what Prometheus' own clock shows.
        """
        return self._look(now, None)

    def observe_hosts(self, hosts: Collection[str], now: float) -> Observation:
        """The same of these hosts and their domains alone. MonitorError."""
        return self._look(now, hosts)

    def members(self, now: float) -> frozenset[str]:
        """The names of all hosts that the matchers and the configuration let in. MonitorError."""
        at = math.floor(now / self.step_seconds) * self.step_seconds
        (query,) = self._queries(["host_cpus"], self._of_one_replica(at)).values()
        answer = self.client.instant(query, at)
        return frozenset(map(host_of, AdmittedTargets(self.admits).of_hosts(answer.series)))

    def _look(self, now: float, hosts: Collection[str] | None) -> Observation:
        """``hosts``: None for all."""
        self._check_clock(now)
        at = math.floor(now / self.step_seconds) * self.step_seconds
        start = at - (self.sample_times.samples - 1) * self.step_seconds
        targets = AdmittedTargets(self.admits)
        of_all = self._of_one_replica(at)
        matchers = of_all if hosts is None else narrowed(of_all, hosts)
        instants = self._queries((name for name in QUERIES if name not in _WINDOWS), matchers)
        readings = self._queries(_WINDOWS, matchers)
        if hosts is None:
            asks: dict[str, Callable[[], QueryAnswer]] = {
                name: partial(self.client.instant, query, at) for name, query in instants.items()
            }
            step = math.floor(at / self.ranges.resolution)
            for name in OF_THE_PAST:
                if name in asks and name not in self.queries:  # one of the configuration's own may tell of any time
                    asks[name] = partial(self._remembered.answer, name, step, asks[name])
            for name, query in readings.items():
                asks[name] = partial(self.client.range, query, start, at, self.step_seconds)
            answered = self.client.side_by_side(
                {name: asks[name] for name in dict.fromkeys((*DEAREST, *asks)) if name in asks}
            )
            found = {name: answered[name] for name in asks}
        else:
            found = self.client.instant_each(instants, at)
            found |= self.client.range_each(readings, start, at, self.step_seconds)
        answers: dict[str, Sequence[Series]] = dict.fromkeys(QUERIES, ())
        answers |= {name: targets.of_hosts(answer.series) for name, answer in found.items()}
        if hosts is not None:
            answers = {name: [one for one in series if host_of(one) in hosts] for name, series in answers.items()}
        windows = {name: _trailing(answers[name], at, self.step_seconds) for name in _WINDOWS}
        answers["host_cpus"] = [without(self.replica_label, one) for one in answers["host_cpus"]]
        seen, age = _hosts(answers, windows, at, self.ranges.stale, self.source.foreign | self.queries.keys())
        domains, duplicates = read_domains(answers, seen)
        snapshot = Snapshot(time=at, step_seconds=self.step_seconds, hosts=tuple(seen.values()), domains=tuple(domains))
        check_consistent(snapshot)
        return Observation(
            snapshot=snapshot,
            age_seconds=age,
            warnings=tuple(dict.fromkeys(warning for answer in found.values() for warning in answer.warnings)),
            duplicates=duplicates,
            refused=targets.refused,
            gaps=tuple(self.source.gaps(self.queries)),
        )

    def _check_clock(self, now: float) -> None:
        asked = self.clock.monotonic()
        theirs = self.client.time()
        took = self.clock.monotonic() - asked
        bound = _MOST_APART_SCRAPES * self.scrape_interval_seconds
        if now - bound <= theirs <= now + took + bound:
            return
        apart = f"{abs(theirs - now):.0f} s {'behind' if theirs > now else 'ahead of'}"
        raise ClockError(
            f"this machine's clock is {apart} that of Prometheus at {self.client.url}, so no figure can be dated"
        )

    def loads(self, windows: Collection[HostWindow]) -> Loads:
        """The readings of the hosts in their windows, without those that are out of range: one query for all that lie
        near each other. MonitorError when none can be had.
        """
        samples: dict[HostWindow, tuple[tuple[float, float], ...]] = {}
        warnings: list[str] = []
        failure: MonitorError | None = None
        for near in _near(windows):
            try:
                answer = self._readings(near)
            except MonitorError as error:
                failure = error
                continue
            warnings += answer.warnings
            of_hosts = AdmittedTargets(self.admits).of_hosts(answer.series)
            samples |= {one: _within_window(of_hosts, one) for one in near}
        if failure and not samples:
            raise failure
        return Loads(samples, tuple(dict.fromkeys(warnings)))

    def _readings(self, windows: Sequence[HostWindow]) -> QueryAnswer:
        """The loads of all hosts of the windows, from the first beginning to the last end."""
        first = math.ceil(min(one.start for one in windows) / self.step_seconds) * self.step_seconds
        last = max(first, *(one.end for one in windows))
        matchers = narrowed(self._of_one_replica(last), {one.host for one in windows})
        (query,) = self._queries(["host_cpu_ratio"], matchers).values()
        return self.client.range(query, first, last, self.step_seconds)


def _within_window(readings: Sequence[Series], window: HostWindow) -> tuple[tuple[float, float], ...]:
    """The host's readings in its window. None where two targets of its name have some there: one may be another's."""
    of_targets = [
        [(at, max(ratio, 0.0)) for at, ratio in series.samples if window.start <= at <= window.end and _is_ratio(ratio)]
        for series in readings
        if host_of(series) == window.host
    ]
    found = [samples for samples in of_targets if samples]
    return tuple(found[0]) if len(found) == 1 else ()


def _near(windows: Collection[HostWindow]) -> list[list[HostWindow]]:
    """The windows in groups that one query can answer."""
    groups: list[list[HostWindow]] = []
    for one in sorted(windows, key=lambda window: (window.start, window.host)):
        if not groups or one.end - groups[-1][0].start > _LONGEST_SECONDS or len(groups[-1]) == _MOST_HOSTS:
            groups.append([])
        groups[-1].append(one)
    return groups


def _by_host(answer: Sequence[Series]) -> dict[str, float]:
    return {host_of(series): series.value for series in answer}


def _trailing(readings: Sequence[Series], at: float, step: float) -> dict[str, tuple[float, ...]]:
    """By host, the readings that end at ``at`` without a gap or a figure out of range, oldest first."""
    trailing: dict[str, tuple[float, ...]] = {}
    for series in readings:
        run: list[float] = []
        for back, (at_step, ratio) in enumerate(reversed(series.samples)):
            if abs(at_step - (at - back * step)) > step / 2 or not _is_ratio(ratio):
                break
            run.append(max(ratio, 0.0))
        name = host_of(series)
        if len(run) >= len(trailing.get(name, ())):  # of a target that went, what it was is over
            trailing[name] = tuple(reversed(run))
    return trailing


def _is_ratio(value: float) -> bool:
    return 1 - RATIO_TOLERANCE <= value <= RATIO_TOLERANCE


def _hosts(
    answers: Mapping[str, Sequence[Series]],
    windows: Mapping[str, Mapping[str, tuple[float, ...]]],
    at: float,
    stale_seconds: float,
    replaced: AbstractSet[str],
) -> tuple[dict[str, Host], float | None]:
    """The hosts by name, and the age of the newest sample of any, also of one that is too old to act on.

    ``replaced``: the queries that another exporter answers.
    """
    cpus, memory, sampled, available, speed, uplink = (
        _by_host(answers[name])
        for name in (
            "host_cpus",
            "host_memory_bytes",
            "host_sample_time",
            "host_memory_available_bytes",
            "host_cpu_speed",
            "host_uplink_bytes_per_second",
        )
    )
    targets = doubt.targets_by_host(answers, at, stale_seconds, replaced)
    copies = doubt.copies_by_host(answers["host_sample_time"], at, stale_seconds)
    lists = doubt.lists_by_host(answers)
    hugepages = _hugepages_free(answers["host_hugepages_free"])
    of_target = {host_of(series): series for series in answers["host_cpus"]}
    labels = {name: labels_of(series) for name, series in of_target.items()}
    readings, memory_readings, rx, tx = (windows[name] for name in _WINDOWS)
    hosts: dict[str, Host] = {}
    ages: list[float] = []
    for name in sorted(cpus.keys() | memory.keys()):
        age = at - sampled.get(name, -math.inf)
        if math.isfinite(age):
            ages.append(age)
        figures = doubt.Figures(
            cpus=cpus.get(name),
            cpu_speed=speed.get(name),
            memory_bytes=memory.get(name),
            available_bytes=available.get(name),
            uplink_bytes_per_second=uplink.get(name),
        )
        unknown = (
            doubt.of_targets(targets.get(name, frozenset()))
            or copies.get(name)
            or doubt.of_age(age, stale_seconds)
            or doubt.of_lists(lists.get(name, doubt.NOTHING_LISTED), replaced)
            or doubt.of_figures(figures)
            or doubt.of_labels(of_target[name].labels)
            or (None if readings.get(name) else NO_FIGURES)
        )
        hosts[name] = (
            _unknown(name, unknown, figures, labels.get(name, {}))
            if unknown
            else Host(
                name=name,
                cpus=int(cpus[name]),
                cpu_speed=speed.get(name, 1.0),
                cpu_ratio=readings[name],
                memory_bytes=int(memory[name]),
                memory_used_bytes=int(memory[name]) - int(available[name]),
                hugepages_free=hugepages.get(name, ()),
                rx_ratio=rx[name][-1] if rx.get(name) else None,
                tx_ratio=tx[name][-1] if tx.get(name) else None,
                memory_ratio_window=memory_readings.get(name, ()),
                rx_ratio_window=rx.get(name, ()),
                tx_ratio_window=tx.get(name, ()),
                uplink_bytes_per_second=uplink.get(name) or None,
                labels=labels.get(name, {}),
            )
        )
    return hosts, min(ages, default=None)


def _hugepages_free(answer: Sequence[Series]) -> dict[str, tuple[HugePages, ...]]:
    """By host, what is free in its static huge pages."""
    found: dict[str, list[HugePages]] = {}
    for series in answer:
        size = page_bytes(series)
        if size is not None and 0 <= series.value * size <= MOST_BYTES:
            pages = HugePages(page_bytes=size, memory_bytes=int(series.value) * size)
            found.setdefault(host_of(series), []).append(pages)
    return {host: tuple(sorted(pages, key=lambda one: one.page_bytes)) for host, pages in found.items()}


def _unknown(name: str, unknown: Unknown, figures: doubt.Figures, labels: Mapping[str, str]) -> Host:
    """An unknown host, with its size where that figure can be right."""
    return Host(
        name=name,
        state=HostState.UNKNOWN,
        unknown=unknown,
        cpus=_within(figures.cpus, MOST_CPUS),
        memory_bytes=_within(figures.memory_bytes, MOST_BYTES),
        labels=labels,
    )


def _within(value: float | None, most: int) -> int:
    return int(value) if value is not None and 1 <= value <= most else 1
