"""Access over HTTP: security headers of every answer, the host names that are answered, and what an order needs."""

from __future__ import annotations

import ipaddress
import threading
import time
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import unquote, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from virtpoise_balancer.config import Web
from virtpoise_balancer.control.orders import By
from virtpoise_balancer.errors import BadInput, VirtpoiseError
from virtpoise_balancer.tokens import USER_HEADER, owner, read_tokens

# A page may load only files of this server: nothing inline, nothing framed, nothing sent to other sites.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
NOBODY = "?"
_LONGEST_USER = 64
_LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]", "::1"})


class Forbidden(VirtpoiseError):
    """An order that is rejected without a look at its content. ``status``: the HTTP status of the answer."""

    def __init__(self, status: HTTPStatus, why: str) -> None:
        super().__init__(why)
        self.status = status


@dataclass(frozen=True, slots=True)
class Gate:
    """Admits orders that come from this page or a program, over TLS or on this machine, with a token of the file."""

    web: Web

    def closed(self, connection: HTTPConnection) -> str | None:
        """Why no order is possible over this connection, or None."""
        if self.web.token_file is None:
            return "web.token_file is not set, so no orders are possible here"
        if connection.url.scheme != "https" and not is_loopback(_client(connection)):
            return "orders are accepted only over TLS, or on the balancer's own machine"
        return None

    def admit(self, connection: HTTPConnection) -> By:
        """Who gives the order.

        Forbidden with the reason if it is not admitted; a wrong token is neither stored nor shown.
        """
        headers = connection.headers
        if not self._from_here(headers):
            raise Forbidden(HTTPStatus.FORBIDDEN, "the order comes from another site's page")
        if why := self.closed(connection):
            raise Forbidden(HTTPStatus.FORBIDDEN, why)
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise Forbidden(HTTPStatus.UNAUTHORIZED, "a token is needed")
        assert self.web.token_file is not None  # noqa: S101 - closed() has seen to it
        try:
            who = owner(read_tokens(self.web.token_file), token.strip())
        except BadInput as error:
            raise Forbidden(HTTPStatus.FORBIDDEN, str(error)) from None
        if who is None:
            raise Forbidden(HTTPStatus.UNAUTHORIZED, "the token is wrong")
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise Forbidden(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "expected application/json")
        user = unquote(headers.get(USER_HEADER, who))
        if not user.isprintable() or not 0 < len(user) <= _LONGEST_USER:
            raise Forbidden(HTTPStatus.BAD_REQUEST, f"{USER_HEADER}: expected a name")
        return By(who if user == who else f"{user} (token of {who})", _client(connection))

    def anybody(self, connection: HTTPConnection) -> By:
        return By(NOBODY, _client(connection))

    def _from_here(self, headers: Headers) -> bool:
        """Whether the request may come from our page.

        Browsers send its origin (Fetch metadata, Origin); programs do not.
        """
        if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return False
        origin = headers.get("origin")
        if origin is None:
            return True
        own = {headers.get("host", "")}
        if self.web.external_url:
            own.add(urlsplit(self.web.external_url).netloc)
        return urlsplit(origin).netloc in own


def is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return False


def _name(host_header: str) -> str | None:
    try:
        return urlsplit("//" + host_header).hostname
    except ValueError:
        return None


def _client(connection: HTTPConnection) -> str:
    return connection.client.host if connection.client else ""


class Guard:
    """Middleware: security headers, and on loopback a check of the request's host name.

    Only this machine's names and that of ``external_url`` are answered. So a page of another site cannot read by
    pointing its own name to this machine's address (DNS rebinding).
    """

    def __init__(self, app: ASGIApp, web: Web) -> None:
        self._app = app
        host = web.listen_address.rpartition(":")[0]
        self._names: frozenset[str] | None = None
        if is_loopback(host.strip("[]")) or host == "localhost":
            external = urlsplit(web.external_url).hostname if web.external_url else None
            self._names = _LOCAL_NAMES | {host} | ({external} if external else set())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=message["headers"])
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("Cache-Control", "no-store")
                message["headers"] = headers.raw
            await send(message)

        if self._names is not None and _name(Headers(scope=scope).get("host", "")) not in self._names:
            refused = PlainTextResponse("This host name is not served here: see web.external_url.\n", 421)
            await refused(scope, receive, with_headers)
            return
        await self._app(scope, receive, with_headers)


@dataclass(slots=True)
class Bucket:
    """A token bucket: ``rate`` a second and ``burst`` at once.

    It limits how many rejected orders of strangers are journalled.
    """

    rate: float
    burst: float
    _level: float = 0.0
    _at: float = field(default_factory=time.monotonic)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self) -> bool:
        with self._lock:
            now = time.monotonic()
            self._level = max(self._level - (now - self._at) * self.rate, 0.0)
            self._at = now
            if self._level + 1 > self.burst:
                return False
            self._level += 1
            return True
