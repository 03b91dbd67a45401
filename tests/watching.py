"""Stands in for Prometheus where a test runs real cycles."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace

from builders import SAMPLE_TIMES
from virtpoise_balancer.analyse.habits import Readings
from virtpoise_balancer.errors import MonitorError
from virtpoise_balancer.model import SampleTimes, Snapshot
from virtpoise_balancer.monitor.observe import HostWindow, MeasuredLoads, Observation


@dataclass
class Watching:
    """An observer that returns a prepared snapshot.

    ``failure``: why Prometheus cannot be asked, or None. ``measured``: a host's load samples after a migration, as
    (Unix seconds, ratio), and ``warnings`` what Prometheus says of them.
    """

    seen: Snapshot
    failure: str | None = None
    measured: tuple[tuple[float, float], ...] = ()
    warnings: tuple[str, ...] = ()
    age_seconds: float = 1.0
    sample_times: SampleTimes = SAMPLE_TIMES
    failure_of_past: str | None = None
    earlier: tuple[tuple[float, Readings], ...] = ()
    since: list[float] = field(default_factory=list)  # from when on the past was asked for
    asked_for: list[set[str]] = field(default_factory=list)  # the hosts of each look before a move

    def observe(self, now: float) -> Observation:
        if self.failure:
            raise MonitorError(self.failure)
        return Observation(snapshot=replace(self.seen, time=now), age_seconds=self.age_seconds)

    def observe_hosts(self, hosts: Collection[str], now: float) -> Observation:
        self.asked_for.append(set(hosts))
        found = self.observe(now)
        named = tuple(host for host in found.snapshot.hosts if host.name in hosts)
        theirs = tuple(domain for domain in found.snapshot.domains if domain.host in hosts)
        return replace(found, snapshot=replace(found.snapshot, hosts=named, domains=theirs))

    def past(self, _seen: Snapshot, since: float) -> Iterator[tuple[float, Readings]]:
        self.since.append(since)
        if self.failure_of_past:
            raise MonitorError(self.failure_of_past)
        return iter(self.earlier)

    def loads(self, windows: Collection[HostWindow]) -> MeasuredLoads:
        return MeasuredLoads(
            {one: tuple((at, ratio) for at, ratio in self.measured if one.start <= at <= one.end) for one in windows},
            self.warnings,
        )
