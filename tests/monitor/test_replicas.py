"""Several Prometheus servers that scrape the same hosts, behind one server that answers with the series of all."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from filled_prometheus import filled_prometheus
from virtpoise_balancer.config import parse_config
from virtpoise_balancer.errors import BadInput
from virtpoise_balancer.model import Snapshot, UnknownKind
from virtpoise_balancer.monitor.client import PrometheusClient, QueryAnswer
from virtpoise_balancer.monitor.observe import HostWindow, Observer
from virtpoise_balancer.service.wiring import make_observer

END = float((int(time.time()) - 6 * 3600) // 10 * 10)  # so long ago that it lies in a block of its own
SCRAPES = [END - 10 * back for back in range(90, -1, -1)]
# Each at its own moments. Until ten minutes ago, b did not scrape h2; for the last minute a scrapes nothing.
TOLD = {
    ("a", "h1"): [at - 1 for at in SCRAPES[:-6]],
    ("a", "h2"): [at - 1 for at in SCRAPES[:-6]],
    ("b", "h1"): [at - 3 for at in SCRAPES],
    ("b", "h2"): [at - 3 for at in SCRAPES[30:]],
}
UUID = "00000000-0000-4000-8000-000000000001"


class AtTheTime(PrometheusClient):
    """A Prometheus whose clock stands where it is asked about."""

    now = END

    def time(self) -> float:
        return self.now


def exposition() -> str:
    families: dict[str, list[str]] = {}

    def add(name: str, per_second: float, value: float, labels: str, times: list[float]) -> None:
        kind = "counter" if name.endswith("_total") else "gauge"
        family = name.removesuffix("_total")
        lines = families.setdefault(family, [f"# TYPE {family} {kind}"])
        lines += [f"{name}{{{labels}}} {value + per_second * (at - SCRAPES[0] + 10)!r} {at}" for at in times]

    for (replica, host), times in TOLD.items():
        target = f'job="virtpoise-exporter",instance="{host}:9807",rack="r1",replica="{replica}"'
        add("virtpoise_host_cpus", 0, 8, target, times)
        add("virtpoise_host_memory_total_bytes", 0, 64e9, target, times)
        add("virtpoise_host_memory_available_bytes", 0, 32e9, target, times)
        add("virtpoise_libvirt_up", 0, 1, target, times)
        for mode in ("user", "idle"):
            add("virtpoise_host_cpu_seconds_total", 4, 0, f'{target},mode="{mode}"', times)
        for state, count in (("active", 1), ("inactive", 0)):
            add("virtpoise_domains", 0, count, f'{target},state="{state}"', times)
        own = f'{target},domain="vm-{host}",uuid="{UUID[:-1]}{host[-1]}"'
        add("virtpoise_domain_running", 0, 1, own, times)
        add("virtpoise_domain_vcpus", 0, 2, own, times)
        add("virtpoise_domain_memory_bytes", 0, 4e9, own, times)
        add("virtpoise_domain_cpu_seconds_total", 1.5, 0, own, times)
        nic = f'{own},device="vnet0",uplink="eth0"'
        add("virtpoise_domain_network_receive_bytes_total", 1e6, 0, nic, times)
    return "\n".join([*(line for lines in families.values() for line in lines), "# EOF\n"])


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with filled_prometheus(exposition(), tmp_path_factory.mktemp("prometheus")) as address:
        yield address


def observer(url: str, now: float, more: str = "") -> Observer:
    client = AtTheTime(url=url, timeout_seconds=60)
    client.now = now
    return replace(make_observer(parse_config(f"prometheus: {{url: '{url}'{more}}}", "x")), client=client)


BOTH = END - 100  # both scrape both hosts
A_IS_GONE = END
B_IS_NEW = SCRAPES[10]  # b scrapes h1 alone


def test_a_host_that_two_replicas_show_is_unknown(url: str) -> None:
    """Figures that add up over series would count it twice."""
    for host in observer(url, BOTH).observe(BOTH).snapshot.hosts:
        assert host.why_unknown
        assert host.why_unknown.kind is UnknownKind.TARGETS
        assert host.why_unknown.text == (
            "Prometheus has its target 2 times, with another replica each: see prometheus.replica_label"
        )


def test_a_replica_that_ended_shows_no_host_twice(url: str) -> None:
    assert all(host.known for host in observer(url, A_IS_GONE).observe(A_IS_GONE).snapshot.hosts)


@pytest.mark.parametrize(("now", "replica"), [(BOTH, "a"), (A_IS_GONE, "b"), (B_IS_NEW, "a")], ids=("both", "b", "a"))
def test_all_figures_of_a_look_are_of_one_replica(url: str, now: float, replica: str) -> None:
    """Of the one that has fresh samples of most hosts; of several the first by name."""

    def looked(more: str) -> Snapshot:
        return observer(url, now, more).observe(now).snapshot

    seen = looked(", replica_label: replica")
    assert seen.domains
    assert all(host.known for host in seen.hosts)
    assert {host.name: host.labels for host in seen.hosts} == {name: {"rack": "r1"} for name in ("h1", "h2")}
    assert {round(domain.rx_bytes_per_second or 0) for domain in seen.domains} == {10**6}
    alone = looked(f', matchers: \'job="virtpoise-exporter",replica="{replica}"\'')
    assert seen.domains == alone.domains
    assert [replace(host, labels={}) for host in seen.hosts] == [replace(host, labels={}) for host in alone.hosts]


def test_a_look_at_one_host_members_and_loads_are_of_one_replica(url: str) -> None:
    found = observer(url, BOTH, ", replica_label: replica")
    assert found.members(BOTH) == {"h1", "h2"}
    (host,) = found.observe_hosts({"h1"}, BOTH).snapshot.hosts
    assert host.known
    window = HostWindow("h1", BOTH - 60, BOTH)
    (samples,) = found.loads([window]).samples.values()
    assert [ratio for _, ratio in samples] == pytest.approx([0.5] * len(samples))
    assert len(samples) >= 6


def test_an_exporter_that_names_a_replica_of_its_own_many_times_hides_no_other_host(tmp_path: Path) -> None:
    """Most series would be of that one, and no other host has it."""
    lines = [
        f'virtpoise_host_cpus{{job="virtpoise-exporter",instance="h3:9807",replica="0",x="{n}"}} 8' for n in range(9)
    ]
    text = "\n".join([f"{line} {at}" for line in lines for at in SCRAPES])
    cpus = "# TYPE virtpoise_host_cpus gauge\n"
    with filled_prometheus(exposition().replace(cpus, f"{cpus}{text}\n"), tmp_path) as url:
        seen = observer(url, BOTH, ", replica_label: replica").observe(BOTH).snapshot
    assert [host.name for host in seen.hosts if host.known] == ["h1", "h2"]


class Dated(AtTheTime):
    """Keeps the time of each query, and the end of each range."""

    def __init__(self, url: str) -> None:
        super().__init__(url=url, timeout_seconds=60)
        self.times: list[float] = []

    def instant(self, query: str, at: float) -> QueryAnswer:
        self.times.append(at)
        return super().instant(query, at)

    def range(self, query: str, start: float, end: float, step_seconds: float) -> QueryAnswer:
        self.times.append(end)
        return super().range(query, start, end, step_seconds)


@pytest.mark.parametrize("more", ["", ", replica_label: replica"], ids=("one Prometheus", "replicas"))
def test_all_of_a_look_is_evaluated_at_one_time(url: str, more: str) -> None:
    """Who is a host as well, and which replica is asked."""
    client = Dated(url)
    looking = replace(observer(url, END, more), client=client)
    looking.observe(END + 7)
    looking.observe_hosts({"h1"}, END + 7)
    looking.members(END + 7)
    assert len(client.times) > 30
    assert set(client.times) == {END}


def test_what_is_no_label_of_a_replica_is_refused() -> None:
    for name in ("instance", "not-a-label", ""):
        with pytest.raises(BadInput, match="replica_label: expected the name of a label"):
            parse_config(f"prometheus: {{replica_label: '{name}'}}", "x")
