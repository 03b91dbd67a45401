"""Prometheus and the exporters on virtual time: what was scraped, and what a query for it returns.

It stands in the place of the balancer's client, behind the real ``Observer``: each of its queries is known by its text.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache

from virtpoise_balancer.errors import MonitorError
from virtpoise_balancer.execute.facts import Presence
from virtpoise_balancer.monitor.client import QueryAnswer
from virtpoise_balancer.monitor.queries import (
    OF_THE_PAST,
    QUERIES,
    SATURATED_LATELY,
    Ranges,
    narrowed,
    of_the_past,
    render,
)
from virtpoise_balancer.monitor.replies import Series
from virtpoise_lab.campaign.kernel import Kernel, VirtualProcess
from virtpoise_lab.campaign.machines import Daemon
from virtpoise_lab.campaign.world import ACTIVE, World

SCRAPE_SECONDS = 5.0
TIMEOUT_SECONDS = 5.0
_MEMORY_BYTES = 64 * 2**30
_DOMAIN_BYTES = 2**30
_LOOKBACK_SECONDS = 300.0
_READ_SECONDS = 17.5
_REMEMBERED_SECONDS = 600.0
_KEPT_SCRAPES = 1000  # of a host: far more than any query reaches back


@dataclass(frozen=True, slots=True)
class Scrape:
    """What an exporter showed.

    ``domains``: (uuid, name, state), None where libvirt does not answer it. ``counted``: active, inactive.
    """

    at: float
    cpus: int
    busy_ratio: float
    libvirt_up: bool
    domains: tuple[tuple[str, str, Presence], ...]
    counted: tuple[int, int] | None
    failed: bool = False


@dataclass
class Prometheus:
    """A Prometheus on virtual time.

    ``dead``, ``behind_seconds``, ``slow_seconds``, ``blind``: faults of the server.

    ``exporters``: of exporters, by host.
    """

    kernel: Kernel
    world: World
    dead: bool = False
    blind: bool = False  # it answers, and scrapes nothing
    behind_seconds: float = 0.0
    slow_seconds: float = 0.0
    garbage: bool = False  # a share of all series has labels or values that cannot be
    # gone, stuck (shows what was), empty, miscounting, lying (figures that cannot be)
    exporters: dict[str, str] = field(default_factory=dict)
    twofold: dict[str, str] = field(default_factory=dict)  # a second target of the name shows this other host
    _scrapes: dict[str, list[Scrape]] = field(default_factory=dict)
    _times: dict[str, list[float]] = field(default_factory=dict)
    _ratios: dict[tuple[str, str], dict[float, float | None]] = field(default_factory=dict)  # by query and host

    def start(self, before_seconds: float) -> None:
        """Scrape from now on; the time ``before_seconds`` before now has been calm."""
        for number, host in enumerate(sorted(self.world.machines)):
            self._scrapes[host], self._times[host] = [], []
            offset = SCRAPE_SECONDS * (number + 1) / (len(self.world.machines) + 1)
            at = self.kernel.at - before_seconds + offset
            while at < self.kernel.at:
                self._keep(host, replace(self._seen(host), at=at))
                at += SCRAPE_SECONDS
            self.kernel.after(at - self.kernel.at, lambda host=host: self._go_on(host))  # type: ignore[misc]

    def _go_on(self, host: str) -> None:
        if not (self.blind or self.dead):
            self._keep(host, self._scrape(host))
        self.kernel.after(SCRAPE_SECONDS, lambda: self._go_on(host))

    def _keep(self, host: str, scrape: Scrape) -> None:
        scrapes, times = self._scrapes[host], self._times[host]
        scrapes.append(scrape)
        times.append(scrape.at)
        if len(times) > 2 * _KEPT_SCRAPES:
            del scrapes[:-_KEPT_SCRAPES], times[:-_KEPT_SCRAPES]
            self._ratios.clear()

    def _scrape(self, host: str) -> Scrape:
        seen, fault = self._seen(host), self.exporters.get(host)
        last = self._scrapes[host][-1]
        if fault == "gone" or not self.world.machines[host].powered:
            return replace(last, at=self.kernel.at, failed=True)
        if fault == "stuck":
            return replace(last, at=self.kernel.at, failed=False)
        if fault == "empty":
            return replace(seen, domains=(), counted=(0, 0), libvirt_up=True)
        if fault == "lying":
            lie = self.kernel.random.choice((-1.0, 7.5, 1e12))
            return replace(seen, busy_ratio=lie, cpus=self.kernel.random.choice((0, 1, 65536, 10**9)))
        if fault == "miscounting":
            return replace(seen, domains=())
        return seen

    def _seen(self, host: str) -> Scrape:
        machine = self.world.machines[host]
        up = machine.daemon is Daemon.UP or (
            machine.daemon is Daemon.STOPPED and self.kernel.at - (machine.silent_since or 0) < SCRAPE_SECONDS
        )
        domains = tuple(
            (uuid, self.world.guests[uuid].name, copy.state) for uuid, copy in sorted(machine.copies.items())
        )
        active = sum(state in ACTIVE for _, _, state in domains)
        return Scrape(
            at=self.kernel.at,
            cpus=machine.cpus,
            busy_ratio=min(self.world.used_cores(host) / machine.cpus, 1.0),
            libvirt_up=up,
            domains=domains if up else (),
            counted=(active, len(domains) - active) if up else None,
        )

    # --- what queries return ------------------------------------------------------------------------------------------

    def newest(self, host: str, at: float) -> Scrape | None:
        """The newest scrape at a time; one that failed left a marker, after which the series is stale."""
        number = bisect_right(self._times[host], at)
        found = self._scrapes[host][number - 1] if number else None
        return found if found and not found.failed and at - found.at <= _LOOKBACK_SECONDS else None

    def first(self, host: str) -> float:
        """The time of the oldest scrape that is kept."""
        return self._times[host][0]

    def remembered(self, host: str, at: float) -> Scrape | None:
        number = bisect_right(self._times[host], at)
        for scrape in reversed(self._scrapes[host][:number]):
            if not scrape.failed:
                return scrape if at - scrape.at <= _REMEMBERED_SECONDS else None
        return None

    def reading(self, host: str, at: float) -> float | None:
        """A rate: the mean of the scrapes within the range that ends then, two at least."""
        times = self._times[host]
        window = self._scrapes[host][bisect_right(times, at - _READ_SECONDS) : bisect_right(times, at)]
        good = [one.busy_ratio for one in window if not one.failed]
        return sum(good) / len(good) if len(good) > 1 else None

    def ratio(self, name: str, host: str, at: float) -> float | None:
        """A host's ratio by the name of its query. What was in the past stays, and is worked out once."""
        known = self._ratios.setdefault((name, host), {})
        if at in known:
            return known[at]
        found = self._ratio(name, host, at)
        if at < self.kernel.at:
            known[at] = found
        return found

    def _ratio(self, name: str, host: str, at: float) -> float | None:
        if name == "host_cpu_ratio":
            return self.reading(host, at)
        if self.newest(host, at) is None:
            return None
        return 0.2 if name == "host_memory_ratio" else 0.0


_NARROWED = re.compile(r'instance=~"\(([^()]*)\)')  # as ``narrowed`` writes the names of hosts


def selector(group: str) -> str:
    """The matchers that only the hosts of a group have."""
    return f'cluster="{group}"'


@cache
def _names(ranges: Ranges, matchers: str) -> dict[str, str]:
    """The query's name by its text."""
    return {
        **{render(query, ranges, matchers): name for name, query in QUERIES.items()},
        **{of_the_past(name, (), ranges, matchers): name for name in OF_THE_PAST},
        render(SATURATED_LATELY, ranges, matchers): "saturated_lately",  # none is
    }


@cache
def _asked(query: str, ranges: Ranges, matchers: str, hosts: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """The query's name, and its hosts."""
    if found := _NARROWED.search(query):
        named = found[1].replace("\\\\", "\\").replace("\\", "").split("|")
        hosts = tuple(host for host in hosts if host in named)
        matchers = narrowed(matchers, hosts)
    return _names(ranges, matchers)[query], hosts


@dataclass
class ModelClient:
    """A balancer's way to Prometheus."""

    server: Prometheus
    process: VirtualProcess
    ranges: Ranges
    matchers: str
    url: str = "model"

    def time(self) -> float:
        self._exchange()
        return self.server.kernel.at - self.server.behind_seconds

    def side_by_side(self, questions: Mapping[str, Callable[[], QueryAnswer]]) -> dict[str, QueryAnswer]:
        return {name: ask() for name, ask in questions.items()}

    def instant_each(self, queries: Mapping[str, str], at: float) -> dict[str, QueryAnswer]:
        return {name: self.instant(query, at) for name, query in queries.items()}

    def range_each(
        self, queries: Mapping[str, str], start: float, end: float, step_seconds: float
    ) -> dict[str, QueryAnswer]:
        return {name: self.range(query, start, end, step_seconds) for name, query in queries.items()}

    def instant(self, query: str, at: float) -> QueryAnswer:
        name, hosts = self._asked(query)
        found = self._instant(name, hosts, at - self.server.behind_seconds, at)
        for host, other in self.server.twofold.items():
            if host in hosts:
                theirs = self._instant(name, (other,), at - self.server.behind_seconds, at)
                found += [Series({**one.labels, **_labels(host, port=9808)}, one.samples) for one in theirs]
        return QueryAnswer(self._as_sent(found))

    def range(self, query: str, start: float, end: float, step_seconds: float) -> QueryAnswer:
        name, hosts = self._asked(query)
        series = []
        for host in hosts:
            samples = []
            # A balancer's first look asks for a day. The model has the last minute of it.
            nothing_seconds = self.server.first(host) + self.server.behind_seconds - start
            at = start + step_seconds * max(nothing_seconds // step_seconds, 0)
            while at <= end + 1e-6:
                value = self.server.ratio(name, host, at - self.server.behind_seconds)
                if value is not None:
                    samples.append((at, value))
                at += step_seconds
            if samples:
                series.append(Series(_labels(host), tuple(samples)))
                if host in self.server.twofold:
                    series.append(Series(_labels(host, port=9808), tuple((at, value / 3) for at, value in samples)))
        return QueryAnswer(self._as_sent(series))

    def _as_sent(self, series: list[Series]) -> tuple[Series, ...]:
        """What arrives: garbage is mixed in where the server is broken."""
        if not self.server.garbage:
            return tuple(series)
        random = self.server.kernel.random
        sent = []
        for one in series:
            kind = random.choice(("as it is", "as it is", "label", "host", "value", "gone", "twice"))
            if kind == "label":
                odd = {random.choice(("instance", "uuid", "domain")): "\x00'{}\n"}
                one = Series({**one.labels, **odd}, one.samples)
            elif kind == "host":
                other = random.choice(("", "h1:1:2", "../h2", "h2"))
                one = Series({**one.labels, "instance": other}, one.samples)
            elif kind == "value":
                value = random.choice((-1.0, -1e300, 1e300, 0.0, 2.5, 1e18))
                one = Series(one.labels, tuple((at, value) for at, _ in one.samples))
            if kind != "gone":
                sent.append(one)
            if kind == "twice":
                sent.append(one)
        return tuple(sent)

    def _asked(self, query: str) -> tuple[str, tuple[str, ...]]:
        self.process.check()
        if self.server.slow_seconds:
            self._exchange()
        return _asked(query, self.ranges, self.matchers, self._hosts())

    def _hosts(self) -> tuple[str, ...]:
        """Those with the label that the matchers ask for. A host of no group has none, and is alone."""
        machines = self.server.world.machines
        return tuple(
            name
            for name in sorted(machines)
            if not machines[name].group or selector(machines[name].group) in self.matchers
        )

    def _exchange(self) -> None:
        """The way to the server and back."""
        self.process.check()
        server = self.server
        seconds = server.slow_seconds or 0.005
        if server.dead or seconds > TIMEOUT_SECONDS:
            server.kernel.sleep(0.05 if server.dead else TIMEOUT_SECONDS)
            raise MonitorError("Prometheus at model: cannot be reached")
        server.kernel.sleep(seconds)
        if server.dead:
            raise MonitorError("Prometheus at model: cannot be reached")

    def _instant(self, name: str, hosts: tuple[str, ...], at: float, shown: float) -> list[Series]:
        found: list[Series] = []
        for host in hosts:
            if name in ("host_cpus", "host_memory_bytes"):
                old = self.server.remembered(host, at)
                if old is not None:
                    found.append(_one(host, shown, old.cpus if name == "host_cpus" else _MEMORY_BYTES))
                continue
            scrape = self.server.newest(host, at)
            if scrape is None:
                continue
            if name.startswith("domain_"):
                found += _domains(name, host, shown, scrape, self.server.world)
            elif (value := _host_value(name, scrape, shown - at)) is not None:
                found.append(_one(host, shown, value))
        return found


def _host_value(name: str, scrape: Scrape, behind: float) -> float | None:
    if name == "host_sample_time":
        return scrape.at + behind
    if name == "host_memory_available_bytes":
        return _MEMORY_BYTES * 0.8
    if name == "host_libvirt_up":
        return float(scrape.libvirt_up)
    if name == "host_uplink_bytes_per_second":
        return 1.25e9
    if scrape.counted is not None and name in ("host_domains_active", "host_domains_inactive"):
        return float(scrape.counted[name.endswith("inactive")])
    return None


def _domains(name: str, host: str, at: float, scrape: Scrape, world: World) -> list[Series]:
    found = []
    for uuid, domain, state in scrape.domains:
        running = state is Presence.RUNNING
        if name == "domain_running":
            value: float | None = float(running)
        elif name == "domain_paused":
            value = 1.0 if state in (Presence.PAUSED, Presence.MIGRATING) else None
        elif name == "domain_vcpus":
            value = 4.0
        elif name == "domain_memory_bytes":
            value = float(_DOMAIN_BYTES)
        elif name == "domain_cpu_cores":
            value = world.guests[uuid].cores if running else 0.0
        elif name == "domain_cpu_delay_cores":
            value = 0.0
        else:
            value = None
        if value is not None:
            found.append(Series({**_labels(host), "uuid": uuid, "domain": domain}, ((at, value),)))
    return found


def _labels(host: str, port: int = 9807) -> dict[str, str]:
    return {"instance": f"{host}:{port}", "job": "virtpoise"}


def _one(host: str, at: float, value: float) -> Series:
    return Series(_labels(host), ((at, float(value)),))
