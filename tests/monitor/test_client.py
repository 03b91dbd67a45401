"""The client against an HTTP server: what is asked, what is borne, and what is refused in one line."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from virtpoise_balancer.errors import MonitorBadReply, MonitorError
from virtpoise_balancer.monitor.client import PrometheusClient, QueryAnswer
from virtpoise_balancer.monitor.health import prometheus_health
from virtpoise_balancer.monitor.http import Access
from virtpoise_balancer.monitor.targets import AdmittedTargets


def vector(*series: tuple[dict[str, str], str], **more: object) -> str:
    result = [{"metric": labels, "value": [1000.0, value]} for labels, value in series]
    return json.dumps({"status": "success", "data": {"resultType": "vector", "result": result}} | more)


@pytest.fixture
def client(httpserver: HTTPServer) -> Iterator[PrometheusClient]:
    made = PrometheusClient(url=httpserver.url_for("").rstrip("/"), timeout_seconds=2.0)
    yield made
    made.close()


def test_asks_by_post_with_the_time_and_reads_the_vector(httpserver: HTTPServer, client: PrometheusClient) -> None:
    def answer(request: Request) -> Response:
        assert request.form["query"] == "up"
        assert request.form["time"] == "1000.000"
        return Response(vector(({"instance": "h1:9807"}, "1.5")))

    httpserver.expect_request("/api/v1/query", method="POST").respond_with_handler(answer)
    (series,) = client.instant("up", 1000.0).series
    assert (series.labels, series.value) == ({"instance": "h1:9807"}, 1.5)
    httpserver.check_assertions()


def test_reads_a_range(httpserver: HTTPServer, client: PrometheusClient) -> None:
    result = [{"metric": {"instance": "h1"}, "values": [[990, "0.5"], [1000, "0.6"]]}]
    httpserver.expect_request("/api/v1/query_range").respond_with_json(
        {"status": "success", "data": {"resultType": "matrix", "result": result}}
    )
    (series,) = client.range("load", 990, 1000, 10).series
    assert series.samples == ((990.0, 0.5), (1000.0, 0.6))


def test_values_that_are_not_finite_are_left_out(httpserver: HTTPServer, client: PrometheusClient) -> None:
    found = [({"instance": name}, value) for name, value in (("a", "NaN"), ("b", "+Inf"), ("c", "-Inf"), ("d", "2"))]
    httpserver.expect_request("/api/v1/query").respond_with_data(vector(*found))
    assert [series.labels["instance"] for series in client.instant("x", 0).series] == ["d"]


def test_a_native_histogram_which_an_exporter_may_choose_to_expose_harms_its_own_series_alone(
    httpserver: HTTPServer, client: PrometheusClient
) -> None:
    histogram = [1000, {"count": "1", "sum": "2", "buckets": []}]
    for path, kind, own, others in (
        ("/api/v1/query", "vector", {"histogram": histogram}, {"value": [1000, "2"]}),
        ("/api/v1/query_range", "matrix", {"histograms": [histogram]}, {"values": [[1000, "2"]]}),
    ):
        result = [{"metric": {"instance": "h1"}, **own}, {"metric": {"instance": "h2"}, **others}]
        httpserver.expect_request(path).respond_with_json(
            {"status": "success", "data": {"resultType": kind, "result": result}}
        )
    for answer in (client.instant("x", 1000), client.range("x", 1000, 1000, 10)):
        assert [(one.labels["instance"], one.value) for one in answer.series] == [("h2", 2.0)]


def test_several_queries_are_one_request_and_each_gets_its_own_series(
    httpserver: HTTPServer, client: PrometheusClient
) -> None:
    sent: list[str] = []

    def answer(request: Request) -> Response:
        sent.append(request.form["query"])
        found = [({"instance": "h1", "virtpoise_query": name}, value) for name, value in (("a", "1"), ("b", "2"))]
        return Response(vector(*found, ({"virtpoise_query": "unheard of"}, "3"), ({}, "4")))

    httpserver.expect_request("/api/v1/query").respond_with_handler(answer)
    found = client.instant_each({"a": "up", "b": "down # a comment", "c": "left"}, 1000.0)
    assert {name: [(one.labels, one.value) for one in answer.series] for name, answer in found.items()} == {
        "a": [({"instance": "h1"}, 1.0)],
        "b": [({"instance": "h1"}, 2.0)],
        "c": [],
    }
    (query,) = sent
    assert "down # a comment\n" in query


def test_questions_side_by_side_are_under_way_together_and_the_first_failure_ends_the_rest(
    client: PrometheusClient,
) -> None:
    both = threading.Barrier(2, timeout=10)
    asked: list[int] = []

    def meets(number: int) -> QueryAnswer:
        both.wait()
        return QueryAnswer((), (str(number),))

    def fails(number: int) -> QueryAnswer:
        asked.append(number)
        time.sleep(0.05)
        raise MonitorError(f"question {number}")

    found = client.side_by_side({name: partial(meets, number) for number, name in enumerate("abcd")})
    assert [(name, *answer.warnings) for name, answer in found.items()] == [
        tuple(one) for one in ("a0", "b1", "c2", "d3")
    ]
    with pytest.raises(MonitorError, match="question 0"):
        client.side_by_side({str(number): partial(fails, number) for number in range(100)})
    assert len(asked) < 100


def test_warnings_are_kept(httpserver: HTTPServer, client: PrometheusClient) -> None:
    note = "PromQL warning: the quantile value should be between 0 and 1"
    httpserver.expect_request("/api/v1/query").respond_with_data(vector(warnings=[note]))
    assert client.instant("x", 0).warnings == (note,)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"warnings": ["PromQL info: x", "receive series from store-2: context deadline exceeded"]}, "receive series"),
        ({"warnings": ["No StoreAPIs matched for this query"]}, "No StoreAPIs"),
        ({"warnings": ["remote_read: 503 Service Unavailable"]}, "remote_read"),
        ({"isPartial": True}, "isPartial"),
    ],
    ids=("Thanos", "Thanos without stores", "remote read", "VictoriaMetrics cluster"),
)
def test_a_partial_answer_is_no_answer(
    said: dict[str, object], why: str, httpserver: HTTPServer, client: PrometheusClient
) -> None:
    reply = json.loads(vector()) | said
    httpserver.expect_request("/api/v1/query").respond_with_json(reply)
    with pytest.raises(MonitorBadReply, match=f"answered only in part: {why}"):
        client.instant("x", 0)
    assert len(httpserver.log) == 1  # the next look asks again


def test_asks_again_while_the_server_is_busy(httpserver: HTTPServer, client: PrometheusClient) -> None:
    httpserver.expect_ordered_request("/api/v1/query").respond_with_data("busy", 503)
    httpserver.expect_ordered_request("/api/v1/query").respond_with_data(vector())
    assert client.instant("x", 0).series == ()


def test_gives_up_at_the_deadline(httpserver: HTTPServer, client: PrometheusClient) -> None:
    httpserver.expect_request("/api/v1/query").respond_with_data("busy", 503)
    client.timeout_seconds = 0.5
    with pytest.raises(MonitorError, match="answered 503"):
        client.instant("x", 0)


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ("<!DOCTYPE html><html>", 200, "does not answer as Prometheus does .*expected JSON"),
        ("{}", 200, "missing required field `status`"),
        ('{"status": "success", "data": {"resultType": "scalar", "result": [1, "1"]}}', 200, "expected a vector"),
        ('{"status": "success"}', 200, "expected a vector"),
        ('{"status": "success", "data": null}', 200, "object"),
        ('{"status": "success", "data": {"resultType": "vector"}}', 200, "missing required field `result`"),
        ('{"status": "error"}', 400, "refused 'x': it does not say why"),
        ('{"status": "error", "error": "parse error: unexpected end"}', 400, "refused 'x': parse error"),
        (vector(({}, "one")), 200, "expected a number, got 'one'"),
        (json.dumps({"status": "success", "data": {"resultType": "matrix", "result": []}}), 200, "expected a vector"),
    ],
)
def test_what_is_no_prometheus_is_refused_at_once(
    httpserver: HTTPServer, client: PrometheusClient, body: str, status: int, says: str
) -> None:
    httpserver.expect_ordered_request("/api/v1/query").respond_with_data(body, status)
    with pytest.raises(MonitorBadReply, match=says) as refused:
        client.instant("x", 0)
    assert "\n" not in str(refused.value)


def test_a_refused_connection_is_an_error_of_one_line() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(MonitorError, match=rf"Prometheus at {url} cannot be asked: .*refused") as refused:
        PrometheusClient(url=url, timeout_seconds=0.3).instant("x", 0)
    assert "\n" not in str(refused.value)


def test_a_store_that_scrapes_nothing_is_healthy(httpserver: HTTPServer, client: PrometheusClient) -> None:
    """Mimir answers queries and has no page of targets."""
    httpserver.expect_request("/api/v1/status/buildinfo").respond_with_json({"data": {"version": "2.17.0"}})
    httpserver.expect_request("/api/v1/query").respond_with_data(vector(({"instance": "h1:9807", "job": "x"}, "0")))
    httpserver.expect_request("/api/v1/targets").respond_with_data("404 page not found", 404)
    found = prometheus_health(client, "", AdmittedTargets(lambda _name: True), 0)
    assert (found.version, found.errors) == ("2.17.0", {})


def test_a_missing_ca_file_is_an_error_at_once(tmp_path: Path) -> None:
    made = PrometheusClient(
        url="https://127.0.0.1:1", timeout_seconds=2.0, access=Access(ca_file=tmp_path / "none.pem")
    )
    for ask in (lambda: made.instant("up", 0), lambda: prometheus_health(made, "", AdmittedTargets(bool), 0)):
        with pytest.raises(MonitorError, match=r"^prometheus\.ca_file or .*none\.pem") as refused:
            ask()
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("content", [b"\xff\xfe", "gehe\u00efm".encode()])
def test_a_token_file_that_is_no_ascii_text_is_reported(httpserver: HTTPServer, tmp_path: Path, content: bytes) -> None:
    token = tmp_path / "token"
    token.write_bytes(content)
    token.chmod(0o600)
    client = PrometheusClient(
        url=httpserver.url_for("").rstrip("/"), timeout_seconds=2, access=Access(secret_file=token)
    )
    with pytest.raises(MonitorBadReply, match=r"^prometheus\.token_file: .*/token: expected ASCII text$"):
        client.instant("up", 0)


def test_the_token_is_sent_and_read_anew(httpserver: HTTPServer, tmp_path: Path) -> None:
    seen: list[str] = []

    def answer(request: Request) -> Response:
        seen.append(request.headers["Authorization"])
        return Response(vector())

    httpserver.expect_request("/api/v1/query").respond_with_handler(answer)
    token = tmp_path / "token"
    token.touch(0o600)
    client = PrometheusClient(
        url=httpserver.url_for("").rstrip("/"), timeout_seconds=2, access=Access(secret_file=token)
    )
    for value in ("first", "second"):
        token.write_text(f"{value}\n")
        client.instant("x", 0)
    client.close()
    assert seen == ["Bearer first", "Bearer second"]
