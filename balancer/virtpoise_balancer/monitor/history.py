"""Reads the past of a group from Prometheus, part by part, with the balancer's own queries.

What comes of it is arrays: what each domain ran and waited for, where, and how busy its host was. As everywhere,
labels, finiteness and range of each sample are checked, and what is missing stays missing (NaN).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated

import numpy as np
from annotated_types import Ge, Gt, Le, MinLen
from numpy.typing import NDArray

from virtpoise_balancer.analyse.demand import Floats
from virtpoise_balancer.errors import BadInput
from virtpoise_balancer.model import MOST_BYTES, MOST_COUNTED, MOST_CPUS, RATIO_TOLERANCE
from virtpoise_balancer.model.units import Amount, Count, Name, Speed
from virtpoise_balancer.monitor.observe import Observer
from virtpoise_balancer.monitor.queries import Ranges, render
from virtpoise_balancer.monitor.replies import MOST_SAMPLES, Series
from virtpoise_balancer.monitor.targets import AdmittedTargets, host_of

# The most samples of one reply: small against what the client takes, so that no part needs much memory.
_MOST_SAMPLES = MOST_SAMPLES // 4
_MOST_STEPS = 2000
_AT_THE_END = " @ end()"
# How often it is asked which hosts and domains there are.
_INVENTORY_SECONDS = 3600.0
_INVENTORY_STEPS = 250
# How many looks a shorter time has in all.
_SHORT_SECONDS, _LOOKS = 4 * 3600.0, 8
_SIZES = ("host_cpus", "host_memory_bytes", "host_uplink_bytes_per_second", "domain_vcpus", "domain_memory_bytes")
# How many times in a part it is asked where domains run.
_PLACES = 8
# A domain without samples for longer has stopped.
_PATIENCE_STEPS = 3
# The bounds of a recording, which may come from a stranger: the year 5138, and 38 years of minutes.
_LATEST, _MOST_STEPS_IN_ALL = 1e11, 20_000_000
# A query for the past takes longer than one for now.
_TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PastHost:
    """What does not change of a recorded host. ``link_bytes_per_second``: of its fastest uplink, None if unknown."""

    name: Name
    cpus: Count
    memory_bytes: Annotated[int, Gt(0), Le(MOST_BYTES)]
    link_bytes_per_second: Speed | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PastDomain:
    """What does not change of a recorded domain."""

    name: Name
    uuid: Name
    vcpus: Count
    memory_bytes: Annotated[int, Gt(0), Le(MOST_BYTES)]


@dataclass(frozen=True, slots=True, kw_only=True)
class PastGroup:
    """The hosts and domains that there were, in steps of ``step_seconds`` from ``start`` (Unix seconds) on.

    ``waited_ratio``: how long vCPUs waited for a CPU, against how long they ran; None where that is not recorded.
    """

    start: Annotated[float, Ge(0), Le(_LATEST)]
    step_seconds: Annotated[float, Ge(0.1), Le(3600)]
    steps: Annotated[int, Ge(0), Le(_MOST_STEPS_IN_ALL)]
    hosts: Annotated[tuple[PastHost, ...], MinLen(1)]
    domains: tuple[PastDomain, ...]
    waited_ratio: Amount | None = None


@dataclass(slots=True, kw_only=True)
class Part:
    """Some steps in a row. ``cpu_ratio`` and ``memory_ratio``: steps x hosts, NaN without figures.

    ``cores`` and ``delay``: steps x domains. ``home``: the number of each domain's host, -1 where it does not run
    (steps x domains). ``held_bytes``: each domain's memory (domains). ``left_out``: domains that are not in the
    inventory.
    """

    cpu_ratio: Floats
    memory_ratio: Floats
    cores: Floats
    delay: Floats
    home: NDArray[np.int64]
    held_bytes: Floats
    left_out: int = 0

    def __len__(self) -> int:
        return len(self.cpu_ratio)


@dataclass(slots=True)
class _Carried:
    """What is known of domains at the end of a part, for the next."""

    home: NDArray[np.int64]
    cores: Floats
    delay: Floats
    missing: NDArray[np.int64]  # for how many steps in a row


@dataclass(slots=True, kw_only=True)
class History:
    """Reads a group's past from Prometheus.

    ``observer``: has its queries, matchers and hosts. ``step_seconds``: between two figures.
    """

    observer: Observer
    step_seconds: float
    _targets: AdmittedTargets = field(init=False)

    def __post_init__(self) -> None:
        self._targets = AdmittedTargets(self.observer.admits)
        client = replace(
            self.observer.client, timeout_seconds=max(self.observer.client.timeout_seconds, _TIMEOUT_SECONDS)
        )
        self.observer = replace(self.observer, client=client)

    def _query(self, name: str) -> str | None:
        """The query in PromQL; None where the exporters have no answer to it."""
        query = {**self.observer.source.queries, **self.observer.queries}.get(name)
        if query is None:
            return None
        # A look asks which hosts there are at its end. At the end of a part no exporter may have run.
        query = query.replace(_AT_THE_END, "")
        ranges = Ranges.of(
            step_seconds=self.step_seconds,
            scrape_interval_seconds=self.observer.scrape_interval_seconds,
            consecutive=1,
            saturation_ratio=self.observer.saturation_ratio,
        )
        return render(query, ranges, self.observer.matchers)

    def _range(self, name: str, start: float, end: float, step: float) -> tuple[Series, ...]:
        query = self._query(name)
        return (
            tuple(self._targets.of_hosts(self.observer.client.range(query, start, end, step).series)) if query else ()
        )

    # --- which hosts and domains there were ---------------------------------------------------------------------------

    def inventory(self, start: float, end: float, progress: Callable[[float], None] = lambda _: None) -> PastGroup:
        """What there was in this time (Unix seconds), without the hours before and after any host was there.

        BadInput that says which series are missing.
        """
        start, end = (math.floor(at / self.step_seconds) * self.step_seconds for at in (start, end))
        every = _INVENTORY_SECONDS if end - start > _SHORT_SECONDS else max((end - start) / _LOOKS, self.step_seconds)
        found: dict[str, dict[tuple[str, str], float]] = {}
        names: dict[str, str] = {}
        times: list[float] = []
        ran, waited, has_delays = 0.0, 0.0, False
        spans = [*_spans(start, end, every * _INVENTORY_STEPS)]
        for number, (first, last) in enumerate(spans):
            for name in _SIZES:
                for one in self._range(name, first, last, every):
                    uuid = one.labels.get("uuid", "") if name.startswith("domain") else ""
                    most = found.setdefault(name, {})
                    key = (host_of(one), uuid)
                    most[key] = max(most.get(key, 0.0), *(value for _, value in one.samples))
                    times += [one.samples[0][0], one.samples[-1][0]] if name == "host_cpus" else []
            for one in self._range("domain_running", first, last, every):
                if any(value == 1 for _, value in one.samples):
                    names[one.labels.get("uuid", "")] = one.labels.get("domain", "")
            ran += _total(self._range("domain_cpu_cores", first, last, every))
            delays = self._range("domain_cpu_delay_cores", first, last, every)
            has_delays = has_delays or bool(delays)
            waited += _total(delays)
            progress((number + 1) / len(spans))
        hosts = tuple(_hosts(found))
        domains = tuple(_domains(found, names))
        self._say_what_is_missing(found, names, hosts, domains)
        start, end = max(start, min(times) - every), min(end, max(times) + every)
        return PastGroup(
            start=start,
            step_seconds=self.step_seconds,
            steps=max(int((end - start) / self.step_seconds), 0),
            hosts=hosts,
            domains=domains,
            waited_ratio=waited / max(ran, 1e-9) if has_delays else None,
        )

    def _say_what_is_missing(
        self,
        found: Mapping[str, object],
        names: Mapping[str, str],
        hosts: Sequence[PastHost],
        domains: Sequence[PastDomain],
    ) -> None:
        missing = [
            name
            for name in ("host_cpus", "host_memory_bytes", "domain_vcpus", "domain_memory_bytes")
            if name not in found
        ]
        missing += [] if names else ["domain_running"]
        if not missing and not (hosts and domains):
            missing = ["host_cpus", "domain_vcpus"]
        if missing:
            raise BadInput(
                f"prometheus: the history at {self.observer.client.url} has no series for {', '.join(missing)} "
                "(prometheus.queries, prometheus.matchers, or no exporter ran then)"
            )

    # --- what happened ------------------------------------------------------------------------------------------------

    def parts(self, inventory: PastGroup, from_step: int = 0) -> Iterator[Part]:
        """The history from a step on. MonitorError when Prometheus cannot be asked."""
        host = {one.name: number for number, one in enumerate(inventory.hosts)}
        domain = {one.uuid: number for number, one in enumerate(inventory.domains)}
        carried = _nothing(len(domain))
        length = max(min(_MOST_SAMPLES // max(len(domain), len(host), 1), _MOST_STEPS), 1)
        for first in range(from_step, inventory.steps, length):
            yield self._part(inventory, host, domain, first, min(length, inventory.steps - first), carried)

    def _part(
        self,
        inventory: PastGroup,
        host: Mapping[str, int],
        domain: Mapping[str, int],
        first: int,
        steps: int,
        carried: _Carried,
    ) -> Part:
        step = inventory.step_seconds
        start = inventory.start + (first + 1) * step  # a figure is of the step that ends then
        end = start + (steps - 1) * step

        def of_hosts(name: str) -> Floats:
            values = np.full((steps, len(host)), np.nan)
            for one in self._range(name, start, end, step):
                if (number := host.get(host_of(one))) is not None:
                    at, figures = _figures(one, start, step, steps)
                    good = (figures >= 1 - RATIO_TOLERANCE) & (figures <= RATIO_TOLERANCE)
                    values[at[good], number] = np.clip(figures[good], 0.0, 1.0)
            return values

        cpu, memory = of_hosts("host_cpu_ratio"), of_hosts("host_memory_ratio")
        idle = self._idle(start, end)
        unknown: set[str] = set()
        cores = np.full((steps, len(domain)), np.nan)
        delay = np.zeros((steps, len(domain)))
        home = np.full((steps, len(domain)), -1)
        series = self._range("domain_cpu_cores", start, end, step)
        for one in sorted(
            series, key=lambda found: (found.samples[0][0], found.samples[-1][0])
        ):  # the newest place last
            uuid, at_host = one.labels.get("uuid", ""), host.get(host_of(one))
            if uuid not in domain:
                unknown.add(uuid)
            elif at_host is not None and (host_of(one), uuid) not in idle:
                at, figures = _figures(one, start, step, steps)
                good = figures <= 2 * inventory.hosts[at_host].cpus
                cores[at[good], domain[uuid]] = np.maximum(figures[good], 0.0)
                home[at[good], domain[uuid]] = at_host
        if inventory.waited_ratio is not None:
            for one in self._range("domain_cpu_delay_cores", start, end, step):
                number, at_host = domain.get(one.labels.get("uuid", "")), host.get(host_of(one))
                if number is not None and at_host is not None:
                    at, figures = _figures(one, start, step, steps)
                    here = home[at, number] == at_host
                    delay[at[here], number] = np.clip(figures[here], 0.0, inventory.domains[number].vcpus)
        _carry(cpu, cores, delay, home, carried)
        return Part(
            cpu_ratio=cpu,
            memory_ratio=memory,
            cores=cores,
            delay=delay,
            home=home,
            held_bytes=self._held(inventory, domain, start),
            left_out=len(unknown),
        )

    def _idle(self, start: float, end: float) -> set[tuple[str, str]]:
        """Domains on hosts that list them, but never as running, by host and uuid."""
        step = max((end - start) / _PLACES, self.step_seconds)
        return {
            (host_of(one), one.labels.get("uuid", ""))
            for one in self._range("domain_running", start, end, step)
            if all(value != 1 for _, value in one.samples)
        }

    def _held(self, inventory: PastGroup, domain: Mapping[str, int], at: float) -> Floats:
        """What each domain's process holds at this time, or else its memory (domains)."""
        held = np.array([one.memory_bytes for one in inventory.domains], dtype=np.float64)
        for one in self._range("domain_memory_resident_bytes", at, at, self.step_seconds):
            number = domain.get(one.labels.get("uuid", ""))
            if number is not None and 0 < one.value <= MOST_BYTES:
                held[number] = min(one.value, held[number])
        return held


def _figures(one: Series, start: float, step: float, steps: int) -> tuple[NDArray[np.int64], Floats]:
    """The numbers of the steps that have a sample, and the samples."""
    table = np.array(one.samples, dtype=np.float64).reshape(-1, 2)
    at = np.rint((table[:, 0] - start) / step).astype(np.int64)
    inside = (at >= 0) & (at < steps)
    return at[inside], table[inside, 1]


def _total(series: Iterable[Series]) -> float:
    """The sum of all samples that are possible."""
    return sum(max(value, 0.0) for one in series for _, value in one.samples if value <= MOST_CPUS)


def _nothing(domains: int) -> _Carried:
    return _Carried(np.full(domains, -1), np.zeros(domains), np.zeros(domains), np.zeros(domains, dtype=np.int64))


def _carry(cpu: Floats, cores: Floats, delay: Floats, home: NDArray[np.int64], carried: _Carried) -> None:
    """Let a domain without a sample stay as it was while its host has no figures either, or for a few steps."""
    for step in range(len(cores)):
        gone = np.isnan(cores[step])
        was = carried.home >= 0
        dark = was & np.isnan(cpu[step])[np.maximum(carried.home, 0)]
        carried.missing = np.where(gone & ~dark, carried.missing + 1, np.where(gone, carried.missing, 0))
        stays = gone & was & (dark | (carried.missing <= _PATIENCE_STEPS))
        home[step] = np.where(stays, carried.home, home[step])
        delay[step] = np.where(stays, carried.delay, delay[step])
        cores[step] = np.where(stays, carried.cores, np.where(gone, 0.0, cores[step]))
        carried.home, carried.cores, carried.delay = home[step].copy(), cores[step].copy(), delay[step].copy()


def _spans(start: float, end: float, seconds: float) -> Iterator[tuple[float, float]]:
    at = start
    while at < end:
        yield at, min(at + seconds, end)
        at += seconds


def _hosts(found: Mapping[str, Mapping[tuple[str, str], float]]) -> Iterable[PastHost]:
    links = found.get("host_uplink_bytes_per_second", {})
    memory = found.get("host_memory_bytes", {})
    for (name, _), cpus in sorted(found.get("host_cpus", {}).items()):
        if 1 <= cpus <= MOST_CPUS and 0 < memory.get((name, ""), 0) <= MOST_BYTES:
            link = links.get((name, ""))
            yield PastHost(
                name=name, cpus=int(cpus), memory_bytes=int(memory[name, ""]), link_bytes_per_second=link or None
            )


def _domains(found: Mapping[str, Mapping[tuple[str, str], float]], names: Mapping[str, str]) -> Iterable[PastDomain]:
    """Those that ran at some time, by name."""
    vcpus, memory = (_by_uuid(found.get(name, {})) for name in ("domain_vcpus", "domain_memory_bytes"))
    for name, uuid in sorted((name, uuid) for uuid, name in names.items() if uuid and name):
        if 1 <= vcpus.get(uuid, 0) <= MOST_COUNTED and 0 < memory.get(uuid, 0) <= MOST_BYTES:
            yield PastDomain(name=name, uuid=uuid, vcpus=int(vcpus[uuid]), memory_bytes=int(memory[uuid]))


def _by_uuid(figures: Mapping[tuple[str, str], float]) -> dict[str, float]:
    found: dict[str, float] = {}
    for (_, uuid), value in figures.items():
        found[uuid] = max(value, found.get(uuid, 0.0))
    return found
