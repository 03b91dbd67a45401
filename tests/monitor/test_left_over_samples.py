"""Samples from before Prometheus was away do not count: series of what is gone since have no marker of their end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from filled_prometheus import filled_prometheus
from virtpoise_balancer.config import parse_config
from virtpoise_balancer.model import DomainState
from virtpoise_balancer.monitor.client import PrometheusClient
from virtpoise_balancer.monitor.observe import Observation
from virtpoise_balancer.service.wiring import make_observer

END = float((int(time.time()) - 6 * 3600) // 10 * 10)  # so long ago that it lies in a block of its own
BEFORE = [END - 10 * back for back in range(90, 10, -1)]
SINCE = [END - 10 * back for back in range(4, -1, -1)]
ALWAYS = [*BEFORE, *SINCE]
A, B, C = (f'domain="{name}",uuid="uuid-{name}"' for name in "abc")


class AtTheEnd(PrometheusClient):
    """A Prometheus whose clock stands at the end of what it holds."""

    def time(self) -> float:
        return END


def samples() -> Iterator[tuple[str, str, float, float]]:
    """Name, labels, time and value. While Prometheus was away a left h1 for h2, c was shut off, and b lost its rule."""
    for host, before, since in (("h1", (3, 0), (1, 1)), ("h2", (0, 0), (1, 0))):
        instance = f'job="virtpoise-exporter",instance="{host}:9807"'
        for at in ALWAYS:
            for name, value in (("cpus", 8), ("memory_total_bytes", 8e9), ("memory_available_bytes", 4e9)):
                yield f"virtpoise_host_{name}", instance, at, value
            for mode in ("user", "idle"):
                yield "virtpoise_host_cpu_seconds_total", f'{instance},mode="{mode}"', at, (at - ALWAYS[0]) * 4
            yield "virtpoise_libvirt_up", instance, at, 1
            active, inactive = before if at in BEFORE else since
            yield "virtpoise_domains", f'{instance},state="active"', at, active
            yield "virtpoise_domains", f'{instance},state="inactive"', at, inactive
    on_h1, on_h2 = (f'job="virtpoise-exporter",instance="{host}:9807"' for host in ("h1", "h2"))
    for labels, times, running in (
        (f"{on_h1},{A}", BEFORE, 1),
        (f"{on_h2},{A}", SINCE, 1),
        (f"{on_h1},{B}", ALWAYS, 1),
        (f"{on_h1},{C}", ALWAYS, 0),
    ):
        for at in times:
            yield "virtpoise_domain_running", labels, at, running
            yield "virtpoise_domain_vcpus", labels, at, 2
            yield "virtpoise_domain_memory_bytes", labels, at, 1e9
            yield "virtpoise_domain_cpu_seconds_total", labels, at, at - ALWAYS[0]
    for at in ALWAYS:
        state = "paused" if at in BEFORE else "shutoff"
        yield "virtpoise_domain_state", f'{on_h1},{C},state="{state}",reason="user"', at, 1
    for at in BEFORE:
        yield "virtpoise_domain_placement", f'{on_h1},{B},rule="ignore",value=""', at, 1


def exposition() -> str:
    by_name: dict[str, list[str]] = {}
    for name, labels, at, value in samples():
        by_name.setdefault(name, []).append(f"{name}{{{labels}}} {value} {at}")
    lines = []
    for name, found in by_name.items():
        kind = "counter" if name.endswith("_total") else "gauge"
        lines += [f"# TYPE {name.removesuffix('_total')} {kind}", *found]
    return "\n".join([*lines, "# EOF\n"])


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observation]:
    folder: Path = tmp_path_factory.mktemp("prometheus")
    with filled_prometheus(exposition(), folder) as url:
        observer = make_observer(parse_config(f"prometheus: {{url: '{url}'}}", "x"))
        client = AtTheEnd(url=observer.client.url, timeout_seconds=5)
        try:
            yield replace(observer, client=client).observe(END)
        finally:
            client.close()


def test_a_domain_that_left_while_prometheus_was_away_makes_no_host_unknown(observed: Observation) -> None:
    assert {host.name: host.why_unknown for host in observed.snapshot.hosts} == {"h1": None, "h2": None}


def test_a_domain_is_where_the_newest_sample_has_it_and_runs_once(observed: Observation) -> None:
    (domain,) = (one for one in observed.snapshot.domains if one.name == "a")
    assert (domain.host, domain.state) == ("h2", DomainState.RUNNING)
    assert observed.duplicates == {}


def test_a_state_that_has_ended_does_not_count(observed: Observation) -> None:
    assert [one.state for one in observed.snapshot.domains if one.name == "c"] == [DomainState.SHUTOFF]


def test_a_placement_rule_that_was_taken_away_binds_no_longer(observed: Observation) -> None:
    (domain,) = (one for one in observed.snapshot.domains if one.name == "b")
    assert domain.placement is None or not domain.placement.ignore
