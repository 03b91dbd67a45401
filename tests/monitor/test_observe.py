"""The snapshot that is made of Prometheus' answers: nothing in them is trusted."""

import json
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virtpoise_balancer.config import parse_config
from virtpoise_balancer.errors import BadInput, ClockError
from virtpoise_balancer.formats import read_snapshot, write_snapshot
from virtpoise_balancer.model import DomainState, HostState, HugePages, Placement, Policy
from virtpoise_balancer.monitor import doubt
from virtpoise_balancer.monitor.client import PrometheusClient, QueryAnswer
from virtpoise_balancer.monitor.matchers import EXAMPLE, read_matchers
from virtpoise_balancer.monitor.observe import HostWindow, Observation, Observer
from virtpoise_balancer.monitor.queries import QUERIES, Ranges, narrowed, render
from virtpoise_balancer.monitor.replies import Series
from virtpoise_balancer.monitor.targets import TargetRefusal
from virtpoise_balancer.plan import plan

T = TypeVar("T")
NOW = 1000.0
GIB = 2**30
Samples = Sequence[tuple[float, float]]
UNCOUNTED = tuple(name for name in QUERIES if name not in doubt.COUNTING)
"""All queries replaced but those that count: an exporter that counts no domains."""


class Answers(PrometheusClient):
    """A Prometheus whose answers are given by the query's name."""

    def __init__(self, instants: dict[str, list[Series]], readings: list[Series]) -> None:
        super().__init__(url="http://answers", timeout_seconds=1)
        self.now = NOW
        self._instants, self._readings = instants, readings
        self.asked: list[str] = []

    def time(self) -> float:
        return self.now

    def instant(self, query: str, at: float) -> QueryAnswer:
        self.asked.append(query)
        return QueryAnswer(tuple(self._instants.get(query, ())), (f"warning of {query}",))

    def instant_each(self, queries: Mapping[str, str], at: float) -> dict[str, QueryAnswer]:
        return {name: self.instant(query, at) for name, query in queries.items()}

    def range_each(
        self, queries: Mapping[str, str], start: float, end: float, step_seconds: float
    ) -> dict[str, QueryAnswer]:
        return {name: self.range(query, start, end, step_seconds) for name, query in queries.items()}

    def range(self, query: str, start: float, end: float, step_seconds: float) -> QueryAnswer:
        self.asked.append(query)
        series = self._readings if query == "host_cpu_ratio" else self._instants.get(query, ())
        return QueryAnswer(tuple(series), ("warning of a range",))


def one(value: float, **labels: str) -> Series:
    return Series(labels, ((NOW, value),))


def observe(
    instants: dict[str, list[Series]],
    readings: Mapping[str, Samples],
    now: float = NOW,
    queries: Sequence[str] = UNCOUNTED,
    theirs: float | None = None,
    admits: Callable[[str], bool] = lambda _name: True,
) -> Observation:
    """Each query is replaced by its own name, so that answers can be given by name; of others nothing is known."""
    client = Answers(instants, as_series(readings))
    client.now = now if theirs is None else theirs
    return observer(client, admits, queries).observe(now)


def as_series(readings: Mapping[str, Samples]) -> list[Series]:
    return [Series({"instance": host}, tuple(samples)) for host, samples in readings.items()]


def observer(
    client: Answers, admits: Callable[[str], bool] = lambda _name: True, queries: Sequence[str] = UNCOUNTED
) -> Observer:
    """Each query is replaced by its own name, so that answers can be given by name."""
    return Observer(
        client=client,
        step_seconds=10,
        scrape_interval_seconds=10,
        consecutive=3,
        saturation_ratio=0.9,
        queries={name: name for name in queries},
        matchers="",
        admits=admits,
    )


def host_figures(instance: str, age: float = 2.0, cpus: float = 2, free: float = GIB) -> dict[str, list[Series]]:
    return {
        "host_cpus": [one(cpus, instance=instance)],
        "host_memory_bytes": [one(2 * GIB, instance=instance)],
        "host_sample_time": [one(NOW - age, instance=instance)],
        "host_memory_available_bytes": [one(free, instance=instance)],
        "host_libvirt_up": [one(1, instance=instance)],
    }


def merged(*figures: dict[str, list[Series]]) -> dict[str, list[Series]]:
    return {name: [series for part in figures for series in part.get(name, [])] for name in QUERIES}


def domain_figures(instance: str, uuid: str, running: float = 1, **values: float) -> dict[str, list[Series]]:
    defaults = {"domain_vcpus": 1.0, "domain_memory_bytes": 1e8, "domain_cpu_cores": 0.5} | values
    labels = {"instance": instance, "uuid": uuid}
    figures = {name: [one(value, **labels)] for name, value in defaults.items()}
    return figures | {"domain_running": [one(running, domain=f"name-{uuid}", **labels)]}


READINGS = [(980.0, 0.5), (990.0, 0.6), (1000.0, 0.7)]


def test_a_host_is_its_targets_instance_without_the_port() -> None:
    for instance, name in (
        ("h1:9807", "h1"),
        ("h1", "h1"),
        ("[2001:db8::1]:9807", "2001:db8::1"),
        ("h1.example:1", "h1.example"),
    ):
        seen = observe(host_figures(instance), {instance: READINGS})
        assert [host.name for host in seen.snapshot.hosts] == [name]


def test_a_known_host_carries_its_figures() -> None:
    (host,) = observe(host_figures("h1:1"), {"h1:1": READINGS}).snapshot.hosts
    assert host.state is HostState.ACTIVE
    assert (host.cpus, host.cpu_ratio, host.memory_bytes, host.memory_used_bytes) == (2, (0.5, 0.6, 0.7), 2 * GIB, GIB)


def test_readings_before_a_gap_are_dropped() -> None:
    gap = [(960.0, 0.9), (970.0, 0.9), (990.0, 0.6), (1000.0, 0.7)]
    (host,) = observe(host_figures("h1"), {"h1": gap}).snapshot.hosts
    assert host.cpu_ratio == (0.6, 0.7)


@pytest.mark.parametrize(
    ("figures", "readings"),
    [
        (host_figures("h1", age=60), READINGS),  # stale
        (host_figures("h1"), READINGS[:-1]),  # no reading now
        (host_figures("h1"), [(1000.0, 1.4)]),  # out of range
        (host_figures("h1"), [(1000.0, -0.4)]),
        (host_figures("h1", free=3 * GIB), READINGS),  # more memory free than there is
        (host_figures("h1", cpus=1e20), READINGS),  # more than any host has
        (host_figures("h1", cpus=float("inf")), READINGS),
        (host_figures("h1", cpus=65536), READINGS),
        (host_figures("h1", cpus=0), READINGS),
        (host_figures("h1") | {"host_cpu_speed": [one(1e9, instance="h1")]}, READINGS),
        (host_figures("h1") | {"host_cpu_speed": [one(1e-9, instance="h1")]}, READINGS),
        (host_figures("h1") | {"host_cpu_speed": [one(0, instance="h1")]}, READINGS),
        (host_figures("h1") | {"host_uplink_bytes_per_second": [one(65535 * 125000, instance="h1")]}, READINGS),
        (host_figures("h1") | {"host_uplink_bytes_per_second": [one(4294967295 * 125000, instance="h1")]}, READINGS),
        (host_figures("h1") | {"host_uplink_bytes_per_second": [one(-125000, instance="h1")]}, READINGS),
        (host_figures("h1") | {"host_uplink_bytes_per_second": [one(2.2e-313, instance="h1")]}, READINGS),
        (host_figures("h1") | {"host_memory_bytes": [one(0, instance="h1")]}, READINGS),
        (host_figures("h1") | {"host_memory_bytes": [one(1e300, instance="h1")]}, READINGS),
        (host_figures("h1") | {"host_memory_bytes": []}, READINGS),
        (host_figures("h1") | {"host_cpus": []}, READINGS),
        (host_figures("h1") | {"host_libvirt_up": []}, READINGS),
        (host_figures("h1") | {"host_libvirt_up": [one(0, instance="h1")]}, READINGS),
        (host_figures("h1") | {"host_libvirt_up": [one(0.5, instance="h1")]}, READINGS),
        (host_figures("h1") | {"host_memory_available_bytes": []}, READINGS),
        (host_figures("h1") | {"host_sample_time": []}, READINGS),  # the exporter has gone
    ],
)
def test_a_host_whose_figures_cannot_be_trusted_is_unknown(figures: dict[str, list[Series]], readings: Samples) -> None:
    (host,) = observe(figures, {"h1": readings}).snapshot.hosts
    assert (host.state, host.cpu_ratio) == (HostState.UNKNOWN, ())


def test_what_a_domains_metadata_asks_for_on_the_host_where_it_runs() -> None:
    def asked(instance: str, uuid: str, rule: str, value: str = "") -> Series:
        return Series({"instance": instance, "uuid": uuid, "rule": rule, "value": value}, ((NOW, 1.0),))

    figures = merged(
        host_figures("h1"),
        domain_figures("h1", "a"),
        domain_figures("h1", "b"),
        {
            "domain_placement": [
                asked("h1", "a", "never-on", "h3"),
                asked("h1", "a", "never-on", "h2"),
                asked("h1", "a", "apart", "db"),
                asked("h1", "a", "unheard-of", "x"),
                asked("h1", "a", "together"),
                asked("h9", "b", "apart", "db"),
                asked("h1", "b", "ignore"),
            ]
        },
    )
    a, b = observe(figures, {"h1": READINGS}).snapshot.domains
    assert a.placement == Placement(never_on=("h2", "h3"), apart=("db",))
    assert b.placement == Placement(ignore=True)


def why(figures: dict[str, list[Series]], queries: Sequence[str] = UNCOUNTED) -> str:
    """Why the one host of these figures is unknown."""
    hosts = {series.labels["instance"] for answer in figures.values() for series in answer}
    (host,) = observe(figures, dict.fromkeys(hosts, READINGS), queries=queries).snapshot.hosts
    return host.why_unknown.text if host.why_unknown else ""


def counts(instance: str, active: float, inactive: float) -> dict[str, list[Series]]:
    return {
        "host_domains_active": [one(active, instance=instance)],
        "host_domains_inactive": [one(inactive, instance=instance)],
    }


def test_a_list_of_domains_that_contradicts_libvirts_own_count_does_not_stand() -> None:
    domains = (
        domain_figures("h1", "runs"),
        domain_figures("h1", "off", running=0),
        domain_figures("h1", "sleeps", running=0) | {"domain_paused": [one(1, instance="h1", uuid="sleeps")]},
    )

    def of(*figures: dict[str, list[Series]]) -> str:
        return why(merged(host_figures("h1"), *figures), tuple(QUERIES))

    assert of(*domains, counts("h1", 2, 1)) == ""
    assert of(*domains, counts("h1", 7, 1)) == "its list of domains contradicts libvirt's count: 7 active, 2 listed"
    assert of(*domains, counts("h1", 2, 4)) == "its list of domains contradicts libvirt's count: 4 inactive, 1 listed"
    assert of(counts("h1", 3, 0)) == "its list of domains contradicts libvirt's count: 3 active, 0 listed"
    assert of(counts("h1", 0, 0)) == ""


@pytest.mark.parametrize("missing", ["active", "inactive"])
@pytest.mark.parametrize("domains", [{}, domain_figures("h1", "a")], ids=["no domain", "a domain"])
def test_a_host_whose_domains_nobody_counts_is_not_empty(missing: str, domains: dict[str, list[Series]]) -> None:
    counted = counts("h1", len(domains) and 1, 0) | {f"host_domains_{missing}": []}
    figures = merged(host_figures("h1"), domains, counted)
    assert why(figures, tuple(QUERIES)) == f"its exporter does not say how many {missing} domains it has"


def test_of_other_exporters_only_what_was_asked_for_is_required() -> None:
    figures = merged(host_figures("h1") | {"host_libvirt_up": []}, domain_figures("h1", "a"), counts("h1", 7, 0))
    others = sorted(QUERIES.keys() - {"host_libvirt_up", "host_domains_active", "host_domains_inactive"})
    assert why(figures, others) == ""
    assert why(figures, [*others, "host_libvirt_up"]) == "its exporter does not say whether its libvirt answers"
    assert (
        why(figures, [*others, "host_domains_active"])
        == "its list of domains contradicts libvirt's count: 7 active, 1 listed"
    )
    uncounted = {**figures, "host_domains_active": []}
    assert (
        why(uncounted, [*others, "host_domains_active"]) == "its exporter does not say how many active domains it has"
    )


@pytest.mark.parametrize(
    ("labels", "named"),
    [
        (
            ({"instance": "h1:9807"}, {"instance": "h1:9808"}),
            "2 targets of Prometheus claim to be it: h1:9807, h1:9808",
        ),
        (
            ({"instance": "h1:1", "job": "a"}, {"instance": "h1:1", "job": "b"}),
            "2 targets of Prometheus claim to be it: h1:1 of job a, h1:1 of job b",
        ),
    ],
)
def test_a_host_that_two_targets_claim_to_be_is_unknown_and_both_are_named(
    labels: tuple[dict[str, str], dict[str, str]], named: str
) -> None:
    def of(target: dict[str, str], age: float = 2.0) -> dict[str, list[Series]]:
        return {
            name: [Series({**series.labels, **target}, series.samples) for series in answer]
            for name, answer in host_figures("h1", age=age).items()
        }

    assert why(merged(*map(of, labels))) == named
    assert why(merged(*map(of, labels), host_figures("h2") | {"host_cpus": [], "host_memory_bytes": []})) == named
    gone, now = labels
    assert why(merged(of(gone, age=200), of(now))) == ""  # it moved to the other


@pytest.mark.parametrize(
    ("one_way", "another"), [("kvm1:9807", "KVM1:9807"), ("[::ffff:10.0.0.1]:9807", "10.0.0.1:9807")]
)
def test_a_host_that_two_targets_spell_differently_is_unknown(one_way: str, another: str) -> None:
    """It would be moved from itself to itself. DNS takes upper and lower case for the same."""
    figures = merged(host_figures(one_way), host_figures(another))
    hosts = observe(figures, dict.fromkeys((one_way, another), READINGS)).snapshot.hosts
    named = ", ".join(sorted((one_way, another)))
    assert {host.why_unknown.text if host.why_unknown else "" for host in hosts} == {
        f"2 targets of Prometheus claim to be it: {named}"
    }


def test_two_exporters_of_different_kinds_may_tell_of_one_host() -> None:
    domains = merged(domain_figures("h1:9177", "a"), {"host_libvirt_up": [one(1, instance="h1:9177")]})
    seen = observe(merged(host_figures("h1:9100") | {"host_libvirt_up": []}, domains), {"h1:9100": READINGS})
    assert [(host.name, host.known) for host in seen.snapshot.hosts] == [("h1", True)]
    assert [d.name for d in seen.snapshot.domains] == ["name-a"]


@pytest.mark.parametrize("query", ["host_libvirt_up", "host_domains_active", "domain_paused", "domain_running"])
def test_what_one_target_lists_and_another_counts_is_no_list(query: str) -> None:
    def named(*replaced: str) -> str:
        found = doubt.of_targets(doubt.targets_by_host(figures, NOW, 35.0, set(replaced)).get("h1", set()))
        return found.text if found else ""

    figures = merged(host_figures("h1:9807"), domain_figures("h1:9807", "a"), counts("h1:9807", 1, 0))
    figures["domain_paused"] = [one(1, instance="h1:9807", uuid="a")]
    assert named() == ""
    figures[query] = [Series({**series.labels, "instance": "h1"}, series.samples) for series in figures[query]]
    assert named() == "2 targets of Prometheus claim to be it: h1, h1:9807"
    assert named(query) == "", "an exporter of another kind may answer it"


@pytest.mark.parametrize("state", ["paused", "suspended", "crashed", "shutdown", "no state"])
def test_what_is_not_shut_off_counts_as_there(state: str) -> None:
    (left_out,) = set(re.findall(r'state!~"([^"]*)"', QUERIES["domain_paused"]))
    assert re.fullmatch(left_out, state) is None
    assert re.fullmatch(left_out, "running")
    assert re.fullmatch(left_out, "shutoff")


def test_domains_of_an_unknown_host_are_not_listed() -> None:
    seen = observe(merged(host_figures("h1", age=60), domain_figures("h1", "u1")), {"h1": READINGS})
    assert seen.snapshot.domains == ()


def test_the_age_is_that_of_the_newest_sample_of_any_host() -> None:
    figures = merged(host_figures("h1", age=200), host_figures("h2", age=70), host_figures("h3", age=500))
    assert observe(figures, dict.fromkeys(("h1", "h2", "h3"), READINGS)).age_seconds == 70
    assert observe({}, {}).age_seconds is None


def test_a_domain_counts_where_it_runs_and_shut_off_only_where_it_runs_nowhere() -> None:
    figures = merged(
        host_figures("h1"),
        host_figures("h2"),
        domain_figures("h1", "moved", running=0),
        domain_figures("h2", "moved"),
        domain_figures("h1", "off", running=0),
        domain_figures("h2", "off", running=0),
        domain_figures("h1", "halted", running=0),
        domain_figures("h2", "halted", running=0) | {"domain_paused": [one(1, instance="h2", uuid="halted")]},
    )
    seen = observe(figures, {"h1": READINGS, "h2": READINGS})
    assert [(d.uuid, d.host, d.state) for d in seen.snapshot.domains] == [
        ("halted", "h2", DomainState.PAUSED),
        ("moved", "h2", DomainState.RUNNING),
        ("off", "h1", DomainState.SHUTOFF),
    ]


def test_a_domain_seen_running_twice_is_reported_and_not_moved() -> None:
    figures = merged(host_figures("h1"), host_figures("h2"), domain_figures("h1", "u"), domain_figures("h2", "u"))
    seen = observe(figures, {"h1": READINGS, "h2": READINGS})
    assert seen.duplicates == {"u": ("h1", "h2")}
    assert [d.state for d in seen.snapshot.domains] == [DomainState.PAUSED]


def test_a_host_that_lists_a_domain_under_two_names_does_not_run_it_twice() -> None:
    figures = domain_figures("h1:9807", "u")
    twice = [one(1, domain=name, instance="h1:9807", uuid="u") for name in ("a", "b")]
    seen = observe(merged(host_figures("h1:9807"), figures | {"domain_running": twice}), {"h1:9807": READINGS})
    assert seen.duplicates == {}
    assert [(domain.name, domain.state) for domain in seen.snapshot.domains] == [("a", DomainState.RUNNING)]


@pytest.mark.parametrize(
    "broken",
    [
        {"domain_cpu_cores": -1.0},
        {"domain_memory_bytes": -5.0},
        {"domain_memory_bytes": 0.0},
        {"domain_vcpus": 0.0},
        {"domain_cpu_cores": 4.5},  # its host has two CPUs
        {"domain_cpu_cores": float("nan")},
        {"domain_memory_bytes": float("inf")},
        {"domain_vcpus": 1e20},
        {"domain_cpu_delay_cores": 1e6},
        {"domain_cpu_cores_unsaturated": float("inf")},
        {"domain_cpu_delay_cores_unsaturated": 1e6},
        {"domain_rx_ratio": 1e9},
        {"domain_tx_ratio": float("inf")},
    ],
)
def test_a_domain_without_sound_figures_counts_and_stays(broken: dict[str, float]) -> None:
    seen = observe(merged(host_figures("h1"), domain_figures("h1", "u", **broken)), {"h1": READINGS})
    assert [d.state for d in seen.snapshot.domains] == [DomainState.PAUSED]
    assert read_snapshot(write_snapshot(seen.snapshot), "what was seen") == seen.snapshot


def test_what_prometheus_does_not_have_of_a_domain_is_unknown_and_not_zero() -> None:
    idle = {"domain_cpu_delay_cores": 0.0, "domain_rx_bytes_per_second": 0.0, "domain_tx_ratio": -1e-9}
    paused = domain_figures("h1", "b", running=0) | {"domain_paused": [one(1, instance="h1", uuid="b")]}
    figures = merged(host_figures("h1"), domain_figures("h1", "a", **idle), paused)
    snapshot = observe(figures, {"h1": READINGS}).snapshot
    a, b = snapshot.domains
    assert (a.cpu_delay_cores, a.rx_bytes_per_second, a.tx_bytes_per_second) == (0.0, 0.0, None)
    assert (a.rx_ratio, a.tx_ratio) == (None, 0.0)
    assert {b.cpu_delay_cores, b.rx_bytes_per_second, b.tx_bytes_per_second, b.rx_ratio, b.tx_ratio} == {None}
    assert read_snapshot(write_snapshot(snapshot), "what was seen") == snapshot
    for strategy in ("default", "thesis"):
        assert plan(snapshot, Policy(strategy=strategy)).moves == ()


@pytest.mark.parametrize(("size", "memory"), [("unknown", float(GIB)), ("2097152", 1e300)])
def test_a_domain_in_huge_pages_of_an_unknown_size_counts_and_stays(size: str, memory: float) -> None:
    figures = merged(host_figures("h1"), domain_figures("h1", "u"))
    figures["domain_hugepages_bytes"] = [one(memory, instance="h1", uuid="u", domain="x", size=size)]
    snapshot = observe(figures, {"h1": READINGS}).snapshot
    assert [host.state for host in snapshot.hosts] == [HostState.ACTIVE]
    assert [domain.state for domain in snapshot.domains] == [DomainState.PAUSED]


def test_a_domain_that_has_all_of_its_host_or_talks_to_its_neighbours_is_sound() -> None:
    busy = {"domain_vcpus": 2.0, "domain_cpu_cores": 2.3, "domain_cpu_delay_cores": 2.0, "domain_rx_ratio": 40.0}
    seen = observe(merged(host_figures("h1"), domain_figures("h1", "u", **busy)), {"h1": READINGS})
    assert [d.state for d in seen.snapshot.domains] == [DomainState.RUNNING]


def test_where_the_clocks_differ_no_figure_can_be_dated() -> None:
    for theirs in (NOW - 19, NOW + 19):
        assert observe(host_figures("h1"), {"h1": READINGS}, theirs=theirs).snapshot.host("h1")
    for theirs, apart in ((NOW + 600, "600 s behind"), (NOW - 22, "22 s ahead of")):
        with pytest.raises(ClockError, match=f"^this machine's clock is {apart} that of Prometheus at http://answers,"):
            observe(host_figures("h1"), {"h1": READINGS}, theirs=theirs)


def test_a_server_may_be_behind_by_the_delay_of_the_look() -> None:
    client = Answers({}, [])
    client.now = NOW - 49
    assert replace(observer(client), delay_seconds=30).observe(NOW).snapshot.time == NOW - 30
    client.now = NOW - 52
    with pytest.raises(ClockError, match="52 s ahead of"):
        replace(observer(client), delay_seconds=30).observe(NOW)


def test_a_prediction_is_not_measured_by_a_load_that_cannot_be() -> None:
    """Found by the campaign: errors of 200 % were learned from garbage, and nothing fitted on any host any more."""
    samples = [(970.0, 2.5), (980.0, -0.01), (990.0, 1e300), (1000.0, 0.3), (1010.0, -1.0)]
    client = Answers({}, as_series({"h1:9807": samples}))
    window = HostWindow("h1", 970.0, 1010.0)
    assert observer(client).loads([window]).samples == {window: ((980.0, 0.0), (1000.0, 0.3))}


def test_a_prediction_is_not_measured_by_the_load_of_one_of_two_targets() -> None:
    before = [(600.0, 0.1)]  # a target that went
    client = Answers({}, as_series({"h1:9807": READINGS, "h1:9808": READINGS, "h2:9807": READINGS, "h2:9808": before}))
    windows = [HostWindow(name, 970.0, 1010.0) for name in ("h1", "h2")]
    found = observer(client).loads(windows).samples
    assert found == {windows[0]: (), windows[1]: tuple(READINGS)}


def test_looks_at_whole_steps_so_that_every_balancer_sees_the_same_readings() -> None:
    for now in (1000.0, 1003.7, 1009.999):
        assert observe(host_figures("h1"), {"h1": READINGS}, now=now).snapshot.time == 1000.0


values = st.one_of(
    st.floats(),  # with NaN and infinities, which the client leaves out: nothing relies on that here
    st.sampled_from([0.0, 1.0, -1.0, 65536.0, 1e9, 1e-9, -125000.0, 65535 * 125000.0, 4294967295 * 125000.0, 2.0**63]),
)
HOSTILE = ("h1:1", "h1:2", "h3", "", ":9", "[::1]:1", "h2:9", "\x00")
series = st.builds(
    lambda value, at, labels: Series(labels, ((at, value),)),
    values,
    st.one_of(st.just(NOW), st.floats(-1e300, 1e300)),
    st.fixed_dictionaries(
        {},
        optional={
            "instance": st.sampled_from(HOSTILE),
            "uuid": st.sampled_from(["", "u", "v", "a"]),
            "domain": st.sampled_from(["", "d", "<x>"]),
            "rule": st.sampled_from(["together", "only-on", "ignore", "x"]),
            "value": st.sampled_from(["", "g", "h*"]),
            "job": st.sampled_from(["a", "b"]),
            "state": st.just("paused"),
        },
    ),
)
SOUND = merged(host_figures("sound:1"), domain_figures("sound:1", "s"))


nearly_sound = st.dictionaries(st.sampled_from(sorted(QUERIES)), values, max_size=3).map(
    lambda wrong: (
        merged(host_figures("h1:1"), domain_figures("h1:1", "u"), counts("h1:1", 1, 0))
        | {name: [one(value, instance="h1:1", uuid="u", domain="d")] for name, value in wrong.items()}
    )
)


@given(
    st.one_of(nearly_sound, st.dictionaries(st.sampled_from(sorted(QUERIES)), st.lists(series, max_size=4))),
    st.one_of(
        st.just({"h1:1": [0.7, 0.9, 0.9]}),
        st.dictionaries(st.sampled_from(HOSTILE), st.lists(values, max_size=5), max_size=3),
    ),
)
def test_whatever_prometheus_says_of_some_hosts_the_others_are_seen_as_they_are(
    figures: dict[str, list[Series]], loads: dict[str, list[float]]
) -> None:
    readings = {
        host: [(NOW - 10 * i, load) for i, load in reversed(list(enumerate(several)))]
        for host, several in loads.items()
        if host != "sound:1"
    }
    seen = observe(merged(SOUND, figures), readings | {"sound:1": READINGS}).snapshot
    alone = observe(SOUND, {"sound:1": READINGS}).snapshot
    assert seen.host("sound") == alone.host("sound")
    assert [domain for domain in seen.domains if domain.uuid == "s"] == list(alone.domains)
    for host in seen.hosts:
        assert host.known is (host.why_unknown is None)
        assert not host.known or all(0 <= ratio <= 1.05 for ratio in host.cpu_ratio)
    assert read_snapshot(write_snapshot(seen), "what was seen") == seen
    for strategy in ("default", "thesis"):
        plan(seen, Policy(strategy=strategy))


@pytest.mark.parametrize(
    "instance", ["x/system?command=/prog&a=:1", "x?no_verify=1", "-oProxyCommand=/prog:1", "", "h1\n"]
)
def test_a_target_whose_name_is_no_hosts_is_refused_and_nothing_of_it_is_looked_at(instance: str) -> None:
    figures = merged(
        host_figures("h1"), host_figures(instance), domain_figures("h1", "a"), domain_figures(instance, "b")
    )
    seen = observe(figures, {"h1": READINGS, instance: READINGS})
    assert [host.name for host in seen.snapshot.hosts] == ["h1"]
    assert [domain.uuid for domain in seen.snapshot.domains] == ["a"]
    assert seen.refused.counts == {TargetRefusal.NOT_A_HOST: 1}
    (target,) = seen.refused.named
    assert target.instance == instance.replace("\n", "\\n")


def test_a_target_that_the_configuration_does_not_admit_is_refused() -> None:
    admits = parse_config("libvirt: {hosts: {backup: qemu:///system}, pattern: [kvm*.lan, 'fd00::*']}", "x").libvirt
    names = ("kvm1.lan", "backup", "fd00::1", "kvm1.lan.attacker.example", "shop", "kvm1")
    instances = [f"[{name}]:1" if ":" in name else f"{name}:1" for name in names]
    seen = observe(merged(*map(host_figures, instances)), dict.fromkeys(instances, READINGS), admits=admits.admission())
    assert [host.name for host in seen.snapshot.hosts] == ["backup", "fd00::1", "kvm1.lan"]
    assert seen.refused.counts == {TargetRefusal.NOT_ADMITTED: 3}
    assert str(seen.refused).startswith(
        "'kvm1.lan.attacker.example:1' (not in libvirt.hosts, and does not fit libvirt.pattern"
    )


def test_a_host_that_the_template_of_the_uri_has_no_place_for_is_refused_by_itself() -> None:
    libvirt = parse_config("libvirt: {uri: 'qemu+ssh://{host}.lan/system'}", "x").libvirt
    seen = observe(merged(host_figures("h1"), host_figures("[::1]:1")), {"h1": READINGS}, admits=libvirt.admission())
    assert [host.name for host in seen.snapshot.hosts] == ["h1"]
    assert seen.refused.counts == {TargetRefusal.NOT_ADMITTED: 1}


def test_of_very_many_refused_targets_the_first_are_named_and_all_are_counted() -> None:
    instances = [f"h{i}/?x" for i in range(3000)]
    seen = observe({"host_cpus": [one(2, instance=instance * 100) for instance in instances]}, {})
    assert seen.refused.counts == {TargetRefusal.NOT_A_HOST: 3000}
    assert len(seen.refused.named) == 50
    assert len(str(seen.refused)) < 10_000
    assert str(seen.refused).endswith(" and 2950 more")


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ('job="virtpoise-exporter"', 'job="virtpoise-exporter"'),
        (" job = \"a\" , site!~'x|y', ", "job=\"a\",site!~'x|y'"),
        ('job=~"a\\\\.b{2}",x!=`"}`', 'job=~"a\\\\.b{2}",x!=`"}`'),
        ("", ""),
    ],
)
def test_label_matchers_are_read_as_promql_has_them(text: str, written: str) -> None:
    assert read_matchers(text) == written


@pytest.mark.parametrize(
    "text",
    [
        "job",
        "job=virtpoise",
        'job="a" x="b"',
        'job="a"} or up{job="b"',
        'job="a"}',
        '{job="a"}',
        'job="a',
        'job="a\nb"',
        'job=="a"',
        '1job="a"',
        ',job="a"',
        'job="a",,',
        'job="\\q"',
        '__name__="up"',
        'job="a"#',
    ],
)
def test_what_is_no_label_matcher_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(BadInput) as refused:
        parse_config(json.dumps({"prometheus": {"matchers": text}}), "x.yml")
    said = str(refused.value)
    assert said.startswith("x.yml: prometheus.matchers: expected ")
    assert said.isprintable()


@given(st.text(alphabet="ajob=~!\"'`\\{},#x1 \n()[]", max_size=30))
def test_matchers_stay_between_the_braces_of_their_selector(text: str) -> None:
    """With the strings taken out, what is read has nothing in it that could end a selector or begin a comment."""
    try:
        written = read_matchers(text)
    except ValueError:
        return
    bare = re.sub(r"""\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'|`[^`]*`""", "", written)
    assert re.fullmatch(r"[a-z0-9_=~!,]*", bare)


@pytest.mark.parametrize("name", QUERIES)
def test_the_matchers_stand_in_each_selector_of_each_query(name: str) -> None:
    ranges = Ranges.of(step_seconds=10, scrape_interval_seconds=10, consecutive=3, saturation_ratio=0.9)
    query = render(QUERIES[name], ranges, EXAMPLE)
    selectors = re.findall(r"\bvirtpoise_\w+(\{[^}]*\})?", query)
    assert selectors
    for selector in selectors:
        assert re.search(r'[{,]job="virtpoise-exporter"\}$', selector), query


def test_a_look_at_some_hosts_sees_of_them_what_the_whole_look_sees_and_asks_for_no_other() -> None:
    figures = merged(host_figures("h1"), host_figures("h2"), domain_figures("h1", "u1"))
    whole = Answers(figures, as_series({"h1": READINGS, "h2": READINGS}))
    more = merged(figures, host_figures("h3"), domain_figures("h3", "u3"))
    narrow = Answers(more, as_series({"h1": READINGS, "h2": READINGS, "h3": READINGS}))
    seen, of_two = observer(whole).observe(NOW), observer(narrow).observe_hosts(("h1", "h2"), NOW)
    assert of_two.snapshot == seen.snapshot
    replace(observer(narrow), queries={}).observe_hosts(("h1", "h2"), NOW)
    assert all('instance=~"(h1|h2)' in query for query in narrow.asked[len(QUERIES) :])


def test_two_looks_at_once_keep_their_own_warnings() -> None:
    """Each look waits in its first query for the other, as when a move is checked during a cycle."""
    both = threading.Barrier(2, timeout=10)

    class Meeting(Answers):
        @staticmethod
        def side_by_side(questions: Mapping[str, Callable[[], T]]) -> dict[str, T]:
            return {name: ask() for name, ask in questions.items()}  # in the look's own thread, which names it

        def instant(self, query: str, at: float) -> QueryAnswer:
            if query == "host_cpus":
                both.wait()
            return QueryAnswer((), (f"{threading.current_thread().name}: {query}",))

    shared = observer(Meeting({}, []))
    with ThreadPoolExecutor(2) as pool:
        looks = [pool.submit(_named, name, shared) for name in ("cycle", "move")]
    for name, look in zip(("cycle", "move"), looks, strict=True):
        of_instants = [warning for warning in look.result() if warning != "warning of a range"]
        assert len(of_instants) == len(QUERIES) - 4  # four others are windows
        assert all(warning.startswith(f"{name}: ") for warning in of_instants)


def _named(name: str, shared: Observer) -> tuple[str, ...]:
    threading.current_thread().name = name
    return shared.observe(NOW).warnings


@pytest.mark.parametrize("matchers", ["", 'job="virtpoise_exporter"'])
def test_a_query_of_two_hosts_names_them_and_nothing_in_a_name_is_a_pattern(matchers: str) -> None:
    asked = narrowed(matchers, ["h1.lan", "h2"])
    assert asked.startswith(matchers)
    assert read_matchers(asked) == asked
    (written,) = re.findall(r'instance=~"((?:[^"\\]|\\.)*)"', asked)
    pattern = re.compile(written.replace("\\\\", "\\"))
    fits = ["h1.lan", "h1.lan:9807", "h2:1"]
    assert [name for name in [*fits, "h1xlan", "h1.lan.", "h3", "h1.lan:x"] if pattern.fullmatch(name)] == fits
    assert narrowed(matchers, ["h1", "fe80::1"]) == matchers


class TestHugePages:
    """What Prometheus has of static huge pages."""

    def seen(self, size: str, free: float = 3, need: float = GIB) -> Observation:
        figures = merged(host_figures("h1"), domain_figures("h1", "u"))
        figures["host_hugepages_free"] = [one(free, instance="h1", size=size), one(2, instance="h1", size="1073741824")]
        figures["domain_hugepages_bytes"] = [one(need, instance="h1", uuid="u", domain="x", size=size)]
        return observe(figures, {"h1": READINGS})

    def test_they_are_in_the_snapshot_and_survive_a_file(self) -> None:
        snapshot = self.seen("2097152").snapshot
        small, large = (HugePages(page_bytes=s, memory_bytes=m) for s, m in ((2097152, 6291456), (GIB, 2 * GIB)))
        assert snapshot.hosts[0].hugepages_free == (small, large)
        assert snapshot.domains[0].hugepages == (HugePages(page_bytes=2097152, memory_bytes=GIB),)
        assert read_snapshot(write_snapshot(snapshot), "x") == snapshot

    def test_a_host_without_these_figures_has_unknown_pages(self) -> None:
        """Its collector may have failed: a kernel with a size of pages counts none of them as 0."""
        figures = merged(host_figures("h1"), host_figures("h2"))
        figures["host_hugepages_free"] = [one(0, instance="h1", size="2097152")]
        seen = observe(figures, {"h1": READINGS, "h2": READINGS}).snapshot
        none = HugePages(page_bytes=2097152, memory_bytes=0)
        assert [host.hugepages_free for host in seen.hosts] == [(none,), None]

    @pytest.mark.parametrize(("node", "number"), [("1", 1), ("", None), ("one", None), ("9" * 40, None)])
    def test_pages_of_each_node_are_told_apart(self, node: str, number: int | None) -> None:
        figures = merged(host_figures("h1"), {})
        size = {"instance": "h1", "size": "2097152"}
        figures["host_hugepages_free"] = [one(3, **size, node=node), one(1, **size, node="0")]
        (found,) = observe(figures, {"h1": READINGS}).snapshot.hosts
        assert {pages.node: pages.memory_bytes for pages in found.hugepages_free or ()} == {
            0: 2097152,
            number: 3 * 2097152,
        }

    @pytest.mark.parametrize("running", [1.0, 0.0])
    def test_a_domain_has_its_pages_and_its_maximum_whether_it_runs_or_not(self, running: float) -> None:
        figures = merged(host_figures("h1"), domain_figures("h1", "u"))
        figures["domain_running"] = [one(running, instance="h1", uuid="u", domain="x")]
        figures["domain_memory_maximum_bytes"] = [one(4 * GIB, instance="h1", uuid="u", domain="x")]
        figures["domain_hugepages_bytes"] = [one(GIB, instance="h1", uuid="u", domain="x", size="2097152")]
        (found,) = observe(figures, {"h1": READINGS}).snapshot.domains
        assert (found.memory_maximum_bytes, found.promised_bytes) == (4 * GIB, 3 * GIB)

    def test_the_labels_of_its_target_are_the_hosts(self) -> None:
        figures = merged(host_figures("h1"), {})
        (cpus,) = figures["host_cpus"]
        labels = {**cpus.labels, "job": "virtpoise-exporter", "rack": "r1", "note": "\x1b[2J"}
        (found,) = observe(figures | {"host_cpus": [Series(labels, cpus.samples)]}, {"h1": READINGS}).snapshot.hosts
        assert found.labels == {"rack": "r1"}

    @pytest.mark.parametrize("size", ["", "0", "-1", "2Mi", "\u0662", "9" * 40])
    def test_a_size_that_is_none_counts_for_nothing(self, size: str) -> None:
        snapshot = self.seen(size).snapshot
        assert [pages.page_bytes for pages in snapshot.hosts[0].hugepages_free or ()] == [GIB]
        assert snapshot.domains[0].hugepages == ()

    @pytest.mark.parametrize("value", [-1.0, 1e300, float("nan"), float("inf")])
    def test_a_figure_that_cannot_be_counts_for_nothing(self, value: float) -> None:
        snapshot = self.seen("2097152", value, value).snapshot
        assert [pages.page_bytes for pages in snapshot.hosts[0].hugepages_free or ()] == [GIB]
        assert snapshot.domains[0].hugepages == ()


def test_an_uplink_without_figures_is_unknown_and_not_idle() -> None:
    readings = {"h1": [(NOW, 0.5)], "h2": [(NOW, 0.5)]}
    figures = merged(host_figures("h1"), host_figures("h2"))
    figures["host_rx_ratio"] = [one(0.25, instance="h2")]
    h1, h2 = observe(figures, readings).snapshot.hosts
    assert (h1.known, h1.rx_ratio, h1.tx_ratio) == (True, None, None)
    assert (h2.known, h2.rx_ratio, h2.tx_ratio) == (True, 0.25, None)
    assert read_snapshot(write_snapshot(group := observe(figures, readings).snapshot), "saved") == group


def test_a_snapshot_of_an_earlier_version_still_loads_and_says_what_it_said() -> None:
    """Idle uplinks and unknown ones were both written as 0.0."""
    figures = merged(host_figures("h1"))
    saved = json.loads(write_snapshot(observe(figures, {"h1": [(NOW, 0.5)]}).snapshot))
    saved["hosts"][0] |= {"rx_ratio": 0.0, "tx_ratio": 0.0}
    assert read_snapshot(json.dumps(saved), "saved").hosts[0].rx_ratio == 0.0
    del saved["hosts"][0]["rx_ratio"]
    assert read_snapshot(json.dumps(saved), "saved").hosts[0].rx_ratio is None
