"""The three questions that a dashboard asks Prometheus (https://prometheus.io/docs/prometheus/latest/querying/api/)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import requests

from virtpoise_preview.errors import PreviewError


@dataclass(frozen=True, slots=True)
class Span:
    """A range of time, in Unix seconds, looked at in steps."""

    start: float
    end: float
    step: float


@dataclass(frozen=True, slots=True)
class Series:
    """Labels, and points of Unix seconds and value, oldest first."""

    labels: dict[str, str]
    points: tuple[tuple[float, float], ...]


class Prometheus:
    def __init__(self, url: str, timeout_seconds: float = 30.0) -> None:
        self._url = url.rstrip("/")
        self._timeout = timeout_seconds
        self._session = requests.Session()
        self._session.trust_env = False

    def instant(self, expr: str, time: float) -> list[Series]:
        """The newest value of each series; a bare number (from ``vector(0)``) is a series without labels."""
        found = self._ask("query", query=expr, time=time)["result"]
        return [_series(one["metric"], [one["value"]]) for one in found]

    def range(self, expr: str, span: Span) -> list[Series]:
        found = self._ask("query_range", query=expr, start=span.start, end=span.end, step=span.step)["result"]
        return [_series(one["metric"], one["values"]) for one in found]

    def label_values(self, selector: str, label: str, span: Span) -> list[str]:
        values: list[str] = self._ask(f"label/{label}/values", **{"match[]": selector}, start=span.start, end=span.end)
        return values

    def _ask(self, what: str, **parameters: Any) -> Any:
        try:
            answer = self._session.get(f"{self._url}/api/v1/{what}", params=parameters, timeout=self._timeout)
            body = answer.json()
        except (requests.RequestException, ValueError) as error:
            raise PreviewError(f"{self._url}: expected a Prometheus: {error}") from None
        if body.get("status") != "success":
            raise PreviewError(f"Prometheus refuses {parameters.get('query', what)!r}: {body.get('error')}")
        return body["data"]


def _series(labels: dict[str, str], points: list[list[Any]]) -> Series:
    return Series(labels, tuple((float(time), float(value)) for time, value in points))


@dataclass(frozen=True, slots=True)
class Source:
    """Where a dashboard's figures come from: a Prometheus, how often it scrapes, and the time looked at."""

    prometheus: Prometheus
    scrape_seconds: float
    span: Span
