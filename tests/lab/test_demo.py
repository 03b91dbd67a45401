"""The parts of the demo that need no host: what it calls a success, what it says of the reaction, what its screen
shows.
"""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from rich.console import Console
from rich.text import Text
from werkzeug import Request, Response

from virtpoise_lab.demo.screen import Live
from virtpoise_lab.demo.story import reaction, shortcomings

CALM = {"h1": 0.5, "h2": 0.4}


def record(**changed: Any) -> dict[str, Any]:
    ends = [{"host": host, "verdict": "measured", "made": 1000.1} for host in ("h1", "h2")]
    moved = {"domain": "vm1", "source": "h1", "destination": "h2", "result": "done", "why": "", "began": 1000.9}
    return {**moved, "predictions": ends, **changed}


def test_the_demo_has_shown_it_when_both_hosts_are_calm_and_every_prediction_was_measured() -> None:
    assert shortcomings(CALM, [record(), record()]) == []


@pytest.mark.parametrize(
    ("loads", "changed", "line"),
    [
        ({"h1": 0.7, "h2": 0.4}, {}, "Not solved: h1 at 70%, h2 at 40%."),
        ({"h1": 0.5}, {}, "Not solved: h1 at 50%."),
        (CALM, {"result": "failed", "why": "no route"}, "Not moved: vm1 from h1 to h2: no route."),
        (
            CALM,
            {"predictions": [{"host": "h1", "verdict": "measured"}, {"host": "h2", "verdict": "no_data"}]},
            "Not measured: what was predicted of h2 when moving vm1 from h1 to h2: no_data.",
        ),
    ],
)
def test_what_the_demo_has_not_shown_is_said(loads: dict[str, float], changed: dict[str, Any], line: str) -> None:
    assert shortcomings(loads, [record(**changed)]) == [line]


def prometheus(server: HTTPServer, series: list[Any], **asked: str) -> str:
    """The address of a Prometheus with ``series``. It refuses what ``asked`` does not name."""

    def told(request: Request) -> Response:
        assert asked.items() <= request.form.to_dict().items()
        return Response(json.dumps({"data": {"result": series}}), content_type="application/json")

    server.expect_request("/api/v1/query").respond_with_handler(told)
    return server.url_for("")


def test_a_start_after_the_next_look_still_counts_from_the_look_that_decided(httpserver: HTTPServer) -> None:
    series = [{"values": [[997.5, "8"], [999.5, "8"]]}]
    seconds = reaction(prometheus(httpserver, series, time="1000.0"), record(began=1004.5))
    httpserver.check_assertions()
    assert seconds == 7.0


def test_a_reaction_that_prometheus_does_not_know_is_none(httpserver: HTTPServer) -> None:
    assert reaction(prometheus(httpserver, []), record()) is None


def test_what_is_said_after_the_end_is_printed() -> None:
    screen = io.StringIO()
    with Live(Console(file=screen, force_terminal=True, width=60)) as view:
        view.finish(Text("a table"), ["a last word"])
        shown = len(screen.getvalue())
        view.say(f"Prometheus: http://127.0.0.1:9090/{'x' * 60}")
    assert f"Prometheus: http://127.0.0.1:9090/{'x' * 60}" in screen.getvalue()[shown:]


def test_the_progress_tells_how_fast_the_guest_writes() -> None:
    progress = {
        "elapsed_seconds": 1.5,
        "total_bytes": 4 * 2**20,
        "remaining_bytes": 2 * 2**20,
        "dirty_bytes_per_second": 3 * 2**20,
    }
    flight = {"domain": "vm1", "source": "h1", "destination": "h2", "progress": progress}
    host = {"name": "h1", "cpu_ratio": 0.7, "consecutive": 3, "domains": ["vm1"]}
    status = {"hosts": [host], "threshold": 0.6, "consecutive": 3, "sentence": "", "in_flight": [flight]}
    screen = io.StringIO()
    with Live(Console(file=screen, force_terminal=True, width=110)) as view:
        view.show(status)
        view.finish(Text(""), [])
    assert "2.0 MiB left, 1.5 s, dirties 3.0 MiB/s" in screen.getvalue()
