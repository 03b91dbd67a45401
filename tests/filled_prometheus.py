"""A real Prometheus for a test, or another server like it, empty or with the samples that a test gives it."""

from __future__ import annotations

import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CACHE = Path(os.environ.get("VIRTPOISE_CACHE", "/var/cache/virtpoise-lab"))
BIN = CACHE / "prometheus/usr/bin"
START_SECONDS = 60


@contextmanager
def filled_prometheus(exposition: str, folder: Path, *options: str, programs: Path = BIN) -> Iterator[str]:
    """The URL of a Prometheus that holds the samples of an OpenMetrics text with timestamps.

    ``programs``: the folder of its version; newer ones read the blocks of this one.

    The samples must be older than the newest two hours: they are imported as blocks.
    """
    text = folder / "samples.openmetrics"
    text.write_text(exposition)
    subprocess.run(
        [BIN / "promtool", "tsdb", "create-blocks-from", "openmetrics", text, folder / "data"],
        check=True,
        capture_output=True,
    )
    with prometheus_server(folder, *options, programs=programs) as address:
        yield f"http://{address}"


def free_address() -> str:
    """HOST:PORT on loopback where nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


@contextmanager
def prometheus_server(
    folder: Path, *options: str, configuration: str = "global: {}\n", programs: Path = BIN
) -> Iterator[str]:
    """HOST:PORT of a Prometheus on loopback that keeps its data and log in a folder; by default it scrapes nothing."""
    with prometheus_process(folder, *options, configuration=configuration, programs=programs) as (address, _):
        yield address


@contextmanager
def prometheus_process(
    folder: Path, *options: str, configuration: str = "global: {}\n", programs: Path = BIN
) -> Iterator[tuple[str, int]]:
    """Likewise, with its process id."""
    config, log = folder / "prometheus.yml", folder / "log"
    config.write_text(configuration)
    address = free_address()
    command: list[str | Path] = [
        programs / "prometheus",
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'data'}",
    ]
    with log.open("wb") as output:
        server = subprocess.Popen([*command, f"--web.listen-address={address}", *options], stdout=output, stderr=output)
    try:
        _wait_until_ready(server, log)
        yield address, server.pid
    finally:
        server.terminate()
        server.wait()


def _wait_until_ready(server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while "Server is ready to receive web requests" not in log.read_text():
        assert server.poll() is None, f"Prometheus ended: {log.read_text()}"
        assert time.monotonic() < deadline, "Prometheus is not ready"
        time.sleep(0.05)


@contextmanager
def filled_victoria_metrics(exposition: str, folder: Path, program: Path) -> Iterator[str]:
    """The URL of a VictoriaMetrics that holds the same samples as ``filled_prometheus``."""
    url, log = f"http://{free_address()}", folder / "log"
    lines = (line.rsplit(" ", 1) for line in exposition.splitlines() if line and not line.startswith("#"))
    body = "\n".join(f"{sample} {round(float(at) * 1000)}" for sample, at in lines).encode()
    with log.open("wb") as output:
        server = subprocess.Popen(
            [program, f"-storageDataPath={folder / 'data'}", f"-httpListenAddr={url.removeprefix('http://')}"],
            stdout=output,
            stderr=output,
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _answers(f"{url}/health"):
            assert server.poll() is None, f"VictoriaMetrics ended: {log.read_text()}"
            assert time.monotonic() < deadline, "VictoriaMetrics is not ready"
            time.sleep(0.05)
        urllib.request.urlopen(f"{url}/api/v1/import/prometheus", data=body, timeout=START_SECONDS).close()
        urllib.request.urlopen(f"{url}/internal/force_flush", timeout=START_SECONDS).close()
        yield url
    finally:
        server.terminate()
        server.wait()


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except OSError:
        return False
    return True
