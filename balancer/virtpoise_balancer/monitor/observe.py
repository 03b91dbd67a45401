"""Builds the Snapshot of one moment from Prometheus.

Prometheus is not trusted (law 3): each sample's labels, finiteness, range and age are checked. A host whose figures are
missing, stale or out of range is listed as unknown, so that nothing is moved from or to it; a domain whose figures are
missing is listed, but not as running, so that it counts and stays.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from virtpoise_balancer.analyse.habits import Readings
from virtpoise_balancer.clock import SYSTEM, Clock
from virtpoise_balancer.errors import ClockError, MonitorError
from virtpoise_balancer.garbage import no_collections
from virtpoise_balancer.model import (
    SampleTimes,
    Snapshot,
    check_consistent,
)
from virtpoise_balancer.monitor.answers import FIGURES, Extract, Keeper, by_device, uplink_figures
from virtpoise_balancer.monitor.client import PrometheusClient, QueryAnswer
from virtpoise_balancer.monitor.domain_figures import nameable, read_domains
from virtpoise_balancer.monitor.host_figures import WINDOWS, is_ratio, read_hosts, trailing
from virtpoise_balancer.monitor.past import past_readings
from virtpoise_balancer.monitor.queries import (
    BY_UPLINK,
    DEAREST,
    OF_THE_PAST,
    QUERIES,
    SATURATED_LATELY,
    Ranges,
    made_of_others,
    narrowed,
    of_the_past,
    render,
)
from virtpoise_balancer.monitor.recent import RecentSamples, Runs, Tail
from virtpoise_balancer.monitor.remembered import Remembered
from virtpoise_balancer.monitor.replica import of_one_replica, without
from virtpoise_balancer.monitor.replies import Series
from virtpoise_balancer.monitor.sources import SOURCES, MetricsSource, SourceName
from virtpoise_balancer.monitor.targets import AdmittedTargets, RefusedTargets, host_of

# How many samples a look takes, at least: enough for N and, after a restart, for a dip during a penalty.
LEAST_SAMPLES = 30
# How long a time, and how many hosts, one query for loads in the past covers.
_LONGEST_SECONDS = 3600.0
_MOST_HOSTS = 200
# How far this machine's clock and that of Prometheus may be apart.
_MOST_APART_SCRAPES = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """A snapshot and what goes with it.

    ``age_seconds``: of the newest sample of any host; None without any. ``warnings``: Prometheus' own. ``duplicates``:
    the hosts of domains that are seen running twice, by uuid; a cycle leaves out those whose migration of ours the
    samples need not show yet. ``refused``: targets that are not hosts. ``gaps``: what
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
class MeasuredLoads:
    """The load samples in windows, as (Unix seconds, ratio), and what Prometheus warned of.

    A window without an entry was not answered; one of a host that is not known has no samples.
    """

    samples: Mapping[HostWindow, tuple[tuple[float, float], ...]]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Observer:
    """Looks at the group. ``step_seconds``: between two samples. ``consecutive``: the N that domains' figures are
    averaged over.

    ``source``: the exporters that are asked; ``queries``: the configuration's own, by name. ``matchers``: PromQL label
    matchers of the targets to look at. ``admits``: whether a target of this name may be a host.
    ``delay_seconds``: how much earlier than now a look is, since some servers show samples late. ``replica_label``: the
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
    delay_seconds: float = 0.0
    replica_label: str | None = None
    clock: Clock = SYSTEM
    _recent: RecentSamples = field(init=False, repr=False, compare=False, default_factory=RecentSamples)
    _remembered: Remembered[Extract] = field(init=False, repr=False, compare=False, default_factory=Remembered)

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
        """The times of the samples that each look takes.

        A sample may reach back before its step, since ``rate()`` needs two scrapes.
        """
        return SampleTimes(
            step_seconds=self.step_seconds,
            reach_back_seconds=self.ranges.reading - self.step_seconds,
            samples=max(LEAST_SAMPLES, self.consecutive),
            delay_seconds=self.delay_seconds,
        )

    def _at(self, now: float) -> float:
        """The time (Unix seconds) at which all queries of a look at ``now`` are evaluated."""
        return math.floor((now - self.delay_seconds) / self.step_seconds) * self.step_seconds

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

    @property
    def _replaced(self) -> frozenset[str]:
        """The queries that are not those for virtpoise's exporter."""
        return self.source.foreign | self.queries.keys()

    def observe(self, now: float) -> Observation:
        """The group at ``now``, or the delay before it; samples lie on the grid of whole steps, so every balancer sees
        the same ones. MonitorError.

        ClockError where ``now`` is not what Prometheus' own clock shows.
        """
        with no_collections():
            return self._look(now, None)

    def observe_hosts(self, hosts: Collection[str], now: float) -> Observation:
        """What is observed of these hosts and their domains alone. MonitorError when Prometheus cannot be asked."""
        return self._look(now, hosts)

    def members(self, now: float) -> frozenset[str]:
        """The names of all hosts that the matchers and the configuration let in. MonitorError."""
        at = self._at(now)
        (query,) = self._queries(["host_cpus"], self._of_one_replica(at)).values()
        answer = self.client.instant(query, at)
        return frozenset(map(host_of, AdmittedTargets(self.admits).of_hosts(answer.series)))

    def _look(self, now: float, hosts: Collection[str] | None) -> Observation:
        """The snapshot of these hosts (None: of all), and what was wrong with the answers."""
        self._check_clock(now)
        at = self._at(now)
        targets = AdmittedTargets(self.admits)
        of_all = self._of_one_replica(at)
        matchers = of_all if hosts is None else narrowed(of_all, hosts)
        tails = self._tails(matchers, at, remember=hosts is None)
        found = self._kept(hosts, matchers, at, tails, Keeper(targets))
        answers: dict[str, Sequence[Series]] = dict.fromkeys(QUERIES, ())
        answers |= {name: kept.series for name, kept in found.items()}
        answers["host_cpus"] = [without(self.replica_label, one) for one in answers["host_cpus"]]
        answers["domain_running"] = nameable(answers["domain_running"])
        windows: dict[str, Runs] = {name: trailing(answers[name], at, self.step_seconds) for name in WINDOWS}
        for name, tail in tails.items():
            windows[name] = tail.joined(windows[name], self.sample_times.samples)
            if hosts is None and not found[name].warnings:
                self._recent.keep(name, tail, windows[name])
        seen, age = read_hosts(answers, windows, at, self.ranges.stale, self._replaced)
        figures = {name: found[name].figures if name in found else {} for name in FIGURES - set(BY_UPLINK.values())}
        speeds = by_device(answers["host_uplink_bytes_per_second"], targets.names)
        for name, part in BY_UPLINK.items():
            figures[name], ratios = uplink_figures(found.get(name, Extract()).traffic, speeds)
            figures[part] = found[part].figures if part in found else ratios
        domains, duplicates = read_domains(answers, figures, seen)
        snapshot = Snapshot(time=at, step_seconds=self.step_seconds, hosts=tuple(seen.values()), domains=tuple(domains))
        check_consistent(snapshot)
        return Observation(
            snapshot=snapshot,
            age_seconds=age,
            warnings=tuple(dict.fromkeys(warning for kept in found.values() for warning in kept.warnings)),
            duplicates=duplicates,
            refused=targets.refused,
            gaps=tuple(self.source.gaps(self.queries)),
        )

    def _tails(self, matchers: str, at: float, *, remember: bool) -> dict[str, Tail]:
        """Which samples to query, by the name of their query. Not ``remember``: all of them."""
        samples, step = self.sample_times.samples, round(at / self.step_seconds)
        return {
            name: self._recent.tail(name, query, step, samples)
            if remember and name not in self.queries  # one of the configuration's own may tell of any time
            else Tail(query=query, step=step, asked=samples, before=None)
            for name, query in self._queries(WINDOWS, matchers).items()
        }

    def _kept(
        self, hosts: Collection[str] | None, matchers: str, at: float, tails: Mapping[str, Tail], keeper: Keeper
    ) -> dict[str, Extract]:
        """What is kept of the answer to each query, by its name. ``hosts``: None for all."""
        needed = [name for name in QUERIES if name not in made_of_others(self._replaced)]
        instants = self._queries((name for name in needed if name not in WINDOWS), matchers)
        if hosts is not None:
            start = at - (self.sample_times.samples - 1) * self.step_seconds
            found = self.client.instant_each(instants, at)
            windowed = {name: tail.query for name, tail in tails.items()}
            found |= self.client.range_each(windowed, start, at, self.step_seconds)
            return {name: keeper.keep(name, answer).of(hosts) for name, answer in found.items()}

        def ask(name: str) -> Extract:
            if tail := tails.get(name):
                start = at - (tail.asked - 1) * self.step_seconds
                return keeper.keep(name, self.client.range(tail.query, start, at, self.step_seconds))
            if name in OF_THE_PAST and name not in self._replaced:
                return keeper.keep(name, self._past(name, at, step, matchers, keeper))
            return keeper.keep(name, self.client.instant(instants[name], at))

        def of_look(name: str) -> Extract:
            if name in OF_THE_PAST and name not in self.queries:  # one of the configuration's own may tell of any time
                return self._remembered.answer(name, step, lambda: ask(name))
            return ask(name)

        step = math.floor(at / self.ranges.resolution)
        asked = [name for name in needed if name in instants or name in tails]
        dearest_first = dict.fromkeys((*(name for name in DEAREST if name in asked), *asked))
        answered = self.client.side_by_side({name: partial(of_look, name) for name in dearest_first})
        return {name: answered[name] for name in asked}

    def _past(self, name: str, at: float, step: int, matchers: str, keeper: Keeper) -> QueryAnswer:
        """A mean over the recent past of all domains."""

        def ask() -> Extract:
            return keeper.keep("", self.client.instant(render(SATURATED_LATELY, self.ranges, matchers), at))

        lately = self._remembered.answer("", step, ask)
        saturated = {one.labels["instance"] for one in lately.series}
        answer = self.client.instant(of_the_past(name, sorted(saturated), self.ranges, matchers), at)
        return replace(answer, warnings=(*lately.warnings, *answer.warnings))

    def _check_clock(self, now: float) -> None:
        asked = self.clock.monotonic()
        theirs = self.client.time()
        took = self.clock.monotonic() - asked
        bound = _MOST_APART_SCRAPES * self.scrape_interval_seconds
        # VictoriaMetrics evaluates a query of no time at an earlier one.
        if now - bound - self.delay_seconds <= theirs <= now + took + bound:
            return
        apart = f"{abs(theirs - now):.0f} s {'behind' if theirs > now else 'ahead of'}"
        raise ClockError(
            f"this machine's clock is {apart} that of Prometheus at {self.client.url}, so no figure can be dated"
        )

    def loads(self, windows: Collection[HostWindow]) -> MeasuredLoads:
        """The samples of the hosts in their windows, without those that are out of range: one query for all that lie
        near each other. MonitorError when none can be had.
        """
        samples: dict[HostWindow, tuple[tuple[float, float], ...]] = {}
        warnings: list[str] = []
        failure: MonitorError | None = None
        for near in _near(windows):
            try:
                answer = self._samples_in(near)
            except MonitorError as error:
                failure = error
                continue
            warnings += answer.warnings
            of_hosts = AdmittedTargets(self.admits).of_hosts(answer.series)
            samples |= {one: _within_window(of_hosts, one) for one in near}
        if failure and not samples:
            raise failure
        return MeasuredLoads(samples, tuple(dict.fromkeys(warnings)))

    def past(self, seen: Snapshot, since: float) -> Iterator[tuple[float, Readings]]:
        """What the domains of a look used before it, oldest first, with the time of each reading (Unix seconds).

        ``since``: what is older is not asked for. MonitorError.
        """
        (query,) = self._queries(["domain_cpu_cores"], self._of_one_replica(seen.time)).values()
        targets = AdmittedTargets(self.admits)

        def ask(start: float, end: float, every: float) -> list[Series]:
            return targets.of_hosts(self.client.range(query, start, end, every).series)

        return past_readings(ask, seen, since, self.consecutive * self.step_seconds)

    def _samples_in(self, windows: Sequence[HostWindow]) -> QueryAnswer:
        """The loads of all hosts of the windows, from the first beginning to the last end."""
        first = math.ceil(min(one.start for one in windows) / self.step_seconds) * self.step_seconds
        last = max(first, *(one.end for one in windows))
        matchers = narrowed(self._of_one_replica(last), {one.host for one in windows})
        (query,) = self._queries(["host_cpu_ratio"], matchers).values()
        return self.client.range(query, first, last, self.step_seconds)


def _within_window(answer: Sequence[Series], window: HostWindow) -> tuple[tuple[float, float], ...]:
    """The host's samples in its window. None where two targets of its name have some there: one may be another's."""
    of_targets = [
        [(at, max(ratio, 0.0)) for at, ratio in series.samples if window.start <= at <= window.end and is_ratio(ratio)]
        for series in answer
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
