"""A real Prometheus that holds a made-up half hour."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from filled_prometheus import CACHE, filled_prometheus
from grafana.scenario import LENGTH, STEP, Scenario
from virtpoise_preview.prometheus import Prometheus, Span


@pytest.fixture(scope="session")
def span() -> Span:
    """The half hour; it ended long enough ago to lie in blocks of its own."""
    end = float(int(time.time()) - 6 * 3600)
    return Span(end - LENGTH, end, float(STEP))


@pytest.fixture(scope="session", params=("prometheus", "prometheus-sid"))
def prometheus_url(
    span: Span, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[str]:
    """That of Debian's stable release, and 3.x."""
    programs = CACHE / request.param / "usr/bin"
    if not programs.exists():
        pytest.skip(f"{request.param} is not there now")
    exposition = Scenario(span.end).openmetrics()
    # imported samples end without the mark that ends a scraped series
    folder, lookback = tmp_path_factory.mktemp("prometheus"), "--query.lookback-delta=25s"
    with filled_prometheus(exposition, folder, lookback, programs=programs) as url:
        yield url


@pytest.fixture(scope="session")
def prometheus(prometheus_url: str) -> Prometheus:
    return Prometheus(prometheus_url)
