"""A look that is earlier than now, for servers that show samples late."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from pathlib import Path

import pytest

from filled_prometheus import CACHE, filled_prometheus, filled_victoria_metrics
from monitor.test_left_over_samples import END, AtTheEnd, exposition
from virtpoise_balancer.analyse.commitments import Commitment, remembered_since
from virtpoise_balancer.config import parse_config
from virtpoise_balancer.errors import BadInput, MonitorError
from virtpoise_balancer.model import Result, SampleTimes
from virtpoise_balancer.monitor.observe import Observer
from virtpoise_balancer.service.wiring import make_observer

# Nothing but the storage and the address is set, so it shows samples after 30 s.
VICTORIA_METRICS = CACHE / "victoria-metrics-bookworm/usr/bin/victoria-metrics"


def delayed(url: str, seconds: float) -> Observer:
    return make_observer(parse_config(f"prometheus: {{url: '{url}', delay_seconds: {seconds}}}", "x"))


def of_server(url: str, server: str) -> Observer:
    return make_observer(parse_config(f"prometheus: {{url: '{url}', server: {server}}}", "x"))


def test_all_queries_of_a_look_are_evaluated_the_delay_before_now(tmp_path: Path) -> None:
    with filled_prometheus(exposition(), tmp_path) as url:
        observer = replace(delayed(url, 20), client=AtTheEnd(url=url, timeout_seconds=10))
        undelayed = replace(observer, delay_seconds=0)
        assert observer.observe(END).snapshot == undelayed.observe(END - 20).snapshot
        assert observer.observe_hosts(["h1"], END).snapshot == undelayed.observe_hosts(["h1"], END - 20).snapshot
        assert observer.members(END + 600) == {"h1", "h2"}
        assert undelayed.members(END + 610) == set()


def test_victoria_metrics_shows_all_hosts_with_the_delay_of_its_defaults(tmp_path: Path) -> None:
    """Without it, the server answers for an earlier time than the query has, and its clock seems to be behind."""
    shift = time.time() - 30 - END
    text = re.sub(r" ([0-9.]+)$", lambda at: f" {float(at[1]) + shift}", exposition(), flags=re.MULTILINE)
    with filled_victoria_metrics(text, tmp_path, VICTORIA_METRICS) as url:
        seen = of_server(url, "victoria_metrics").observe(time.time())
        assert {host.name: host.unknown for host in seen.snapshot.hosts} == {"h1": None, "h2": None}
        assert {domain.name: domain.host for domain in seen.snapshot.domains if domain.name != "c"} == {
            "a": "h2",
            "b": "h1",
        }
        with pytest.raises(MonitorError, match="this machine's clock is 30 s ahead of that of Prometheus"):
            of_server(url, "prometheus").observe(time.time())


def test_what_ended_is_remembered_for_the_delay_longer() -> None:
    """Its samples show later."""
    without, with_delay = (
        SampleTimes(step_seconds=10.0, reach_back_seconds=15.0, samples=30, delay_seconds=delay)
        for delay in (0.0, 30.0)
    )
    assert remembered_since(1000.0, with_delay) == remembered_since(1000.0, without) - 30
    done = Commitment(domain="a", uuid="a", source="h1", destination="h2", began=930.0, ended=950.0, result=Result.DONE)
    assert not done.may_count(1000.0, without)
    assert done.may_count(1000.0, with_delay)


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("{}", 0),
        ("{server: prometheus}", 0),
        ("{server: victoria_metrics}", 30),
        ("{server: victoria_metrics, delay_seconds: 5}", 5),
        ("{delay_seconds: 7}", 7),
    ],
)
def test_the_delay_is_that_of_the_server_unless_it_is_set(written: str, seconds: float) -> None:
    assert parse_config(f"prometheus: {written}", "x").prometheus.delay_seconds == seconds


@pytest.mark.parametrize("server", ["influx", "[prometheus]", "{}", "null"])
def test_a_server_that_is_none_is_refused_by_its_name(server: str) -> None:
    with pytest.raises(BadInput, match=r"prometheus\.server: expected"):
        parse_config(f"prometheus: {{server: {server}}}", "x")


@pytest.mark.parametrize("seconds", ["-1", "61", ".nan", "soon"])
def test_a_delay_that_is_none_is_refused_by_its_name(seconds: str) -> None:
    with pytest.raises(BadInput, match=r"prometheus\.delay_seconds: expected"):
        parse_config(f"prometheus: {{delay_seconds: {seconds}}}", "x")
