"""Reads the hosts of a snapshot from the answers of Prometheus.

No answer is trusted: a host whose figures are missing, stale or out of range is listed as unknown.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet

from virtpoise_balancer.model import (
    MOST_BYTES,
    MOST_CPUS,
    NO_FIGURES,
    RATIO_TOLERANCE,
    Host,
    HostState,
    HugePages,
    Unknown,
)
from virtpoise_balancer.monitor import doubt
from virtpoise_balancer.monitor.domain_figures import page_bytes
from virtpoise_balancer.monitor.recent import Runs
from virtpoise_balancer.monitor.replies import Series
from virtpoise_balancer.monitor.targets import host_of, labels_of

# The queries that return a window of samples, one a step.
WINDOWS = ("host_cpu_ratio", "host_memory_ratio", "host_rx_ratio", "host_tx_ratio")
# The digits of a NUMA node's number.
_LONGEST_NODE = 6


def _by_host(answer: Sequence[Series]) -> dict[str, float]:
    return {host_of(series): series.value for series in answer}


def trailing(answer: Sequence[Series], at: float, step: float) -> dict[str, tuple[float, ...]]:
    """By host, the samples that end at ``at`` without a gap or a figure out of range, oldest first."""
    grid = [at - back * step for back in range(max((len(one.samples) for one in answer), default=0))][::-1]
    found: dict[str, tuple[float, ...]] = {}
    for series in answer:
        ratios = tuple([ratio for _, ratio in series.samples])
        on_the_grid = [at_step for at_step, _ in series.samples] == grid[len(grid) - len(ratios) :]
        if not on_the_grid or min(ratios, default=-1.0) < 0 or not is_ratio(max(ratios)):
            ratios = _run(series, at, step)
        name = host_of(series)
        if len(ratios) >= len(found.get(name, ())):  # of a target that went, what it was is over
            found[name] = ratios
    return found


def _run(series: Series, at: float, step: float) -> tuple[float, ...]:
    """The newest samples of one series without a gap or a figure out of range, each sample checked by itself."""
    run: list[float] = []
    for back, (at_step, ratio) in enumerate(reversed(series.samples)):
        if abs(at_step - (at - back * step)) > step / 2 or not is_ratio(ratio):
            break
        run.append(max(ratio, 0.0))
    return tuple(reversed(run))


def is_ratio(value: float) -> bool:
    """Whether the value can be a ratio that was measured: finite, and at most a little above 1."""
    return 1 - RATIO_TOLERANCE <= value <= RATIO_TOLERANCE


def read_hosts(
    answers: Mapping[str, Sequence[Series]],
    windows: Mapping[str, Runs],
    at: float,
    stale_seconds: float,
    replaced: AbstractSet[str],
) -> tuple[dict[str, Host], float | None]:
    """The hosts by name, and the age of the newest sample of any, also of one that is too old to act on.

    ``replaced``: the queries that are the configuration's own.
    """
    cpus, memory, sampled, available, speed = (
        _by_host(answers[name])
        for name in (
            "host_cpus",
            "host_memory_bytes",
            "host_sample_time",
            "host_memory_available_bytes",
            "host_cpu_speed",
        )
    )
    uplink: dict[str, float] = {}
    for series in answers["host_uplink_bytes_per_second"]:
        name = host_of(series)
        uplink[name] = max(series.value, uplink.get(name, series.value))
    targets = doubt.targets_by_host(answers, at, stale_seconds, replaced)
    copies = doubt.copies_by_host(answers["host_sample_time"], at, stale_seconds)
    lists = doubt.lists_by_host(answers)
    hugepages = _hugepages_free(answers["host_hugepages_free"])
    of_target = {host_of(series): series for series in answers["host_cpus"]}
    labels = {name: labels_of(series) for name, series in of_target.items()}
    cpu_ratios, memory_ratios, rx, tx = (windows[name] for name in WINDOWS)
    hosts: dict[str, Host] = {}
    figures_of: dict[str, doubt.HostFigures] = {}
    ages: list[float] = []
    for name in sorted(cpus.keys() | memory.keys()):
        age = at - sampled.get(name, -math.inf)
        if math.isfinite(age):
            ages.append(age)
        figures = figures_of[name] = doubt.HostFigures(
            cpus=cpus.get(name),
            cpu_speed=speed.get(name),
            memory_bytes=memory.get(name),
            available_bytes=available.get(name),
            uplink_bytes_per_second=uplink.get(name),
        )
        unknown = (
            doubt.of_targets(targets.get(name, frozenset()))
            or copies.get(name)
            or doubt.of_age(age, stale_seconds)
            or doubt.of_lists(lists.get(name, doubt.NOTHING_LISTED), replaced)
            or doubt.of_figures(figures)
            or doubt.of_labels(of_target[name].labels)
            or (None if cpu_ratios.get(name) else NO_FIGURES)
        )
        hosts[name] = (
            _unknown(name, unknown, figures, labels.get(name, {}))
            if unknown
            else Host(
                name=name,
                cpus=int(cpus[name]),
                cpu_speed=speed.get(name, 1.0),
                cpu_ratio=cpu_ratios[name],
                memory_bytes=int(memory[name]),
                memory_used_bytes=int(memory[name]) - int(available[name]),
                hugepages_free=hugepages.get(name),
                rx_ratio=rx[name][-1] if rx.get(name) else None,
                tx_ratio=tx[name][-1] if tx.get(name) else None,
                memory_ratio_window=memory_ratios.get(name, ()),
                rx_ratio_window=rx.get(name, ()),
                tx_ratio_window=tx.get(name, ()),
                uplink_bytes_per_second=uplink.get(name) or None,
                labels=labels.get(name, {}),
            )
        )
    known = {name for name, host in hosts.items() if host.known}
    for name, unknown in doubt.of_claims(answers["domain_running"], known).items():
        hosts[name] = _unknown(name, unknown, figures_of[name], labels.get(name, {}))
    return hosts, min(ages, default=None)


def _hugepages_free(answer: Sequence[Series]) -> dict[str, tuple[HugePages, ...]]:
    """By host, what is free in its static huge pages."""
    found: dict[str, list[HugePages]] = {}
    for series in answer:
        size = page_bytes(series)
        if size is not None and 0 <= series.value * size <= MOST_BYTES:
            pages = HugePages(page_bytes=size, memory_bytes=int(series.value) * size, node=_node(series))
            found.setdefault(host_of(series), []).append(pages)
    return {
        host: tuple(sorted(pages, key=lambda one: (one.page_bytes, one.node or 0))) for host, pages in found.items()
    }


def _node(series: Series) -> int | None:
    """The NUMA node that a series is about; None where its label is none."""
    number = series.labels.get("node", "")
    return int(number) if number.isascii() and number.isdecimal() and len(number) < _LONGEST_NODE else None


def _unknown(name: str, unknown: Unknown, figures: doubt.HostFigures, labels: Mapping[str, str]) -> Host:
    """An unknown host, with its size where that figure can be right."""
    return Host(
        name=name,
        state=HostState.UNKNOWN,
        unknown=unknown,
        cpus=_within(figures.cpus, MOST_CPUS),
        memory_bytes=_within(figures.memory_bytes, MOST_BYTES),
        labels=labels,
    )


def _within(value: float | None, most: int) -> int:
    return int(value) if value is not None and 1 <= value <= most else 1
