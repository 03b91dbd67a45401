"""What the balancer tells of itself over HTTP."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from builders import domain, group, host, thesis_policy
from virtpoise_balancer.analyse.standing import Standing
from virtpoise_balancer.errors import BadInput
from virtpoise_balancer.execute.executor import InFlight
from virtpoise_balancer.knowledge.store import Store
from virtpoise_balancer.model import HostState, Outcome, Progress, Result
from virtpoise_balancer.monitor.observe import Observation
from virtpoise_balancer.plan import plan
from virtpoise_balancer.web.app import WebServer, make_app
from virtpoise_balancer.web.board import Board, State
from virtpoise_balancer.web.metrics import Metrics

POLICY = thesis_policy()
SNAPSHOT = group(
    host("h1", 0.5, 0.9, 0.9, penalty_until=1100.0),
    host("h2", 0.1, 0.1),
    host("h3", state=HostState.UNKNOWN),
    domain('a"\n<b>', "h1", 3.0),
)


@pytest.fixture
def board() -> Board:
    return Board(State(mode="automatic", leader=True, policy=POLICY, interval_seconds=10))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(f"sqlite:///{tmp_path}/state.db")


@pytest.fixture
def reloads() -> list[bool]:
    return []


@pytest.fixture
def client(board: Board, store: Store, reloads: list[bool]) -> Iterator[TestClient]:
    app = make_app(board, Metrics(board), store, lambda: reloads.append(True))
    with TestClient(app, client=("127.0.0.1", 50000)) as made:
        yield made


def after_a_cycle(board: Board, store: Store) -> None:
    free = group(host("h1", 0.9, 0.9), host("h2", 0.1, 0.1), domain("a", "h1", 3.0))
    made = plan(free, POLICY)
    store.record_plan(made, 1000.0, acted=True)
    board.state = State(
        mode="automatic",
        leader=True,
        policy=POLICY,
        interval_seconds=10,
        cycle_at=1000.5,
        result="moved",
        sentence=made.summary,
        observation=Observation(snapshot=SNAPSHOT, age_seconds=2.5, duplicates=("u",)),
        plan=made,
        standings={"h1": Standing(host="h1", penalty_until=1100.0, failures=2)},
        predictions=store.open_predictions(),
    )
    board.in_flight = lambda: (
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


def test_ready_only_after_the_first_cycle(client: TestClient, board: Board, store: Store) -> None:
    assert client.get("/-/healthy").status_code == 200
    assert client.get("/-/ready").status_code == 503
    after_a_cycle(board, store)
    assert client.get("/-/ready").status_code == 200


def test_metrics_before_the_first_cycle_are_there(client: TestClient) -> None:
    assert metric(client, "virtpoise_leader") == {(): 1.0}
    assert metric(client, "virtpoise_cycles_total")[("failed",)] == 0
    assert metric(client, "virtpoise_host_cpu_load_ratio") == {}


def test_metrics_show_what_the_balancer_sees(client: TestClient, board: Board, store: Store) -> None:
    after_a_cycle(board, store)
    assert metric(client, "virtpoise_host_cpu_load_ratio") == {("h1",): 0.9, ("h2",): 0.1}
    assert metric(client, "virtpoise_overload_consecutive") == {("h1",): 2, ("h2",): 0, ("h3",): 0}
    assert metric(client, "virtpoise_penalty_seconds") == {("h1",): 100.0}
    assert metric(client, "virtpoise_host_state")[("h3", "unknown")] == 1
    assert metric(client, "virtpoise_snapshot_age_seconds") == {(): 2.5}
    assert metric(client, "virtpoise_domain_duplicates") == {(): 1}
    assert metric(client, "virtpoise_migrations_in_flight") == {(): 1}
    assert metric(client, "virtpoise_plan_moves") == {(): 1}


def test_predictions_are_shown_from_the_decision_until_they_are_measured(
    client: TestClient, board: Board, store: Store
) -> None:
    after_a_cycle(board, store)
    predicted = metric(client, "virtpoise_prediction_ratio")
    assert predicted[("h1", "cpu", "source")] == pytest.approx(0.9 - 0.9 * 3 / 8)
    assert set(predicted) == {("h1", "cpu", "source"), ("h2", "cpu", "destination")}


def test_migrations_are_counted_by_how_they_ended(board: Board, store: Store) -> None:
    metrics = Metrics(board)
    after_a_cycle(board, store)
    (move,) = board.state.plan.moves  # type: ignore[union-attr]
    metrics.migration_ended(move, Outcome(result=Result.DONE, seconds=6.0, downtime_seconds=0.1))
    metrics.migration_ended(move, Outcome(result=Result.FAILED, why="x", seconds=9.0))
    with TestClient(make_app(board, metrics, store, lambda: None)) as client:
        assert metric(client, "virtpoise_migrations_total") == {("h2", "done", "h1"): 1, ("h2", "failed", "h1"): 1}
        assert metric(client, "virtpoise_migration_duration_seconds_sum") == {(): 6.0}


def test_status_tells_of_hosts_and_the_migration_under_way(client: TestClient, board: Board, store: Store) -> None:
    after_a_cycle(board, store)
    status = client.get("/api/v1/status").json()
    first = status["hosts"][0]
    assert (first["name"], first["cpu_ratio"], first["consecutive"], first["failures"]) == ("h1", 0.9, 2, 2)
    assert first["domains"] == ['a"\n<b>']
    assert status["hosts"][2]["cpu_ratio"] is None
    assert status["in_flight"][0]["progress"]["remaining_bytes"] == 3


def test_history_is_limited_and_says_so_of_a_wrong_limit(client: TestClient, board: Board, store: Store) -> None:
    after_a_cycle(board, store)
    (record,) = client.get("/api/v1/history").json()
    assert (record["domain"], len(record["predictions"])) == ("a", 2)
    for limit in ("0", "x", "-1", "1001", "²"):
        answer = client.get("/api/v1/history", params={"limit": limit})
        assert (answer.status_code, "limit: expected 1 to 1000" in answer.text) == (400, True)


def test_reload_is_for_this_machine_and_no_page(
    client: TestClient, board: Board, store: Store, reloads: list[bool]
) -> None:
    assert client.get("/-/reload").status_code == 405
    assert client.post("/-/reload", headers={"Origin": "http://evil.example"}).status_code == 403
    assert reloads == []
    assert client.post("/-/reload").status_code == 200
    assert reloads == [True]
    far = TestClient(make_app(board, Metrics(board), store, lambda: reloads.append(True)), client=("192.0.2.1", 1))
    assert far.post("/-/reload").status_code == 403


def test_a_port_in_use_is_told_in_one_line(board: Board, store: Store) -> None:
    app = make_app(board, Metrics(board), store, lambda: None)
    first = WebServer(app, "127.0.0.1:0")
    port = first._socket.getsockname()[1]
    first.start()
    with pytest.raises(BadInput, match=rf"web.listen_address: 127.0.0.1:{port}: Address already in use"):
        WebServer(app, f"127.0.0.1:{port}")
    first.stop()
