"""What each source shows of the same hosts, on real servers with the series that its exporters have.

Those of Debian's packages are recorded (``recorded/``). Those of the others have the names and labels of their source
code; no such exporter ran here.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from filled_prometheus import CACHE, filled_prometheus, filled_victoria_metrics
from virtpoise_balancer.config import parse_config
from virtpoise_balancer.model import Domain, DomainState, Host, Snapshot, UnknownKind
from virtpoise_balancer.monitor.client import PrometheusClient
from virtpoise_balancer.monitor.observe import Observation, Observer
from virtpoise_balancer.monitor.queries import QUERIES
from virtpoise_balancer.monitor.sources import SOURCES, SourceName
from virtpoise_balancer.service.wiring import make_observer

RECORDED = Path(__file__).parent / "recorded"
END = float((int(time.time()) - 6 * 3600) // 10 * 10)  # so long ago that it lies in a block of its own
SCRAPES = [END - 10 * back - 2 for back in range(90, -1, -1)]
GB = 10**9
OTHERS = [name for name in SourceName if name is not SourceName.VIRTPOISE]

UUIDS = {name: f"00000000-0000-4000-8000-00000000000{number}" for number, name in enumerate("abcdefgh", 1)}
STATES = dict.fromkeys(UUIDS, 1) | {"c": 3, "d": 5}  # of virDomainState: running, paused, shut off


class AtTheEnd(PrometheusClient):
    """A Prometheus whose clock stands at the end of what it holds."""

    def time(self) -> float:
        return END


Labels = Mapping[str, str]
Rate = Callable[[float], float]


class Exposition:
    """An OpenMetrics text with the samples of all scrapes, or of some."""

    def __init__(self) -> None:
        self._families: dict[str, list[str]] = {}

    def gauge(self, name: str, value: float, labels: Labels, times: list[float] = SCRAPES) -> None:
        self._add(name, "gauge", labels, [(at, value) for at in times])

    def counter(self, name: str, per_second: float, labels: Labels, times: list[float] = SCRAPES) -> None:
        self._add(name, "counter", labels, [(at, 1e4 + per_second * (at - SCRAPES[0])) for at in times])

    def _add(self, name: str, kind: str, labels: Labels, samples: list[tuple[float, float]]) -> None:
        family = name.removesuffix("_total") if kind == "counter" else name
        lines = self._families.setdefault(
            family, [f"# TYPE {family} {kind if name.endswith('_total') or kind == 'gauge' else 'unknown'}"]
        )
        text = ",".join(f'{label}="{value}"' for label, value in labels.items())
        lines += [f"{name}{{{text}}} {value!r} {at}" for at, value in samples]

    def __str__(self) -> str:
        return "\n".join([*(line for lines in self._families.values() for line in lines), "# EOF\n"])


def add_node(to: Exposition, instance: str, arc: float = 11 * GB, **more: str) -> None:
    """A machine with node_exporter: 8 CPUs, half of them busy, and an uplink that is used to a tenth."""
    target = {"job": "node", "instance": instance, **more}
    for cpu in range(8):
        for mode, share in (("user", 0.4), ("system", 0.05), ("steal", 0.05), ("idle", 0.4), ("iowait", 0.1)):
            to.counter("node_cpu_seconds_total", share, {**target, "cpu": str(cpu), "mode": mode})
    to.gauge("node_memory_MemTotal_bytes", 64 * GB, target)
    to.gauge("node_memory_Hugetlb_bytes", 8 * GB, target)
    to.gauge("node_memory_MemAvailable_bytes", 30 * GB, target)
    to.gauge("node_zfs_arc_size", arc, target)
    to.gauge("node_zfs_arc_c_min", 1 * GB, target)
    for device, speed, used in (
        ("eth0", 1.25e9, 1.25e8),
        ("eth1", -125000, 1e6),
        ("br0", 8191875000, 1e6),
        ("vnet0", 1.25e6, 1e6),
        ("veth1a2b", 1.25e10, 1e6),
        ("docker0", 1.25e10, 1e6),
    ):
        to.gauge("node_network_speed_bytes", speed, {**target, "device": device})
        to.counter("node_network_receive_bytes_total", used, {**target, "device": device})
        to.counter("node_network_transmit_bytes_total", used / 2, {**target, "device": device})


def add_domains(to: Exposition, source: SourceName, target: Labels, names: str, times: list[float] = SCRAPES) -> None:
    """What a libvirt exporter exposes of a host's domains. Its labels are empty where a domain has no such metadata."""
    listed = {
        SourceName.DEBIAN: [name for name in names if STATES[name] != 5],
        SourceName.KUMINA: [name for name in names if STATES[name] != 5],
        SourceName.TINKOFF: [name for name in names if STATES[name] in (1, 5)],
        SourceName.INOVEX: list(names),
    }[source]
    of_name = source in (SourceName.TINKOFF, SourceName.INOVEX)
    to.gauge("libvirt_up", 1, target, times)
    if source is SourceName.DEBIAN:
        to.gauge("libvirt_domains_number", len(listed), target, times)
    if source is SourceName.INOVEX:
        to.gauge("libvirt_domains", len(listed), target, times)
    for name in listed:
        active = STATES[name] != 5
        own = {**target, "domain": name} | ({} if of_name else {"uuid": UUIDS[name]})
        to.gauge("libvirt_domain_info_virtual_cpus", 2, own, times)
        to.gauge("libvirt_domain_info_memory_usage_bytes", 4 * GB, own, times)
        to.gauge("libvirt_domain_info_maximum_memory_bytes", 6 * GB, own, times)
        to.counter("libvirt_domain_info_cpu_time_seconds_total", 1.5 if active else 0, own, times)
        if source is SourceName.DEBIAN:
            to.gauge("libvirt_domain_state_code", STATES[name], own, times)
        elif source is SourceName.TINKOFF:
            to.gauge("libvirt_domain_info_vstate", STATES[name], own, times)
            to.gauge("libvirt_domain_info_meta", 1, {**own, "uuid": UUIDS[name], "flavor": "m1"}, times)
        elif source is SourceName.INOVEX:
            to.gauge("libvirt_domain_info_state", STATES[name], {**own, "state_desc": "as libvirt says"}, times)
            to.gauge("libvirt_domain_openstack_info", 1, {**own, "instance_id": UUIDS[name]}, times)
        if not active:
            continue
        nic = {**own, "target_device": f"vnet{list(UUIDS).index(name)}"} | ({} if of_name else {"source_bridge": "br0"})
        to.counter("libvirt_domain_interface_stats_receive_bytes_total", 1.25e7, nic, times)
        to.counter("libvirt_domain_interface_stats_transmit_bytes_total", 2.5e7, nic, times)
        if of_name:
            to.gauge("libvirt_domain_memory_stats_rss_bytes", 3 * GB, own, times)
            for vcpu in ("0", "1"):
                to.counter("libvirt_domain_vcpu_delay_seconds_total", 0.1, {**own, "vcpu": vcpu}, times)


def add_own(to: Exposition, instance: str, names: str, labels: Labels) -> None:
    """The same of a host with virtpoise-exporter."""
    target = {"job": "virtpoise-exporter", "instance": instance, **labels}
    for mode, share in (("user", 0.4), ("system", 0.05), ("steal", 0.05), ("idle", 0.4), ("iowait", 0.1)):
        to.counter("virtpoise_host_cpu_seconds_total", 8 * share, {**target, "mode": mode})
    to.gauge("virtpoise_host_cpus", 8, target)
    to.gauge("virtpoise_host_memory_total_bytes", 64 * GB, target)
    to.gauge("virtpoise_host_memory_hugepages_bytes", 8 * GB, target)
    to.gauge("virtpoise_host_memory_available_bytes", 40 * GB, target)
    uplink = {**target, "device": "eth0"}
    to.gauge("virtpoise_host_network_speed_bytes", 1.25e9, uplink)
    to.counter("virtpoise_host_network_receive_bytes_total", 1.25e8, uplink)
    to.counter("virtpoise_host_network_transmit_bytes_total", 6.25e7, uplink)
    to.gauge("virtpoise_libvirt_up", 1, target)
    active = [name for name in names if STATES[name] != 5]
    to.gauge("virtpoise_domains", len(active), {**target, "state": "active"})
    to.gauge("virtpoise_domains", len(names) - len(active), {**target, "state": "inactive"})
    for name in names:
        own = {**target, "domain": name, "uuid": UUIDS[name]}
        to.gauge("virtpoise_domain_running", float(STATES[name] == 1), own)
        for number, state in ((1, "running"), (3, "paused"), (5, "shutoff")):
            to.gauge("virtpoise_domain_state", float(STATES[name] == number), {**own, "state": state})
        to.gauge("virtpoise_domain_vcpus", 2, own)
        to.gauge("virtpoise_domain_memory_bytes", 4 * GB, own)
        to.gauge("virtpoise_domain_memory_maximum_bytes", 6 * GB, own)
        if name in active:
            to.gauge("virtpoise_domain_memory_resident_bytes", 3 * GB, own)
            to.counter("virtpoise_domain_cpu_seconds_total", 1.5, own)
            to.counter("virtpoise_domain_cpu_delay_seconds_total", 0.2, own)
            nic = {**own, "device": "vnet0", "uplink": "eth0"}
            to.counter("virtpoise_domain_network_receive_bytes_total", 1.25e7, nic)
            to.counter("virtpoise_domain_network_transmit_bytes_total", 2.5e7, nic)


def exposition() -> str:
    """Each source's hosts, which a label tells apart.

    h1 has two exporters on ports, h2 both relabelled to its name, and there is a machine that is no hypervisor.
    """
    to = Exposition()
    add_own(to, "h1:9807", "acd", {"source": SourceName.VIRTPOISE, "rack": "r1"})
    add_own(to, "h2", "b", {"source": SourceName.VIRTPOISE, "rack": "r2"})
    add_own(to, "[fe80::3]:9807", "", {"source": SourceName.VIRTPOISE})
    for source in OTHERS:
        add_node(to, "h1:9100", source=source, rack="r1")
        add_node(to, "h2", source=source, rack="r2")
        add_node(to, "[fe80::3]:9100", source=source)
        add_node(to, "shop:9100", source=source)
        target = {"job": "libvirt", "source": source}
        add_domains(to, source, {**target, "instance": "h1:9177", "rack": "r1"}, "acd")
        add_domains(to, source, {**target, "instance": "h2", "rack": "r2"}, "b")
        add_domains(to, source, {**target, "instance": "[fe80::3]:9177"}, "")
        add_doubtful(to, source)
    return str(to)


UNKNOWN = ("silent", "down", "twice", "short")


def add_doubtful(to: Exposition, source: SourceName) -> None:
    """Hosts whose libvirt exporter does not tell all; and one that a domain left while Prometheus was away."""
    for name in (*UNKNOWN, "left"):
        add_node(to, f"{name}:9100", 50 * GB if name == "left" else 11 * GB, source=source)
    target = {name: {"job": "libvirt", "instance": f"{name}:9177", "source": source} for name in (*UNKNOWN, "left")}
    add_domains(to, source, target["silent"], "e", SCRAPES[:-6])
    to.gauge("libvirt_up", 0, target["down"])
    for port in (9177, 9178):
        add_domains(to, source, {**target["twice"], "instance": f"twice:{port}"}, "f")
    counts = ("libvirt_domains_number", "libvirt_domains")
    to.gauge("libvirt_up", 1, target["short"])
    if source is SourceName.TINKOFF:  # a domain without its uuid
        to.gauge("libvirt_domain_info_vstate", 1, {**target["short"], "domain": "g"})
    for name in counts:
        to.gauge(name, 1, target["short"])
    add_domains(to, source, target["left"], "h", SCRAPES[:-6])
    to.gauge("libvirt_up", 1, target["left"], SCRAPES[-6:])
    for name in counts:
        to.gauge(name, 0, target["left"], SCRAPES[-6:])


def _prometheus(name: str) -> Callable[[str, Path], AbstractContextManager[str]]:
    return lambda text, folder: filled_prometheus(text, folder, programs=CACHE / name / "usr/bin")


def _victoria_metrics(name: str) -> Callable[[str, Path], AbstractContextManager[str]]:
    return lambda text, folder: filled_victoria_metrics(text, folder, CACHE / name / "usr/bin/victoria-metrics")


# By the folder of scripts/setup: Prometheus 2.42 and 2.53, what Debian's next release has, VictoriaMetrics 1.79, 1.112.
SERVERS = {
    "prometheus-bookworm": _prometheus,
    "prometheus-trixie": _prometheus,
    "prometheus-sid": _prometheus,
    "victoria-metrics-bookworm": _victoria_metrics,
    "victoria-metrics-trixie": _victoria_metrics,
}


@pytest.fixture(scope="module", params=SERVERS)
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if not (CACHE / request.param / ".complete").exists():
        pytest.skip(f"scripts/setup has no {request.param}")
    with SERVERS[request.param](request.param)(exposition(), tmp_path_factory.mktemp("server")) as address:
        yield address


@pytest.fixture(scope="module", params=SourceName)
def source(request: pytest.FixtureRequest) -> SourceName:
    return SourceName(request.param)


def observer(url: str, source: SourceName, more: str = "") -> Observer:
    own = SOURCES[source].matchers
    config = parse_config(
        f"prometheus:\n  url: '{url}'\n  source: {source}\n  matchers: '{own},source=\"{source}\"'\n{more}", "x"
    )
    return replace(make_observer(config), client=AtTheEnd(url=url, timeout_seconds=60))


@pytest.fixture(scope="module")
def seen(url: str, source: SourceName) -> Observation:
    return observer(url, source).observe(END)


def named(snapshot: Snapshot) -> dict[str, Domain]:
    """The domains of the hosts that are beyond doubt."""
    return {domain.name: domain for domain in snapshot.domains if domain.host not in UNKNOWN}


def test_hypervisors_are_known_by_either_exporter(seen: Observation) -> None:
    """Two targets of one host, on two ports, are one host; a machine without libvirt is none."""
    hosts = {host.name: host for host in seen.snapshot.hosts if host.name not in (*UNKNOWN, "left")}
    assert {name: host.why_unknown for name, host in hosts.items()} == dict.fromkeys(("h1", "h2", "fe80::3"))
    assert not seen.refused.counts
    for host in hosts.values():
        assert host.cpus == 8
        assert host.memory_bytes == 56 * GB
        assert host.memory_used_bytes == 16 * GB
        assert host.cpu_ratio == pytest.approx([0.5] * 30)
        assert host.memory_ratio_window[-1] == pytest.approx(16 / 56)
        assert host.uplink_bytes_per_second == (1.25e9)
        assert [host.rx_ratio, host.tx_ratio] == pytest.approx([0.1, 0.05])
    assert hosts["h1"].labels["rack"] == "r1"


def test_a_cache_that_shrank_while_it_was_read_leaves_the_host_known(seen: Observation, source: SourceName) -> None:
    left = seen.snapshot.host("left")
    if source is not SourceName.VIRTPOISE:
        assert left is not None
        assert (left.known, left.memory_used_bytes) == (True, 0)


def test_domains_are_those_that_the_exporter_lists(seen: Observation, source: SourceName) -> None:
    paused, off = DomainState.PAUSED, DomainState.SHUTOFF
    rest = {
        SourceName.VIRTPOISE: {"c": paused, "d": off},
        SourceName.DEBIAN: {"c": paused},
        SourceName.KUMINA: {"c": DomainState.RUNNING},  # it knows no state
        SourceName.TINKOFF: {"d": off},
        SourceName.INOVEX: {"c": paused, "d": off},
    }[source]
    running = dict.fromkeys("ab", DomainState.RUNNING)
    domains = named(seen.snapshot)
    assert {name: domain.state for name, domain in domains.items()} == running | rest
    assert all(domain.uuid == UUIDS[name] for name, domain in domains.items())
    assert (domains["a"].host, domains["b"].host) == ("h1", "h2")


def test_figures_of_a_domain(seen: Observation, source: SourceName) -> None:
    richer = source not in (SourceName.DEBIAN, SourceName.KUMINA)
    for domain in map(named(seen.snapshot).__getitem__, "ab"):
        assert domain.vcpus == 2
        assert (domain.memory_bytes, domain.memory_maximum_bytes) == (4 * GB, 6 * GB)
        assert domain.cpu_cores == pytest.approx(1.5)
        assert domain.cpu_cores_unsaturated == pytest.approx(1.5)
        assert [domain.rx_bytes_per_second, domain.tx_bytes_per_second] == pytest.approx([1.25e7, 2.5e7])
        assert [domain.rx_ratio, domain.tx_ratio] == pytest.approx([0.01, 0.02])
        assert domain.memory_resident_bytes == (3 * GB if richer else None)
        assert domain.cpu_delay_cores == (pytest.approx(0.2) if richer else None)
        assert domain.cpu_delay_cores_unsaturated == (pytest.approx(0.2) if richer else None)


def test_what_domains_used_before_is_read_from_either_exporter(url: str, source: SourceName, seen: Observation) -> None:
    past = [*observer(url, source).past(seen.snapshot, END - 300)]
    assert [at for at, _ in past] == [END - 30 * back for back in range(9, 0, -1)]
    for _, read in past:
        used = dict(zip(read.uuids, read.cores.tolist(), strict=True))
        assert [used[UUIDS[name]] for name in "ab"] == pytest.approx([1.5, 1.5])


def test_a_look_at_one_host_shows_what_the_whole_look_shows_of_it(
    url: str, source: SourceName, seen: Observation
) -> None:
    """But for the last digits: VictoriaMetrics adds series up in any order."""
    some = observer(url, source).observe_hosts({"h1"}, END).snapshot
    assert rounded(some.hosts) == rounded([host for host in seen.snapshot.hosts if host.name == "h1"])
    assert rounded(some.domains) == rounded([domain for domain in seen.snapshot.domains if domain.host == "h1"])


def rounded(values: Sequence[Host | Domain]) -> object:
    return json.loads(json.dumps([asdict(one) for one in values]), parse_float=lambda text: round(float(text), 9))


@pytest.mark.parametrize("source", OTHERS, indirect=True)
def test_a_query_of_its_own_fills_a_gap(url: str, seen: Observation, source: SourceName) -> None:
    assert any(line.startswith("the speed of a host's CPUs") for line in seen.gaps)
    own = "  queries: {host_cpu_speed: '0 * node_memory_MemTotal_bytes{$matchers} + 1.5'}\n"
    found = observer(url, source, own).observe(END)
    assert {host.cpu_speed for host in found.snapshot.hosts if host.known} == {1.5}
    assert set(seen.gaps) - set(found.gaps) == {
        line for line in seen.gaps if line.startswith("the speed of a host's CPUs")
    }


# --- absence is no fact


@pytest.mark.parametrize("source", OTHERS, indirect=True)
def test_a_host_whose_exporters_do_not_tell_all_is_unknown(seen: Observation, source: SourceName) -> None:
    kinds = {host.name: host.why_unknown and host.why_unknown.kind for host in seen.snapshot.hosts}
    assert {name: kind for name, kind in kinds.items() if name in UNKNOWN} == {
        "silent": UnknownKind.LIBVIRT,  # though Prometheus shows its last samples for five minutes
        "down": UnknownKind.LIBVIRT,
        "twice": UnknownKind.TARGETS,
        # kumina's exporter counts nothing. A domain that it cannot read makes its whole scrape fail.
        "short": None if source is SourceName.KUMINA else UnknownKind.DOMAINS,
    }


@pytest.mark.parametrize("source", OTHERS, indirect=True)
def test_a_domain_that_left_while_prometheus_was_away_is_not_listed(seen: Observation) -> None:
    (host,) = (one for one in seen.snapshot.hosts if one.name == "left")
    assert host.why_unknown is None
    assert not [domain for domain in seen.snapshot.domains if domain.host == "left"]


# --- names


def recorded(name: str) -> str:
    return (RECORDED / name).read_text(encoding="utf-8")


def test_every_metric_and_label_of_debians_exporters_is_as_recorded() -> None:
    text = recorded("node_exporter.txt") + recorded("libvirt_exporter.txt")
    asked = {
        (metric, label)
        for query in SOURCES[SourceName.DEBIAN].queries.values()
        for metric, matchers in re.findall(r"\b((?:node|libvirt)_\w+){([^}]*)}", query)
        for label in ("", *re.findall(r"(\w+)=", matchers))
        if "zfs" not in metric  # of a host that has it
    }
    assert len({metric for metric, _ in asked}) > 15
    for metric, label in sorted(asked):
        assert re.search(rf"^{metric}(?:{{.*\b{label or ''}.*}})? ", text, re.MULTILINE), f"{metric} {label}"
    assert re.search(r"^libvirt_domain_state_code{domain=\"[^\"]+\",uuid=\"[^\"]+\"} 1$", text, re.MULTILINE)
    assert re.search(r"^libvirt_domain_interface_stats_receive_bytes_total{.*target_device=\"", text, re.MULTILINE)


@pytest.mark.parametrize("name", SOURCES)
def test_a_source_has_no_query_that_there_is_not_and_names_what_it_lacks(name: SourceName) -> None:
    found = SOURCES[name]
    assert not found.queries.keys() - QUERIES.keys()
    assert not list(found.gaps(QUERIES)) or found.limits
    for gap in QUERIES.keys() - found.queries.keys():
        assert set(found.gaps(QUERIES.keys() - {gap})) >= set(found.limits)
    assert bool(QUERIES.keys() - found.queries.keys()) == (len(list(found.gaps(()))) > len(found.limits))
