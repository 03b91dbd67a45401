"""A real Prometheus that holds what a test gives it."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests

BIN = Path(os.environ.get("VIRTPOISE_CACHE", "/var/cache/virtpoise-lab")) / "prometheus/usr/bin"
START_SECONDS = 60


@contextmanager
def filled_prometheus(exposition: str, folder: Path, *options: str) -> Iterator[str]:
    """The URL of a Prometheus that holds the samples of an OpenMetrics text with timestamps.

    The samples must be older than the newest two hours: they are imported as blocks.
    """
    text, config, data = folder / "samples.openmetrics", folder / "prometheus.yml", folder / "data"
    text.write_text(exposition)
    config.write_text("global: {}\n")
    subprocess.run(
        [BIN / "promtool", "tsdb", "create-blocks-from", "openmetrics", text, data], check=True, capture_output=True
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [
                BIN / "prometheus",
                f"--config.file={config}",
                f"--storage.tsdb.path={data}",
                f"--web.listen-address={address}",
                *options,
            ],
            stdout=log,
            stderr=log,
        )
        try:
            _wait_until_ready(f"http://{address}", server)
            yield f"http://{address}"
        finally:
            server.terminate()
            server.wait()


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
