"""The balancer's queries, asked of two hosts only, on a real Prometheus."""

from __future__ import annotations

from virtpoise_balancer.hosts import of_instance
from virtpoise_balancer.monitor.client import PrometheusClient
from virtpoise_balancer.monitor.queries import QUERIES, Ranges, narrowed, render
from virtpoise_preview.prometheus import Span

RANGES = Ranges.of(step_seconds=10, scrape_interval_seconds=10, consecutive=3, saturation_ratio=0.9)


def test_a_query_of_two_hosts_answers_of_them_what_the_whole_query_answers(prometheus_url: str, span: Span) -> None:
    client = PrometheusClient(url=prometheus_url, timeout_seconds=30)
    at = span.end - 60
    hosts = sorted({of_instance(one.labels["instance"]) for one in client.instant("virtpoise_host_cpus", at).series})
    two = hosts[:2]
    assert len(hosts) > 2
    answered = 0
    for name, query in QUERIES.items():
        whole = client.instant(render(query, RANGES, ""), at).series
        of_two = client.instant(render(query, RANGES, narrowed("", two)), at).series
        wanted = [one for one in whole if of_instance(one.labels["instance"]) in two]
        assert sorted(map(repr, of_two)) == sorted(map(repr, wanted)), name
        answered += bool(of_two)
    assert answered > 10
