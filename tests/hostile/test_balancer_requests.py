"""Requests by hand to the balancer's listener: odd ones, ones without an end, and orders without a right."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from hostile.attacked import Attacked

pytestmark = pytest.mark.hostile

Attack = Callable[..., Attacked]


def test_heads_that_never_end_are_cut_off(attack: Attack) -> None:
    balancer = attack()
    with balancer.connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n")
        began = time.monotonic()
        connection.settimeout(1.0)
        while time.monotonic() - began < 20:
            try:
                connection.sendall(b"X-More: 1\r\n")
                if not connection.recv(1):
                    break
            except TimeoutError:
                continue
            except OSError:
                break
        assert 5 < time.monotonic() - began < 15
    answer = balancer.get("/" + "x" * 100_000)
    assert answer is None or answer.startswith(b"HTTP/1.1 4")


def test_refused_orders_are_counted_and_not_written_one_by_one(attack: Attack, tmp_path: Path) -> None:
    balancer = attack()
    mine = {"Content-Type": "application/json", "Authorization": "Bearer a-token-of-alice-1234567890"}
    assert status(balancer, "POST", "/api/v1/pause", mine, "{}") == 200
    before = sum(path.stat().st_size for path in tmp_path.iterdir())
    wrong = mine | {"Authorization": "Bearer wrong-wrong-wrong-wrong-wrong"}
    statuses = [status(balancer, "POST", "/api/v1/pause", wrong, "{}") for _ in range(1500)]
    assert set(statuses) <= {401, 429}
    orders = balancer.ask("orders")
    strangers = [one for one in orders if one[0] == "?"]
    grown = sum(path.stat().st_size for path in tmp_path.iterdir()) - before
    print(f"{len(statuses)} refused orders: {len(strangers)} rows, {grown} bytes of database and log")
    assert 1 <= len(strangers) <= 4
    assert ["alice", "127.0.0.1", "Paused: no migration begins until it is resumed; one under way goes on."] in orders
    assert grown < 300_000
    assert (
        f'virtpoise_orders_total{{action="pause",result="refused"}} {statuses.count(401)}.0'
        in (balancer.get("/metrics") or b"").decode()
    )


def status(balancer: Attacked, method: str, path: str, headers: dict[str, str], body: str) -> int:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    with balancer.connect() as connection:
        connection.sendall(
            f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{lines}"
            f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
        )
        return int(connection.recv(1 << 16).split()[1])


ODD = [
    b"GET /api/v1/history?limit=" + b"9" * 5000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /history?limit=%FF HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /hosts/%00%1b%5b2J HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /api/v1/explain/%E2%80%AE HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: [\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    b"POST /api/v1/pause HTTP/1.1\r\nHost: localhost\r\nOrigin: http://[\r\nContent-Length: 2\r\n\r\n{}",
    b"POST /api/v1/pause HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer \xff\xfe\r\nContent-Length: 2\r\n\r\n{}",
    b"POST /api/v1/pause HTTP/1.1\r\nHost: localhost\r\nVirtpoise-User: %FF%1b\r\nContent-Length: 2\r\n\r\n{}",
    b"POST /-/reload HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET http://[ HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"\x00\xff" * 1000,
    b"GET / HTTP/1.1\r\n" + b"X-A: b\r\n" * 5000 + b"\r\n",
]


def test_odd_requests_and_clients_that_leave_leave_no_traceback(attack: Attack) -> None:
    balancer = attack()
    token = b"Authorization: Bearer a-token-of-alice-1234567890\r\nContent-Type: application/json\r\n"
    leaving = b"POST /api/v1/pause HTTP/1.1\r\nHost: localhost\r\n" + token + b"Content-Length: 500\r\n\r\n{"
    for content in [*ODD, *ODD, leaving, leaving]:
        with balancer.connect() as connection:
            connection.settimeout(0.3)
            with suppress(OSError):
                connection.sendall(content)
                if content is not leaving:
                    connection.recv(1 << 16)
    assert balancer.answered("/-/healthy", 3) == 3
    assert "Traceback" not in balancer.log
    assert all(re.match(r"ts=|level=", line) for line in balancer.log.splitlines()), balancer.log


def test_a_body_that_never_ends_is_cut_off(attack: Attack) -> None:
    balancer = attack()
    token = "Authorization: Bearer a-token-of-alice-1234567890\r\nContent-Type: application/json\r\n"
    with balancer.connect() as connection:
        began = time.monotonic()
        connection.sendall(
            f"POST /api/v1/pause HTTP/1.1\r\nHost: localhost\r\n{token}Content-Length: 500\r\n\r\n{{".encode()
        )
        connection.settimeout(20)
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 408")
        assert 8 < time.monotonic() - began < 15


def test_the_answer_is_the_same_packed_and_plain(attack: Attack) -> None:
    balancer = attack()
    fetched = [
        subprocess.run(
            ["curl", "-s", *options, f"http://localhost:{balancer.port}/api/v1/status"], capture_output=True
        ).stdout
        for options in ([], ["--compressed"])
    ]
    assert fetched[0] == fetched[1]
    assert len(json.loads(fetched[0])["hosts"]) == 300
