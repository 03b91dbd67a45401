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

from hostile import flood, flooding
from hostile.attacked import Attacked, attacked
from hostile.units import memory_max_mib

pytestmark = [pytest.mark.hostile, pytest.mark.alone]

Attack = Callable[..., Attacked]
# What a flood may add to a balancer of 300 hosts; its unit lets it have 1 GiB in all.
MOST_MORE_MIB = 350
MOST_MIB = memory_max_mib("balancer")


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


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[bool], Attacked]]:
    """A balancer with or without TLS, which each flood finds as the one before has left it."""
    running = dict[bool, Attacked]()
    with ExitStack() as ending:

        def run(tls: bool) -> Attacked:
            if tls not in running:
                folder = tmp_path_factory.mktemp("balancer")
                running[tls] = ending.enter_context(attacked(folder, **(certificate(folder) if tls else {})))
            return running[tls]

        yield run


@pytest.mark.parametrize("kind", flood.KINDS)
def test_every_scrape_is_answered_under_a_flood_from_other_addresses(
    kind: str, victim: Callable[[bool], Attacked], record_property: Callable[[str, object], None]
) -> None:
    tls = flood.with_tls(kind)
    balancer = victim(tls)
    flooding.scrape(balancer.port, tls=tls)
    flooding.peak_mib(balancer.pid, anew=True)
    with flooding.flooded(kind, balancer.port, "/api/v1/snapshot"):
        found = flooding.scrapes(balancer.port, tls=tls)
    peak = flooding.peak_mib(balancer.pid)
    record_property("flood", flooding.row("balancer", kind, found, peak, MOST_MIB))
    assert found.answered == flooding.SCRAPES, found.errors
    assert peak < MOST_MIB / 2


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


def test_one_address_has_64_listeners_for_news_and_leaves_room_for_another(attack: Attack) -> None:
    balancer = attack()
    with ExitStack() as ending:

        def listen(address: str) -> bytes:
            connection = ending.enter_context(balancer.connect(address))
            connection.sendall(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            return connection.recv(12)

        answers = [listen("127.0.0.9") for _ in range(70)]
        assert answers == [b"HTTP/1.1 200"] * 64 + [b"HTTP/1.1 503"] * 6
        assert listen("127.0.0.8") == b"HTTP/1.1 200"
