"""A server in a process of its own that answers Prometheus' queries in bad faith, over plain sockets.

The first part of the path names the attack.
"""

from __future__ import annotations

import gzip
import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
SAMPLE = b'{"metric":{"instance":"h1:9807"},"value":[1,"1"]}'
BEFORE, AFTER = b'{"status":"success","data":{"resultType":"vector","result":[', b"]}}"


def chunked(parts: Iterator[bytes], headers: bytes = b"") -> Iterator[bytes]:
    yield OK + headers + b"Transfer-Encoding: chunked\r\n\r\n"
    for part in parts:
        yield b"%x\r\n%s\r\n" % (len(part), part)
    yield b"0\r\n\r\n"


def whole(body: bytes, headers: bytes = b"", length: int | None = None) -> Iterator[bytes]:
    yield OK + headers + b"Content-Length: %d\r\n\r\n" % (len(body) if length is None else length)
    yield body


def slowly(content: bytes) -> Iterator[bytes]:
    for byte in content:
        yield bytes([byte])
        time.sleep(0.2)


def trickle_body() -> Iterator[bytes]:
    yield OK + b"Content-Length: 100000\r\n\r\n"
    yield from slowly(b" " * 100_000)


def many(count: int) -> Iterator[bytes]:
    """``count`` series, in parts."""
    yield BEFORE + SAMPLE
    for _ in range(count // 1000):
        yield (b"," + SAMPLE) * 1000
    yield AFTER


def result(*series: Mapping[str, object]) -> bytes:
    return json.dumps({"status": "success", "data": {"resultType": "vector", "result": list(series)}}).encode()


def layers(body: bytes, times: int) -> bytes:
    for _ in range(times):
        body = gzip.compress(body)
    return body


def most() -> Iterator[bytes]:
    """As much as is read at all: just under the bounds of series and of bytes."""
    labels = ",".join(f'"label{n}":"{"v" * 12}"' for n in range(10))
    sample = b'{"metric":{"instance":"h1:9807",%s},"value":[1,"1"]}' % labels.encode()
    yield BEFORE + sample
    for _ in range(149):
        yield (b"," + sample) * 1000
    yield AFTER


BOMB = gzip.compress(BEFORE + AFTER + b" " * (1 << 28), compresslevel=6)  # 256 MB in 256 KB


def huge() -> Iterator[bytes]:
    yield BEFORE
    for _ in range(1 << 14):
        yield b" " * (1 << 16)
    yield AFTER


def endless() -> Iterator[bytes]:
    yield BEFORE
    while True:
        yield b" " * (1 << 16)


def packed_and_more() -> Iterator[bytes]:
    """What follows the end of the compressed reply is no part of it."""
    yield gzip.compress(BEFORE + SAMPLE + AFTER)
    while True:
        yield b" " * (1 << 16)


def packed_nothing() -> Iterator[bytes]:
    """Blocks that hold no byte."""
    yield gzip.compress(b"")[:10]
    while True:
        yield b"\x00\x00\x00\xff\xff" * 10_000


def endless_headers() -> Iterator[bytes]:
    yield OK
    while True:
        yield b"X-More: " + b"x" * 1000 + b"\r\n"


ATTACKS: dict[str, Callable[[], Iterator[bytes]]] = {
    "honest": lambda: whole(BEFORE + SAMPLE + AFTER),
    "silent": lambda: iter(()),
    "trickle-headers": lambda: slowly(OK + b"X-Long: " + b"x" * 10_000),
    "trickle-body": trickle_body,
    "gzip-bomb": lambda: whole(BOMB, b"Content-Encoding: gzip\r\n"),
    "gzip-in-gzip": lambda: whole(layers(b"{}", 3), b"Content-Encoding: gzip, gzip, gzip\r\n"),
    "no-gzip": lambda: whole(b"{}", b"Content-Encoding: gzip\r\n"),
    "gzip-and-more": lambda: chunked(packed_and_more(), b"Content-Encoding: gzip\r\n"),
    "gzip-of-nothing": lambda: chunked(packed_nothing(), b"Content-Encoding: gzip\r\n"),
    "cookies": lambda: whole(
        BEFORE + SAMPLE + AFTER,
        b"".join(b"Set-Cookie: c%d=%s; Max-Age=99999999\r\n" % (n, b"x" * 60_000) for n in range(50)),
    ),
    "other-coding": lambda: whole(b"{}", b"Content-Encoding: br\r\n"),
    "one-gigabyte": lambda: chunked(huge()),
    "endless-chunks": lambda: chunked(endless()),
    "endless-headers": endless_headers,
    "too-short": lambda: whole(b"{}", length=1000),
    "too-long": lambda: whole(BEFORE + SAMPLE + AFTER + b"HTTP/1.1 200 OK\r\n", length=len(BEFORE + SAMPLE + AFTER)),
    "redirect": lambda: iter([b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"]),
    "most": lambda: chunked(most()),
    "million-series": lambda: chunked(many(1_000_000)),
    "deep": lambda: whole(b'{"status":"success","data":' + b"[" * 1_000_000),
    "not-finite": lambda: whole(
        result(*({"metric": {"instance": "h1"}, "value": [1, value]} for value in ("NaN", "+Inf", "-Inf")))
    ),
    "bare-nan": lambda: whole(BEFORE + b'{"metric":{},"value":[NaN,"1"]}' + AFTER),
    "long-number": lambda: whole(BEFORE + b'{"metric":{},"value":[1,"' + b"9" * 5_000_000 + b'"]}' + AFTER),
    "long-label": lambda: whole(
        result(
            {"metric": {"instance": "h1", "domain": "x" * 10_000_000}, "value": [1, "1"]},
            {"metric": {"instance": "h1"}, "value": [1, "1"]},
        )
    ),
    "nul-in-label": lambda: whole(
        result(
            {"metric": {"instance": "h1", "domain": "vm\0x"}, "value": [1, "1"]},
            {"metric": {"instance": "h1", "name\0": "vm"}, "value": [1, "1"]},
            {"metric": {"instance": "h1", "domain": "vm\\u0000"}, "value": [1, "1"]},
        )
    ),
    "controls-in-error": lambda: whole(b'{"status":"error","error":"\\u001b[2J\\u202e\\nforged=1"}'),
    "not-utf8": lambda: whole(BEFORE + b'{"metric":{"a":"\xff\xfe"},"value":[1,"1"]}' + AFTER),
}


def serve() -> None:
    listening = socket.create_server(("127.0.0.1", 0), backlog=64)
    sys.stdout.write(f"{listening.getsockname()[1]}\n")
    sys.stdout.flush()
    while True:
        connection, _ = listening.accept()
        threading.Thread(target=answer, args=(connection,), daemon=True).start()


def answer(connection: socket.socket) -> None:
    with connection:
        try:
            request = connection.recv(1 << 16)
            if not request:
                return
            attack = request.split(b"/", 2)[1].decode()
            for part in ATTACKS[attack]():
                connection.sendall(part)
            while connection.recv(1 << 16):  # until the other side hangs up
                pass
        except OSError:
            pass


if __name__ == "__main__":
    serve()
