"""Gauges of hosts, made from the published state.

A host has a series for its load, and others only while there is something to say: of ten thousand hosts each would be
ten thousand.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterator, Sequence

from prometheus_client.core import GaugeMetricFamily, Metric

from virtpoise_balancer.analyse.host_limits import limits_of
from virtpoise_balancer.analyse.triggers import ahead
from virtpoise_balancer.model import Host, HostState, Policy, Resource, UnsettledKind
from virtpoise_balancer.monitor.targets import TargetRefusal
from virtpoise_balancer.web.state import HostStatus, State

_THRESHOLDS = ((Resource.CPU, "cpu", "CPU"), (Resource.MEMORY, "memory", "Memory"), (Resource.RX, "network", "Uplink"))


def of_hosts(state: State, statuses: Sequence[HostStatus]) -> Iterator[Metric]:
    """What is known of the hosts. ``statuses``: of the state's hosts, in their order."""
    if state.observation is None:
        return
    hosts = state.observation.snapshot.hosts
    yield single(
        "virtpoise_domain_vanished",
        "Domains that ran nowhere after their migration, until their hosts' libvirt or a person accounts for them.",
        sum(one.kind is UnsettledKind.NOWHERE for one in state.unsettled),
    )
    yield single(
        "virtpoise_domain_duplicates",
        "Domains seen running on more than one host.",
        len(state.observation.duplicates),
    )
    refused = GaugeMetricFamily(
        "virtpoise_refused_targets",
        "Targets of Prometheus that are refused as hosts: not_a_host (neither DNS name nor address) or not_admitted.",
        labels=["reason"],
    )
    for reason in TargetRefusal:
        refused.add_metric([reason.value], state.refused.counts.get(reason, 0))
    yield refused
    counts = GaugeMetricFamily("virtpoise_hosts", "Hosts by the state that they are in.", labels=["state"])
    tally = Tally(host.state for host in hosts)
    for one in HostState:
        counts.add_metric([one.value], tally[one])
    yield counts
    yield from _thresholds(hosts, state.policy)
    load = by_host("virtpoise_host_cpu_load_ratio", "Newest CPU load of the host, as the balancer sees it.")
    count = by_host(
        "virtpoise_overload_consecutive",
        "Consecutive samples at or above the threshold, of the resource that is nearest to an overload; no series "
        "where the newest is below.",
    )
    penalty = by_host(
        "virtpoise_penalty_seconds",
        "How long the host is still in back-off after an attempt that did not solve its problem.",
    )
    states = GaugeMetricFamily(
        "virtpoise_host_state",
        "1 for the state that the host is in; an active host has no series.",
        labels=["host", "state"],
    )
    unknown = GaugeMetricFamily(
        "virtpoise_host_unknown",
        "1 while the host is unknown, by reason: stale, figures, targets, groups, libvirt, domains, silent, unaccounted or migrating.",
        labels=["host", "reason"],
    )
    answers = by_host(
        "virtpoise_host_libvirt_answers",
        "0 while the host's libvirt does not answer the balancer's queries; no series while it does.",
    )
    trend = by_host(
        "virtpoise_host_trend_ratio", "CPU load that the host's trend forecasts; none where it is not believed."
    )
    silent = state.silent
    forecasts = ahead(hosts, state.policy).tolist()
    for host, figures, forecast in zip(hosts, statuses, forecasts, strict=True):
        if host.state is not HostState.ACTIVE:
            states.add_metric([host.name, host.state.value], 1.0)
        if host.known:
            load.add_metric([host.name], host.load)
        if figures.consecutive:
            count.add_metric([host.name], figures.consecutive)
        if forecast >= 0:  # False for NaN
            trend.add_metric([host.name], forecast)
        if figures.penalty_seconds:
            penalty.add_metric([host.name], figures.penalty_seconds)
        if why := host.why_unknown:
            unknown.add_metric([host.name, why.kind.value], 1.0)
        if host.name in silent:
            answers.add_metric([host.name], 0.0)
    yield from (load, trend, count, penalty, states, unknown, answers)


def _thresholds(hosts: Sequence[Host], policy: Policy) -> Iterator[Metric]:
    """The common thresholds, and those of hosts that have their own."""
    limits = [(host.name, own) for host in hosts if (own := limits_of(host, policy))]
    for resource, name, what in _THRESHOLDS:
        text = f"{what} use from which a sample of a host counts towards an overload"
        yield single(f"virtpoise_{name}_threshold_ratio", f"{text}.", policy.trigger(resource).threshold)
        family = by_host(
            f"virtpoise_host_{name}_threshold_ratio", f"{text}, where the host has a threshold of its own."
        )
        for host, own in limits:
            if (threshold := own.threshold(resource)) is not None:
                family.add_metric([host], threshold)
        yield family


def single(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def by_host(name: str, text: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, labels=["host"])
