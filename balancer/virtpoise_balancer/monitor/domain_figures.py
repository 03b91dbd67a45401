"""Reads the domains of a snapshot from the answers of Prometheus.

No answer is trusted: a domain whose figures are missing or out of range is listed, but not as running. So it counts and
stays where it is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

from virtpoise_balancer.hosts import of_pattern
from virtpoise_balancer.model import MOST_BYTES, MOST_COUNTED, Domain, DomainState, Host, HugePages, Placement
from virtpoise_balancer.monitor.answers import Key
from virtpoise_balancer.monitor.replies import Series
from virtpoise_balancer.monitor.targets import host_of
from virtpoise_balancer.rules import KINDS

# The kinds of rules that a domain's metadata may ask for: with names of groups or hosts, or without any.
_NAMING = frozenset(one.name for one in fields(Placement) if one.default == ())
_PLAIN = frozenset(one.name for one in fields(Placement)) - _NAMING
# A domain's CPU time may seem to pass what there is while it arrives: two samples, taken unevenly. Anything further is
# no figure.
_CPU_TOLERANCE = 2.0
# Traffic between domains of one host passes no uplink and may be far above its speed, but not so far.
_MOST_UPLINK_RATIO = 1000.0
_MOST_BYTES_PER_SECOND = 1e13
_LONGEST_SIZE = 20
# Of a domain's name, which is that of its files, and of what stands for its uuid. No database indexes much longer ones.
_LONGEST_NAME = 255


def nameable(answer: Sequence[Series]) -> list[Series]:
    """The series of domains that have a name and a uuid. Without the others, the list of their host is not complete."""
    return [series for series in answer if all(0 < len(text) <= _LONGEST_NAME for text in _names(series))]


def _names(series: Series) -> tuple[str, str]:
    return series.labels.get("uuid", ""), series.labels.get("domain", "")


def read_domains(
    answers: Mapping[str, Sequence[Series]], figures: Mapping[str, Mapping[Key, float]], hosts: Mapping[str, Host]
) -> tuple[list[Domain], dict[str, tuple[str, ...]]]:
    """The domains by name, and the hosts of each that runs on more than one, by uuid.

    ``answers``: the series of each query, by its name, those of running domains ``nameable``; ``figures``: the values
    of each query of which no series are kept; ``hosts``: by name. Domains of unknown hosts are left out.
    """
    hugepages = _hugepages(answers["domain_hugepages_bytes"])
    placements = _placements(answers["domain_placement"])
    paused = {(host_of(series), series.labels.get("uuid", "")) for series in answers["domain_paused"]}
    # uuid -> (host, name), where it runs before where it is paused before where it is only defined
    listed: dict[str, list[tuple[str, str]]] = {}
    running: dict[str, set[str]] = {}

    def order(series: Series) -> tuple[float, bool, str]:
        host = host_of(series)
        return -series.value, (host, series.labels.get("uuid", "")) not in paused, host

    for series in sorted(answers["domain_running"], key=order):
        host, (uuid, name) = host_of(series), _names(series)
        if host in hosts and hosts[host].known:
            listed.setdefault(uuid, []).append((host, name))
            running.setdefault(uuid, set()).update([host] if series.value == 1 else [])
    reader = _Reader(
        placements, hugepages, paused, **{name.removeprefix("domain_"): of for name, of in figures.items()}
    )
    domains = [
        reader.domain(uuid, hosts[host], name, running=len(running[uuid]))
        for uuid, ((host, name), *_) in listed.items()
    ]
    duplicates = {uuid: tuple(sorted(names)) for uuid, names in sorted(running.items()) if len(names) > 1}
    return sorted(domains, key=lambda domain: (domain.name, domain.uuid)), duplicates


def page_bytes(series: Series) -> int | None:
    """The size of the huge pages that a series is about; None where its label is none."""
    size = series.labels.get("size", "")
    number = int(size) if size.isascii() and size.isdecimal() and len(size) < _LONGEST_SIZE else 0
    return number if 0 < number <= MOST_BYTES else None


def _hugepages(answer: Sequence[Series]) -> dict[Key, tuple[HugePages, ...] | None]:
    """By host and uuid, a domain's memory in static huge pages; None where a size of pages or of memory is none."""
    found: dict[Key, dict[int, int]] = {}
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


def _placements(answer: Sequence[Series]) -> dict[Key, Placement]:
    """By host and uuid, what the domains' own metadata asks for."""
    asked: dict[Key, dict[str, set[str]]] = {}
    for series in answer:
        rule, value = series.labels.get("rule", "").replace("-", "_"), series.labels.get("value", "")
        if (rule in _NAMING and value) or rule in _PLAIN:
            value = of_pattern(value) if KINDS[rule].names_hosts else value
            asked.setdefault((host_of(series), series.labels.get("uuid", "")), {}).setdefault(rule, set()).add(value)
    return {key: _placement(rules) for key, rules in asked.items()}


def _placement(rules: Mapping[str, Collection[str]]) -> Placement:
    asked: dict[str, Any] = {rule: tuple(sorted(values)) if rule in _NAMING else True for rule, values in rules.items()}
    return Placement(**asked)


@dataclass(frozen=True, slots=True)
class _Reader:
    """The answers about domains, by host and uuid."""

    placements: Mapping[Key, Placement]
    hugepages: Mapping[Key, tuple[HugePages, ...] | None]
    paused: AbstractSet[Key]
    vcpus: Mapping[Key, float]
    memory_bytes: Mapping[Key, float]
    memory_maximum_bytes: Mapping[Key, float]
    memory_resident_bytes: Mapping[Key, float]
    cpu_cores: Mapping[Key, float]
    cpu_delay_cores: Mapping[Key, float]
    cpu_cores_unsaturated: Mapping[Key, float]
    cpu_delay_cores_unsaturated: Mapping[Key, float]
    rx_bytes_per_second: Mapping[Key, float]
    tx_bytes_per_second: Mapping[Key, float]
    rx_ratio: Mapping[Key, float]
    tx_ratio: Mapping[Key, float]

    def domain(self, uuid: str, host: Host, name: str, *, running: int) -> Domain:
        """The domain where it runs. Running twice, it is between two hosts: paused as far as planning goes."""
        key = (host.name, uuid)
        pages = self.hugepages.get(key, ())
        memory, most = self.memory_bytes.get(key), self.memory_maximum_bytes.get(key)
        if running and pages is not None:
            cores, vcpus = self.cpu_cores.get(key), self.vcpus.get(key)
            delay = self.cpu_delay_cores.get(key)
            past, past_delay = self.cpu_cores_unsaturated.get(key), self.cpu_delay_cores_unsaturated.get(key)
            held = self.memory_resident_bytes.get(key)
            rx, tx = self.rx_bytes_per_second.get(key), self.tx_bytes_per_second.get(key)
            rx_ratio, tx_ratio = self.rx_ratio.get(key), self.tx_ratio.get(key)
            if (
                cores is not None
                and memory is not None
                and vcpus is not None
                and 1 <= memory <= MOST_BYTES
                and 1 <= vcpus <= MOST_COUNTED
                and 0 <= cores <= host.cpus * _CPU_TOLERANCE
                and (past or 0.0) <= host.cpus * _CPU_TOLERANCE
                and (delay or 0.0) <= vcpus * _CPU_TOLERANCE
                and (past_delay or 0.0) <= vcpus * _CPU_TOLERANCE
                and (rx_ratio or 0.0) <= _MOST_UPLINK_RATIO
                and (tx_ratio or 0.0) <= _MOST_UPLINK_RATIO
                and (rx or 0.0) <= _MOST_BYTES_PER_SECOND
                and (tx or 0.0) <= _MOST_BYTES_PER_SECOND
                and (held or 0.0) <= MOST_BYTES
            ):
                return Domain(
                    name=name,
                    uuid=uuid,
                    host=host.name,
                    state=DomainState.RUNNING if running == 1 else DomainState.PAUSED,
                    vcpus=int(vcpus),
                    cpu_cores=cores,
                    cpu_delay_cores=_known(delay),
                    cpu_cores_unsaturated=_known(past),
                    cpu_delay_cores_unsaturated=_known(past_delay),
                    memory_bytes=int(memory),
                    memory_maximum_bytes=None if most is None else _whole(most),
                    memory_resident_bytes=None if held is None else _whole(held),
                    hugepages=pages,
                    rx_bytes_per_second=_known(rx),
                    tx_bytes_per_second=_known(tx),
                    rx_ratio=_known(rx_ratio),
                    tx_ratio=_known(tx_ratio),
                    placement=self.placements.get(key),
                )
        # It is there and counts, but nothing is known of it to decide on.
        there = partial(
            Domain,
            name=name,
            uuid=uuid,
            host=host.name,
            memory_bytes=_whole(memory),
            memory_maximum_bytes=None if most is None else _whole(most),
            hugepages=pages or (),
        )
        if not running and key not in self.paused:
            return there(state=DomainState.SHUTOFF)
        return there(
            state=DomainState.PAUSED,
            cpu_delay_cores=None,
            rx_bytes_per_second=None,
            tx_bytes_per_second=None,
            rx_ratio=None,
            tx_ratio=None,
        )


def _known(value: float | None) -> float | None:
    return None if value is None else max(value, 0.0)


def _whole(value: float | None) -> int:
    return int(value) if value is not None and 0 <= value <= MOST_BYTES else 0
