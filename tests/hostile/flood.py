"""Floods an HTTP(S) server until it is ended: ``python flood.py KIND HOST:PORT PATH ADDRESS...``, from each ADDRESS in
turn.

A process of its own, so that it takes no time from the client that is measured. Connections that the server closes are
made again at once.
"""

import base64
import contextlib
import itertools
import select
import socket
import ssl
import sys
from collections.abc import Callable

ANYBODY = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
ANYBODY.check_hostname, ANYBODY.verify_mode = False, ssl.CERT_NONE
Begin = Callable[[socket.socket], socket.socket]


def hello() -> bytes:
    """A client's first message."""
    out = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        ANYBODY.wrap_bio(ssl.MemoryBIO(), out).do_handshake()
    return out.read()


def big_hello() -> bytes:
    """Most of a first message of the greatest size that OpenSSL takes (128 KiB); the end never comes."""
    message = b"\x01" + (131_000).to_bytes(3, "big") + b"\x03\x03" + b"r" * 32 + b"\0\0\x02\x13\x01\x01\0"
    message += b"\0" * (130_900 - len(message))
    parts = [message[start : start + 16_000] for start in range(0, len(message), 16_000)]
    return b"".join(b"\x16\x03\x01" + len(part).to_bytes(2, "big") + part for part in parts)


def send(data: bytes) -> Begin:
    """A client that sends this, as far as the server takes it, and reads nothing."""

    def begin(connection: socket.socket) -> socket.socket:
        connection.setblocking(False)
        with contextlib.suppress(OSError):
            while connection.send(data) == len(data) > 100_000:
                pass
        return connection

    return begin


def encrypted(data: bytes) -> Begin:
    return lambda connection: send(data)(ANYBODY.wrap_socket(connection))


def keep(connection: socket.socket) -> socket.socket:
    """A client that shakes hands, gets one answer and keeps the connection."""
    wrapped = ANYBODY.wrap_socket(connection)
    wrapped.sendall(request(b"/-/healthy"))
    wrapped.recv(1000)
    return wrapped


def request(path: bytes, headers: bytes = b"") -> bytes:
    return b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\n" + headers + b"\r\n"


def kinds(path: bytes) -> dict[str, tuple[Begin, int, bytes]]:
    """By a flood's name: what a client does, how many of them there are, and what each sends from then on."""
    asked, guess = request(path), b"Authorization: Basic " + base64.b64encode(b"user0:wrong") + b"\r\n"
    body = b"POST /-/reload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\n\r\n"
    return {
        "silent": (send(b""), 1000, b""),
        "half a head": (send(b"GET /metrics HTTP/1.1\r\nX: "), 600, b"y"),
        "pipeline, read nothing": (send(asked * 4000), 300, asked * 20),
        "read nothing": (send(asked), 300, b""),
        ENDLESS: (send(asked), 400, asked),
        "endless body": (send(body + b"x" * 200_000), 100, b"x"),
        "guess passwords": (send(request(b"/metrics", guess)), 60, request(b"/metrics", guess)),
        "half a handshake": (send(hello()[:200]), 600, b""),
        "a handshake without an end": (send(hello()), 600, b""),
        "a huge handshake": (send(big_hello()), 400, b""),
        "keep connections with TLS": (keep, 200, b""),
        "read nothing with TLS": (encrypted(asked), 200, b""),
    }


ENDLESS = "ask and read without end"
KINDS = tuple(kinds(b"/"))


def with_tls(kind: str) -> bool:
    return "hand" in kind or "TLS" in kind


def connect(begin: Begin, target: tuple[str, int], address: str) -> socket.socket:
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(5)
    try:
        connection.bind((address, 0))
        connection.connect(target)
        return begin(connection)
    except OSError:
        connection.close()
        raise


def main(kind: str, target: str, path: str, *addresses: str) -> None:
    host, _, port = target.rpartition(":")
    begin, most, more = kinds(path.encode())[kind]
    turns = itertools.cycle(addresses)
    held: list[socket.socket] = []
    while True:
        while len(held) < most:
            try:
                held.append(connect(begin, (host, int(port)), next(turns)))
            except OSError:
                break
        ended = select.poll()
        by_number = {connection.fileno(): connection for connection in held}
        for number in by_number:
            ended.register(number, select.POLLRDHUP | select.POLLHUP | select.POLLERR)
        for number, _event in ended.poll(20):
            held.remove(by_number[number])
            by_number[number].close()
        for connection in held if more else ():
            connection.setblocking(False)
            with contextlib.suppress(OSError):
                connection.send(more)
            with contextlib.suppress(OSError):
                while kind == ENDLESS and connection.recv(1 << 16):
                    pass


if __name__ == "__main__":
    main(*sys.argv[1:])
