"""Asks Prometheus' HTTP API: POST, one deadline for a query with its retries, warnings kept, nothing in a reply
trusted.

A reply is bounded in bytes, series and samples, and so is each text in it, before anything is made of it.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TypeVar

from virtpoise_balancer.errors import MonitorBadReply, MonitorError
from virtpoise_balancer.monitor.http import Access, Http, Reply
from virtpoise_balancer.monitor.replies import MOST_SERIES, BadReply, Read, Series, read_matrix, read_vector
from virtpoise_balancer.visible import shown

# Of one reply. Ten thousand hosts with a hundred thousand domains need half of this.
MOST_REPLY_BYTES = 64 * 2**20
_MOST_WARNINGS = 20
_MOST_SHOWN = 300
_MOST_ASKED_SHOWN = 150

# The label that names the query which a series answers, where several are asked as one.
_QUERY_LABEL = "virtpoise_query"

# The most queries of one look at a time. Prometheus evaluates each on one CPU, while the balancer reads other replies.
# With more at a time, each would take longer, up to its deadline.
_AT_ONCE = 4

_RETRY_FIRST_SECONDS = 0.1
_RETRY_STATUSES = {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE}


@dataclass(frozen=True, slots=True)
class QueryAnswer:
    """The series of an answer, and what Prometheus warned of while it evaluated the query."""

    series: tuple[Series, ...]
    warnings: tuple[str, ...] = ()


_T = TypeVar("_T")
# Reads the content of a reply.
_ReadReply = Callable[[bytes], Read]


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
        return self._ask("/api/v1/query", {"query": query, "time": f"{at:.3f}"}, read_vector)

    def time(self) -> float:
        """The server's own clock, in Unix seconds. MonitorError when it cannot be had."""
        query = "vector(time())"
        found = self._ask("/api/v1/query", {"query": query}, read_vector).series  # at no time: at the server's
        if len(found) != 1:
            raise MonitorBadReply(f"Prometheus at {self.url}: expected one sample for {query!r}")
        return found[0].value

    def range(self, query: str, start: float, end: float, step_seconds: float) -> QueryAnswer:
        """A range query's matrix; both ends are evaluated. MonitorError when it cannot be had."""
        form = {"query": query, "start": f"{start:.3f}", "end": f"{end:.3f}", "step": f"{step_seconds:.3f}"}
        return self._ask("/api/v1/query_range", form, read_matrix)

    def instant_each(self, queries: Mapping[str, str], at: float) -> dict[str, QueryAnswer]:
        """The vectors of several queries by name, in one request; each with the warnings of all. MonitorError.

        For questions about a few hosts: what is wrong with one of the queries fails all of them.
        """
        return _parted(queries, self.instant(joined(queries), at))

    def range_each(
        self, queries: Mapping[str, str], start: float, end: float, step_seconds: float
    ) -> dict[str, QueryAnswer]:
        """The matrices of several queries, likewise."""
        return _parted(queries, self.range(joined(queries), start, end, step_seconds))

    @staticmethod
    def side_by_side(questions: Mapping[str, Callable[[], _T]]) -> dict[str, _T]:
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

    def _ask(self, path: str, form: dict[str, str], read: _ReadReply) -> QueryAnswer:
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

    def _ask_once(self, path: str, form: dict[str, str], deadline: float, read: _ReadReply) -> QueryAnswer:
        left = max(deadline - time.monotonic(), 0.001)
        form = {**form, "timeout": f"{max(1, round(left * 1000))}ms"}
        response = self._http.exchange("POST", path, left, form)
        if response.status in _RETRY_STATUSES:
            raise MonitorError(f"Prometheus at {self.url} answered {response.status} {shown(response.reason)}")
        content, asked = response.content, f"'{shown(form['query'], _MOST_ASKED_SHOWN)}'"
        if content.count(b'"metric"') > 2 * MOST_SERIES:  # refused before much larger objects are made of it
            raise MonitorBadReply(f"Prometheus at {self.url}: expected at most {MOST_SERIES} series for {asked}")
        try:
            with self._reading:
                found = read(content)
        except BadReply as error:
            kind = shown(response.headers.get("Content-Type", "no content type"))
            raise MonitorBadReply(
                f"{self.url} does not answer as Prometheus does ({response.status}, {kind}): "
                f"{shown(str(error), _MOST_SHOWN)}; asked for {asked}"
            ) from None
        if found.error is not None:
            raise MonitorBadReply(f"Prometheus at {self.url} refused {asked}: {shown(found.error, _MOST_SHOWN)}")
        if found.missing is not None:
            why = shown(found.missing, _MOST_SHOWN)
            raise MonitorBadReply(f"Prometheus at {self.url} answered only in part: {why}")
        warnings = tuple(shown(warning, _MOST_SHOWN) for warning in found.warnings[:_MOST_WARNINGS])
        return QueryAnswer(found.series, warnings)


def joined(queries: Mapping[str, str]) -> str:
    """Several queries as one. A query may end with a comment, so each ends its line.

    An exporter's own label of the name that is added is dropped first: two series that became one would fail all.
    """
    return "\nor ".join(
        f'label_replace(max without ({_QUERY_LABEL}) (\n{query}\n), "{_QUERY_LABEL}", "{name}", "", "")'
        for name, query in queries.items()
    )


def _parted(queries: Mapping[str, str], answer: QueryAnswer) -> dict[str, QueryAnswer]:
    found: dict[str, list[Series]] = {name: [] for name in queries}
    for series in answer.series:
        labels = dict(series.labels)
        if (name := labels.pop(_QUERY_LABEL, "")) in found:
            found[name].append(Series(labels, series.samples))
    return {name: QueryAnswer(tuple(series), answer.warnings) for name, series in found.items()}
