"""Looks at the simulated hosts as ``monitor.observe`` looks at real ones: the same windows, means and times."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

import numpy as np

from virtpoise_balancer.analyse.demand import Floats
from virtpoise_balancer.analyse.habits import Readings
from virtpoise_balancer.analyse.measure import spans
from virtpoise_balancer.model import (
    NO_FIGURES,
    Domain,
    DomainState,
    Host,
    HostState,
    Resource,
    SampleTimes,
    Snapshot,
)
from virtpoise_balancer.monitor.observe import LEAST_SAMPLES, HostWindow, MeasuredLoads, Observation
from virtpoise_balancer.monitor.queries import PAST_SECONDS
from virtpoise_balancer.simulate.contention import Whole
from virtpoise_balancer.simulate.script import Fleet
from virtpoise_balancer.simulate.world import StepFigures


@dataclass(slots=True, kw_only=True)
class SimulatedObserver:
    """Keeps what was measured in the last steps, and makes a snapshot of it when it is asked.

    ``blur_ratio``: how much a sample shows of the step before its own, against its own. ``reach_back_seconds``: how far
    before its step a sample reaches.
    """

    fleet: Fleet
    step_seconds: float
    consecutive: int
    saturation_ratio: float
    settle_seconds: float
    window_seconds: float
    blur_ratio: float = 0.0
    reach_back_seconds: float = 0.0
    _time: float = 0.0
    _newest: StepFigures | None = None
    _raw: Floats | None = None  # of the step before the newest
    _readings: deque[Floats] = field(init=False)  # resources x hosts, NaN where there are no figures
    _times: deque[float] = field(init=False)
    _run: deque[Floats] = field(init=False)
    _delay: deque[Floats] = field(init=False)
    _where: deque[Whole] = field(init=False)
    _calm: deque[Floats] = field(init=False)

    def __post_init__(self) -> None:
        times = self.sample_times
        window = sum(spans(self.settle_seconds, self.window_seconds, times))
        long = max(times.samples, math.ceil(window / self.step_seconds) + 2)
        past = max(math.ceil(PAST_SECONDS / self.step_seconds), self.consecutive + 1)
        self._readings, self._times = deque(maxlen=long), deque(maxlen=long)
        self._run, self._delay = deque(maxlen=past), deque(maxlen=past)
        self._where, self._calm = deque(maxlen=past), deque(maxlen=past)

    @property
    def sample_times(self) -> SampleTimes:
        return SampleTimes(
            step_seconds=self.step_seconds,
            reach_back_seconds=self.reach_back_seconds,
            samples=max(LEAST_SAMPLES, self.consecutive),
        )

    @property
    def _weights(self) -> Floats:
        """How much each of the newest steps counts for a domain's figures (steps).

        Where samples lie a step apart, the figure is the slope through those of N steps and the one before.
        """
        if not self.reach_back_seconds:
            return np.ones(self.consecutive)
        steps = np.arange(1.0, self.consecutive + 2)
        return steps * (len(steps) + 1 - steps)

    def take(self, measured: StepFigures, time: float) -> None:
        """Keep what was measured in the step that ended at ``time`` (Unix seconds)."""
        raw = np.where(measured.figures, measured.ratio, np.nan)
        before, self._raw = self._raw, raw
        blurred = raw if before is None else (raw + self.blur_ratio * before) / (1 + self.blur_ratio)
        reading = np.where(np.isnan(blurred), raw, blurred)
        reading[Resource.MEMORY.row] = raw[Resource.MEMORY.row]  # what is used now, and no rate
        calm = (reading[Resource.CPU.row] < self.saturation_ratio)[measured.at] & (measured.at >= 0)
        self._readings.append(reading)
        self._times.append(time)
        self._run.append(measured.run)
        self._delay.append(measured.delay)
        self._where.append(measured.at)
        self._calm.append(calm.astype(np.float64))
        self._newest, self._time = measured, time

    @property
    def newest(self) -> Floats:
        """The newest samples (resources x hosts), NaN where there is none."""
        return self._readings[-1]

    def readings(self) -> Readings:
        """What the running domains with figures use."""
        if self._newest is None:
            raise AssertionError("nothing was measured yet")
        counted, cores, _ = self._used()
        at = self._newest.at
        listed = np.flatnonzero((at >= 0) & self._newest.figures[at] & (counted > 0))
        return Readings(tuple(self.fleet.uuids[number] for number in listed), at[listed], cores[listed])

    def _used(self) -> tuple[Floats, Floats, Floats]:
        """In how many steps each domain was measured where it is, what it ran in them and waited (domains)."""
        newest = list(self._where)[-len(self._weights) - 1 :]
        where = np.stack(newest)
        there = where == where[-1]
        whole = there[1:] & there[:-1]  # the step in which a domain arrives is not all its own
        there = (np.concatenate((there[:1], whole)) if len(where) > 1 else there)[-len(self._weights) :]
        weights = self._weights[-len(there) :, np.newaxis] * there
        run, delay = (np.stack(list(one)[-len(there) :]) for one in (self._run, self._delay))
        return there.sum(axis=0), _mean(run, weights), _mean(delay, weights)

    def observe(self, _now: float) -> Observation:
        return Observation(snapshot=self._snapshot(None), age_seconds=0.0)

    def observe_hosts(self, hosts: Collection[str], _now: float) -> Observation:
        return Observation(snapshot=self._snapshot(hosts), age_seconds=0.0)

    def loads(self, windows: Collection[HostWindow]) -> MeasuredLoads:
        number = {name: at for at, name in enumerate(self.fleet.host_names)}
        return MeasuredLoads(
            {
                one: tuple(
                    (time, float(reading[Resource.CPU.row, number[one.host]]))
                    for time, reading in zip(self._times, self._readings, strict=True)
                    if one.start <= time <= one.end and not np.isnan(reading[Resource.CPU.row, number[one.host]])
                )
                for one in windows
            }
        )

    def past(self, _seen: Snapshot, _since: float) -> Iterator[tuple[float, Readings]]:
        """Nothing: a simulation begins with what there is."""
        return iter(())

    def _snapshot(self, hosts: Collection[str] | None) -> Snapshot:
        if self._newest is None:
            raise AssertionError("nothing was measured yet")
        window = np.stack(list(self._readings)[-self.sample_times.samples :])  # samples x resources x hosts
        numbers = [at for at, name in enumerate(self.fleet.host_names) if hosts is None or name in hosts]
        return Snapshot(
            time=self._time,
            step_seconds=self.step_seconds,
            hosts=tuple(self._host(at, window[:, :, at], self._newest) for at in numbers),
            domains=self._domains(self._newest, None if hosts is None else set(numbers)),
        )

    def _host(self, at: int, window: Floats, newest: StepFigures) -> Host:
        fleet = self.fleet
        name, labels = fleet.host_names[at], fleet.labels[at] if fleet.labels else {}
        memory = int(fleet.host_memory_bytes[at])
        if not newest.figures[at]:
            return Host(
                name=name,
                state=HostState.UNKNOWN,
                unknown=NO_FIGURES,
                cpus=int(fleet.cpus[at]),
                memory_bytes=memory,
                labels=labels,
            )
        cpu, used, rx, tx = (_trailing(window[:, one.row]) for one in Resource)
        link = float(fleet.link_bytes_per_second[at])
        return Host(
            name=name,
            cpus=int(fleet.cpus[at]),
            cpu_ratio=cpu,
            memory_bytes=memory,
            memory_used_bytes=int(used[-1] * memory),
            memory_ratio_window=used,
            rx_ratio=rx[-1] if rx else None,
            tx_ratio=tx[-1] if tx else None,
            rx_ratio_window=rx,
            tx_ratio_window=tx,
            uplink_bytes_per_second=None if math.isnan(link) else link,
            labels=labels,
        )

    def _domains(self, newest: StepFigures, hosts: Collection[int] | None) -> tuple[Domain, ...]:
        fleet, at = self.fleet, newest.at
        listed = (at >= 0) & newest.figures[at]
        if hosts is not None:
            listed &= np.isin(at, list(hosts))
        where, run, delay = (np.stack(list(one)) for one in (self._where, self._run, self._delay))
        there = where == at
        whole = there[1:] & there[:-1]  # the step in which a domain arrives is not all its own
        there = np.concatenate((there[:1], whole)) if len(where) > 1 else there
        counted, cores, waited = self._used()
        calm = np.stack(list(self._calm)) * there
        calm_steps = calm.sum(axis=0)
        usual, usually_waited = _mean(run, calm), _mean(delay, calm)
        numbers = np.flatnonzero(listed).tolist()
        links = fleet.link_bytes_per_second[at]
        rx_ratio, tx_ratio = (np.nan_to_num(one / links).tolist() for one in (newest.rx, newest.tx))
        figures = zip(
            *(
                one[listed].tolist()
                for one in (
                    at,
                    counted,
                    cores,
                    waited,
                    calm_steps,
                    usual,
                    usually_waited,
                    newest.memory_bytes,
                    fleet.vcpus,
                    fleet.memory_bytes,
                    newest.rx,
                    newest.tx,
                )
            ),
            strict=True,
        )
        found = []
        for number, (host, steps, ran, delayed, calmly, past, past_delay, held, vcpus, memory, rx, tx) in zip(
            numbers, figures, strict=True
        ):
            found.append(
                Domain(
                    name=fleet.domain_names[number],
                    uuid=fleet.uuids[number],
                    host=fleet.host_names[host],
                    state=DomainState.RUNNING if steps else DomainState.PAUSED,
                    vcpus=int(vcpus),
                    cpu_cores=ran,
                    cpu_delay_cores=delayed,
                    cpu_cores_unsaturated=past if calmly else None,
                    cpu_delay_cores_unsaturated=past_delay if calmly else None,
                    memory_bytes=int(max(held, memory)),
                    memory_resident_bytes=int(held),
                    rx_bytes_per_second=rx,
                    tx_bytes_per_second=tx,
                    rx_ratio=rx_ratio[number],
                    tx_ratio=tx_ratio[number],
                )
            )
        return tuple(sorted(found, key=lambda domain: (domain.name, domain.uuid)))


def _trailing(samples: Floats) -> tuple[float, ...]:
    """The newest samples without a gap, oldest first."""
    gaps = np.flatnonzero(np.isnan(samples))
    return tuple(samples[gaps[-1] + 1 if len(gaps) else 0 :].tolist())


def _mean(values: Floats, weights: Floats) -> Floats:
    """The mean over steps, 0 where none counts (domains). Both: steps x domains."""
    total: Floats = (values * weights).sum(axis=0) / np.maximum(weights.sum(axis=0), 1e-9)
    return total
