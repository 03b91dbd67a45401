"""A real Prometheus that holds a made-up half hour."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from filled_prometheus import filled_prometheus
from grafana.scenario import LENGTH, STEP, Scenario
from virtpoise_preview.prometheus import Prometheus, Span


@pytest.fixture(scope="session")
def span() -> Span:
    """The half hour; it ended long enough ago to lie in blocks of its own."""
    end = float(int(time.time()) - 6 * 3600)
    return Span(end - LENGTH, end, float(STEP))


@pytest.fixture(scope="session")
def prometheus_url(span: Span, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    exposition = Scenario(span.end).openmetrics()
    # imported samples end without the mark that ends a scraped series
    with filled_prometheus(exposition, tmp_path_factory.mktemp("prometheus"), "--query.lookback-delta=25s") as url:
        yield url


@pytest.fixture(scope="session")
def prometheus(prometheus_url: str) -> Prometheus:
    return Prometheus(prometheus_url)
