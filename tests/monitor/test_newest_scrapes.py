"""One sample of the load is that of its own step, whenever within the step its host is scraped."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from filled_prometheus import filled_prometheus
from virtpoise_balancer.monitor.client import PrometheusClient
from virtpoise_balancer.monitor.queries import QUERIES, Ranges, render

END = float((int(time.time()) - 6 * 3600) // 10 * 10)  # so long ago that it lies in a block of its own
# By host, how long before the end of the step it is scraped.
SCRAPED_BEFORE = {"h1": 1, "h2": 4, "h3": 6, "h4": 9}


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """Hosts that are scraped every ten seconds, and are busy from their last scrape but one on."""
    lines = ["# TYPE virtpoise_host_cpu_seconds counter"]
    for host, before in SCRAPED_BEFORE.items():
        for back in range(20, -1, -1):
            busy = 10 if back == 0 else 0
            for mode, done in (("user", busy), ("idle", 10 * (20 - back) - busy)):
                at = END - before - 10 * back
                lines.append(f'virtpoise_host_cpu_seconds_total{{instance="{host}",mode="{mode}"}} {done} {at}')
    with filled_prometheus("\n".join([*lines, "# EOF\n"]), tmp_path) as address:
        yield address


def loads(url: str, step_seconds: float) -> dict[str, float]:
    ranges = Ranges.of(step_seconds=step_seconds, scrape_interval_seconds=10, consecutive=3, saturation_ratio=0.98)
    answer = PrometheusClient(url=url, timeout_seconds=30).instant(render(QUERIES["host_cpu_ratio"], ranges, ""), END)
    return {one.labels["instance"]: one.value for one in answer.series}


def test_of_one_scrape_a_step_the_newest_two_make_a_sample(url: str) -> None:
    assert loads(url, 10) == dict.fromkeys(SCRAPED_BEFORE, 1.0)


def test_of_several_scrapes_a_step_all_count(url: str) -> None:
    found = loads(url, 30)
    assert found.keys() == SCRAPED_BEFORE.keys()
    assert max(found.values()) < 0.4
