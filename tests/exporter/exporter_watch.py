"""Scrapes an exporter again and again from a thread, and holds what it saw to the laws."""

import contextlib
import http.client
import re
import threading
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Self

_SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$")
DEADLINE_SECONDS = 2.0


@dataclass(frozen=True)
class Scrape:
    at: float
    seconds: float
    samples: dict[tuple[str, str], float]

    def value(self, name: str, labels: str = "") -> float | None:
        return self.samples.get((name, labels))

    def domains(self, name: str) -> set[str]:
        """The names of the domains that have this metric."""
        return {_domain(labels) for metric, labels in self.samples if metric == name}

    def of(self, name: str, domain: str) -> float | None:
        """The value of a metric that a domain has once."""
        return next(
            (v for (metric, labels), v in self.samples.items() if metric == name and _domain(labels) == domain), None
        )


def _domain(labels: str) -> str:
    found = re.search(r'(?:^|,)domain="([^"]*)"', labels)
    return found[1] if found else ""


def scrape(host: str, port: int, deadline: float = DEADLINE_SECONDS) -> Scrape:
    """One scrape, as Prometheus does it. Raises what a Prometheus would log."""
    began = time.monotonic()
    with contextlib.closing(http.client.HTTPConnection(host, port, timeout=deadline)) as connection:
        connection.request("GET", "/metrics", headers={"X-Prometheus-Scrape-Timeout-Seconds": str(deadline)})
        response = connection.getresponse()
        text = response.read().decode()
    seconds = time.monotonic() - began
    assert response.status == 200
    found = (_SAMPLE.match(line) for line in text.splitlines() if not line.startswith("#"))
    samples = [(match[1], match[2] or "", float(match[3])) for match in found if match]
    unique = {(name, labels): value for name, labels, value in samples}
    assert len(unique) == len(samples), "a series twice"
    return Scrape(began, seconds, unique)


class Watcher:
    """Within the block it scrapes; an error of a scrape is raised at the end of the block."""

    def __init__(self, host: str, port: int, every: float = 0.1) -> None:
        self._where = host, port
        self._every = every
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._seen = threading.Condition()
        self._thread = threading.Thread(target=self._run)
        self.scrapes: list[Scrape] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._error and kind is None:
            raise self._error

    def until(self, true_of: object, seconds: float = 30.0) -> Scrape:
        """Waits for a scrape that fulfils a condition."""
        assert callable(true_of)
        end, first = time.monotonic() + seconds, len(self.scrapes)
        with self._seen:
            while True:
                for one in self.scrapes[first:]:
                    if true_of(one):
                        return one
                first = len(self.scrapes)
                if self._error:
                    raise self._error
                left = end - time.monotonic()
                assert left > 0, "it never came"
                self._seen.wait(left)

    def for_scrapes(self, count: int) -> None:
        """Waits until ``count`` more scrapes have been made."""
        goal = len(self.scrapes) + count
        self.until(lambda _: len(self.scrapes) >= goal, 120)

    def _run(self) -> None:
        while not self._stop.wait(self._every):
            try:
                one = scrape(*self._where)
            except BaseException as error:
                self._error = error
                with self._seen:
                    self._seen.notify_all()
                return
            with self._seen:
                self.scrapes.append(one)
                self._seen.notify_all()


CPU = "virtpoise_domain_cpu_seconds_total"
# A gauge: how many there are. Others on the machine may make more of them, or fewer.
PAGES = "virtpoise_host_hugepages_total"


def hold_to_the_laws(
    scrapes: list[Scrape], always: Collection[str], lasting: Collection[str], moving: Collection[str] = ()
) -> None:
    """Every scrape in time, with these domains in it always; the counters of lasting domains never fall, and those of a
    domain that moves here and away do not while it is here."""
    assert scrapes
    assert max(one.seconds for one in scrapes) < DEADLINE_SECONDS
    last: dict[tuple[str, str], float] = {}
    before: dict[tuple[str, str], float] = {}
    for one in scrapes:
        assert set(always) <= one.domains(CPU)
        for (name, labels), value in one.samples.items():
            of_host = "domain=" not in labels and "_host_" in name and name != PAGES
            if name.endswith("_total") and (of_host or _domain(labels) in lasting):
                assert value >= last.get((name, labels), 0.0), (name, labels)
                last[name, labels] = value
            elif name.endswith("_total") and _domain(labels) in moving:
                assert value >= before.get((name, labels), 0.0), (name, labels)
        before = one.samples
