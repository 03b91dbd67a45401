"""Asks Prometheus' HTTP API: POST, one deadline for a query with its retries, warnings kept, nothing in a reply
trusted.

An answer that says of itself that something is missing is none: absence is no fact. A reply is bounded in bytes, series
and samples, and so is each text in it, before anything is made of it.
"""

from __future__ import annotations

import gc
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from math import isfinite
from typing import Annotated, Literal, NotRequired

from pydantic import BaseModel, Field, FiniteFloat, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from virtpoise_balancer.errors import MonitorBadReply, MonitorError
from virtpoise_balancer.formats import first_problem
from virtpoise_balancer.monitor.http import Access, Http, Reply
from virtpoise_balancer.visible import shown

# Of one reply. A thousand hosts with 50,000 domains need half of this.
MOST_REPLY_BYTES = 64 * 2**20
MOST_SERIES = 100_000
MOST_SAMPLES = 4_000_000
# Of one label's value: libvirt's names and uuids are far shorter.
MOST_LABEL = 1024
_MOST_WARNINGS = 20
_MOST_SHOWN = 300

# The label that names the query which a series answers, where several are asked as one.
_QUERY_LABEL = "virtpoise_query"

# The most queries of one look at a time. Prometheus evaluates each on one CPU, while the balancer reads other replies.
# With more at a time, each would take longer, up to its deadline.
_AT_ONCE = 4

# How Prometheus' own notes about a query begin, whose answer is whole. Any other warning is of a store that did not
# answer, or not with everything: Thanos and remote read answer with the rest.
_ABOUT_THE_QUERY = "PromQL "

_RETRY_FIRST_SECONDS = 0.1
_RETRY_STATUSES = {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE}

# [Unix seconds, value as text], as https://prometheus.io/docs/prometheus/latest/querying/api/ defines it. A native
# histogram has no value. An exporter chooses what it exposes, so such a series is only left out.
_Sample = tuple[FiniteFloat, float]


class _Instant(TypedDict):  # and no object of its own: there are many
    metric: dict[str, str]
    value: NotRequired[_Sample | None]


class _Range(TypedDict):
    metric: dict[str, str]
    values: NotRequired[list[_Sample]]


class _Vector(BaseModel):
    resultType: Literal["vector"]  # noqa: N815 - Prometheus' own name
    result: Annotated[list[_Instant], Field(max_length=MOST_SERIES)]


class _Matrix(BaseModel):
    resultType: Literal["matrix"]  # noqa: N815
    result: Annotated[list[_Range], Field(max_length=MOST_SERIES)]


class _Reply(BaseModel):
    status: Literal["success", "error"]
    data: Annotated[_Vector | _Matrix, Field(discriminator="resultType")] | None = None
    error: str = ""
    warnings: list[str] = []
    isPartial: bool = False  # noqa: N815 - of a cluster of VictoriaMetrics


_REPLY = TypeAdapter(_Reply)


@dataclass(frozen=True, slots=True)
class Series:
    """One series of an answer: its labels and its samples, oldest first (one for an instant query).

    Values are finite.
    """

    labels: Mapping[str, str]
    samples: tuple[tuple[float, float], ...]

    @property
    def value(self) -> float:
        return self.samples[-1][1]


@dataclass(frozen=True, slots=True)
class QueryAnswer:
    """The series of an answer, and what Prometheus warned of while it evaluated the query."""

    series: tuple[Series, ...]
    warnings: tuple[str, ...] = ()


# Makes an answer of a query's data and warnings.
_Read = Callable[[str, _Vector | _Matrix, tuple[str, ...]], QueryAnswer]


@dataclass(slots=True)
class PrometheusClient:
    """A Prometheus-compatible server. Keeps no answer between two queries, so several threads may ask it."""

    url: str
    timeout_seconds: float
    access: Access = field(default_factory=Access)
    _http: Http = field(init=False)
    # What is made of a reply is many times as large, so one is read at a time.
    _reading: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._http = Http(self.url, self.access, MOST_REPLY_BYTES)

    def close(self) -> None:
        self._http.close()

    def get(self, path: str) -> Reply:
        """What Prometheus answers to a GET; for what it reports of itself. MonitorError when it cannot be had."""
        return self._http.exchange("GET", path, self.timeout_seconds)

    def instant(self, query: str, at: float) -> QueryAnswer:
        """An instant query's vector at a Unix time. MonitorError when it cannot be had."""
        return self._ask("/api/v1/query", {"query": query, "time": f"{at:.3f}"}, self._vector)

    def time(self) -> float:
        """The server's own clock, in Unix seconds. MonitorError when it cannot be had."""
        query = "vector(time())"
        found = self._ask("/api/v1/query", {"query": query}, self._vector).series  # at no time: at the server's
        if len(found) != 1:
            raise MonitorBadReply(f"Prometheus at {self.url}: expected one sample for {query!r}")
        return found[0].value

    def range(self, query: str, start: float, end: float, step_seconds: float) -> QueryAnswer:
        """A range query's matrix; both ends are evaluated. MonitorError when it cannot be had."""
        form = {"query": query, "start": f"{start:.3f}", "end": f"{end:.3f}", "step": f"{step_seconds:.3f}"}
        return self._ask("/api/v1/query_range", form, self._matrix)

    def _vector(self, query: str, data: _Vector | _Matrix, warnings: tuple[str, ...]) -> QueryAnswer:
        if not isinstance(data, _Vector):
            raise MonitorBadReply(f"Prometheus at {self.url}: expected a vector for {query!r}")
        found = ((one["metric"], (value,) if (value := one.get("value")) else ()) for one in data.result)
        return _answer(found, warnings)

    def _matrix(self, query: str, data: _Vector | _Matrix, warnings: tuple[str, ...]) -> QueryAnswer:
        if not isinstance(data, _Matrix):
            raise MonitorBadReply(f"Prometheus at {self.url}: expected a matrix for {query!r}")
        if sum(len(one.get("values", ())) for one in data.result) > MOST_SAMPLES:
            raise MonitorBadReply(f"Prometheus at {self.url}: expected at most {MOST_SAMPLES} samples for {query!r}")
        return _answer(((one["metric"], one.get("values", ())) for one in data.result), warnings)

    def instant_each(self, queries: Mapping[str, str], at: float) -> dict[str, QueryAnswer]:
        """The vectors of several queries by name, in one request; each with the warnings of all. MonitorError.

        For questions about a few hosts: a series that one host's exporter makes ambiguous fails all of them.
        """
        return _parted(queries, self.instant(joined(queries), at))

    def range_each(
        self, queries: Mapping[str, str], start: float, end: float, step_seconds: float
    ) -> dict[str, QueryAnswer]:
        """The matrices of several queries, likewise."""
        return _parted(queries, self.range(joined(queries), start, end, step_seconds))

    @staticmethod
    def side_by_side(questions: Mapping[str, Callable[[], QueryAnswer]]) -> dict[str, QueryAnswer]:
        """The answers by name, in the order of the questions, with several under way at a time.

        MonitorError when one of them cannot be had; then no further one is asked.
        """
        with ThreadPoolExecutor(_AT_ONCE, "prometheus") as pool:
            asked = {name: pool.submit(ask) for name, ask in questions.items()}
            wait(asked.values(), return_when=FIRST_EXCEPTION)
            for answer in asked.values():
                answer.cancel()  # does nothing to those that have been answered
        if failures := [error for one in asked.values() if not one.cancelled() and (error := one.exception())]:
            raise failures[0]
        return {name: answer.result() for name, answer in asked.items()}

    def _ask(self, path: str, form: dict[str, str], read: _Read) -> QueryAnswer:
        deadline = time.monotonic() + self.timeout_seconds
        pause = _RETRY_FIRST_SECONDS
        first: MonitorError | None = None
        while True:
            try:
                return self._ask_once(path, form, deadline, read)
            except MonitorBadReply:
                raise
            except MonitorError as error:
                first = first or error  # a later try may have had no time
                # Full jitter, so that balancers that lost the same server do not come back together.
                wait = random.uniform(0, pause)  # noqa: S311 - not a secret
                if time.monotonic() + wait >= deadline:
                    raise first from None
                time.sleep(wait)
                pause *= 2

    def _ask_once(self, path: str, form: dict[str, str], deadline: float, read: _Read) -> QueryAnswer:
        left = max(deadline - time.monotonic(), 0.001)
        form = {**form, "timeout": f"{max(1, round(left * 1000))}ms"}
        response = self._http.exchange("POST", path, left, form)
        if response.status in _RETRY_STATUSES:
            raise MonitorError(f"Prometheus at {self.url} answered {response.status} {shown(response.reason)}")
        if response.content.count(b'"metric"') > 2 * MOST_SERIES:  # refused before much larger objects are made of it
            raise MonitorBadReply(
                f"Prometheus at {self.url}: expected at most {MOST_SERIES} series for {form['query']!r}"
            )
        with self._reading, _no_collections():
            return self._read(response, form["query"], read)

    def _read(self, response: Reply, query: str, read: _Read) -> QueryAnswer:
        try:
            reply = _REPLY.validate_json(response.content)
        except ValidationError as error:
            kind = shown(response.headers.get("Content-Type", "no content type"))
            why = shown(first_problem(error), _MOST_SHOWN)
            raise MonitorBadReply(
                f"{self.url} does not answer as Prometheus does ({response.status}, {kind}): {why}"
            ) from None
        if reply.status == "error" or reply.data is None:
            why = shown(reply.error, _MOST_SHOWN) or "no data"
            raise MonitorBadReply(f"Prometheus at {self.url} refused {query!r}: {why}")
        missing = [one for one in reply.warnings if not one.startswith(_ABOUT_THE_QUERY)]
        if missing or reply.isPartial:
            why = shown(missing[0], _MOST_SHOWN) if missing else "isPartial"
            raise MonitorBadReply(f"Prometheus at {self.url} answered only in part: {why}")
        return read(
            query, reply.data, tuple(shown(warning, _MOST_SHOWN) for warning in reply.warnings[:_MOST_WARNINGS])
        )


@contextmanager
def _no_collections() -> Iterator[None]:
    """Keeps the cyclic garbage collector from the many objects of a reply, among which there are no cycles.

    Readings of several clients may overlap: the first to end lets it run again.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def joined(queries: Mapping[str, str]) -> str:
    """Several queries as one. A query may end with a comment, so each ends its line."""
    return "\nor ".join(
        f'label_replace(\n{query}\n, "{_QUERY_LABEL}", "{name}", "", "")' for name, query in queries.items()
    )


def _parted(queries: Mapping[str, str], answer: QueryAnswer) -> dict[str, QueryAnswer]:
    found: dict[str, list[Series]] = {name: [] for name in queries}
    for series in answer.series:
        labels = dict(series.labels)
        if (name := labels.pop(_QUERY_LABEL, "")) in found:
            found[name].append(Series(labels, series.samples))
    return {name: QueryAnswer(tuple(series), answer.warnings) for name, series in found.items()}


def _answer(found: Iterable[tuple[dict[str, str], Sequence[_Sample]]], warnings: tuple[str, ...]) -> QueryAnswer:
    """The series with their finite samples: a rate over too little is NaN, and that is no figure.

    A series with an absurdly long label is left out by itself, and warned of.
    """
    series, long = [], 0
    for labels, samples in found:
        if max(map(len, (*labels, *labels.values())), default=0) > MOST_LABEL:
            long += 1
            continue
        values = tuple([sample for sample in samples if isfinite(sample[1])])
        if values:
            series.append(Series(labels, values))
    if long:
        warnings = (*warnings, f"{long} series have a label of more than {MOST_LABEL} characters and are left out")
    return QueryAnswer(tuple(series), warnings)
