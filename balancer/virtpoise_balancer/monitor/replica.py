"""Several Prometheus servers that scrape the same targets, distinguished by a label of their series."""

from __future__ import annotations

from virtpoise_balancer.monitor.client import PrometheusClient
from virtpoise_balancer.monitor.queries import and_equal
from virtpoise_balancer.monitor.replies import Series


def of_one_replica(client: PrometheusClient, label: str, matchers: str, times: str, oldest: float, at: float) -> str:
    """The matchers, for the series of one replica: that with fresh samples of most hosts, or of several the first by
    name. MonitorError.

    ``times``: the query for the hosts' newest samples, which are fresh from ``oldest`` on.

    Each target counts once: its exporter may give the figure many times, with the name of a replica that there is not.
    """
    fresh = f"max by ({label}, instance) (\n(\n{times}\n) >= {oldest}\n)"
    answer = client.instant(f"count by ({label}) (\n{fresh}\n)", at)
    hosts = {one.labels.get(label, ""): one.value for one in answer.series}
    return and_equal(matchers, label, min(hosts, key=lambda name: (-hosts[name], name))) if hosts else matchers


def without(label: str | None, series: Series) -> Series:
    """The series as if its target had no such label."""
    return Series({name: value for name, value in series.labels.items() if name != label}, series.samples)
