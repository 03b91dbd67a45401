"""Floods of the balancer's listener: what others still get answered, what they cost in memory, and what they leave
behind.
"""

from __future__ import annotations

import socket
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from hostile.attacked import Attacked

pytestmark = [pytest.mark.hostile, pytest.mark.alone]

Attack = Callable[..., Attacked]
# What a flood may add to a balancer of 300 hosts; its unit lets it have 1 GiB in all.
MOST_MORE_MIB = 350
MOST_MORE_OF_HANDSHAKES_MIB = 150


def certificate(folder: Path) -> dict[str, str]:
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=localhost -days 2 "
        f"-out {cert} -keyout {key}".split(),
        check=True,
        capture_output=True,
    )
    key.chmod(0o600)
    return {"cert_file": str(cert), "key_file": str(key)}


def report(what: str, balancer: Attacked, before: float, answered: str = "") -> float:
    now, most = balancer.ask("memory")
    print(f"{what}: {before:.0f} -> {now:.0f} MiB (at most {most:.0f}) {answered}")
    return float(most) - before


def open_many(balancer: Attacked, count: int, ending: ExitStack, sent: bytes = b"") -> list[socket.socket]:
    """``count`` connections from another address of this machine, each after it sent ``sent``."""
    opened = []
    for _ in range(count):
        with suppress(OSError):
            connection = ending.enter_context(balancer.connect("127.0.0.9"))
            connection.sendall(sent)
            opened.append(connection)
    return opened


def test_silent_connections_keep_nobody_out(attack: Attack) -> None:
    balancer = attack()
    before = balancer.memory_mib
    with ExitStack() as ending:
        open_many(balancer, 1000, ending)
        answered = balancer.answered("/metrics", 20)
        more = report("1000 silent connections", balancer, before, f"{answered} of 20 answered")
    assert answered == 20
    assert more < MOST_MORE_MIB


def test_half_open_tls_costs_bounded_memory(attack: Attack, tmp_path: Path) -> None:
    balancer = attack(**certificate(tmp_path))
    before = balancer.memory_mib
    hello = bytes.fromhex("160301020001")  # the beginning of a handshake
    with ExitStack() as ending:
        open_many(balancer, 1000, ending, hello)
        fetched = [
            subprocess.run(
                [
                    *["curl", "-sk", "-m", "5", "-o", "/dev/null", "-w", "%{http_code}"],
                    f"https://localhost:{balancer.port}/metrics",
                ],
                capture_output=True,
                text=True,
            ).stdout
            for _ in range(10)
        ]
        more = report("1000 half-open TLS connections", balancer, before, f"{fetched.count('200')} of 10 answered")
    assert fetched == ["200"] * 10
    assert more < MOST_MORE_OF_HANDSHAKES_MIB


def test_bodies_are_not_read_before_the_token(attack: Attack) -> None:
    balancer = attack()
    before = balancer.memory_mib
    head = b"POST /api/v1/pause HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 10000000\r\n\r\n"
    with ExitStack() as ending:
        for _ in range(400):
            with suppress(OSError):
                connection = ending.enter_context(balancer.connect("127.0.0.9"))
                connection.settimeout(0.2)
                connection.sendall(head + b"x" * 900_000)
        answered = balancer.answered("/metrics", 10)
        more = report("400 bodies of 900 kB without a token", balancer, before, f"{answered} of 10 answered")
    assert answered == 10
    assert more < MOST_MORE_MIB


def test_who_never_reads_is_cut_off_and_costs_bounded_memory(attack: Attack) -> None:
    balancer = attack()
    before = balancer.memory_mib
    requests = b"GET /api/v1/snapshot HTTP/1.1\r\nHost: localhost\r\n\r\n" * 50
    with ExitStack() as ending:
        for connection in open_many(balancer, 300, ending, requests):
            connection.settimeout(0.05)
        answered = sum((balancer.get("/metrics", 15) or b"").startswith(b"HTTP/1.1 200") for _ in range(10))
        more = report("300 clients that pipeline and never read", balancer, before, f"{answered} of 10 answered")
    assert answered == 10
    assert more < MOST_MORE_MIB


@contextmanager
def readers(balancer: Attacked, count: int, paths: list[str]) -> Iterator[list[int]]:
    """``count`` clients that read without a pause, and how many answers each had."""
    stop, counts = threading.Event(), [0] * count

    def read(number: int) -> None:
        path = paths[number % len(paths)]
        while not stop.is_set():
            counts[number] += balancer.get(path) is not None

    threads = [threading.Thread(target=read, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield counts
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_twenty_readers_do_not_slow_the_loop(attack: Attack) -> None:
    balancer = attack()
    balancer.cycles(3)
    calm = statistics.median(balancer.cycles(10))
    paths = [
        "/",
        "/metrics",
        "/api/v1/status",
        "/api/v1/snapshot",
        "/plan",
        "/api/v1/explain/node0007",
        "/hosts/node0001",
    ]
    with readers(balancer, 20, paths) as counts:
        time.sleep(1)
        busy = statistics.median(balancer.cycles(10))
        served = sum(counts)
    print(f"cycle at 300 hosts: {calm:.3f} s alone, {busy:.3f} s with 20 readers ({served} answers)")
    assert served > 200
    assert busy < 2.5 * calm + 0.1


def test_listeners_for_news_are_bounded(attack: Attack) -> None:
    balancer = attack()
    before = balancer.memory_mib
    with ExitStack() as ending:
        open_many(balancer, 400, ending, b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answered = balancer.answered("/metrics", 10)
        more = report("400 listeners for events", balancer, before, f"{answered} of 10 answered")
    assert more < MOST_MORE_MIB
    assert answered == 10
