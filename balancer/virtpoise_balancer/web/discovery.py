"""The hosts' exporters as Prometheus' HTTP service discovery takes them.

Format: https://prometheus.io/docs/prometheus/latest/http_sd/. Listed are the hosts that the configuration names (``libvirt.hosts``)
and those that the newest cycle saw, at the address by which their libvirt is reached.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from virtpoise_balancer.config import Config
from virtpoise_balancer.hosts import host_in, with_port
from virtpoise_balancer.model import Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """One group of targets and the labels they get."""

    targets: tuple[str, ...]
    labels: Mapping[str, str]


def targets(config: Config, snapshot: Snapshot | None) -> tuple[Targets, ...]:
    """One group a host, by name."""
    names = set(config.libvirt.hosts) | {host.name for host in (snapshot.hosts if snapshot else ())}
    port = config.prometheus.exporter_port
    return tuple(
        Targets(
            targets=(with_port(host_in(config.libvirt.uri_of(name)) or name, port),),
            labels={"instance": with_port(name, port), "__meta_virtpoise_host": name},
        )
        for name in sorted(names)
    )
