"""Replies in bad faith: the balancer's client in a process of its own, its time and its memory measured."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = [pytest.mark.hostile, pytest.mark.alone]

HERE = Path(__file__).parent
TIMEOUT_SECONDS = 2.0
# Beyond the deadline: what came in time is still read.
LATE_SECONDS = 3.0
# A process that asks has 50 MiB; the largest reply that is read at all costs 250 more.
MOST_MIB = 400

ASK = """
import json, sys, time
from pathlib import Path
from virtpoise_balancer.errors import MonitorError
from virtpoise_balancer.monitor.client import PrometheusClient
client = PrometheusClient(url=sys.argv[1], timeout_seconds=float(sys.argv[2]))
began, found, error = time.monotonic(), None, None
try:
    answer = client.instant("up", 0.0)
    found = [len(answer.series), list(answer.warnings)]
except MonitorError as failed:
    error = str(failed)
seconds = time.monotonic() - began
# not ru_maxrss: it starts with the size of the process that made this one
most_kib = int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
print(json.dumps([found, error, seconds, time.process_time(), most_kib / 1024, len(client._http._session.cookies)]))
"""


@dataclass(frozen=True)
class Asked:
    series: int | None
    warnings: list[str]
    error: str | None
    seconds: float
    cpu_seconds: float
    mib: float


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Where the server answers; the path names the attack."""
    process = subprocess.Popen([sys.executable, HERE / "hostile_prometheus.py"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.kill()
        process.communicate()


def ask(url: str, attack: str) -> Asked:
    done = subprocess.run(
        [sys.executable, "-c", ASK, f"{url}/{attack}", str(TIMEOUT_SECONDS)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    found, error, seconds, cpu_seconds, mib, cookies = json.loads(done.stdout)
    assert cookies == 0  # a server could have as many kept as it likes
    print(f"{attack}: {seconds:.2f} s, {cpu_seconds:.2f} s of CPU, {mib:.0f} MiB, {found or error}")
    return Asked(found[0] if found else None, found[1] if found else [], error, seconds, cpu_seconds, mib)


@pytest.mark.parametrize(
    ("attack", "says"),
    [
        ("silent", "no answer within the deadline"),
        ("trickle-headers", "no answer within the deadline"),
        ("trickle-body", "no answer within the deadline"),
        ("gzip-bomb", "exceeds 67108864 bytes"),
        ("gzip-in-gzip", "expected gzip as Content-Encoding, got 'gzip, gzip, gzip'"),
        ("no-gzip", "not the gzip that it claims"),
        ("gzip-and-more", "goes on after its end"),
        ("gzip-of-nothing", "Prometheus at"),
        ("other-coding", "expected gzip as Content-Encoding, got 'br'"),
        ("one-gigabyte", "exceeds 67108864 bytes"),
        ("endless-chunks", "exceeds 67108864 bytes"),
        ("endless-headers", "cannot be asked"),
        ("too-short", "cannot be asked"),
        ("redirect", "does not answer as Prometheus does (302"),
        ("million-series", "expected at most 150000 series"),
        ("deep", "Expected `object`, got `array`"),
        ("bare-nan", "does not answer as Prometheus does"),
        ("controls-in-error", "refused 'up': \\x1b[2J\\u202e\\nforged=1"),
        ("not-utf8", "does not answer as Prometheus does"),
    ],
)
def test_a_reply_in_bad_faith_is_refused_in_one_line_in_time_and_in_bounded_memory(
    url: str, attack: str, says: str
) -> None:
    asked = ask(url, attack)
    assert asked.error is not None
    assert says in asked.error
    assert asked.error.isprintable()
    assert len(asked.error) < 700
    assert asked.seconds < TIMEOUT_SECONDS + LATE_SECONDS
    assert asked.mib < MOST_MIB


@pytest.mark.parametrize(
    ("attack", "series"),
    [
        ("honest", 1),
        ("most", 149_001),
        ("too-long", 1),
        ("cookies", 1),
        ("not-finite", 0),
        ("long-number", 0),
        ("long-label", 1),
        ("nul-in-label", 1),
    ],
)
def test_what_is_wrong_with_one_series_harms_that_series_alone(url: str, attack: str, series: int) -> None:
    asked = ask(url, attack)
    assert asked.error is None
    assert asked.series == series
    assert asked.mib < MOST_MIB
    assert asked.cpu_seconds < TIMEOUT_SECONDS + LATE_SECONDS  # how long that takes is up to the machine
    if attack == "long-label":
        assert asked.warnings == ["1 series have a label of more than 1024 characters and are left out"]
    if attack == "nul-in-label":
        assert asked.warnings == ["2 series have a label with a NUL and are left out"]
