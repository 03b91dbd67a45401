"""Floods an HTTP(S) server until it is ended: ``python flood.py KIND PORT ADDRESS``, from ADDRESS (127.x.y.z).

A process of its own, so that it takes no time from the client that is measured. Connections that the server closes are
made again at once.
"""

import contextlib
import select
import socket
import ssl
import sys
from collections.abc import Callable

REQUEST = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
_ANYBODY = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
_ANYBODY.check_hostname, _ANYBODY.verify_mode = False, ssl.CERT_NONE


def hello() -> bytes:
    """A client's first message."""
    out = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        _ANYBODY.wrap_bio(ssl.MemoryBIO(), out).do_handshake()
    return out.read()


def big_hello() -> bytes:
    """Most of a first message of the greatest size that OpenSSL takes (128 KiB); the end never comes."""
    message = b"\x01" + (131_000).to_bytes(3, "big") + b"\x03\x03" + b"r" * 32 + b"\0\0\x02\x13\x01\x01\0"
    message += b"\0" * (130_900 - len(message))
    parts = [message[start : start + 16_000] for start in range(0, len(message), 16_000)]
    return b"".join(b"\x16\x03\x01" + len(part).to_bytes(2, "big") + part for part in parts)


def send(data: bytes) -> Callable[[socket.socket], socket.socket]:
    """A client that sends this, as far as the server takes it, and reads nothing."""

    def begin(connection: socket.socket) -> socket.socket:
        connection.setblocking(False)
        with contextlib.suppress(OSError):
            while connection.send(data) == len(data) > 100_000:
                pass
        return connection

    return begin


def keep(connection: socket.socket) -> socket.socket:
    """A client that shakes hands, gets one answer and keeps the connection."""
    wrapped = _ANYBODY.wrap_socket(connection)
    wrapped.sendall(b"GET /-/healthy HTTP/1.1\r\nHost: x\r\n\r\n")
    wrapped.recv(1000)
    return wrapped


def encrypted(data: bytes) -> Callable[[socket.socket], socket.socket]:
    return lambda connection: send(data)(_ANYBODY.wrap_socket(connection))


# what a client does, how many of them there are, and what each sends from then on
KINDS: dict[str, tuple[Callable[[socket.socket], socket.socket], int, bytes]] = {
    "silent": (send(b""), 1000, b""),
    "half a head": (send(b"GET /metrics HTTP/1.1\r\nX: "), 600, b"y"),
    "pipeline, read nothing": (send(REQUEST * 4000), 300, REQUEST * 20),
    "read nothing": (send(REQUEST), 300, b""),
    "endless body": (send(b"POST /-/reload HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n" + b"x" * 200_000), 100, b"x"),
    "half a handshake": (send(hello()[:200]), 600, b""),
    "a handshake without an end": (send(hello()), 600, b""),
    "a huge handshake": (send(big_hello()), 400, b""),
    "keep connections with TLS": (keep, 200, b""),
    "read nothing with TLS": (encrypted(REQUEST), 200, b""),
}


def connect(kind: str, port: int, address: str) -> socket.socket:
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(5)
    connection.bind((address, 0))
    try:
        connection.connect(("127.0.0.1", port))
        return KINDS[kind][0](connection)
    except OSError:
        connection.close()
        raise


def main(kind: str, port: int, address: str) -> None:
    _, most, more = KINDS[kind]
    held: list[socket.socket] = []
    while True:
        while len(held) < most:
            try:
                held.append(connect(kind, port, address))
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


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
