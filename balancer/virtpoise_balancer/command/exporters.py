"""What doctor says of the exporters behind Prometheus."""

from __future__ import annotations

from collections.abc import Iterator

from virtpoise_balancer import __version__
from virtpoise_balancer.command.finding import Finding, Severity
from virtpoise_balancer.config import Config
from virtpoise_balancer.model import Host, Resource, UnknownKind
from virtpoise_balancer.monitor.health import ExporterHealth, PrometheusHealth
from virtpoise_balancer.monitor.observe import Observation
from virtpoise_balancer.monitor.sources import MetricsSource

# The Date header of HTTP has a resolution of one second.
MOST_AHEAD_SECONDS = 2.0


def judge_source(config: Config, seen: Observation) -> Iterator[Finding]:
    """What the exporters of the configured source do not report, and what follows."""
    for gap in seen.gaps:
        yield Finding(
            subject=f"source {config.prometheus.source}",
            verdict=Severity.NOT_KNOWN,
            text=gap,
            remedy="see docs/sources.md: another exporter, or a query of your own in prometheus.queries, may report it",
        )


def judge_exporter(host: Host, health: PrometheusHealth, exporters: ExporterHealth, source: MetricsSource) -> Finding:
    """One line on the host's exporter: whether its figures are fresh and whole, its version, its host's clock."""
    subject = f"exporter of {host.name}"
    unknown = host.why_unknown
    if unknown is not None and unknown.kind is UnknownKind.STALE:
        why = health.errors.get(host.name)
        return Finding(
            subject=subject,
            verdict=Severity.BAD,
            text=f"no fresh figures{f': {why}' if why else ''}",
            remedy=f"on {host.name}: systemctl status {source.services}; and see Prometheus' page of targets",
        )
    if failing := exporters.failing.get(host.name):
        return Finding(
            subject=subject,
            verdict=Severity.BAD,
            text=f"collectors fail: {', '.join(failing)}",
            remedy=f"on {host.name}: journalctl -u virtpoise-exporter",
        )
    if unknown is not None:
        return Finding(
            subject=subject,
            verdict=Severity.BAD,
            text=f"nothing certain is known of the host: {unknown.text}",
            remedy="see the runbooks VirtpoiseHostUnknown, VirtpoiseLibvirtUnreachable and VirtpoiseTargetsConflict",
        )
    ahead = exporters.ahead_seconds.get(host.name)
    if ahead is not None and abs(ahead) > MOST_AHEAD_SECONDS:
        return Finding(
            subject=subject,
            verdict=Severity.WARNING,
            text=f"fresh, but the host's clock is {abs(ahead):.0f} s {'ahead' if ahead > 0 else 'behind'}",
            remedy=f"let {host.name} keep the time with NTP",
        )
    version = exporters.versions.get(host.name)
    if version is None:
        return Finding(subject=subject, verdict=Severity.GOOD, text="fresh figures of another exporter")
    if version != __version__:
        return Finding(
            subject=subject,
            verdict=Severity.WARNING,
            text=f"fresh, version {version}, but the balancer is {__version__}",
            remedy="bring both to one version",
        )
    clock = "" if ahead is None else ", the clock agrees"
    return Finding(subject=subject, verdict=Severity.GOOD, text=f"fresh, version {version}{clock}")


def judge_uplinks(host: Host) -> Iterator[Finding]:
    """A finding about a known host whose use of its uplinks is unknown, so that they limit nothing."""
    if not host.known or (host.samples(Resource.RX) and host.samples(Resource.TX)):
        return
    if host.uplink_bytes_per_second is None:
        text = "Prometheus has no speed of them, so their use is unknown"
        remedy = (
            f"on {host.name}: cat /sys/class/net/*/speed; where that is none, start its exporter with --network.speed"
        )
    else:
        text = "Prometheus has no figures of their traffic, so their use is unknown"
        remedy = (
            f"see virtpoise_host_network_receive_bytes_total of {host.name}, or host_rx_ratio in prometheus.queries"
        )
    yield Finding(subject=f"uplinks of {host.name}", verdict=Severity.NOT_KNOWN, text=text, remedy=remedy)
