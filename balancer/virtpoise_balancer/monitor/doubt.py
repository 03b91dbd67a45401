"""Why a host's figures cannot be believed: no fact follows from what is missing, contradicts itself or cannot be (law
3).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from virtpoise_balancer.hosts import folded, of_instance
from virtpoise_balancer.model import (
    LEAST_CPU_SPEED,
    MOST_BYTES,
    MOST_CPU_SPEED,
    MOST_CPUS,
    NO_FIGURES,
    Unknown,
    UnknownKind,
)
from virtpoise_balancer.monitor.replies import Series
from virtpoise_balancer.monitor.targets import MOST_LABELS
from virtpoise_balancer.visible import shown

# What lists the domains, and what counts them: a configuration that replaces the first must replace the second to have
# them compared.
LISTING = frozenset({"domain_running", "domain_paused"})
COUNTING = frozenset({"host_domains_active", "host_domains_inactive"})
# What one exporter says of a host and of its list of domains; and which of it says by itself who reports a host.
_OF_ANY_KIND = ("host_sample_time", "host_libvirt_up", "domain_running")
_OF_ONE_TARGET = (*_OF_ANY_KIND, "domain_paused", *sorted(COUNTING))
# The most domains of one host, in all states. No libvirt host comes near.
MOST_DOMAINS = 10_000
# The most domains of one host that may seem to run on others as well, since they move between two scrapes.
MOST_CLAIMED = 10
# A terabyte a second. An uplink that does not know its speed reports -1, or that as an unsigned number (65,535 or
# 4,294,967,295 Mbit/s).
_MOST_UPLINK_BYTES = 1e12
_SPEEDS_OF_NONE = (65_535 * 125_000, 4_294_967_295 * 125_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFigures:
    """One host's plain figures, as Prometheus gave them; None: it gave none."""

    cpus: float | None
    cpu_speed: float | None
    memory_bytes: float | None
    available_bytes: float | None
    uplink_bytes_per_second: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lists:
    """What libvirt says about one host's domains.

    ``up``: whether libvirt answers the exporter. ``counted`` and ``listed``: active and inactive domains. None: no
    figure. ``odd``: the figure of a domain that neither runs (1) nor does not (0).
    """

    up: float | None
    counted: tuple[float | None, float | None]
    listed: tuple[int, int]
    odd: float | None = None


NOTHING_LISTED = Lists(up=None, counted=(None, None), listed=(0, 0))


def of_targets(targets: AbstractSet[tuple[str, str]]) -> Unknown | None:
    """Doubt about a host whose figures come from these targets, each an instance and a job."""
    if len(targets) < 2:
        return None
    instances = {instance for instance, _ in targets}
    names = sorted(instances if len(instances) == len(targets) else {f"{i} of job {job}" for i, job in targets})
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return Unknown(
        kind=UnknownKind.TARGETS,
        text=f"{len(names)} targets of Prometheus claim to be it: {', '.join(names[:3])}{more}",
    )


def of_labels(labels: Mapping[str, str]) -> Unknown | None:
    """Doubt about a host whose target has these labels, to which its exporter may add."""
    if len(labels) <= MOST_LABELS:
        return None
    return Unknown(kind=UnknownKind.FIGURES, text=f"its target has {len(labels)} labels, more than {MOST_LABELS}")


def of_age(age_seconds: float, stale_seconds: float) -> Unknown | None:
    """Doubt about a host whose newest sample is so old."""
    return None if age_seconds <= stale_seconds else NO_FIGURES


def of_lists(lists: Lists, replaced: AbstractSet[str]) -> Unknown | None:
    """Doubt about a host's list of domains. ``replaced``: the queries that another exporter answers.

    Other exporters may have no metric for libvirt's answer, or none for its own count of the domains. So either is
    required only where it was asked for: with virtpoise's own list, or by another query.
    """
    own_list = not replaced & LISTING
    if lists.up is None and (own_list or "host_libvirt_up" in replaced):
        return Unknown(kind=UnknownKind.LIBVIRT, text="its exporter does not say whether its libvirt answers")
    if lists.up is not None and lists.up != 1:
        return Unknown(kind=UnknownKind.LIBVIRT, text="its libvirt does not answer its exporter")
    if sum(lists.listed) > MOST_DOMAINS:
        return _absurd("number of domains", sum(lists.listed))
    if lists.odd is not None:
        return _absurd("list of domains, where 1 is one that runs and 0 one that does not,", lists.odd)
    if not own_list and not replaced & COUNTING:
        return None
    for what, counted, listed in zip(("active", "inactive"), lists.counted, lists.listed, strict=True):
        if counted is None and (own_list or f"host_domains_{what}" in replaced):
            return Unknown(kind=UnknownKind.DOMAINS, text=f"its exporter does not say how many {what} domains it has")
        if counted is not None and counted != listed:
            return Unknown(
                kind=UnknownKind.DOMAINS,
                text=f"its list of domains contradicts libvirt's count: {counted:g} {what}, {listed} listed",
            )
    return None


def of_claims(running: Sequence[Series], known: AbstractSet[str]) -> dict[str, Unknown]:
    """Doubt about each of these hosts that claims to run many domains of others.

    ``running``: the series of domains; ``known``: the hosts that are not in doubt yet. Of lists that contradict each
    other, the one that contradicts most is doubted first, and no longer held against the others; all of them, where
    several contradict as much.
    """
    first: dict[str, str] = {}
    hosts_of: dict[str, set[str]] = {}
    for series in running:
        if series.value == 1 and (host := _host(series)) in known:
            uuid = series.labels.get("uuid", "")
            if first.setdefault(uuid, host) != host:
                hosts_of.setdefault(uuid, {first[uuid]}).add(host)
    found: dict[str, Unknown] = {}
    while True:
        claimed = Counter(host for hosts in hosts_of.values() for host in hosts)
        most = max(claimed.values(), default=0)
        if most <= MOST_CLAIMED:
            return found
        for host in sorted(claimed):
            if claimed[host] == most:
                others = Counter(other for hosts in hosts_of.values() if host in hosts for other in hosts - {host})
                found[host] = _of_claims(most, others)
        hosts_of = {uuid: left for uuid, hosts in hosts_of.items() if len(left := hosts - found.keys()) > 1}


def _of_claims(claimed: int, others: Counter[str]) -> Unknown:
    names = sorted(others, key=lambda host: (-others[host], host))
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return Unknown(
        kind=UnknownKind.DOMAINS,
        text=f"its list of domains contradicts those of others: {claimed} of them run on {', '.join(names[:3])}{more} as well",
    )


def of_figures(figures: HostFigures) -> Unknown | None:
    """Doubt about a host with such figures: one that is missing, or that no host has."""
    for what, value, least, most in (
        ("number of CPUs", figures.cpus, 1.0, float(MOST_CPUS)),
        ("memory in bytes", figures.memory_bytes, 1.0, float(MOST_BYTES)),
        ("available memory in bytes", figures.available_bytes, 0.0, figures.memory_bytes or 0.0),
    ):
        if value is None:
            return Unknown(kind=UnknownKind.STALE, text=f"Prometheus has no fresh figure of its {what}")
        if not least <= value <= most:
            return _absurd(what, value)
    speed, uplink = figures.cpu_speed, figures.uplink_bytes_per_second
    if speed is not None and not LEAST_CPU_SPEED <= speed <= MOST_CPU_SPEED:
        return _absurd("CPU speed", speed)
    if uplink and (not 1 <= uplink <= _MOST_UPLINK_BYTES or uplink in _SPEEDS_OF_NONE):
        return _absurd("uplink's speed in bytes per second", uplink)
    return None


def _absurd(what: str, value: float) -> Unknown:
    return Unknown(kind=UnknownKind.FIGURES, text=f"its {what} cannot be right: {value:g}")


def targets_by_host(
    answers: Mapping[str, Sequence[Series]], at: float, stale_seconds: float, replaced: AbstractSet[str]
) -> dict[str, AbstractSet[tuple[str, str]]]:
    """By host, the targets that report it now: of the answers that know most of them. ``answers``: by query.

    ``replaced``: the queries that another exporter answers. Exporters of different kinds may share a host (one for
    its figures, one for its domains), so each of these is held against itself alone. All others are answered by
    virtpoise's exporter, one a host: what one target lists and another one counts is no list. A target that disappeared
    is recognised by the age of its samples. Two names that differ in upper and lower case alone are one host.
    """
    gone = {_target(one) for one in answers["host_sample_time"] if at - one.value > stale_seconds}
    own = [query for query in _OF_ONE_TARGET if query not in replaced]
    found: dict[str, AbstractSet[tuple[str, str]]] = {}
    for queries in (own, *([query] for query in _OF_ANY_KIND if query in replaced)):
        now: dict[str, set[tuple[str, str]]] = {}
        for target in {_target(series) for query in queries for series in answers[query]} - gone:
            now.setdefault(of_instance(target[0]), set()).add(target)
        for host, targets in now.items():
            if len(targets) > len(found.get(host, ())):
                found[host] = targets
    together: dict[str, set[tuple[str, str]]] = {}
    for host in found:
        together.setdefault(folded(host), set()).update(found[host])
    return {host: together[folded(host)] for host in found}


def copies_by_host(times: Sequence[Series], at: float, stale_seconds: float) -> dict[str, Unknown]:
    """Doubt about each host whose target has several series now: several Prometheus servers scrape it.

    ``times``: of the newest samples. Figures that add up over series would count such a host twice.
    """
    seen: dict[tuple[str, str], list[Series]] = {}
    for series in times:
        if at - series.value <= stale_seconds:
            seen.setdefault(_target(series), []).append(series)
    return {_host(copies[0]): _of_copies(copies) for copies in seen.values() if len(copies) > 1}


def _of_copies(copies: Sequence[Series]) -> Unknown:
    names = {name for one in copies for name in one.labels}
    differ = (name for name in sorted(names) if len({one.labels.get(name) for one in copies}) > 1)
    return Unknown(
        kind=UnknownKind.TARGETS,
        text=f"Prometheus has its target {len(copies)} times, with another {shown(next(differ, 'label'))} each: see "
        "prometheus.replica_label",
    )


def _target(series: Series) -> tuple[str, str]:
    return series.labels.get("instance", ""), series.labels.get("job", "")


def lists_by_host(answers: Mapping[str, Sequence[Series]]) -> dict[str, Lists]:
    """By host, what libvirt counts and what is listed."""
    up, active, inactive = (
        {_host(series): series.value for series in answers[name]}
        for name in ("host_libvirt_up", "host_domains_active", "host_domains_inactive")
    )
    listed = {(_host(series), series.labels.get("uuid", "")): series.value == 1 for series in answers["domain_running"]}
    listed |= {
        key: True
        for series in answers["domain_paused"]
        if (key := (_host(series), series.labels.get("uuid", ""))) in listed
    }
    numbers = Counter((host, is_active) for (host, _), is_active in listed.items())
    odd = {_host(series): series.value for series in answers["domain_running"] if series.value not in (0, 1)}
    return {
        host: Lists(
            up=up.get(host),
            counted=(active.get(host), inactive.get(host)),
            listed=(numbers[host, True], numbers[host, False]),
            odd=odd.get(host),
        )
        for host in up.keys() | active.keys() | inactive.keys() | {host for host, _ in listed}
    }


def _host(series: Series) -> str:
    return of_instance(series.labels.get("instance", ""))
