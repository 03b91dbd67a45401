"""Reads the domains of a snapshot from the answers of Prometheus.

No answer is trusted: a domain whose figures are missing or out of range is listed, but not as running. So it counts and
stays where it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import partial

from virtpoise_balancer.model import MOST_BYTES, MOST_COUNTED, Domain, DomainState, Host, HugePages, Placement
from virtpoise_balancer.monitor.client import Series
from virtpoise_balancer.monitor.targets import host_of

# What a domain's metadata may name several of; `ignore` stands alone.
_PLACEMENT_LISTS = frozenset(one.name for one in fields(Placement)) - {"ignore"}
# A domain's CPU time may seem to pass what there is while it arrives: two samples, taken unevenly. Anything further is
# no figure.
_CPU_TOLERANCE = 2.0
# Traffic between domains of one host passes no uplink and may be far above its speed, but not so far.
_MOST_UPLINK_RATIO = 1000.0
_MOST_BYTES_PER_SECOND = 1e13
_LONGEST_SIZE = 20


def read_domains(
    answers: Mapping[str, Sequence[Series]], hosts: Mapping[str, Host]
) -> tuple[list[Domain], dict[str, tuple[str, ...]]]:
    """The domains by name, and the hosts of each that runs on more than one, by uuid.

    ``answers``: the series of each query, by its name; ``hosts``: by name. Domains of unknown hosts are left out.
    """
    figures = {
        name.removeprefix("domain_"): {(host_of(s), s.labels.get("uuid", "")): s.value for s in answer}
        for name, answer in answers.items()
        if name.startswith("domain_") and name not in ("domain_placement", "domain_hugepages_bytes")
    }
    hugepages = _hugepages(answers["domain_hugepages_bytes"])
    placements = _placements(answers["domain_placement"])
    # uuid -> (host, name), where it runs before where it is paused before where it is only defined
    listed: dict[str, list[tuple[str, str]]] = {}
    running: dict[str, set[str]] = {}

    def order(series: Series) -> tuple[float, bool, str]:
        host = host_of(series)
        return -series.value, (host, series.labels.get("uuid", "")) not in figures["paused"], host

    for series in sorted(answers["domain_running"], key=order):
        host, uuid, name = host_of(series), series.labels.get("uuid", ""), series.labels.get("domain", "")
        if host in hosts and hosts[host].known and uuid and name:
            listed.setdefault(uuid, []).append((host, name))
            running.setdefault(uuid, set()).update([host] if series.value == 1 else [])
    domains = [
        _domain(uuid, hosts[host], name, figures, placements, hugepages, running=len(running[uuid]))
        for uuid, ((host, name), *_) in listed.items()
    ]
    duplicates = {uuid: tuple(sorted(names)) for uuid, names in sorted(running.items()) if len(names) > 1}
    return sorted(domains, key=lambda domain: (domain.name, domain.uuid)), duplicates


def page_bytes(series: Series) -> int | None:
    """The size of the huge pages that a series is about; None where its label is none."""
    size = series.labels.get("size", "")
    number = int(size) if size.isascii() and size.isdecimal() and len(size) < _LONGEST_SIZE else 0
    return number if 0 < number <= MOST_BYTES else None


def _hugepages(answer: Sequence[Series]) -> dict[tuple[str, str], tuple[HugePages, ...] | None]:
    """By host and uuid, a domain's memory in static huge pages; None where a size of pages or of memory is none."""
    found: dict[tuple[str, str], dict[int, int]] = {}
    unclear: set[tuple[str, str]] = set()
    for series in answer:
        key, size = (host_of(series), series.labels.get("uuid", "")), page_bytes(series)
        if size is None or not 0 <= series.value <= MOST_BYTES:
            unclear.add(key)
        elif series.value:
            found.setdefault(key, {})[size] = int(series.value)
    return {
        key: tuple(HugePages(page_bytes=size, memory_bytes=memory) for size, memory in sorted(sizes.items()))
        for key, sizes in found.items()
    } | dict.fromkeys(unclear)


def _placements(answer: Sequence[Series]) -> dict[tuple[str, str], Placement]:
    """By host and uuid, what the domains' own metadata asks for."""
    asked: dict[tuple[str, str], dict[str, set[str]]] = {}
    for series in answer:
        rule, value = series.labels.get("rule", "").replace("-", "_"), series.labels.get("value", "")
        if (rule in _PLACEMENT_LISTS and value) or rule == "ignore":
            asked.setdefault((host_of(series), series.labels.get("uuid", "")), {}).setdefault(rule, set()).add(value)
    return {
        key: Placement(
            **{rule: tuple(sorted(values)) for rule, values in rules.items() if rule in _PLACEMENT_LISTS},
            ignore="ignore" in rules,
        )
        for key, rules in asked.items()
    }


def _domain(
    uuid: str,
    host: Host,
    name: str,
    figures: Mapping[str, Mapping[tuple[str, str], float]],
    placements: Mapping[tuple[str, str], Placement],
    hugepages: Mapping[tuple[str, str], tuple[HugePages, ...] | None],
    *,
    running: int,
) -> Domain:
    """The domain where it runs. Running twice, it is between two hosts: paused as far as planning goes."""
    key = (host.name, uuid)
    own = {figure: values[key] for figure, values in figures.items() if key in values}
    pages = hugepages.get(key, ())
    with_memory = partial(
        Domain,
        name=name,
        uuid=uuid,
        host=host.name,
        memory_bytes=_whole(own.get("memory_bytes")),
        memory_maximum_bytes=None if (most := own.get("memory_maximum_bytes")) is None else _whole(most),
        hugepages=pages or (),
    )
    if running == 0:
        return with_memory(state=DomainState.PAUSED if "paused" in own else DomainState.SHUTOFF)
    if pages is None or not _sound(own, host):  # it is there and counts, but nothing is known of it to decide on
        return with_memory(state=DomainState.PAUSED)
    return with_memory(
        state=DomainState.RUNNING if running == 1 else DomainState.PAUSED,
        vcpus=int(own["vcpus"]),
        cpu_cores=own["cpu_cores"],
        cpu_delay_cores=_known(own.get("cpu_delay_cores")),
        cpu_cores_unsaturated=_known(own.get("cpu_cores_unsaturated")),
        cpu_delay_cores_unsaturated=_known(own.get("cpu_delay_cores_unsaturated")),
        memory_resident_bytes=None if (held := own.get("memory_resident_bytes")) is None else _whole(held),
        rx_bytes_per_second=_amount(own.get("rx_bytes_per_second")),
        tx_bytes_per_second=_amount(own.get("tx_bytes_per_second")),
        rx_ratio=_amount(own.get("rx_ratio")),
        tx_ratio=_amount(own.get("tx_ratio")),
        placement=placements.get(key),
    )


def _sound(own: Mapping[str, float], host: Host) -> bool:
    """Whether what a domain cannot be moved without is there, and no figure is beyond what can be."""
    cores, memory, vcpus = (own.get(figure, math.nan) for figure in ("cpu_cores", "memory_bytes", "vcpus"))
    if not (cores >= 0 and 0 <= memory <= MOST_BYTES and 1 <= vcpus <= MOST_COUNTED):
        return False
    most = {
        "cpu_cores": host.cpus * _CPU_TOLERANCE,
        "cpu_cores_unsaturated": host.cpus * _CPU_TOLERANCE,
        "cpu_delay_cores": vcpus * _CPU_TOLERANCE,
        "cpu_delay_cores_unsaturated": vcpus * _CPU_TOLERANCE,
        "rx_ratio": _MOST_UPLINK_RATIO,
        "tx_ratio": _MOST_UPLINK_RATIO,
        "rx_bytes_per_second": _MOST_BYTES_PER_SECOND,
        "tx_bytes_per_second": _MOST_BYTES_PER_SECOND,
        "memory_resident_bytes": MOST_BYTES,
    }
    return all(own.get(figure, 0.0) <= bound for figure, bound in most.items())


def _known(value: float | None) -> float | None:
    return None if value is None else max(value, 0.0)


def _amount(value: float | None) -> float:
    return max(value or 0.0, 0.0)


def _whole(value: float | None) -> int:
    return int(_amount(value)) if value is None or value <= MOST_BYTES else 0
