"""What the balancer serves over HTTP, and which orders it takes."""

import html
import json
import re
import ssl
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import requests
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from builders import FakeClock, domain, due_prediction, group, host, thesis_policy
from storing import record
from virtpoise_balancer.analyse.backoff import Backoff
from virtpoise_balancer.analyse.brake import Brake, BrakeCause
from virtpoise_balancer.analyse.drains import DrainOrder
from virtpoise_balancer.analyse.measure import Measured
from virtpoise_balancer.blackout import Blackout
from virtpoise_balancer.command import terminal
from virtpoise_balancer.config import Config, Libvirt, Web
from virtpoise_balancer.control.orders import Orders
from virtpoise_balancer.errors import BadInput, Refused
from virtpoise_balancer.execute.executor import InFlight
from virtpoise_balancer.execute.reach import HostAnswer
from virtpoise_balancer.knowledge.records import Changes, OverrideValue
from virtpoise_balancer.knowledge.store import Store
from virtpoise_balancer.model import (
    BlackoutWindow,
    DomainState,
    HostLimits,
    HostState,
    MigrationOutcome,
    Plan,
    Policy,
    Progress,
    Reason,
    Refusal,
    Result,
    SpaceTrigger,
    Trigger,
    Unknown,
    UnknownKind,
    Unsettled,
    UnsettledKind,
)
from virtpoise_balancer.monitor.observe import Observation
from virtpoise_balancer.monitor.replies import Series
from virtpoise_balancer.monitor.targets import AdmittedTargets
from virtpoise_balancer.plan import plan
from virtpoise_balancer.tokens import USER_HEADER
from virtpoise_balancer.web.app import make_app
from virtpoise_balancer.web.context import Context
from virtpoise_balancer.web.guard import Gate
from virtpoise_balancer.web.metrics import Metrics
from virtpoise_balancer.web.server import WebServer
from virtpoise_balancer.web.state import Published, State, newest_figures

ALERTS = Path(__file__).parents[2] / "alerts"
HERE = "http://127.0.0.1:9808"
TOKEN = "a-token-of-alice-1234567890"
POLICY = thesis_policy()
SNAPSHOT = group(
    host("h1", 0.5, 0.9, 0.9, penalty_until=1100.0),
    host("h2", 0.1, 0.1),
    host("h3", state=HostState.UNKNOWN),
    domain('a"\n<b>', "h1", 3.0),
    domain("twin", "h1", 0.1, uuid="u1"),
    domain("twin", "h2", 0.1, uuid="u2"),
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(Store.open(f"sqlite:///{tmp_path}/state.db")) as opened:
        yield opened


@pytest.fixture
def published(store: Store) -> Published:
    made = Published(State(mode="automatic", leader=True, policy=POLICY, interval_seconds=10))
    made.overrides = store.overrides
    return made


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text(f"bob:{TOKEN[::-1]}\nalice:{TOKEN}\n")
    path.chmod(0o600)
    return path


@pytest.fixture
def reloads() -> list[bool]:
    return []


@pytest.fixture
def applied() -> list[object]:
    return []


@pytest.fixture
def make_context(
    published: Published, store: Store, reloads: list[bool], applied: list[object], token_file: Path
) -> Callable[..., Context]:
    def make(**web: object) -> Context:
        config = Config(web=Web(**{"token_file": token_file, **web}))
        metrics = Metrics(published)

        def carry_out(wanted: object) -> Plan:
            if wanted == {("gone", "h2")}:
                raise Refused("out of date: the plan no longer has gone to h2")
            applied.append(wanted)
            return Plan(strategy="thesis", solved=True, summary="")

        return Context(
            published=published,
            metrics=metrics,
            store=store,
            orders=Orders(
                store=store,
                look=lambda: SNAPSHOT,
                mode=lambda: "automatic",
                carry_out=carry_out,
                on_order=metrics.ordered,
            ),
            config=lambda: config,
            reload=lambda: reloads.append(True),
            gate=Gate(config.web),
        )

    return make


def reach(context: Context, address: str = "127.0.0.1", base_url: str = HERE) -> TestClient:
    return TestClient(make_app(context), base_url=base_url, client=(address, 50000))


@pytest.fixture
def client(make_context: Callable[..., Context]) -> Iterator[TestClient]:
    with reach(make_context()) as made:
        yield made


def after_a_cycle(published: Published, store: Store) -> None:
    free = group(host("h1", 0.9, 0.9), host("h2", 0.1, 0.1), domain("a", "h1", 3.0))
    made = plan(free, POLICY)
    record(store, made, 1000.0, acted=True)
    published.state = State(
        mode="automatic",
        leader=True,
        policy=POLICY,
        interval_seconds=10,
        cycle_at=1000.5,
        result="moved",
        sentence=made.summary,
        observation=Observation(snapshot=SNAPSHOT, age_seconds=2.5, duplicates={"u": ("h1", "h2")}),
        plan=made,
        backoffs={"h1": Backoff(host="h1", penalty_until=1100.0, failures=2)},
        predictions=store.open_predictions(),
    )
    published.in_flight = lambda: (
        InFlight(made.moves[0], Progress(elapsed_seconds=1, total_bytes=4, processed_bytes=1, remaining_bytes=3)),
    )


def metric(client: TestClient, name: str) -> dict[tuple[str, ...], float]:
    """The samples of a metric by their labels' values, in the order of the labels' names."""
    return {
        tuple(sample.labels[name] for name in sorted(sample.labels)): sample.value
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for sample in family.samples
        if sample.name == name
    }


def test_without_a_cycle_for_long_it_is_neither_healthy_nor_ready(
    client: TestClient, published: Published, store: Store
) -> None:
    after_a_cycle(published, store)
    published.clock = clock = FakeClock(published.cycle_ended)
    clock.sleep(59)
    assert client.get("/-/healthy").status_code == 200
    clock.sleep(41)
    for path in ("/-/healthy", "/-/ready"):
        answer = client.get(path)
        assert (answer.status_code, answer.text) == (503, "No cycle has ended for 100 s.\n")


def test_where_reading_is_closed_health_names_no_host_and_no_group(
    make_context: Callable[..., Context], published: Published, store: Store
) -> None:
    after_a_cycle(published, store)
    silent = HostAnswer(asked_at=1000.0, active_domains=None, why="no answer within 10 s")
    published.state = replace(
        published.state, host_answers={"h1": HostAnswer(asked_at=1001.0, active_domains=2), "h2": silent}
    )
    closed = make_context(read="token")
    contexts = replace(closed, group="blue"), replace(closed, group="red")
    client = TestClient(make_app(*contexts), base_url=HERE, client=("192.0.2.7", 50000))
    assert (
        client.get("/-/ready").text == "virtpoise is ready. Libvirt does not answer the balancer on 1 of its hosts.\n"
    )
    published.state = replace(published.state, host_answers={"h1": silent, "h2": silent})
    none = "No host's libvirt answers the balancer, so nothing can be moved.\n"
    assert client.get("/-/ready").text == 2 * none


def test_libvirt_that_does_not_answer_is_shown_everywhere(
    client: TestClient, published: Published, store: Store
) -> None:
    after_a_cycle(published, store)
    silent = HostAnswer(asked_at=1000.0, active_domains=None, why="no answer within 10 s")
    published.state = replace(
        published.state, host_answers={"h1": HostAnswer(asked_at=1001.0, active_domains=2), "h2": silent}
    )
    assert client.get("/-/ready").text == "virtpoise is ready. Libvirt does not answer the balancer on h2.\n"
    assert metric(client, "virtpoise_host_libvirt_answers") == {("h2",): 0.0}, "no series where it answers"
    assert (
        "h2</a> does not answer the balancer, so no move to it is possible: no answer within 10 s"
        in client.get("/").text
    )
    found = {host["name"]: (host["active_domains"], host["asked_at"]) for host in client.get("/api/v1/hosts").json()}
    assert found == {"h1": (2, 1001.0), "h2": (None, 1000.0), "h3": (None, None)}
    published.state = replace(published.state, host_answers={"h1": silent, "h2": silent})
    answer = client.get("/-/ready")
    assert (answer.status_code, answer.text) == (
        503,
        "No host's libvirt answers the balancer, so nothing can be moved.\n",
    )
    published.state = replace(published.state, mode="recommend")
    assert client.get("/-/ready").status_code == 200


def test_why_a_host_is_unknown_is_shown_everywhere(client: TestClient, published: Published, store: Store) -> None:
    after_a_cycle(published, store)
    why = Unknown(kind=UnknownKind.TARGETS, text="2 targets of Prometheus claim to be it: h2:1, h2:2")
    seen = group(host("h1", 0.9, 0.9), host("h2", state=HostState.UNKNOWN, unknown=why))
    published.state = replace(published.state, observation=Observation(snapshot=seen, age_seconds=1.0))
    assert metric(client, "virtpoise_host_unknown") == {("h2", "targets"): 1.0}
    assert client.get("/api/v1/status").json()["hosts"][1]["why_unknown"] == why.text
    assert f"is unknown: {why.text}" in client.get("/").text


def test_an_uplink_of_unknown_use_is_unknown_and_not_idle(
    client: TestClient, published: Published, store: Store
) -> None:
    after_a_cycle(published, store)
    seen = group(host("h1", 0.5, 0.5, rx_ratio=None, tx_ratio=None))
    published.state = replace(published.state, observation=Observation(snapshot=seen, age_seconds=1.0))
    found = client.get("/api/v1/status").json()["hosts"][0]
    assert (found["state"], found["rx_ratio"], found["tx_ratio"]) == ("active", None, None)
    for path in ("/", "/hosts/h1"):
        page = client.get(path).text
        assert 'aria-label="uplink: unknown"' in page
        assert "unknown</b>" in page


def test_ready_only_after_the_first_cycle(client: TestClient, published: Published, store: Store) -> None:
    assert client.get("/-/healthy").status_code == 200
    assert client.get("/-/ready").status_code == 503
    after_a_cycle(published, store)
    assert client.get("/-/ready").status_code == 200


def test_metrics_before_the_first_cycle_are_there(client: TestClient) -> None:
    assert metric(client, "virtpoise_leader") == {(): 1.0}
    assert metric(client, "virtpoise_cycles_total")[("failed",)] == 0
    assert metric(client, "virtpoise_host_cpu_load_ratio") == {}


def test_metrics_show_what_the_balancer_sees(client: TestClient, published: Published, store: Store) -> None:
    after_a_cycle(published, store)
    assert metric(client, "virtpoise_host_cpu_load_ratio") == {("h1",): 0.9, ("h2",): 0.1}
    assert metric(client, "virtpoise_overload_consecutive") == {("h1",): 2}
    assert metric(client, "virtpoise_penalty_seconds") == {("h1",): 100.0}
    assert metric(client, "virtpoise_host_state") == {("h3", "unknown"): 1}
    states = {"active": 2, "draining": 0, "standby": 0, "waking": 0, "unknown": 1}
    assert metric(client, "virtpoise_hosts") == {(state,): number for state, number in states.items()}
    assert metric(client, "virtpoise_domain_duplicates") == {(): 1}
    assert metric(client, "virtpoise_migrations_in_flight") == {(): 1}
    assert metric(client, "virtpoise_host_migrations_in_flight") == {("h1",): 1, ("h2",): 1}
    assert metric(client, "virtpoise_memory_threshold_ratio") == {(): 0.9}
    assert metric(client, "virtpoise_network_threshold_ratio") == {(): 0.9}
    assert metric(client, "virtpoise_plan_moves") == {(): 1}


def test_only_a_host_with_a_threshold_of_its_own_shows_it(
    client: TestClient, published: Published, store: Store
) -> None:
    after_a_cycle(published, store)
    policy = Policy(hosts=(HostLimits(hosts=("h2",), memory=0.7),))
    published.state = replace(published.state, policy=policy)
    assert metric(client, "virtpoise_cpu_threshold_ratio") == {(): policy.cpu.threshold}
    assert metric(client, "virtpoise_host_cpu_threshold_ratio") == {}
    assert metric(client, "virtpoise_host_memory_threshold_ratio") == {("h2",): 0.7}


def test_status_page_and_history_show_a_hosts_own_threshold(
    client: TestClient, published: Published, store: Store
) -> None:
    after_a_cycle(published, store)
    policy = Policy(hosts=(HostLimits(hosts=("h2",), cpu=0.65),))
    published.state = replace(published.state, policy=policy)
    status = client.get("/api/v1/status").json()
    assert status["threshold"] == 0.8
    assert {one["name"]: one["threshold"] for one in status["hosts"]} == {"h1": 0.8, "h2": 0.65, "h3": 0.8}
    marks = re.findall(r"(source|destination) (h\d): [^\"]*, threshold (\d+)%", client.get("/history").text)
    assert {(host, mark) for _, host, mark in marks} == {("h1", "80"), ("h2", "65")}


def test_a_host_with_nothing_to_tell_has_one_series(client: TestClient, published: Published, store: Store) -> None:
    """Of ten thousand hosts each series of all would be ten thousand."""
    after_a_cycle(published, store)

    def series(hosts: int) -> int:
        seen = group(*(host(f"h{number}", 0.3, 0.3, 0.3) for number in range(hosts)))
        published.state = replace(published.state, observation=Observation(snapshot=seen, age_seconds=1.0))
        return sum(not line.startswith("#") for line in published_metrics(client))

    assert series(60) - series(20) == 40


def test_when_counters_began_is_no_series(client: TestClient) -> None:
    assert [line for line in published_metrics(client) if "_created" in line] == []


def published_metrics(client: TestClient) -> list[str]:
    return client.get("/metrics").text.splitlines()


def test_a_forecast_load_is_shown_where_a_trend_is_believed(
    client: TestClient, published: Published, store: Store
) -> None:
    after_a_cycle(published, store)
    assert published.state.observation is not None
    rising, level = host("h1", *(0.2 + 0.01 * at for at in range(30))), host("h2", *[0.3] * 30)
    seen = replace(published.state.observation, snapshot=group(rising, level))
    published.state = replace(published.state, observation=seen, policy=Policy())
    assert metric(client, "virtpoise_host_trend_ratio") == {("h1",): pytest.approx(0.49 + 0.01 * Policy().trend.steps)}


def test_the_age_of_the_figures_grows_while_cycles_fail(client: TestClient, published: Published) -> None:
    seen = Observation(snapshot=replace(SNAPSHOT, time=1000.0), age_seconds=2.5)
    at = newest_figures(None, seen, now=1001.0)
    assert at == 997.5
    assert newest_figures(at, None, now=1100.0) == at
    assert newest_figures(at, replace(seen, age_seconds=500.0), now=1100.0) == at
    assert newest_figures(None, None, now=1100.0) == 1100.0, "with none ever seen they are missing since the first look"
    published.state, published.clock = replace(published.state, figures_at=1700.0), FakeClock(2000.0)
    assert metric(client, "virtpoise_snapshot_age_seconds")[()] == 300


def test_the_oldest_migration_is_as_old_as_the_journal_has_it(
    client: TestClient, published: Published, store: Store
) -> None:
    assert metric(client, "virtpoise_migration_oldest_seconds") == {(): 0}
    after_a_cycle(published, store)
    (known,) = published.in_flight()
    published.clock = FakeClock(2000.0)
    published.in_flight = lambda: (known, InFlight(known.move, began=1500.0), InFlight(known.move))
    assert metric(client, "virtpoise_migration_oldest_seconds")[()] == 500


def test_a_domain_that_is_not_accounted_for_is_counted_and_named(
    client: TestClient, published: Published, store: Store
) -> None:
    after_a_cycle(published, store)
    twice = Unsettled(
        domain="a", uuid="u", hosts=("h1", "h2"), kind=UnsettledKind.TWICE, text="a is active on h1 and h2 at once"
    )
    published.state = replace(published.state, unsettled=(twice,))
    assert metric(client, "virtpoise_domains_unaccounted") == {
        ("twice",): 1,
        ("nowhere",): 0,
        ("waiting",): 0,
        ("between",): 0,
        ("unknown",): 0,
    }
    assert metric(client, "virtpoise_domain_vanished") == {(): 0}
    page = " ".join(client.get("/").text.split())
    assert "a is active on h1 and h2 at once; nothing is moved from or to h1 and h2" in page
    assert client.get("/api/v1/status").json()["unsettled"] == [
        {"domain": "a", "uuid": "u", "hosts": ["h1", "h2"], "kind": "twice", "text": twice.text}
    ]


def test_a_host_without_memory_is_as_overloaded_as_one_without_cpu(
    client: TestClient, published: Published, store: Store
) -> None:
    after_a_cycle(published, store)
    full = replace(SNAPSHOT.hosts[1], memory_ratio_window=(0.5, 0.93, 0.94, 0.95))
    seen = Observation(snapshot=replace(SNAPSHOT, hosts=(SNAPSHOT.hosts[0], full)), age_seconds=1.0)
    published.state = replace(published.state, policy=Policy(), observation=seen, plan=plan(seen.snapshot, Policy()))
    assert metric(client, "virtpoise_overload_consecutive")[("h2",)] == 3
    assert "is overloaded: memory use" in " ".join(client.get("/").text.split())
    status = client.get("/api/v1/status").json()["hosts"][1]
    assert (status["resource"], status["consecutive"], status["needed"]) == ("memory", 3, 3)
    # The strategy thesis knows CPU alone.
    published.state = replace(published.state, policy=POLICY, plan=plan(seen.snapshot, POLICY))
    assert metric(client, "virtpoise_overload_consecutive") == {("h1",): 2}


RISING = tuple(0.52 + 0.01 * step for step in range(30))


@pytest.mark.parametrize("planned", [True, False], ids=["with-a-plan", "without"])
def test_a_host_is_shown_as_overloaded_where_the_plan_takes_it_so(
    client: TestClient, published: Published, planned: bool
) -> None:
    """By its trend a host may be overloaded before N samples are; a draining host is not, whatever its load."""
    rising, draining = host("h1", *RISING), host("h3", 0.9, 0.9, 0.9, 0.9, state=HostState.DRAINING)
    seen = group(rising, host("h2", 0.1, 0.1), draining, domain("a", "h1", 2.0), domain("b", "h3", 2.0))
    made = plan(seen, Policy())
    assert {one.host for one in made.overloaded} == {"h1"}
    published.state = State(
        mode="recommend",
        leader=True,
        policy=Policy(),
        interval_seconds=10,
        observation=Observation(snapshot=seen, age_seconds=1.0),
        plan=made if planned else None,
    )
    shown = client.get("/api/v1/status").json()["hosts"]
    assert [(one["name"], one["overloaded"]) for one in shown] == [("h1", True), ("h2", False), ("h3", False)]
    assert (shown[0]["resource"], shown[0]["consecutive"], shown[0]["needed"]) == ("cpu", 2, 3)
    page = " ".join(client.get("/").text.split())
    assert page.count("is overloaded: CPU load 81%, 2 consecutive samples") == 1
    assert "is overloaded: CPU load 90%" not in page


def test_one_sample_is_one_sample(client: TestClient, published: Published) -> None:
    quick = Policy(cpu=Trigger(consecutive=1))
    seen = group(host("h1", 0.1, 0.9), host("h2", 0.1, 0.1), domain("a", "h1", 2.0))
    published.state = State(
        mode="recommend",
        leader=True,
        policy=quick,
        interval_seconds=10,
        observation=Observation(snapshot=seen, age_seconds=1.0),
        plan=plan(seen, quick),
    )
    assert "is overloaded: CPU load 90%, 1 sample<" in " ".join(client.get("/").text.split())


def test_errors_are_returned_by_pair_of_hosts(published: Published, make_context: Callable[..., Context]) -> None:
    metrics = Metrics(published)
    due = due_prediction()
    metrics.prediction_measured(due, Measured(verdict="measured", ratio=0.47, error=-0.03))
    metrics.prediction_measured(due, Measured(verdict="no_data"))
    with reach(replace(make_context(), metrics=metrics)) as client:
        assert metric(client, "virtpoise_prediction_pair_error_ratio_count") == {("h2", "source", "h1"): 1}
        assert metric(client, "virtpoise_prediction_pair_error_ratio_sum")[("h2", "source", "h1")] == pytest.approx(
            0.03
        )


def test_a_drained_host_counts_as_draining_while_it_is_switched_off(
    client: TestClient, published: Published, store: Store
) -> None:
    after_a_cycle(published, store)
    drains = {name: DrainOrder(host=name, draining=True, at=1.0) for name in ("h3", "h9")}
    published.state = replace(published.state, drains=drains)
    assert metric(client, "virtpoise_host_draining") == {("h3",): 1, ("h9",): 1}
    drains = {name: replace(order, draining=name == "h9") for name, order in drains.items()}
    published.state = replace(published.state, drains=drains)
    assert metric(client, "virtpoise_host_draining") == {("h3",): 0, ("h9",): 1}, "an alert must know that it ended"
    published.state = replace(
        published.state, drains={name: replace(order, draining=True) for name, order in drains.items()}
    )
    page = " ".join(client.get("/").text.split())
    assert "is to be drained, but is unknown" in page
    assert "h9 is to be drained, but is no longer seen" in page


def test_predictions_are_shown_from_the_decision_until_they_are_measured(
    client: TestClient, published: Published, store: Store
) -> None:
    after_a_cycle(published, store)
    predicted = metric(client, "virtpoise_prediction_ratio")
    assert predicted[("h1", "cpu", "source")] == pytest.approx(0.9 - 0.9 * 3 / 8)
    assert set(predicted) == {("h1", "cpu", "source"), ("h2", "cpu", "destination")}


def test_migrations_are_counted_by_how_they_ended(
    published: Published, store: Store, make_context: Callable[..., Context]
) -> None:
    metrics = Metrics(published)
    after_a_cycle(published, store)
    (move,) = published.state.plan.moves  # type: ignore[union-attr]
    metrics.migration_ended(move, MigrationOutcome(result=Result.DONE, seconds=6.0, downtime_seconds=0.1))
    metrics.migration_ended(move, MigrationOutcome(result=Result.FAILED, why="x", seconds=9.0))
    with reach(replace(make_context(), metrics=metrics)) as client:
        assert metric(client, "virtpoise_migrations_total") == {("h2", "done", "h1"): 1, ("h2", "failed", "h1"): 1}
        assert metric(client, "virtpoise_migration_duration_seconds_sum") == {(): 6.0}


def test_pairs_of_hosts_have_an_end_and_the_newest_are_kept(published: Published, store: Store) -> None:
    metrics = Metrics(published)
    after_a_cycle(published, store)
    (move,) = published.state.plan.moves  # type: ignore[union-attr]
    often = replace(move, destination="often")
    for number in range(3000):
        destination = f"d{number}"
        due = due_prediction(destination=destination)
        metrics.prediction_measured(due, Measured(verdict="measured", ratio=0.47, error=-0.03))
        for one in (replace(move, destination=destination), often):
            metrics.migration_ended(one, MigrationOutcome(result=Result.DONE, seconds=6.0))
    lines = generate_latest(metrics.registry).decode().splitlines()
    ended = {line.split('destination="')[1].split('"')[0]: line for line in lines if "migrations_total{" in line}
    assert ended.keys() == {"often", *(f"d{number}" for number in range(2001, 3000))}
    assert ended["often"].endswith(" 3000.0")
    assert sum("pair_error_ratio_count{" in line for line in lines) == 1000


def test_status_returns_the_hosts_and_the_migration_under_way(
    client: TestClient, published: Published, store: Store
) -> None:
    after_a_cycle(published, store)
    status = client.get("/api/v1/status").json()
    first = status["hosts"][0]
    assert (first["name"], first["cpu_ratio"], first["consecutive"], first["failures"]) == ("h1", 0.9, 2, 2)
    assert first["domains"] == ['a"\n<b>', "twin"]
    assert status["hosts"][2]["cpu_ratio"] is None
    assert status["in_flight"][0]["progress"]["remaining_bytes"] == 3


def test_the_page_shows_how_fast_a_moving_domain_writes(client: TestClient, published: Published, store: Store) -> None:
    after_a_cycle(published, store)
    assert "dirties" not in client.get("/").text
    (flight,) = published.in_flight()
    progress = Progress(
        elapsed_seconds=1, total_bytes=4, processed_bytes=1, remaining_bytes=3, dirty_bytes_per_second=3 * 2**20
    )
    published.in_flight = lambda: (replace(flight, progress=progress),)
    assert "25%, 1.0 s, dirties 3.0 MiB/s" in client.get("/").text


@pytest.mark.parametrize("missing", ["total_bytes", "remaining_bytes"])
def test_what_libvirt_leaves_out_of_a_migration_is_unknown(
    client: TestClient, published: Published, store: Store, missing: str
) -> None:
    after_a_cycle(published, store)
    (flight,) = published.in_flight()
    assert flight.progress is not None
    left_out: dict[str, Any] = {missing: None}
    progress = replace(flight.progress, **left_out)
    published.in_flight = lambda: (replace(flight, progress=progress),)
    assert "share copied unknown, 1.0 s" in client.get("/").text
    assert client.get("/api/v1/status").json()["in_flight"][0]["progress"][missing] is None


def test_history_is_limited_and_says_so_of_a_wrong_limit(
    client: TestClient, published: Published, store: Store
) -> None:
    after_a_cycle(published, store)
    (record,) = client.get("/api/v1/history").json()
    assert (record["domain"], len(record["predictions"])) == ("a", 2)
    for limit in ("0", "x", "-1", "1001", "²"):
        answer = client.get("/api/v1/history", params={"limit": limit})
        assert (answer.status_code, "limit: expected 1 to 1000" in answer.text) == (400, True)


def test_reload_is_for_this_machine_and_no_page(
    client: TestClient, make_context: Callable[..., Context], reloads: list[bool]
) -> None:
    assert client.get("/-/reload").status_code == 405
    assert client.post("/-/reload", headers={"Origin": "http://evil.example"}).status_code == 403
    assert reloads == []
    assert client.post("/-/reload").status_code == 200
    assert reloads == [True]
    assert reach(make_context(), "192.0.2.1").post("/-/reload").status_code == 403


def test_the_plan_the_group_and_its_parts_are_returned(client: TestClient, published: Published, store: Store) -> None:
    assert client.get("/api/v1/snapshot").status_code == 409
    assert client.get("/api/v1/plan").json() == {"at": None, "plan": None}
    after_a_cycle(published, store)
    assert client.get("/api/v1/plan").json()["plan"]["format"] == "virtpoise/plan/1"
    assert client.get("/api/v1/snapshot").json()["format"] == "virtpoise/snapshot/1"
    assert client.get("/api/v1/hosts/h1").json()["cpu_ratio"] == [0.5, 0.9, 0.9]
    assert client.get("/api/v1/domains/u1").json()["domain"]["host"] == "h1"
    assert client.get("/api/v1/domains/twin").json() == {
        "error": "twin: more than one domain has this name: use its uuid (u1, u2)"
    }
    assert client.get("/api/v1/hosts/h9").json() == {"error": "h9: no such host is scraped"}
    assert [why["name"] for why in client.get("/api/v1/explain/twin").json()] == ["twin", "twin"]
    assert client.get("/api/v1/explain/h9").status_code == 404


def test_prometheus_discovers_the_exporters(client: TestClient, make_context: Callable[..., Context]) -> None:
    context = make_context()
    config = Config(libvirt=Libvirt(hosts={"h1": "qemu+tcp://10.77.0.1/system", "h2": "qemu+tls://[fd00::2]/system"}))
    answer = reach(replace(context, config=lambda: config)).get("/sd/hosts")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == [
        {"targets": ["10.77.0.1:9807"], "labels": {"instance": "h1:9807", "__meta_virtpoise_host": "h1"}},
        {"targets": ["[fd00::2]:9807"], "labels": {"instance": "h2:9807", "__meta_virtpoise_host": "h2"}},
    ]


def test_prometheus_is_given_no_list_of_targets_before_the_hosts_are_known(
    make_context: Callable[..., Context], published: Published, store: Store
) -> None:
    """An empty list would remove all its targets; an error leaves them as they are."""
    context = make_context()
    patterns = Config(libvirt=Libvirt(pattern=("h*",)))
    client = reach(replace(context, config=lambda: patterns))
    answer = client.get("/sd/hosts")
    assert (answer.status_code, answer.json()) == (502, {"error": "no cycle has read the hosts from Prometheus yet"})
    after_a_cycle(published, store)
    assert [one["labels"]["__meta_virtpoise_host"] for one in client.get("/sd/hosts").json()] == ["h1", "h2", "h3"]
    gone = Observation(snapshot=group(), age_seconds=1.0)  # all exporters were out of reach for ten minutes
    published.state = replace(published.state, observation=gone)
    answer = client.get("/sd/hosts")
    assert answer.status_code == 502
    assert answer.json()["error"].startswith("there is no host: Prometheus has figures of none")


@pytest.mark.parametrize("path", ["/sd/hosts", "/api/v1/status", "/api/v1/hosts/h1", "/plan"])
def test_without_groups_a_query_that_names_one_is_refused(
    client: TestClient, published: Published, store: Store, path: str
) -> None:
    after_a_cycle(published, store)
    answer = client.get(path, params={"group": "red"})
    assert (answer.status_code, answer.json()) == (
        404,
        {"error": "group: expected none, since the configuration has no groups, got 'red'"},
    )
    assert client.get(path + "?group=a&group=b").status_code == 400
    assert client.get(path).status_code == 200
    order = client.post("/api/v1/pause?group=red", json={}, headers=WITH_TOKEN)
    assert order.status_code == 404
    assert published.overrides().paused is None


# --- the API's description
# ----------------------------------------------------------------------------------------------


def test_the_api_is_what_its_document_says(client: TestClient, published: Published, store: Store) -> None:
    import jsonschema  # this and the next take each process of the tests two seconds
    from openapi_spec_validator import validate

    described = client.get("/api/v1/openapi.json").json()
    validate(described)
    after_a_cycle(published, store)
    client.post("/api/v1/pause", json={}, headers=WITH_TOKEN)
    paths = {
        "/api/v1/hosts/{name}": "/api/v1/hosts/h3",
        "/api/v1/domains/{name}": "/api/v1/domains/u1",
        "/api/v1/explain/{name}": "/api/v1/explain/h2",
    }
    readable = {path for path, methods in described["paths"].items() if "get" in methods}
    assert len(readable) == 13
    for path in readable:
        answer = client.get(paths.get(path, path))
        assert answer.status_code == 200, path
        schema = described["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        jsonschema.validate(answer.json(), {**schema, "components": described["components"]})


def test_every_route_of_the_api_is_in_its_document(client: TestClient) -> None:
    described = client.get("/api/v1/openapi.json").json()["paths"]
    served = {
        (route.path.replace(":path}", "}"), method.lower())
        for route in client.app.routes  # type: ignore[attr-defined]
        if route.path.startswith(("/api/v1/", "/sd/"))
        for method in route.methods - {"HEAD"}
    }
    undescribed = {("/api/v1/openapi.json", "get"), ("/api/v1/events", "get")}
    assert served - undescribed == {(path, method) for path, methods in described.items() for method in methods}


# --- orders -----------------------------------------------------------------------------------------------------------

WITH_TOKEN = {"Authorization": f"Bearer {TOKEN}"}


def test_orders_are_followed_and_journalled_with_who_and_from_where(
    client: TestClient, published: Published, store: Store, applied: list[object]
) -> None:
    for path, body, answer in (
        ("hosts/h1/drain", {}, "h1 drains from the next cycle on."),
        ("hosts/h1/undrain", {}, "h1 is back in the group."),
        ("mode", {"mode": "recommend"}, "The mode is recommend from the next cycle on."),
        ("plan/apply", {"moves": [{"uuid": "u1", "destination": "h2"}]}, "Begun: ."),
        ("pause", {}, "Paused: no migration begins until it is resumed; one under way goes on."),
        ("resume", {}, "Resumed."),
    ):
        done = client.post(f"/api/v1/{path}", json=body, headers=WITH_TOKEN)
        assert (done.status_code, done.json()) == (200, {"answer": answer})
    assert applied == [{("u1", "h2")}]
    actions = client.get("/api/v1/actions").json()
    assert [action["action"] for action in reversed(actions)] == [
        "drain",
        "undrain",
        "mode",
        "apply",
        "pause",
        "resume",
    ]
    assert {(action["who"], action["origin"], action["accepted"]) for action in actions} == {
        ("alice", "127.0.0.1", True)
    }
    assert metric(client, "virtpoise_orders_total")[("drain", "followed")] == 1
    assert published.mode == "recommend"


CROSS_SITE = "the order comes from another site's page"


@pytest.mark.parametrize(
    ("headers", "body", "status", "says"),
    [
        ({}, "{}", 401, "a token is needed"),
        ({"Authorization": "Bearer nobody-has-this-token"}, "{}", 401, "the token is wrong"),
        ({"Authorization": f"Basic {TOKEN}"}, "{}", 401, "a token is needed"),
        (WITH_TOKEN | {"Origin": "http://evil.example"}, "{}", 403, CROSS_SITE),
        (WITH_TOKEN | {"Origin": "null"}, "{}", 403, CROSS_SITE),
        (WITH_TOKEN | {"Sec-Fetch-Site": "cross-site"}, "{}", 403, CROSS_SITE),
        (WITH_TOKEN | {"Sec-Fetch-Site": "same-site"}, "{}", 403, CROSS_SITE),
        (WITH_TOKEN | {"Content-Type": "text/plain"}, "{}", 415, "expected application/json"),
        (WITH_TOKEN, "no json", 400, "the body: expected JSON"),
        (WITH_TOKEN, '{"force": true}', 400, "the body: force: unknown key"),
    ],
)
def test_an_order_that_should_not_be_is_refused_and_journalled_and_changes_nothing(
    client: TestClient, store: Store, headers: dict[str, str], body: str, status: int, says: str
) -> None:
    answer = client.post("/api/v1/pause", content=body, headers={"Content-Type": "application/json"} | headers)
    assert (answer.status_code, answer.json()["error"][: len(says)]) == (status, says)
    assert store.overrides().paused is None
    (action,) = store.actions(5)
    assert (action.action, action.accepted, action.answer[: len(says)]) == ("pause", False, says)
    assert action.who == ("alice" if status == 400 else "?")
    assert "nobody-has" not in json.dumps([action.answer, action.who, action.target])


@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        ("hosts/h9/drain", {}, 404, "h9: no such host is scraped; there are: h1, h2, h3"),
        ("hosts/h3/drain", {}, 409, "h3: Prometheus has no fresh figures of it"),
        ("mode", {"mode": "sometimes"}, 400, "the body: mode: expected 'recommend' or 'automatic', got 'sometimes'"),
        ("mode", {"mode": 1, "why": 2}, 400, "the body: why: unknown key; mode: expected 'recommend' or 'automatic'"),
        ("plan/apply", {"moves": []}, 400, "the body: moves: expected"),
        ("plan/apply", {"moves": [{"uuid": "gone", "destination": "h2"}]}, 409, "out of date: the plan no longer has"),
    ],
)
def test_an_order_that_cannot_be_followed_is_refused_in_words(
    client: TestClient, store: Store, path: str, body: object, status: int, says: str
) -> None:
    answer = client.post(f"/api/v1/{path}", json=body, headers=WITH_TOKEN)
    assert (answer.status_code, answer.json()["error"][: len(says)]) == (status, says[: len(answer.json()["error"])])
    (action,) = store.actions(5)
    assert (action.who, action.accepted) == ("alice", False)
    assert store.standing_orders().drains == {}


def test_from_elsewhere_orders_need_tls(make_context: Callable[..., Context], store: Store) -> None:
    context = make_context(listen_address="192.0.2.7:9808")
    plain = reach(context, "192.0.2.1", "http://192.0.2.7:9808").post("/api/v1/pause", json={}, headers=WITH_TOKEN)
    assert (plain.status_code, plain.json()["error"]) == (
        403,
        "orders are accepted only over TLS, or on the balancer's own machine",
    )
    assert store.overrides().paused is None
    assert reach(context, "192.0.2.1", "http://192.0.2.7:9808").get("/api/v1/status").status_code == 200
    over_tls = reach(context, "192.0.2.1", "https://192.0.2.7:9808").post("/api/v1/pause", json={}, headers=WITH_TOKEN)
    assert over_tls.status_code == 200


def test_without_a_token_file_nobody_changes_anything(make_context: Callable[..., Context]) -> None:
    refused = reach(make_context(token_file=None)).post("/api/v1/pause", json={}, headers=WITH_TOKEN)
    assert (refused.status_code, refused.json()["error"]) == (
        403,
        "web.token_file is not set, so no orders are possible here",
    )


def test_a_token_file_that_others_may_read_lets_nobody_in(client: TestClient, token_file: Path) -> None:
    token_file.chmod(0o644)
    refused = client.post("/api/v1/pause", json={}, headers=WITH_TOKEN)
    assert (refused.status_code, refused.json()["error"]) == (
        403,
        f"web.token_file: {token_file}: other users may read it; chmod o-rwx",
    )


def test_orders_of_strangers_are_counted_by_address_and_minute(client: TestClient, store: Store) -> None:
    for _ in range(60):
        client.post("/api/v1/pause", json={})
    assert [(one.who, one.accepted) for one in store.actions(100)] == [("?", False)]
    assert metric(client, "virtpoise_orders_total")[("pause", "refused")] == 60


def test_a_body_without_an_end_is_cut_off_and_journalled(client: TestClient, store: Store) -> None:
    headers = WITH_TOKEN | {"Content-Type": "application/json"}
    answer = client.post("/api/v1/plan/apply", content=b" " * (1 << 21), headers=headers)
    assert (answer.status_code, answer.json()["error"]) == (413, "the body: expected at most 1048576 bytes")
    (action,) = store.actions(5)
    assert (action.who, action.accepted, action.answer) == ("alice", False, "the body: expected at most 1048576 bytes")


def test_who_takes_anothers_token_is_journalled_with_both_names(client: TestClient, store: Store) -> None:
    for user, who in (("alice", "alice"), ("r%C3%B6bi", "röbi (token of alice)")):
        client.post("/api/v1/pause", json={}, headers=WITH_TOKEN | {USER_HEADER: user})
        assert store.actions(1)[0].who == who
    refused = client.post("/api/v1/resume", json={}, headers=WITH_TOKEN | {USER_HEADER: "a%0Ab"})
    assert (refused.status_code, refused.json()["error"]) == (400, "Virtpoise-User: expected a name")
    assert store.overrides().paused is not None


@pytest.mark.parametrize("broken", ["carry_out", "record_action"])
def test_an_unforeseen_error_is_one_answer_in_words(
    make_context: Callable[..., Context], store: Store, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    def fail(_given: object) -> Plan:
        raise RuntimeError("the disk is full")

    context = make_context()
    if broken == "carry_out":
        context = replace(context, orders=replace(context.orders, carry_out=fail))
    else:
        monkeypatch.setattr(store, "record_action", fail)
    moves = {"moves": [{"uuid": "u1", "destination": "h2"}]}
    answer = reach(context).post("/api/v1/plan/apply", json=moves, headers=WITH_TOKEN)
    assert (answer.status_code, answer.json()) == (500, {"error": "unforeseen: RuntimeError: the disk is full"})
    assert [action.accepted for action in store.actions(5)] == ([False] if broken == "carry_out" else [])


def test_another_name_for_this_machine_is_not_answered_on_loopback(make_context: Callable[..., Context]) -> None:
    context = make_context(external_url="https://virtpoise.example.org")
    assert reach(context, base_url="http://evil.example:9808").get("/api/v1/status").status_code == 421
    for name in ("localhost:9808", "[::1]:9808", "virtpoise.example.org"):
        assert reach(context, base_url=f"http://{name}").get("/api/v1/status").status_code == 200
    behind = WITH_TOKEN | {"Origin": "https://virtpoise.example.org"}
    assert reach(context).post("/api/v1/pause", json={}, headers=behind).status_code == 200


@pytest.mark.parametrize(
    ("listen_address", "reached", "own", "of_others"),
    [
        ("manager:9808", "127.0.1.1", "manager:9808", 421),  # what Debian's /etc/hosts gives a machine's own name
        ("manager:9808", "192.0.2.7", "manager:9808", 200),
        ("LOCALHOST:9808", "127.0.0.1", "localhost:9808", 421),
        ("[::ffff:127.0.0.1]:9808", "::ffff:127.0.0.1", "localhost", 421),
        ("0.0.0.0:9808", "127.0.0.1", "localhost", 200),
    ],
)
def test_on_loopback_however_it_is_written_another_name_is_not_answered(
    make_context: Callable[..., Context], listen_address: str, reached: str, own: str, of_others: int
) -> None:
    made = make_app(make_context(listen_address=listen_address))

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await made({**scope, "server": (reached, 9808)}, receive, send)

    client = TestClient(app)
    statuses = [client.get("/api/v1/status", headers={"Host": name}).status_code for name in (own, "evil.example")]
    assert statuses == [200, of_others]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([("Content-Length", "2"), ("Transfer-Encoding", "chunked")], 400),
        ([("Host", "evil@localhost")], 421),
        ([("Host", "localhost/x")], 421),
        ([("Origin", HERE), ("Origin", "http://evil")], 403),
        ([("Origin", HERE), ("Origin", "null")], 403),
        ([("Origin", HERE), ("Origin", HERE)], 200),
    ],
)
def test_an_order_that_a_proxy_may_read_otherwise_is_refused(
    client: TestClient, store: Store, headers: list[tuple[str, str]], status: int
) -> None:
    sent = [*WITH_TOKEN.items(), ("Content-Type", "application/json"), *headers]
    response = client.post("/api/v1/pause", content=b"{}", headers=sent)
    assert response.status_code == status
    assert (store.overrides().paused is not None) == (status == 200)


def test_where_reading_is_closed_no_order_of_a_stranger_shows_which_names_there_are(
    make_context: Callable[..., Context], published: Published, store: Store
) -> None:
    """A known host had 401, since its group has the order judged, and an unknown one 400."""
    before = published.state
    closed = make_context(read="token")
    after_a_cycle(published, store)
    contexts = replace(closed, group="blue"), replace(closed, group="red", published=Published(before))
    client = TestClient(make_app(*contexts), base_url=HERE, client=("127.0.0.1", 50000))

    def told(path: str, headers: dict[str, str]) -> tuple[int, str, str | None]:
        answer = client.post(f"/api/v1/{path}", json={}, headers=headers)
        return answer.status_code, answer.text, answer.headers.get("www-authenticate")

    paths = ("hosts/h1/drain", "hosts/none/drain", "domains/none/acknowledge", "pause?group=blue", "pause?group=none")
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Origin": "https://evil.example"}):
        assert len({told(path, headers) for path in paths}) == 1
    assert told("hosts/none/drain", WITH_TOKEN)[:2] == (
        400,
        '{"error":"group: expected one of the configuration\'s, got none"}',
    )
    assert told("hosts/h1/drain", WITH_TOKEN)[0] == 200


def test_every_answer_forbids_what_no_page_needs(client: TestClient, published: Published, store: Store) -> None:
    after_a_cycle(published, store)
    for path in ("/", "/plan", "/history", "/hosts/h1", "/hosts/none", "/api/v1/status", "/metrics", "/static/page.js"):
        headers = client.get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'; style-src 'self'")
        assert "unsafe" not in headers["content-security-policy"]
        assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "no-referrer")
        assert "access-control-allow-origin" not in headers


def test_pages_have_no_figure_of_a_domain_where_none_is_known(
    client: TestClient, published: Published, store: Store
) -> None:
    after_a_cycle(published, store)
    nothing: dict[str, Any] = {
        "cpu_delay_cores": None,
        "rx_bytes_per_second": None,
        "tx_bytes_per_second": None,
        "tx_ratio": None,
    }
    snapshot = group(
        host("h1", 0.5),
        host("h2", state=HostState.UNKNOWN),
        domain("a", "h1", 2.0, uuid="ua", **nothing),
        domain("b", "h1", uuid="ub", state=DomainState.PAUSED, memory_bytes=0, rx_ratio=None, **nothing),
    )
    published.state = replace(published.state, observation=Observation(snapshot=snapshot, age_seconds=1.0), plan=None)
    cells = [re.sub("<[^>]*>", " ", row).split() for row in client.get("/hosts/h1").text.split("<tr>")]
    assert ["a", "running", "2", "25%", "-", "256", "MiB", "-"] in cells
    assert ["b", "paused", "1", "-", "-", "-", "-"] in [row[:7] for row in cells]
    page = words(client.get("/domains/ua").text)
    assert "CPU 2.00 cores 25% of h1, 2 vCPUs Steal unknown" in page
    assert "Network unknown received, unknown sent" in page
    page = words(client.get("/domains/ub").text)
    assert "CPU unknown" in page
    assert "Memory unknown" in page


def words(page: str) -> str:
    """A page's text."""
    return " ".join(re.sub("<[^>]*>", " ", page).split())


def test_pages_do_not_call_a_host_empty_whose_list_of_domains_is_not_known(
    client: TestClient, published: Published, store: Store
) -> None:
    after_a_cycle(published, store)
    overview = words(client.get("/").text)
    assert "0 domains" not in overview
    assert "domains unknown" in overview
    assert "Domains unknown" in words(client.get("/hosts/h3").text)
    assert "2 domains" in words(client.get("/hosts/h1").text)


def test_a_page_shows_names_as_text(client: TestClient, published: Published, store: Store) -> None:
    after_a_cycle(published, store)
    page = client.get("/hosts/h1").text
    assert "a&#34;" in page
    assert "<b>" not in page.split("<tbody>")[1].split("</tbody>")[0]
    assert client.get("/domains/none").status_code == 404


def test_a_name_may_hold_what_addresses_are_made_of(
    make_context: Callable[..., Context], published: Published, store: Store
) -> None:
    odd = 'rack/1 ?#%"<&'
    snapshot = group(host(odd, 0.5), host("h2", 0.1), domain("d", odd, uuid="a/b?c#d"))
    published.state = replace(
        published.state, cycle_at=1.0, observation=Observation(snapshot=snapshot, age_seconds=1.0)
    )
    context = make_context()
    client = reach(replace(context, orders=replace(context.orders, look=lambda: snapshot)))
    page = client.get("/").text
    (link,) = {part.split('"')[0] for part in page.split('href="')[1:] if part.startswith("/hosts/rack")}
    assert "<h1>rack/1 ?#%&#34;&lt;&amp;" in client.get(html.unescape(link)).text
    (link,) = {part.split('"')[0] for part in page.split('href="')[1:] if part.startswith("/domains/")}
    assert "<h1>d " in client.get(html.unescape(link)).text
    order = client.get("/hosts/" + quote(odd, safe="")).text.split('data-order="')[1].split('"')[0]
    assert client.post(html.unescape(order), json={}, headers=WITH_TOKEN).status_code == 200
    assert store.standing_orders().drains[odd].draining


def test_what_is_kept_for_one_name_or_address_is_given_for_no_other(
    make_context: Callable[..., Context], published: Published
) -> None:
    names = ["web", "web\t", "w\teb", "web\r", "web?", "web#", "web?limit=20"]
    snapshot = group(host("h1", 0.5), host("h2", 0.1), *(domain(name, "h1", uuid=name + "-") for name in names))
    published.state = replace(
        published.state, cycle_at=1.0, observation=Observation(snapshot=snapshot, age_seconds=1.0)
    )
    client = reach(make_context(listen_address="0.0.0.0:9808"))
    for name in [*names[1:], *names]:
        (found,) = client.get(f"/api/v1/explain/{quote(name, safe='')}").json()
        assert found["name"] == name
        assert client.get(f"/api/v1/domains/{quote(name, safe='')}").json()["domain"]["name"] == name
    # An address that is put together with this header would be another's.
    client.get("/api/v1/domains", headers={"Host": "here/api/v1/hosts?"})
    assert [one["name"] for one in client.get("/api/v1/hosts").json()] == ["h1", "h2"]
    assert client.get("/", headers={"Host": "["}).status_code == 200


def test_every_alert_links_to_a_runbook_that_is_served(client: TestClient) -> None:
    links = re.findall(r"runbook_url: (\S+)", (ALERTS / "alerts.rules.yml").read_text(encoding="utf-8"))
    assert links
    for link in links:
        assert link.startswith(f"{HERE}/runbooks/")
        page = client.get(link.removeprefix(HERE))
        assert page.status_code == 200
        assert ">Mitigation</h2>" in page.text
        assert link.removeprefix(HERE) in client.get("/runbooks").text
    assert client.get("/runbooks/..%2falerts.rules.yml").status_code == 404
    assert client.get("/runbooks/VirtpoiseNothing.md").status_code == 404


def test_a_name_that_begins_the_headline_stays_as_it_is(client: TestClient, published: Published, store: Store) -> None:
    after_a_cycle(published, store)
    published.state = replace(
        published.state, plan=None, sentence="twin is moving from h1 to h2: nothing else is judged"
    )
    assert "<h1>twin is moving" in client.get("/").text
    published.state = replace(published.state, sentence="no host is at or above 80%: nothing to do")
    assert "<h1>No host is" in client.get("/").text


def test_a_namesake_s_refusal_is_not_shown_on_another_host(client: TestClient, published: Published) -> None:
    snapshot = group(
        host("h1", 0.95, 0.95),
        host("h2", 0.1, 0.1),
        domain("twin", "h1", 2.0, uuid="u1"),
        domain("big", "h1", 3.0),
        domain("twin", "h2", 0.1, uuid="u2"),
    )
    why = Refusal(domain="twin", uuid="u1", host="h1", reason=Reason.NOT_NEEDED)
    elsewhere = Refusal(domain="twin", uuid="u1", host="h2", reason=Reason.NAME_TAKEN)
    made = replace(plan(snapshot, POLICY), moves=(), refusals=(why, elsewhere))
    published.state = replace(
        published.state, cycle_at=1.0, observation=Observation(snapshot=snapshot, age_seconds=1.0), plan=made
    )

    def row(host_name: str, uuid: str) -> str:
        (found,) = re.findall(rf'<tr><td><a href="/domains/{uuid}">.*', client.get(f"/hosts/{host_name}").text)
        return str(found)

    assert "stays: its host needs no further move" in row("h1", "u1")
    assert "stays" not in row("h2", "u2")
    links = re.findall(r'<li><a href="(/domains/[^"]+)"', client.get("/plan").text)
    assert links == ["/domains/u1", "/domains/u1"]


@pytest.mark.parametrize("strategy", ["default", "thesis"])
def test_the_plan_has_each_destinations_score_before_and_after_the_move(
    client: TestClient, published: Published, strategy: str
) -> None:
    policy = replace(POLICY, strategy=strategy)  # type: ignore[arg-type]
    here = [domain(f"vm{n}", "h1", 1.6) for n in range(4)]
    seen = group(host("h1", 0.95, 0.95), host("h2", 0.05, 0.05), host("h3", 0.5, 0.5), *here)
    made = plan(seen, policy)
    assert len(made.moves) > 1
    published.state = replace(
        published.state, policy=policy, cycle_at=1.0, observation=Observation(snapshot=seen, age_seconds=1.0), plan=made
    )
    found = re.findall(r"(h\d) (-?[\d.]+) → (-?[\d.]+)", client.get("/plan").text)
    assert [name for name, _, _ in found] == [move.destination for move in made.moves]
    now = {name: f"{score:.3f}" for name, score in made.scores.hosts.items()}
    for name, before, after in found:
        assert before == now[name]
        assert float(after) < float(before)
        now[name] = after
    if strategy == "default":
        then = made.moves[0].predicted.destination
        assert float(found[0][2]) <= round((policy.cpu.threshold - then.cpu_ratio) / policy.cpu.threshold, 3)


@pytest.mark.parametrize("strategy", ["default", "thesis"])
def test_of_two_domains_of_one_name_each_move_shows_its_own_score(
    client: TestClient, published: Published, strategy: str
) -> None:
    """The strategies score domains of different sets, so that a name alone may be another domain's."""
    policy = replace(POLICY, strategy=strategy)  # type: ignore[arg-type]
    twins = domain("vm", "h1", 1.6, uuid="u1"), domain("vm", "h1", 2.4, uuid="u2")
    seen = group(host("h1", 0.95, 0.95), host("h2", 0.05, 0.05), host("h3", 0.05, 0.05), *twins)
    made = plan(seen, policy)
    published.state = replace(
        published.state, policy=policy, cycle_at=1.0, observation=Observation(snapshot=seen, age_seconds=1.0), plan=made
    )
    assert made.moves
    shown = re.findall(r"domain (-?[\d.]+), h", client.get("/plan").text)
    assert shown == [f"{made.scores.domains[f'vm/{move.uuid}']:.3f}" for move in made.moves]
    assert shown == [f"{move.domain_score:.3f}" for move in made.moves]


def test_a_pause_is_shown_with_who_ordered_it(client: TestClient, store: Store, published: Published) -> None:
    store.override("paused", OverrideValue(value="yes", instead_of="no", at=1000.0, who="<i>eve"))
    assert client.get("/api/v1/status").json()["paused"]["who"] == "<i>eve"
    assert "Paused by &lt;i&gt;eve" in client.get("/").text
    assert metric(client, "virtpoise_paused") == {(): 1}


# --- the server
# ---------------------------------------------------------------------------------------------------------


def test_a_port_in_use_is_an_error_of_one_line(make_context: Callable[..., Context]) -> None:
    app = make_app(make_context())
    first = WebServer.open(app, Web(listen_address="127.0.0.1:0"))
    first.start()
    with pytest.raises(BadInput, match=rf"web.listen_address: 127.0.0.1:{first.port}: Address already in use"):
        WebServer.open(app, Web(listen_address=f"127.0.0.1:{first.port}"))
    first.stop()


def test_many_readers_at_once_take_few_threads_and_each_has_its_answer() -> None:
    """They are held until all have asked and eight are being answered."""
    held, asked, inside, most, lock = threading.Event(), 0, 0, 0, threading.Lock()

    def answer(_request: Request) -> PlainTextResponse:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
            if asked == 16 and inside >= 8:
                held.set()
        held.wait(20)
        with lock:
            inside -= 1
        return PlainTextResponse("read")

    app = Starlette(routes=[Route("/", answer)])

    async def counted(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal asked
        with lock:
            asked += 1
            if asked == 16 and inside >= 8:
                held.set()
        await app(scope, receive, send)

    server = WebServer.open(counted, Web(listen_address="127.0.0.1:0"))  # type: ignore[arg-type]
    server.start()
    try:
        with ThreadPoolExecutor(16) as pool:
            url = f"http://127.0.0.1:{server.port}/"
            answers = list(pool.map(lambda _: requests.get(url, timeout=30).text, range(16)))
    finally:
        server.stop()
    assert answers == ["read"] * 16
    assert most == 8


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
    ]
    command += [
        "-subj",
        f"/CN={name}",
        "-addext",
        "subjectAltName=IP:127.0.0.1",
        "-out",
        str(cert),
        "-keyout",
        str(key),
    ]
    subprocess.run(command, check=True, capture_output=True)
    return cert, key


@pytest.mark.hostile
def test_serves_over_tls_and_takes_a_renewed_certificate(make_context: Callable[..., Context], tmp_path: Path) -> None:
    cert, key = certificate(tmp_path, "first")
    server = WebServer.open(make_app(make_context()), Web(listen_address="127.0.0.1:0", cert_file=cert, key_file=key))
    server.start()

    def ask() -> int:
        context = ssl.create_default_context(cafile=str(cert))
        with urllib.request.urlopen(f"https://127.0.0.1:{server.port}/-/healthy", context=context) as answer:
            return int(answer.status)

    assert ask() == 200
    certificate(tmp_path, "second")
    with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
        ask()
    server.renew_certificate()
    assert ask() == 200
    in_use = cert.read_bytes(), key.read_bytes()
    key.write_text("no key")
    with pytest.raises(BadInput, match=r"web\.cert_file, web\.key_file: expected a certificate and its key"):
        server.renew_certificate()
    assert ask() == 200
    certificate(tmp_path, "third")
    key.write_bytes(in_use[1])  # half of a renewal: the new certificate's key is not there yet
    with pytest.raises(BadInput, match="expected a certificate and its key: KEY_VALUES_MISMATCH"):
        server.renew_certificate()
    cert.write_bytes(in_use[0])
    assert ask() == 200
    server.stop()


def test_a_wrong_certificate_is_an_error_before_anything_listens(
    make_context: Callable[..., Context], tmp_path: Path
) -> None:
    (tmp_path / "cert.pem").write_text("none")
    (tmp_path / "key.pem").touch(0o600)
    web = Web(cert_file=tmp_path / "cert.pem", key_file=tmp_path / "key.pem")
    with pytest.raises(BadInput, match=r"web\.cert_file, web\.key_file: expected a certificate and its key"):
        WebServer.open(make_app(make_context()), web)


def test_refused_targets_are_shown_everywhere_and_escaped(
    client: TestClient, published: Published, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    after_a_cycle(published, store)
    assert metric(client, "virtpoise_refused_targets") == {("not_a_host",): 0, ("not_admitted",): 0}
    named = AdmittedTargets(bool)
    named.of_hosts([Series({"instance": "<script>alert(1)</script>\x1b[2J\u202e"}, ((0.0, 1.0),))])
    seen = Observation(snapshot=SNAPSHOT, age_seconds=2.5, refused=named.refused)
    published.state = replace(published.state, cycle_at=2000.0, observation=seen)
    assert metric(client, "virtpoise_refused_targets") == {("not_a_host",): 1, ("not_admitted",): 0}
    found = client.get("/api/v1/status").json()
    label = r"<script>alert(1)</script>\x1b[2J\u202e"
    told = {"instance": label, "reason": "not_a_host", "why": "expected a DNS name or an IP address"}
    assert found["refused_targets"] == {"counts": {"not_a_host": 1}, "named": [told]}
    page = client.get("/").text
    assert r"target &#39;&lt;script&gt;alert(1)&lt;/script&gt;\x1b[2J\u202e&#39; is refused as a host" in page
    assert "<script>alert" not in page
    terminal.show_status(found)
    printed = capsys.readouterr().out
    assert "refused target" in printed
    assert "\x1b[2J" not in printed


def test_the_resource_of_a_host_is_the_one_nearest_to_a_problem_by_its_own_count(
    client: TestClient, published: Published, store: Store
) -> None:
    """Three samples of five are further from an overload than two of three."""
    after_a_cycle(published, store)
    policy = Policy(cpu=Trigger(threshold=0.6, consecutive=5), memory=SpaceTrigger(threshold=0.9, consecutive=3))
    full = replace(host("h1", 0.5, 0.7, 0.7, 0.7), memory_ratio_window=(0.5, 0.95, 0.95))
    seen = Observation(snapshot=group(full), age_seconds=1.0)
    published.state = replace(published.state, policy=policy, observation=seen, plan=None)
    (status,) = client.get("/api/v1/status").json()["hosts"]
    assert not status["overloaded"]
    assert (status["resource"], status["consecutive"], status["needed"]) == ("memory", 2, 3)


def test_the_brake_is_shown_with_its_reason_and_a_person_releases_it(
    client: TestClient, published: Published, store: Store
) -> None:
    brake = Brake(at=time.time() - 60, cause=BrakeCause.MIGRATIONS, why="3 of <3> failed")
    store.commit(Changes(brake=brake), brake.at)
    published.state = replace(published.state, brake=brake)
    status = client.get("/api/v1/status").json()
    assert (status["mode"], status["brake"]["why"]) == ("recommend", "3 of <3> failed")
    page = client.get("/").text
    assert "3 of &lt;3&gt; failed" in page
    assert "Release the brake" in page
    assert metric(client, "virtpoise_brake") == {("migrations",): 1, ("others",): 0, ("predictions",): 0}
    assert metric(client, "virtpoise_mode") == {("automatic",): 0, ("recommend",): 1}
    terminal.show_status(status)
    assert client.post("/api/v1/release", json={}, headers=WITH_TOKEN).status_code == 200
    assert client.get("/api/v1/status").json()["brake"] is None, "at once, not with the next cycle"
    assert metric(client, "virtpoise_brake") == {("migrations",): 0, ("others",): 0, ("predictions",): 0}
    assert metric(client, "virtpoise_mode") == {("automatic",): 1, ("recommend",): 0}


def test_a_blackout_is_shown_with_its_window_and_its_end(client: TestClient, published: Published) -> None:
    windows = tuple(BlackoutWindow(name=name, cron="0 8 * * *", duration_seconds=60) for name in ("day", "night"))
    blackout = Blackout(windows=("day",), until=2e9, text="until 18:00 (window day)")
    published.state = replace(published.state, policy=replace(POLICY, windows=windows), blackout=blackout)
    status = client.get("/api/v1/status").json()
    assert (status["mode"], status["blackout"]["windows"], status["blackout"]["until"]) == ("automatic", ["day"], 2e9)
    assert "No migration begins until 18:00 (window day)" in client.get("/").text
    assert metric(client, "virtpoise_blackout") == {("day",): 1, ("night",): 0}
    terminal.show_status(status)
