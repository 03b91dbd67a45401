"""25,000 malformed requests, half of them against each daemon: it stays up, logs no traceback and serves the next
honest request.
"""

from __future__ import annotations

import re
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from hostile.attacked import Attacked
from hostile.malformed import HONEST, requests, throw
from hostile.units import memory_max_mib

pytestmark = pytest.mark.hostile

EACH = 12_500


@dataclass(frozen=True)
class Exporter:
    """The daemon itself, with libvirt's test driver."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    def peak_mib(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024


@contextmanager
def exporter(folder: Path) -> Iterator[Exporter]:
    flags = [
        "--web.listen-address=127.0.0.1:0",
        f"--path.state={folder}",
        "--libvirt.uri=test:///default",
        "--cpu.speed=1",
    ]
    log = folder / "log"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "virtpoise_exporter", *flags], stderr=subprocess.PIPE, bufsize=0
        )
        try:
            assert process.stderr is not None
            port = None
            for line in process.stderr:
                errors.write(line)
                if port := re.search(rb"serves http .* port (\d+)", line):
                    break
            assert port is not None
            copying = subprocess.Popen(["cat"], stdin=process.stderr, stdout=errors)
            yield Exporter(process, int(port[1]), log)
        finally:
            process.terminate()
            process.wait(20)
            if process.stderr is not None:
                process.stderr.close()
        copying.wait(20)


def judge(what: str, statuses: Counter[int], peak_mib: float, daemon: str) -> None:
    print(f"{what}: {dict(sorted(statuses.items()))}, at most {peak_mib:.0f} MiB")
    assert statuses.total() == EACH
    assert statuses[500] == 0
    assert statuses[400] > EACH / 10
    assert peak_mib < memory_max_mib(daemon)


def test_the_exporter_outlives_them(tmp_path: Path) -> None:
    with exporter(tmp_path) as victim:
        statuses = throw(victim.port, requests(13, EACH))
        with urllib.request.urlopen(f"http://127.0.0.1:{victim.port}/metrics", timeout=5) as answer:
            assert b"virtpoise_exporter_build_info" in answer.read()
        assert victim.process.poll() is None
        judge("exporter", statuses, victim.peak_mib(), "exporter")
    assert victim.process.returncode == 0
    log = victim.log.read_text()
    assert "Traceback" not in log
    assert all(re.match(r"ts=\S+ level=", line) for line in log.splitlines()), log


def test_the_balancer_outlives_them(attack: Callable[..., Attacked]) -> None:
    balancer = attack()
    statuses = throw(balancer.port, requests(31, EACH))
    # The attackers count as one address with it: its turn comes after those that wait.
    assert (balancer.get("/metrics", 20) or b"").startswith(b"HTTP/1.1 200")
    judge("balancer", statuses, balancer.ask("memory")[1], "balancer")
    assert {who for who, _origin, _answer in balancer.ask("orders")} <= {"?"}
    assert "Traceback" not in balancer.log
    assert all(re.match(r"ts=|level=", line) for line in balancer.log.splitlines()), balancer.log


def test_the_attack_is_the_same_each_time_and_mostly_malformed() -> None:
    first = list(requests(13, 1000))
    assert first == list(requests(13, 1000))
    assert sum(one in HONEST for one in first) < 10
    assert len(set(first)) > 600
