"""The exporters that a group's figures can come from, and what those cannot report."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from virtpoise_balancer.monitor import other_exporters as other
from virtpoise_balancer.monitor.matchers import EXAMPLE
from virtpoise_balancer.monitor.queries import QUERIES


class SourceName(StrEnum):
    """The values of ``prometheus.source``."""

    VIRTPOISE = "virtpoise"
    DEBIAN = "debian"
    KUMINA = "kumina"
    TINKOFF = "tinkoff"
    INOVEX = "inovex"


class ServerName(StrEnum):
    """The values of ``prometheus.server``."""

    PROMETHEUS = "prometheus"
    VICTORIA_METRICS = "victoria_metrics"


# How long a server with its own defaults does not show a sample. VictoriaMetrics: -search.latencyOffset.
DELAY_SECONDS = {ServerName.PROMETHEUS: 0.0, ServerName.VICTORIA_METRICS: 30.0}

# What follows where a query has no answer, by the query's name. Where one gap stands for two queries, the second says
# nothing.
_WITHOUT = {
    "host_cpu_speed": "the speed of a host's CPUs: all count as equal",
    "host_hugepages_free": "static huge pages in use: a domain's memory counts as ordinary memory",
    "host_domains_active": "the number of active domains: the list of domains is not checked against it",
    "host_domains_inactive": "",
    "domain_placement": "what domains ask for in their metadata: only policy.rules apply",
    "domain_paused": "which domains are paused: they count as running",
    "domain_hugepages_bytes": "",
    "domain_memory_resident_bytes": "how much memory a domain's process holds: all that is assigned counts as held",
    "domain_cpu_delay_cores": "how long vCPUs wait for a CPU: on a saturated host demand is uncertain, and plans leave "
    "more room",
    "domain_cpu_delay_cores_unsaturated": "",
}
_UPLINK = "which uplink carries a domain's traffic: it is taken for the host's fastest one"
_NO_SHUT_OFF = "domains that are shut off: they are not listed"
_NO_PAUSED = "domains that are paused: they are not listed"


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsSource:
    """One kind of exporters. ``queries``: those that it answers, by name. ``matchers``: of its targets, by default.

    ``foreign``: the queries that another exporter than virtpoise's answers. ``services``: what runs on a host.
    ``limits``: what no missing query shows.
    """

    name: SourceName
    queries: Mapping[str, str]
    matchers: str
    foreign: frozenset[str]
    services: str
    limits: tuple[str, ...] = ()

    def gaps(self, replaced: Collection[str]) -> Iterator[str]:
        """What is not reported, a line each: what it is, and what follows. ``replaced``: queries of the configuration's
        own, which may fill a gap.
        """
        for name, line in _WITHOUT.items():
            if line and name not in self.queries and name not in replaced:
                yield line
        yield from self.limits


def _other(name: SourceName, queries: Mapping[str, str], *limits: str) -> MetricsSource:
    """A libvirt exporter beside node_exporter."""
    every = {**other.NODE_EXPORTER, **queries}
    return MetricsSource(
        name=name,
        queries=every,
        matchers='job=~"node|libvirt"',
        foreign=frozenset(every),
        services="prometheus-node-exporter prometheus-libvirt-exporter",
        limits=(_UPLINK, *limits),
    )


SOURCES = {
    one.name: one
    for one in (
        MetricsSource(
            name=SourceName.VIRTPOISE,
            queries=QUERIES,
            matchers=EXAMPLE,
            foreign=frozenset(),
            services="virtpoise-exporter",
        ),
        _other(SourceName.DEBIAN, other.DEBIAN, _NO_SHUT_OFF),
        _other(SourceName.KUMINA, other.KUMINA, _NO_SHUT_OFF),
        _other(SourceName.TINKOFF, other.TINKOFF, _NO_PAUSED),
        _other(SourceName.INOVEX, other.INOVEX),
    )
}
