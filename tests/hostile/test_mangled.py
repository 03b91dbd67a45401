"""Answers damaged by chance, through the whole balancer: look, cycle, page, API, metrics, formats.

Honest answers of Prometheus for three hosts are damaged at random places: figures, labels, whole series. Whatever comes
out, no cycle fails, no page is 500, and what programs read can be read.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import quote

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from virtpoise_balancer.config import Web
from virtpoise_balancer.formats import read_snapshot, write_plan, write_snapshot
from virtpoise_balancer.knowledge.store import Store
from virtpoise_balancer.model import Policy
from virtpoise_balancer.monitor.client import PrometheusClient, QueryAnswer
from virtpoise_balancer.monitor.observe import Observer
from virtpoise_balancer.monitor.queries import QUERIES
from virtpoise_balancer.monitor.replies import Series
from virtpoise_balancer.plan import plan
from virtpoise_lab.postgresql import Server
from web.serving import Balancer, small

pytestmark = pytest.mark.hostile

NOW = 1_800_000_000.0
EXAMPLES = int(os.environ.get("VIRTPOISE_EXAMPLES", "15"))
GIB = 2.0**30
WINDOWS = ("host_cpu_ratio", "host_memory_ratio", "host_rx_ratio", "host_tx_ratio")
ODD = (math.nan, math.inf, -1.0, 0.0, 1e-300, 0.5, 1.5, 65535 * 125e3, 2.0**53, 1e19, 1e300)


def honest() -> dict[str, list[Series]]:
    """Three hosts with two domains each; the first host is overloaded."""
    found: dict[str, list[Series]] = {name: [] for name in QUERIES}
    for number, load in (("1", 0.95), ("2", 0.3), ("3", 0.2)):
        instance = {"instance": f"h{number}:9807", "job": "virtpoise-exporter"}
        for name, value in {
            "host_cpus": 4.0, "host_memory_bytes": 64 * GIB, "host_sample_time": NOW - 2, "host_cpu_speed": 1.0,
            "host_memory_available_bytes": 32 * GIB, "host_uplink_bytes_per_second": 125e6, "host_libvirt_up": 1.0,
            "host_domains_active": 2.0, "host_domains_inactive": 0.0,
        }.items():  # fmt: skip
            found[name].append(Series(instance, ((NOW, value),)))
        for name in WINDOWS:
            ratio = load if name == "host_cpu_ratio" else 0.2
            found[name].append(Series(instance, tuple((NOW - 10 * back, ratio) for back in reversed(range(10)))))
        for which in ("a", "b"):
            labels = {**instance, "uuid": f"uuid-{which}{number}", "domain": f"vm-{which}{number}"}
            values = {name: 0.0 for name in QUERIES if name.startswith("domain_")}
            values |= {"domain_running": 1.0, "domain_vcpus": 2.0, "domain_memory_bytes": GIB}
            values |= {"domain_cpu_cores": load * 2, "domain_memory_resident_bytes": GIB / 2}
            del values["domain_paused"]
            for name, value in values.items():
                more = {
                    "domain_placement": {"rule": "prefer", "value": "h2"},
                    "domain_hugepages_bytes": {"size": "2097152"},
                }.get(name, {})
                found[name].append(Series({**labels, **more}, ((NOW, value),)))
    return found


HONEST = honest()
PLACES = [(name, at) for name, answer in sorted(HONEST.items()) for at in range(len(answer))]
text = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    st.sampled_from(
        ["h1:9807", "h2", "[::1]:9807", "uuid-a1", "vm-a1", "..", "../..", "%2e%2e/", "a/b?c#d", "-", "\x00"]
    ),
)
number = st.one_of(st.sampled_from(ODD), st.floats(width=64))


@dataclass(frozen=True)
class Damage:
    """What is done to the series at one place: dropped, doubled, its last figure or one of its labels changed."""

    place: tuple[str, int]
    how: str
    value: float
    label: str
    text: str

    def of(self, series: Series) -> list[Series]:
        match self.how:
            case "drop":
                return []
            case "figure":
                return [Series(series.labels, (*series.samples[:-1], (series.samples[-1][0], self.value)))]
            case "time":
                return [Series(series.labels, (*series.samples[:-1], (self.value, series.samples[-1][1])))]
            case "label":
                return [Series({**series.labels, self.label: self.text}, series.samples)]
            case _:
                return [series, Series({**series.labels, self.label: self.text}, series.samples)]


damages = st.lists(
    st.builds(
        Damage,
        st.sampled_from(PLACES),
        st.sampled_from(["drop", "figure", "time", "label", "double"]),
        number,
        st.sampled_from(["instance", "uuid", "domain", "job", "rule", "value", "x"]),
        text,
    ),
    max_size=8,
)


class Answers(PrometheusClient):
    """A Prometheus that gives these answers, as the client passes them on: with finite figures alone."""

    def __init__(self, found: Mapping[str, list[Series]]) -> None:
        super().__init__(url="http://answers", timeout_seconds=1)
        self._found = found

    def time(self) -> float:
        return NOW

    def instant(self, query: str, at: float) -> QueryAnswer:
        series = []
        for one in self._found[query]:
            samples = tuple(
                (when, value) for when, value in one.samples if math.isfinite(value) and math.isfinite(when)
            )
            if samples:
                series.append(Series(one.labels, samples))
        return QueryAnswer(tuple(series))

    def range(self, query: str, start: float, end: float, step_seconds: float) -> QueryAnswer:
        return self.instant(query, end)


def damaged(done: list[Damage]) -> dict[str, list[Series]]:
    found = {name: list(answer) for name, answer in HONEST.items()}
    for one in done:
        name, at = one.place
        found[name][at : at + 1] = one.of(found[name][at]) if at < len(found[name]) else []
    return found


@dataclass
class Running:
    balancer: Balancer
    url: str
    session: requests.Session = field(default_factory=requests.Session)

    def get(self, path: str) -> requests.Response:
        return self.session.get(self.url + path, timeout=30)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder, store = tmp_path_factory.mktemp("mangled"), None
    if request.param == "postgresql":
        server: Server = request.getfixturevalue("postgresql")
        store = Store.open(server.new_database(), password_file=server.password_file)
    balancer = Balancer(folder, small(), Web.model_validate({"listen_address": "127.0.0.1:0"}), store=store)
    with balancer.served() as url, requests.Session() as session:
        session.trust_env = False
        session.headers["Connection"] = "close"  # an idle one may be closed between two examples
        yield Running(balancer, url, session)


def look(found: Mapping[str, list[Series]]) -> Observer:
    return Observer(
        client=Answers(found),
        step_seconds=10,
        scrape_interval_seconds=10,
        consecutive=3,
        saturation_ratio=0.9,
        queries={name: name for name in QUERIES},
        matchers="",
        admits=lambda _name: True,
    )


def test_the_honest_answers_have_a_plan() -> None:
    assert plan(look(HONEST).observe(NOW).snapshot, Policy()).moves


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damages)
def test_whatever_is_damaged_the_cycle_goes_on_and_everything_can_be_read(running: Running, done: list[Damage]) -> None:
    snapshot = look(damaged(done)).observe(NOW).snapshot
    assert read_snapshot(write_snapshot(snapshot), "x") == snapshot
    for strategy in ("default", "thesis"):
        policy = replace(Policy(), strategy=strategy)
        json.loads(write_plan(plan(snapshot, policy)))
    balancer = running.balancer
    balancer.watching.seen = snapshot
    balancer.cycle()
    assert balancer.published.state.result != "failed", balancer.published.state.sentence
    assert "\n" not in balancer.published.state.sentence
    names = [*(f"hosts/{quote(host.name, safe='')}" for host in snapshot.hosts)]
    names += [f"domains/{quote(one.uuid, safe='')}" for one in snapshot.domains]
    for path in ("/", "/plan", "/history", *(f"/{name}" for name in names)):
        page = running.get(path)
        assert page.status_code in (200, 404), f"{path}: {page.status_code}"
    for path in ("status", "plan", "snapshot"):
        answer = running.get(f"/api/v1/{path}")
        assert answer.status_code == 200, answer.text
        answer.json()
    assert running.get("/sd/hosts").json() is not None
    for one in snapshot.domains:
        assert running.get(f"/api/v1/explain/{quote(one.uuid, safe='')}").status_code in (200, 404)
    assert list(text_string_to_metric_families(running.get("/metrics").text))
