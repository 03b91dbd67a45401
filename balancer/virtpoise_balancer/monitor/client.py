"""Asks Prometheus' HTTP API: POST, one deadline for a query with its retries, warnings kept, nothing in a reply trusted."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Literal

import requests
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from virtpoise_balancer.errors import MonitorBadReply, MonitorError
from virtpoise_balancer.formats import first_problem

_RETRY_FIRST_SECONDS = 0.1
_RETRY_STATUSES = {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE}

# [Unix seconds, value as text], as https://prometheus.io/docs/prometheus/latest/querying/api/ defines it
_Sample = tuple[float, str]


class _Instant(BaseModel):
    metric: dict[str, str]
    value: _Sample


class _Range(BaseModel):
    metric: dict[str, str]
    values: list[_Sample]


class _Vector(BaseModel):
    resultType: Literal["vector"]  # noqa: N815 - Prometheus' own name
    result: list[_Instant]


class _Matrix(BaseModel):
    resultType: Literal["matrix"]  # noqa: N815
    result: list[_Range]


class _Reply(BaseModel):
    status: Literal["success", "error"]
    data: Annotated[_Vector | _Matrix, Field(discriminator="resultType")] | None = None
    error: str = ""
    warnings: list[str] = []


_REPLY = TypeAdapter(_Reply)


@dataclass(frozen=True, slots=True)
class Series:
    """One series of an answer: its labels and its samples, oldest first (one for an instant query). Values are finite."""

    labels: Mapping[str, str]
    samples: tuple[tuple[float, float], ...]

    @property
    def value(self) -> float:
        return self.samples[-1][1]


@dataclass(frozen=True, slots=True)
class Answer:
    """The series of an answer, and what Prometheus warned of while it evaluated the query."""

    series: tuple[Series, ...]
    warnings: tuple[str, ...] = ()


@dataclass(slots=True)
class PrometheusClient:
    """A Prometheus-compatible server. Keeps nothing between two queries, so several threads may ask it."""

    url: str
    timeout_seconds: float
    token_file: Path | None = None
    ca_file: Path | None = None
    session: requests.Session = field(default_factory=requests.Session)

    def instant(self, query: str, at: float) -> Answer:
        """An instant query's vector at a Unix time. MonitorError when it cannot be had."""
        data, warnings = self._ask("/api/v1/query", {"query": query, "time": f"{at:.3f}"})
        if not isinstance(data, _Vector):
            raise MonitorBadReply(f"Prometheus at {self.url}: expected a vector for {query!r}")
        return Answer(_finite([(series.metric, [series.value]) for series in data.result]), warnings)

    def time(self) -> float:
        """The server's own clock, in Unix seconds. MonitorError when it cannot be had."""
        data, _ = self._ask("/api/v1/query", {"query": "vector(time())"})  # at no time: at the server's
        found = _finite([(one.metric, [one.value]) for one in data.result]) if isinstance(data, _Vector) else ()
        if len(found) != 1:
            raise MonitorBadReply(f"Prometheus at {self.url}: expected one sample for 'vector(time())'")
        return found[0].value

    def range(self, query: str, start: float, end: float, step_seconds: float) -> Answer:
        """A range query's matrix; both ends are evaluated. MonitorError when it cannot be had."""
        form = {"query": query, "start": f"{start:.3f}", "end": f"{end:.3f}", "step": f"{step_seconds:.3f}"}
        data, warnings = self._ask("/api/v1/query_range", form)
        if not isinstance(data, _Matrix):
            raise MonitorBadReply(f"Prometheus at {self.url}: expected a matrix for {query!r}")
        return Answer(_finite([(series.metric, series.values) for series in data.result]), warnings)

    def _ask(self, path: str, form: dict[str, str]) -> tuple[_Vector | _Matrix, tuple[str, ...]]:
        deadline = time.monotonic() + self.timeout_seconds
        pause = _RETRY_FIRST_SECONDS
        while True:
            try:
                return self._ask_once(path, form, deadline)
            except MonitorBadReply:
                raise
            except MonitorError:
                # Full jitter, so that balancers that lost the same server do not come back together.
                wait = random.uniform(0, pause)  # noqa: S311 - not a secret
                if time.monotonic() + wait >= deadline:
                    raise
                time.sleep(wait)
                pause *= 2

    def _ask_once(self, path: str, form: dict[str, str], deadline: float) -> tuple[_Vector | _Matrix, tuple[str, ...]]:
        left = max(deadline - time.monotonic(), 0.001)
        try:
            response = self.session.post(
                self.url + path,
                data={**form, "timeout": f"{max(1, round(left * 1000))}ms"},
                headers=self.authorization(),
                timeout=left,
                verify=str(self.ca_file) if self.ca_file else True,
                allow_redirects=False,
            )
        except requests.RequestException as error:
            raise MonitorError(f"Prometheus at {self.url} cannot be asked: {reason(error)}") from None
        except OSError as error:  # before anybody was asked
            raise MonitorBadReply(f"prometheus.ca_file: {error}") from None
        if response.status_code in _RETRY_STATUSES:
            raise MonitorError(f"Prometheus at {self.url} answered {response.status_code} {response.reason}")
        try:
            reply = _REPLY.validate_json(response.content)
        except ValidationError as error:
            kind = response.headers.get("Content-Type", "no content type")
            raise MonitorBadReply(
                f"{self.url} does not answer as Prometheus does ({response.status_code}, {kind}): {first_problem(error)}"
            ) from None
        if reply.status == "error" or reply.data is None:
            raise MonitorBadReply(f"Prometheus at {self.url} refused {form['query']!r}: {reply.error or 'no data'}")
        return reply.data, tuple(reply.warnings)

    def authorization(self) -> dict[str, str]:
        """The headers by which Prometheus knows the balancer."""
        if not self.token_file:
            return {}
        try:  # read at each query: tokens are renewed
            token = self.token_file.read_text(encoding="ascii").strip()
        except OSError as error:
            raise MonitorBadReply(f"prometheus.token_file: {self.token_file}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise MonitorBadReply(f"prometheus.token_file: {self.token_file}: expected ASCII text") from None
        return {"Authorization": f"Bearer {token}"}


def _finite(found: list[tuple[dict[str, str], list[_Sample]]]) -> tuple[Series, ...]:
    """The series with their finite samples; a rate over too little says NaN, and that is no figure."""
    series = []
    for labels, samples in found:
        values = tuple((at, value) for at, text in samples if (value := _number(text)) is not None)
        if values:
            series.append(Series(labels, values))
    return tuple(series)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        raise MonitorBadReply(f"Prometheus: expected a number as a sample's value, got {text!r}") from None
    return value if math.isfinite(value) else None


def reason(error: requests.RequestException) -> str:
    """What went wrong, in one line."""
    if isinstance(error, requests.Timeout):
        return "no answer within the deadline"
    cause: BaseException = error
    while (inner := cause.__cause__ or cause.__context__ or _inner(cause)) is not None:
        cause = inner
    return (getattr(cause, "strerror", None) or str(cause) or type(cause).__name__).splitlines()[0]


def _inner(error: BaseException) -> BaseException | None:
    reason = getattr(error, "reason", None)
    return reason if isinstance(reason, BaseException) else None
