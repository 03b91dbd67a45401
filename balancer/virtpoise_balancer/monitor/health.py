"""The health of Prometheus and of the exporters behind it, for the doctor.

Besides queries, it reads Prometheus' own status.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from virtpoise_balancer.errors import MonitorError
from virtpoise_balancer.hosts import of_instance
from virtpoise_balancer.monitor.client import PrometheusClient
from virtpoise_balancer.monitor.http import Reply
from virtpoise_balancer.monitor.replies import Series
from virtpoise_balancer.monitor.targets import AdmittedTargets

_EXPORTER = "virtpoise_exporter_build_info"


# What is read of https://prometheus.io/docs/prometheus/latest/querying/api/#targets and #build-information
class _Target(BaseModel):
    labels: dict[str, str] = {}
    lastError: str = ""  # noqa: N815 - Prometheus' own name


class _Targets(BaseModel):
    activeTargets: list[_Target] = []  # noqa: N815


class _TargetsReply(BaseModel):
    data: _Targets


class _Build(BaseModel):
    version: str | None = None


class _BuildReply(BaseModel):
    data: _Build


_R = TypeVar("_R", bound=BaseModel)
_MOST_SHOWN = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class PrometheusHealth:
    """What Prometheus reports of itself. ``ahead_seconds``: its clock against this machine's, to the second; None
    where it is unknown.

    ``errors``: of its scrapes, by host.
    """

    version: str | None
    ahead_seconds: float | None
    errors: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExporterHealth:
    """By host: the exporter's version, its collectors that fail, and how far the host's clock is ahead of Prometheus'
    (seconds).
    """

    versions: Mapping[str, str]
    failing: Mapping[str, tuple[str, ...]]
    ahead_seconds: Mapping[str, float]


def prometheus_health(
    client: PrometheusClient, matchers: str, targets: AdmittedTargets, now: float
) -> PrometheusHealth:
    """Prometheus' version, clock and errors of scrapes. MonitorError when it cannot be asked.

    ``matchers``: PromQL label matchers of the hosts' targets.
    """
    build = _get(client, "/api/v1/status/buildinfo")
    answered_at = _date(build)
    down = {
        (series.labels.get("job"), series.labels["instance"]): _host(series)
        for series in targets.of_hosts(client.instant(f"up{{{matchers}}} == 0", now).series)
    }
    errors = {}
    for target in _targets(client):
        if host := down.get((target.labels.get("job"), target.labels.get("instance", ""))):
            errors[host] = target.lastError[:_MOST_SHOWN]
    return PrometheusHealth(
        version=(_read(client, build, _BuildReply).data.version or "")[:_MOST_SHOWN] or None,
        ahead_seconds=None if answered_at is None else answered_at + 0.5 - time.time(),
        errors=errors,
    )


def exporter_health(client: PrometheusClient, matchers: str, targets: AdmittedTargets, now: float) -> ExporterHealth:
    """What Prometheus has of each host's exporter. MonitorError when it cannot be asked."""

    def ask(query: str) -> list[Series]:
        return targets.of_hosts(client.instant(query, now).series)

    failing: dict[str, list[str]] = {}
    for series in ask(f"virtpoise_exporter_collector_success{{{matchers}}} == 0"):
        failing.setdefault(_host(series), []).append(series.labels.get("collector", "?"))
    clocks = " or ".join(
        f"({name}{{{matchers}}} - timestamp({name}{{{matchers}}}))"
        for name in ("virtpoise_host_time_seconds", "node_time_seconds")
    )
    return ExporterHealth(
        versions={_host(series): series.labels.get("version", "?") for series in ask(f"{_EXPORTER}{{{matchers}}}")},
        failing={host: tuple(sorted(names)) for host, names in failing.items()},
        ahead_seconds={_host(series): series.value for series in ask(clocks)},
    )


def _host(series: Series) -> str:
    return of_instance(series.labels["instance"])


def _targets(client: PrometheusClient) -> list[_Target]:
    """What Prometheus scrapes; nothing where it is a store without that page, such as Mimir. MonitorError."""
    reply = _get(client, "/api/v1/targets?state=active", HTTPStatus.NOT_FOUND)
    return [] if reply.status == HTTPStatus.NOT_FOUND else _read(client, reply, _TargetsReply).data.activeTargets


def _get(client: PrometheusClient, path: str, borne: HTTPStatus | None = None) -> Reply:
    """The answer. MonitorError where it is an error, other than ``borne``."""
    response = client.get(path)
    if response.status >= HTTPStatus.BAD_REQUEST and response.status != borne:
        raise MonitorError(f"Prometheus at {client.url} answered {response.status} to {path}")
    return response


def _read(client: PrometheusClient, response: Reply, form: type[_R]) -> _R:
    try:
        return form.model_validate_json(response.content)
    except ValidationError:
        raise MonitorError(f"{client.url} does not answer as Prometheus does") from None


def _date(response: Reply) -> float | None:
    """When the server answered by its own clock (Unix seconds), to the second."""
    try:
        return parsedate_to_datetime(response.headers.get("Date", "")).timestamp()
    except (ValueError, TypeError, OverflowError, OSError):  # none, or nonsense
        return None
