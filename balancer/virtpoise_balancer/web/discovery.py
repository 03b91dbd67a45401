"""The hosts' exporters, for Prometheus' HTTP service discovery.

Format: https://prometheus.io/docs/prometheus/latest/http_sd/. It lists the configured hosts (``libvirt.hosts``)
and those of the newest snapshot, at the address of their libvirt.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from virtpoise_balancer.config import Config
from virtpoise_balancer.errors import MonitorError
from virtpoise_balancer.hosts import host_in, with_port
from virtpoise_balancer.model import Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """A group of targets and their labels."""

    targets: tuple[str, ...]
    labels: Mapping[str, str]


def targets(every: Iterable[tuple[Config, Snapshot | None]]) -> tuple[Targets, ...]:
    """One group of targets for each host of these configurations, each with its newest snapshot; sorted by name.

    MonitorError while the hosts are not known, or there is none: Prometheus takes an error for no change, and an empty
    list for the end of all targets.
    """
    found = [one for config, snapshot in every for one in _targets(config, snapshot)]
    if not found:
        raise MonitorError("there is no host: Prometheus has figures of none, and libvirt.hosts names none")
    return tuple(found)


def _targets(config: Config, snapshot: Snapshot | None) -> Iterator[Targets]:
    if snapshot is None and (config.libvirt.pattern or not config.libvirt.hosts):
        group = f"group {config.group}: " if config.group else ""
        raise MonitorError(f"{group}no cycle has read the hosts from Prometheus yet")
    names = set(config.libvirt.hosts) | {host.name for host in (snapshot.hosts if snapshot else ())}
    port = config.prometheus.exporter_port
    of_group = {"__meta_virtpoise_group": config.group} if config.group else {}
    for name in sorted(names):
        yield Targets(
            targets=(with_port(host_in(config.libvirt.uri_of(name)) or name, port),),
            labels={"instance": with_port(name, port), "__meta_virtpoise_host": name, **of_group},
        )
