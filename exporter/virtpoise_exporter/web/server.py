"""The server: one event loop for all connections, a few threads for scrapes.

A silent or slow client costs a socket and a deadline, never a thread. Handshakes, request heads and sending answers
have deadlines; the number of connections and the bytes of unsent answers are limited.
"""

import asyncio
import gzip
import socket
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus

from virtpoise_exporter import __version__, exposition
from virtpoise_exporter.errors import UsageError
from virtpoise_exporter.log import log
from virtpoise_exporter.web.auth import Gate
from virtpoise_exporter.web.config import RateLimit, Watched, WebConfig
from virtpoise_exporter.web.http import (
    BadRequestError,
    Request,
    Response,
    accepts_gzip,
    parse_head,
    render_response,
)

MOST_CONNECTIONS = 256
_MOST_SCRAPES = 4
_MOST_VERIFYING = 16
_MOST_HEAD_BYTES = 16 * 1024
_MOST_UNTAKEN_BYTES = 4 * 1024 * 1024
HEAD_SECONDS = 5.0
_IDLE_SECONDS = 120.0
TAKE_SECONDS = 10.0
_DEFAULT_SCRAPE_SECONDS = 10.0
_MOST_SCRAPE_SECONDS = 60.0
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
    elif socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=128)
    else:
        family, address = socket.AF_INET, ("0.0.0.0", port)  # noqa: S104 - asked for as ``:port``
    return socket.create_server(address, family=family, backlog=128)


class Server:
    """Serves /metrics, /-/healthy, /-/ready, /-/reload and a landing page on sockets that listen already."""

    def __init__(self, scrape: Callable[[float], bytes], watched: Watched) -> None:
        """``scrape`` returns an exposition within the number of seconds that it is called with."""
        self._scrape = scrape
        self._watched = watched
        self._gate = Gate()
        self._bucket = _Bucket()
        self._threads = ThreadPoolExecutor(_MOST_SCRAPES, thread_name_prefix="scrape")
        self._verifier = ThreadPoolExecutor(1, thread_name_prefix="verify")
        self._verifying = 0
        self._connections: set[asyncio.Task[None]] = set()
        # who waits for a request, and who takes how many bytes; the longest first, as dictionaries keep their order
        self._waiting: dict[asyncio.Task[None], int] = {}
        self._untaken: dict[asyncio.Task[None], int] = {}

    async def serve(self, listening: socket.socket) -> None:
        """Accepts connections until cancelled."""
        loop = asyncio.get_running_loop()
        listening.setblocking(False)
        while True:
            try:
                connection, _ = await loop.sock_accept(listening)
            except OSError as error:  # no descriptor left, or the client has gone already
                log.warning("a connection cannot be accepted: %s", error)
                await asyncio.sleep(0.1)
                continue
            if len(self._connections) >= MOST_CONNECTIONS and not self._evict():
                connection.close()
                continue
            task = loop.create_task(self._converse(connection))
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)
            await asyncio.sleep(0)  # lets it begin: a flood of connections would keep this loop to itself

    def _evict(self) -> bool:
        """Closes the connection that has been silent longest, or else the one that reads its answer slowest.

        False if all are being answered.
        """
        for some in (self._waiting, self._untaken):
            for victim in some:
                del some[victim]
                victim.cancel()
                return True
        return False

    async def _converse(self, connection: socket.socket) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - for the type checker: this is a task
        writer: asyncio.StreamWriter | None = None
        self._waiting[task] = 0
        try:
            config = self._watched.current()
            reader = asyncio.StreamReader(_MOST_HEAD_BYTES)
            protocol = asyncio.StreamReaderProtocol(reader)
            loop = asyncio.get_running_loop()
            transport, _ = await loop.connect_accepted_socket(
                lambda: protocol,
                connection,
                ssl=config.tls,
                ssl_handshake_timeout=HEAD_SECONDS if config.tls else None,
                ssl_shutdown_timeout=1.0 if config.tls else None,
            )
            transport.set_write_buffer_limits(0)
            writer = asyncio.StreamWriter(transport, protocol, reader, loop)
            if _welcome(transport, config):
                await self._answer_all(task, reader, writer)
        except UsageError as error:
            log.error("all requests are refused: %s", error)
        except (OSError, EOFError, TimeoutError, asyncio.IncompleteReadError, asyncio.CancelledError) as error:
            log.debug("a connection ended: %r", error)
        except Exception:
            log.exception("a connection failed")
        finally:
            self._waiting.pop(task, None)
            self._untaken.pop(task, None)
            if writer is None:
                connection.close()
            elif writer.transport.get_write_buffer_size():
                writer.transport.abort()
            else:
                writer.close()

    async def _answer_all(
        self, task: asyncio.Task[None], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        patience = HEAD_SECONDS
        keep_alive = True
        while keep_alive:
            self._waiting[task] = 0
            async with asyncio.timeout(patience):
                first = await reader.readexactly(1)
            keep_alive = with_body = False
            try:
                async with asyncio.timeout(HEAD_SECONDS):
                    request = parse_head(first + await reader.readuntil(b"\r\n\r\n"))
            except asyncio.LimitOverrunError:
                response, with_body = _text(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE), True
            except BadRequestError as error:
                response, with_body = _text(HTTPStatus.BAD_REQUEST, str(error)), True
            else:
                self._waiting.pop(task, None)
                response = await self._answer(request)
                keep_alive, with_body = request.keep_alive, request.method != "HEAD"
            await self._send(task, writer, render_response(response, keep_alive=keep_alive, with_body=with_body))
            patience = _IDLE_SECONDS

    async def _send(self, task: asyncio.Task[None], writer: asyncio.StreamWriter, answer: bytes) -> None:
        """Sends the answer and waits until the client has read it.

        Past the limit, the oldest unread answers are dropped.
        """
        self._untaken[task] = len(answer)
        while sum(self._untaken.values()) > _MOST_UNTAKEN_BYTES and next(iter(self._untaken)) is not task:
            oldest = next(iter(self._untaken))
            del self._untaken[oldest]
            oldest.cancel()
        async with asyncio.timeout(TAKE_SECONDS):
            writer.write(answer)
            await writer.drain()
        self._untaken.pop(task, None)

    async def _answer(self, request: Request) -> Response:
        began = time.monotonic()
        config = self._watched.current()
        if config.rate_limit and not self._bucket.take(config.rate_limit, began):
            return _with(_text(HTTPStatus.TOO_MANY_REQUESTS), config)
        if config.users:
            welcome = await self._may_enter(config.users, request)
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

    async def _may_enter(self, users: Mapping[str, str], request: Request) -> bool | None:
        """Whether the request carries a user and the right password; None if too many requests wait to be verified.

        Credentials that were verified before do not wait: guessing clients cannot lock out Prometheus.
        """
        authorization = request.headers.get("authorization", "")
        if self._gate.remembers(users, authorization):
            return True
        if self._verifying >= _MOST_VERIFYING:
            return None
        self._verifying += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._verifier, self._gate.verify, users, authorization)
        finally:
            self._verifying -= 1

    async def _metrics(self, request: Request, began: float) -> Response:
        until = began + scrape_seconds(request)
        compress = accepts_gzip(request)

        def work() -> bytes | None:
            seconds = until - time.monotonic()
            if seconds <= 0:  # it waited too long for one of the few threads
                return None
            body = self._scrape(seconds)
            return gzip.compress(body, compresslevel=1, mtime=0) if compress else body

        body = await asyncio.get_running_loop().run_in_executor(self._threads, work)
        if body is None:
            return _text(HTTPStatus.SERVICE_UNAVAILABLE, "too many scrapes at once")
        headers = {"Vary": "Accept-Encoding"} | ({"Content-Encoding": "gzip"} if compress else {})
        return Response(HTTPStatus.OK, body, exposition.CONTENT_TYPE, headers)


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
