"""Malformed HTTP by the thousand. The same seed makes the same requests."""

from __future__ import annotations

import asyncio
import random
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import h11

_AT_ONCE = 40
_PATIENCE_SECONDS = 5.0
_READABLE = 0.1
_LEAVE_AT_ONCE = 0.4  # so often a client does not wait for its answer

HONEST = (
    b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: gzip\r\n\r\n",
    b"GET /api/v1/history?limit=20 HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n\r\n",
    b"GET /hosts/node0007 HTTP/1.1\r\nHost: localhost\r\nIf-None-Match: \"x\"\r\n\r\n",
    b"POST /-/reload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n",
    b"POST /api/v1/pause HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Authorization: Bearer not-a-token-of-anybody\r\nContent-Length: 2\r\n\r\n{}",
)  # fmt: skip
_LINES = (
    b"Content-Length: -1", b"Content-Length: 1e9", b"Content-Length: " + b"9" * 400, b"Content-Length: 5, 6",
    b"Content-Length: 3\r\nContent-Length: 4", b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip, chunked",
    b"Transfer-Encoding: chunked\r\nContent-Length: 4", b"Host: [", b"Host: \xff\xfe", b"Host: a\r\nHost: b", b"Host:",
    b" folded: line", b"\tfolded", b"no colon", b": no name", b"Na me: x", b"N\x00: x", b"X: \x00", b"X: \x7f\x1b[2J",
    b"Upgrade: websocket\r\nConnection: Upgrade", b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\nConnection: Upgrade",
    b"Expect: 100-continue", b"Expect: nonsense", b"Connection: close, keep-alive", b"Range: bytes=0-,-1,5-2",
    b"Authorization: Basic \xff\xff", b"Authorization: Basic Og==", b"Authorization: " + b"Bearer " * 200,
    b"Accept-Encoding: gzip;q=nan", b"X-Prometheus-Scrape-Timeout-Seconds: nan", b"Origin: http://[", b"Cookie: " + b"=;" * 900,
)  # fmt: skip
_TARGETS = (
    b"*", b"//", b"http://[", b"http://localhost:99999999/", b"/%", b"/%zz", b"/%00", b"/%ff%fe", b"/..%2f..%2fetc/passwd",
    b"/../../../../etc/shadow", b"/static/../../tokens", b"/hosts/%1b%5b2J", b"/hosts/%E2%80%AE", b"/?" + b"a=b&" * 900,
    b"/api/v1/history?limit=" + b"9" * 5000, b"/api/v1/history?limit=%F0%9D%9F%98", b"/" + b"x" * 15_000, b"", b"metrics", b"/a b",
    b"/domains/" + b"%F0%9F%92%A9" * 100, b"/api/v1/explain/" + b"../" * 50, b"/runbooks/..%5c..%5c", b"/metrics#x", b"?", b"/\\",
)  # fmt: skip
_METHODS = (
    b"",
    b"G\x00T",
    b"get",
    b"TRACE",
    b"CONNECT",
    b"OPTIONS",
    b"PRI",
    b"X" * 9000,
    b"G E T",
    b"\xc3\xa9",
    b"DELETE",
    b"PATCH",
)
_VERSIONS = (
    b"",
    b"HTTP/0.9",
    b"HTTP/1.2",
    b"HTTP/2.0",
    b"HTTP/9999.1",
    b"HTTP/1.1 x",
    b"http/1.1",
    b"ICY",
    b"HTTP/1.\xb9",
)
_BODIES = (
    b"zz\r\n",
    b"-1\r\nx\r\n",
    b"ffffffffffffffff\r\nx",
    b"1;" + b"x" * 3000 + b"\r\ny\r\n",
    b"{",
    b"\xff" * 50,
    b"[" * 3000,
    b"5\r\nab",
)
_BYTES = (
    b"\x00",
    b"\r",
    b"\n",
    b"\r\n",
    b"\r\n\r\n",
    b"\xff",
    b"\x80",
    b" ",
    b"\t",
    b":",
    b"%",
    b"\x1b[2J",
    b"\xe2\x80\xae",
)
_FOREIGN = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"SSH-2.0-x\r\n", b"\x05\x01\x00", b"EHLO x\r\n",
    b"\x00" * 4000, b"\r\n" * 4000, b"\n", b"*1\r\n$4\r\nPING\r\n", b"GET", b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 4000,
)  # fmt: skip


def _line(chance: random.Random, honest: bytes) -> bytes:
    """The request line with another method, target or version."""
    first, _, rest = honest.partition(b"\r\n")
    method, target, version = first.split(b" ")
    part = chance.randrange(3)
    method = chance.choice(_METHODS) if part == 0 else method
    target = chance.choice(_TARGETS) if part == 1 else target
    version = chance.choice(_VERSIONS) if part == 2 else version
    return b" ".join((method, target, version)) + b"\r\n" + rest


def _headers(chance: random.Random, honest: bytes) -> bytes:
    head, _, body = honest.partition(b"\r\n\r\n")
    return b"\r\n".join([head, *chance.sample(_LINES, chance.randint(1, 3))]) + b"\r\n\r\n" + body


def _body(chance: random.Random, honest: bytes) -> bytes:
    length = b"Transfer-Encoding: chunked" if chance.random() < 0.5 else b"Content-Length: %d" % chance.randrange(5000)
    first, _, rest = honest.replace(b"Content-Length", b"X").partition(b"\r\n")
    return first + b"\r\n" + length + b"\r\n" + rest + chance.choice(_BODIES)


def _bytes(chance: random.Random, honest: bytes) -> bytes:
    """Bytes of it replaced, left out or added."""
    for _ in range(chance.randint(1, 6)):
        at = chance.randrange(len(honest))
        honest = honest[:at] + chance.choice((b"", *_BYTES)) + honest[at + chance.randrange(2) :]
    return honest


def _cut(chance: random.Random, honest: bytes) -> bytes:
    return honest[: chance.randrange(1, len(honest))]


def _foreign(chance: random.Random, _honest: bytes) -> bytes:
    return chance.choice((*_FOREIGN, chance.randbytes(chance.randint(1, 3000))))


_KINDS: tuple[Callable[[random.Random, bytes], bytes], ...] = (_line, _headers, _body, _bytes, _cut, _foreign)


def requests(seed: int, count: int) -> Iterator[bytes]:
    """Mostly such as have no head that can be read.

    The others are answered one after another, at the pace of an address.
    """
    chance = random.Random(seed)
    while count:
        made = chance.choice(_KINDS)(chance, chance.choice(HONEST))
        if chance.random() < _READABLE or not readable(made):
            count -= 1
            yield made


def readable(content: bytes) -> bool:
    """Whether its head is that of a request."""
    connection = h11.Connection(h11.SERVER)
    try:
        connection.receive_data(content)
        return isinstance(connection.next_event(), h11.Request)
    except h11.RemoteProtocolError:
        return False


def throw(port: int, attack: Iterable[bytes]) -> Counter[int]:
    """Sends each over a connection of its own. How often each status came back; 0 where none was, or was waited for."""
    statuses: Counter[int] = Counter()
    with ThreadPoolExecutor(1) as thread:  # the browser of other tests has the loop of this one
        thread.submit(asyncio.run, _throw(port, iter(attack), statuses)).result()
    return statuses


async def _throw(port: int, attack: Iterator[bytes], statuses: Counter[int]) -> None:
    chance = random.Random(0)

    async def work() -> None:
        for content in attack:
            statuses[await _send(port, content, stays=chance.random() > _LEAVE_AT_ONCE)] += 1

    await asyncio.gather(*(work() for _ in range(_AT_ONCE)))


async def _send(port: int, content: bytes, *, stays: bool) -> int:
    loop, got = asyncio.get_running_loop(), b""
    with socket.socket() as connection, suppress(OSError, TimeoutError):
        connection.setblocking(False)
        async with asyncio.timeout(_PATIENCE_SECONDS):
            await loop.sock_connect(connection, ("127.0.0.1", port))
            await loop.sock_sendall(connection, content)
            connection.shutdown(socket.SHUT_WR)
            while stays and len(got) < 12 and (part := await loop.sock_recv(connection, 1 << 16)):
                got += part
    return int(got[9:12]) if got.startswith(b"HTTP/1.1 ") else 0
