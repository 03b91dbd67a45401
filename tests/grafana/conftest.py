"""A real Prometheus that holds a made-up half hour."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from grafana.scenario import LENGTH, STEP, Scenario
from virtpoise_preview.prometheus import Prometheus, Span

BIN = Path(os.environ.get("VIRTPOISE_CACHE", "/var/cache/virtpoise-lab")) / "prometheus/usr/bin"
START_SECONDS = 60


@pytest.fixture(scope="session")
def span() -> Span:
    """The half hour; it ended long enough ago to lie in blocks of its own."""
    end = float(int(time.time()) - 6 * 3600)
    return Span(end - LENGTH, end, float(STEP))


@pytest.fixture(scope="session")
def prometheus_url(span: Span, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("prometheus")
    exposition = folder / "scenario.openmetrics"
    exposition.write_text(Scenario(span.end).openmetrics())
    config = folder / "prometheus.yml"
    config.write_text("global: {}\n")
    data = folder / "data"
    subprocess.run(
        [BIN / "promtool", "tsdb", "create-blocks-from", "openmetrics", exposition, data],
        check=True,
        capture_output=True,
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    log = (folder / "log").open("wb")
    server = subprocess.Popen(
        [
            BIN / "prometheus",
            f"--config.file={config}",
            f"--storage.tsdb.path={data}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--query.lookback-delta=25s",  # imported samples end without the mark that ends a scraped series
        ],
        stdout=log,
        stderr=log,
    )
    try:
        _wait_until_ready(url, server)
        yield url
    finally:
        server.terminate()
        server.wait()
        log.close()


@pytest.fixture(scope="session")
def prometheus(prometheus_url: str) -> Prometheus:
    return Prometheus(prometheus_url)


def _wait_until_ready(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    with requests.Session() as session:
        session.trust_env = False
        while True:
            assert server.poll() is None, "Prometheus ended"
            assert time.monotonic() < deadline, "Prometheus is not ready"
            try:
                if session.get(f"{url}/-/ready", timeout=2).ok:
                    return
            except requests.ConnectionError:
                pass
            time.sleep(0.1)
