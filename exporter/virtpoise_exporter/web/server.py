"""The server: one event loop for all connections, a few threads for scrapes.

A silent or slow client costs a socket and a deadline, never a thread. Handshakes, request heads and sending answers
have deadlines. Connections are limited in all and for each address (see ``admission``), and so are the bytes of unread
answers, the kernel's buffers included. Bodies of requests are never read.
"""

import asyncio
import asyncio.sslproto
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from http import HTTPStatus

from virtpoise_exporter import __version__, exposition
from virtpoise_exporter.errors import UsageError
from virtpoise_exporter.log import log
from virtpoise_exporter.web.admission import Door, Guest, Stage
from virtpoise_exporter.web.auth import Gate, parse_basic
from virtpoise_exporter.web.config import RateLimit, Watched, WebConfig
from virtpoise_exporter.web.http import (
    BadRequestError,
    HeadTooLargeError,
    Request,
    Response,
    accepts_gzip,
    parse_head,
    render_head,
)
from virtpoise_exporter.web.shared import SharedScrapes
from virtpoise_exporter.web.turns import Turns

# Of connections without TLS, which cost some 50 KB. One with TLS costs up to 2 MB while it shakes hands and takes the
# place of eight: 32 of them stay below half of the unit's MemoryMax.
MOST_CONNECTIONS = 256
MOST_OF_AN_ADDRESS = 128
_PLACES_WITH_TLS = 8
# asyncio holds a buffer of 256 KiB for each connection with TLS, and frees those of unfinished handshakes late. A
# record has 16 KiB.
asyncio.sslproto.SSLProtocol.max_size = 32 * 1024
MOST_UNREAD_BYTES = 8 * 1024 * 1024
_MOST_HEAD_BYTES = 16 * 1024
_PART_BYTES = 64 * 1024  # of an answer is copied at a time for a client that reads slowly
_KERNEL_BUFFER_BYTES = 128 * 1024  # for each direction of a connection; the kernel would take megabytes
_BACKLOG = 1024
_ACCEPTED_AT_ONCE = 16  # a scraper behind a flood in the kernel's queue does not wait for one turn of the loop for each
HEAD_SECONDS = 5.0
_IDLE_SECONDS = 120.0
TAKE_SECONDS = 10.0
_DEFAULT_SCRAPE_SECONDS = 10.0
_MOST_SCRAPE_SECONDS = 60.0
# Of what a refused client still sends after its answer.
_MOST_DISCARDED_BYTES = 1024 * 1024
_DISCARD_SECONDS = 1.0
_SCRAPE_OFFSET_SECONDS = 0.5  # for the network to Prometheus and back

_PAGE = f"""<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>virtpoise exporter</title></head>
<body>
<h1>virtpoise exporter</h1>
<p>Version {__version__}: what this libvirt host and its domains use.</p>
<ul><li><a href="metrics">Metrics</a></li><li><a href="-/healthy">Health</a></li></ul>
</body>
</html>
""".encode()


def open_socket(host: str, port: int) -> socket.socket:
    """A listening socket; an empty host means all addresses. Raises OSError."""
    if host:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listening = socket.create_server(address, family=family, backlog=_BACKLOG)
    elif socket.has_dualstack_ipv6():
        listening = socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=_BACKLOG)
    else:
        listening = socket.create_server(("0.0.0.0", port), backlog=_BACKLOG)  # noqa: S104 - asked for as ``:port``
    for buffer in (socket.SO_SNDBUF, socket.SO_RCVBUF):  # its connections inherit them
        listening.setsockopt(socket.SOL_SOCKET, buffer, _KERNEL_BUFFER_BYTES)
    return listening


class Server:
    """Serves /metrics, /-/healthy, /-/ready, /-/reload and a landing page on sockets that listen already."""

    def __init__(self, scrape: Callable[[float], bytes], watched: Watched) -> None:
        """Serve scrapes. ``scrape`` returns an exposition within the number of seconds that it is called with."""
        self._scrapes = SharedScrapes(scrape)
        self._watched = watched
        self._gate = Gate()
        self._bucket = _Bucket()
        self._turns = Turns()
        self._door = Door(MOST_CONNECTIONS, MOST_OF_AN_ADDRESS, MOST_UNREAD_BYTES)
        self._tasks: set[asyncio.Task[None]] = set()
        self._complained = ""

    async def serve(self, listening: socket.socket) -> None:
        """Accepts connections until cancelled."""
        loop = asyncio.get_running_loop()
        listening.setblocking(False)
        accepted = 0
        while True:
            try:
                connection, address = await loop.sock_accept(listening)
            except OSError as error:  # no descriptor left, or the client has gone already
                self._complain(f"a connection cannot be accepted: {error}")
                await asyncio.sleep(0.1)
                continue
            task = loop.create_task(self._converse(connection, str(address[0])))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            accepted += 1
            if accepted % _ACCEPTED_AT_ONCE == 0:
                await asyncio.sleep(0)  # lets them begin: a flood of connections would keep this loop to itself

    def _complain(self, reason: str) -> None:
        """Logs a reason once, until another one comes: clients decide how often it happens."""
        if reason != self._complained:
            self._complained = reason
            log.error("%s", reason)

    async def _converse(self, connection: socket.socket, address: str) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - for the type checker: this is a task
        writer: asyncio.StreamWriter | None = None
        try:
            config = self._watched.current()
        except UsageError as error:
            self._complain(f"all requests are refused: {error}")
            connection.close()
            return
        guest = self._door.enter(address, task, _PLACES_WITH_TLS if config.tls else 1)
        if guest is None:
            connection.close()
            return
        handed_over = False
        try:
            reader = asyncio.StreamReader(_MOST_HEAD_BYTES)
            protocol = asyncio.StreamReaderProtocol(reader)
            loop = asyncio.get_running_loop()
            handed_over = True
            transport, _ = await loop.connect_accepted_socket(
                lambda: protocol,
                connection,
                ssl=config.tls,
                ssl_handshake_timeout=HEAD_SECONDS if config.tls else None,
                ssl_shutdown_timeout=1.0 if config.tls else None,
            )
            transport.set_write_buffer_limits(high=1, low=0)  # of 0 asyncio's TLS loses count
            writer = asyncio.StreamWriter(transport, protocol, reader, loop)
            if _welcome(transport, config):
                await self._answer_all(guest, reader, writer)
        except UsageError as error:
            self._complain(f"all requests are refused: {error}")
        except (OSError, EOFError, TimeoutError, asyncio.IncompleteReadError, asyncio.CancelledError) as error:
            log.debug("a connection ended: %r", error)
        except Exception:
            log.exception("a connection failed")
        finally:
            self._door.leave(guest)
            if writer is None and handed_over:
                # the transport closes it, once it notices; asyncio would keep an unfinished handshake for seconds
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            elif writer is None:
                connection.close()
            elif writer.transport.get_write_buffer_size() or task.cancelling():
                writer.transport.abort()
            else:
                writer.close()

    async def _answer_all(self, guest: Guest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of a connection in turn.

        A client that sends the next before it has an answer gets no more.
        """
        patience = HEAD_SECONDS
        keep_alive = True
        while keep_alive:
            self._door.move(guest, Stage.WAITING)
            async with asyncio.timeout(patience):
                received = await reader.read(_MOST_HEAD_BYTES)
            if not received:
                return
            keep_alive = with_body = False
            try:
                async with asyncio.timeout(HEAD_SECONDS):
                    head, rest = await _read_head(reader, received)
                request = parse_head(head)
            except HeadTooLargeError:
                response, with_body = _text(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE), True
            except BadRequestError as error:
                response, with_body = _text(HTTPStatus.BAD_REQUEST, str(error)), True
            else:
                self._door.move(guest, Stage.WORKING)
                response = await self._answer(request, guest.address)
                keep_alive, with_body = request.keep_alive and not rest, request.method != "HEAD"
            await self._send(guest, writer, response, keep_alive=keep_alive, with_body=with_body)
            patience = _IDLE_SECONDS
        self._door.move(guest, Stage.WAITING)
        await _discard(reader, writer)

    async def _send(
        self, guest: Guest, writer: asyncio.StreamWriter, response: Response, *, keep_alive: bool, with_body: bool
    ) -> None:
        """Sends the answer and waits until the client has read it. Only a part of it is copied at a time."""
        head = render_head(response, keep_alive=keep_alive)
        body = memoryview(response.body if with_body else b"")
        self._door.move(guest, Stage.SENDING, len(head) + len(body))
        async with asyncio.timeout(TAKE_SECONDS):
            writer.write(head)
            for start in range(0, len(body), _PART_BYTES):
                writer.write(body[start : start + _PART_BYTES])
                await writer.drain()
                self._door.move(guest, Stage.SENDING, len(body) - start)  # who reads slowly is not who reads nothing
            await writer.drain()

    async def _answer(self, request: Request, address: str) -> Response:
        began = time.monotonic()
        config = self._watched.current()
        if config.rate_limit and not self._bucket.take(config.rate_limit, began):
            return _with(_text(HTTPStatus.TOO_MANY_REQUESTS), config)
        if config.users:
            welcome = await self._may_enter(config.users, request, address)
            if welcome is None:
                return _with(_text(HTTPStatus.SERVICE_UNAVAILABLE, "too many passwords at once"), config)
            if not welcome:
                refused = _text(HTTPStatus.UNAUTHORIZED)
                return _with(refused, config, {"WWW-Authenticate": 'Basic realm="virtpoise exporter"'})
        allowed = ("POST",) if request.path == "/-/reload" else ("GET", "HEAD")
        if request.method not in allowed:
            return _with(_text(HTTPStatus.METHOD_NOT_ALLOWED), config, {"Allow": ", ".join(allowed)})
        match request.path:
            case "/metrics":
                return _with(await self._metrics(request, began), config)
            case "/-/healthy":
                return _with(_text(HTTPStatus.OK, "healthy"), config)
            case "/-/ready":  # the server starts after libvirt was asked for its domains once, see Exporter.run
                return _with(_text(HTTPStatus.OK, "ready"), config)
            case "/-/reload":  # done already: a configuration that has changed is read again for each request
                return _with(_text(HTTPStatus.OK, "reloaded"), config)
            case "/":
                return _with(Response(HTTPStatus.OK, _PAGE, "text/html; charset=utf-8"), config)
            case _:
                return _with(_text(HTTPStatus.NOT_FOUND), config)

    async def _may_enter(self, users: Mapping[str, str], request: Request, address: str) -> bool | None:
        """Whether the request carries a user and the right password; None if too many of this address are verified.

        Credentials that were verified before do not wait.
        """
        authorization = request.headers.get("authorization", "")
        if parse_basic(authorization) is None:  # there is nothing to verify
            return False
        if self._gate.remembers(users, authorization):
            return True
        return await self._turns.verify(address, partial(self._gate.verify, users, authorization))

    async def _metrics(self, request: Request, began: float) -> Response:
        compressed = accepts_gzip(request)
        try:
            body = await self._scrapes.body(began + scrape_seconds(request), compressed=compressed)
        except TimeoutError:
            return _text(HTTPStatus.SERVICE_UNAVAILABLE, "too many scrapes at once")
        headers = {"Vary": "Accept-Encoding"} | ({"Content-Encoding": "gzip"} if compressed else {})
        return Response(HTTPStatus.OK, body, exposition.CONTENT_TYPE, headers)


async def _read_head(reader: asyncio.StreamReader, received: bytes) -> tuple[bytes, bytes]:
    """A request's head, and what came after it: a body, or requests that do not wait for their turn.

    Raises HeadTooLargeError, EOFError.
    """
    while (end := received.find(b"\r\n\r\n")) < 0:
        if len(received) >= _MOST_HEAD_BYTES:
            raise HeadTooLargeError
        more = await reader.read(_MOST_HEAD_BYTES)
        if not more:
            raise EOFError
        received += more
    if end > _MOST_HEAD_BYTES:
        raise HeadTooLargeError
    return received[: end + 4], received[end + 4 :]


async def _discard(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Ends our side and reads what the client still sends, within bounds.

    A socket that is closed with unread bytes resets the connection, and the client may not see its answer. With TLS the
    transport ends both sides.
    """
    if not writer.can_write_eof():
        return
    writer.write_eof()
    discarded = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(_DISCARD_SECONDS):
            while discarded < _MOST_DISCARDED_BYTES and (more := await reader.read(_MOST_HEAD_BYTES)):
                discarded += len(more)


class _Bucket:
    """A token bucket."""

    def __init__(self) -> None:
        self._tokens = float("inf")
        self._at = 0.0

    def take(self, limit: RateLimit, now: float) -> bool:
        self._tokens = min(float(limit.burst), self._tokens + (now - self._at) / limit.interval_seconds)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


def scrape_seconds(request: Request) -> float:
    """Seconds that a scrape may take: Prometheus' timeout, less the time on the network."""
    try:
        seconds = float(request.headers.get("x-prometheus-scrape-timeout-seconds", ""))
    except ValueError:
        seconds = _DEFAULT_SCRAPE_SECONDS
    if not 0 < seconds <= _MOST_SCRAPE_SECONDS:  # also if it is not a number
        seconds = _DEFAULT_SCRAPE_SECONDS
    return max(seconds / 2, seconds - _SCRAPE_OFFSET_SECONDS)


def _welcome(transport: asyncio.BaseTransport, config: WebConfig) -> bool:
    """Whether the client's certificate carries one of the allowed names, if any are set."""
    if not config.allowed_sans:
        return True
    certificate = transport.get_extra_info("peercert") or {}
    names = {str(value) for _, value in certificate.get("subjectAltName", ())}
    return not names.isdisjoint(config.allowed_sans)


def _text(status: HTTPStatus, text: str = "") -> Response:
    return Response(status, f"{text or status.phrase}\n".encode())


def _with(response: Response, config: WebConfig, more: Mapping[str, str] | None = None) -> Response:
    headers = {**response.headers, **config.headers, **(more or {})}
    return Response(response.status, response.body, response.content_type, headers)
