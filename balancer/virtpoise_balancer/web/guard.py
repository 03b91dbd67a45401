"""Access over HTTP: security headers of every answer, the host names that are answered, and what an order needs."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import re
from base64 import b64decode
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import unquote, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from virtpoise_balancer.config import Web
from virtpoise_balancer.control.orders import By
from virtpoise_balancer.errors import BadInput, VirtpoiseError
from virtpoise_balancer.knowledge.records import STRANGER
from virtpoise_balancer.tokens import USER_HEADER, TokenRole, known, may, read_tokens, user_name
from virtpoise_balancer.web.connections import Peer, place_of
from virtpoise_balancer.web.fair import FairAnswers
from virtpoise_balancer.web.pace import Pace

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
_WATCHED = frozenset({"/-/healthy", "/-/ready", "/metrics"})
_ALWAYS_READABLE = frozenset({"/-/healthy", "/-/ready"})
_LONGEST_USER = 64
# A name or an address and a port, without what else an address may have, such as a user.
_OF_HOST = re.compile(r"[^\s@/?#\\]*")
_LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


class Forbidden(VirtpoiseError):
    """An order that is rejected without a look at its content. ``status``: the HTTP status of the answer."""

    def __init__(self, status: HTTPStatus, why: str, challenge: str = "Bearer") -> None:
        super().__init__(why)
        self.status = status
        self.challenge = challenge


@dataclass(frozen=True, slots=True)
class Gate:
    """Admits orders that come from this page or a program, over TLS or on this machine, with a token of the file."""

    web: Web

    def closed(self, connection: HTTPConnection) -> str | None:
        """Why no order is accepted over this connection, or None."""
        if (peer := _peer(connection)) is not None:
            if self._trusts(peer):
                return None
            return f"over {self.web.socket} only root and the balancer's own user may order (see web.socket_group)"
        if self.web.token_file is None:
            return "web.token_file is not set, so no orders are possible here"
        if connection.scope["scheme"] != "https" and not is_loopback(_client(connection)):
            return "orders are accepted only over TLS, or on the balancer's own machine"
        return None

    def _trusts(self, peer: Peer) -> bool:
        # With a group, the socket's file mode lets in only its members.
        return peer.uid in (0, os.geteuid()) or self.web.socket_group is not None

    def admit(self, connection: HTTPConnection, needed: TokenRole) -> By:
        """Who orders. Forbidden gives the reason, and nothing of a wrong token is kept or shown."""
        headers = connection.headers
        if not self._from_here(headers):
            raise Forbidden(HTTPStatus.FORBIDDEN, "the order comes from another site's page")
        if why := self.closed(connection):
            raise Forbidden(HTTPStatus.FORBIDDEN, why)
        peer = _peer(connection)
        who = user_name(peer.uid) if peer is not None else self._owner(headers, needed)
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise Forbidden(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "expected application/json")
        user = unquote(headers.get(USER_HEADER, who))
        if not user.isprintable() or not 0 < len(user) <= _LONGEST_USER:
            raise Forbidden(HTTPStatus.BAD_REQUEST, f"{USER_HEADER}: expected a name")
        if user == who:
            return By(who, _client(connection))
        if peer is not None:
            if peer.uid != 0:
                raise Forbidden(HTTPStatus.FORBIDDEN, f"{USER_HEADER}: only root orders for another user")
            return By(f"{user} (as root)", _client(connection))
        return By(f"{user} (token of {who})", _client(connection))

    def may_read(self, connection: HTTPConnection) -> None:
        """Forbidden where ``web.read`` asks for a token and there is none that is known."""
        if self.web.read == "everyone":
            return
        peer = _peer(connection)
        if peer is None:
            self._owner(connection.headers, "read", basic=True)
        elif not self._trusts(peer):
            raise Forbidden(HTTPStatus.FORBIDDEN, "web.read: only root and the balancer's own user may read here")

    def hides_names(self, connection: HTTPConnection) -> Forbidden | None:
        """Why who orders must not learn which groups, hosts and domains there are, or None: as the order itself would
        be refused, so that a wrong name and a right one have the same answer.
        """
        if self.web.read == "everyone" or connection.scope["method"] in ("GET", "HEAD"):
            return None  # who reads has been let in
        try:
            self.admit(connection, "read")
        except Forbidden as error:
            return error
        return None

    def _owner(self, headers: Headers, needed: TokenRole, *, basic: bool = False) -> str:
        """The owner of the token that came along. Forbidden unless it is known and its role suffices.

        ``basic``: HTTP's basic authentication is accepted too, with the owner as user and the token as password:
        browsers attach it to every request, so it is good enough for reading only.
        """
        assert self.web.token_file is not None  # noqa: S101 - closed() and the configuration have seen to it
        challenge = "Basic" if basic else "Bearer"
        scheme, _, given = headers.get("authorization", "").partition(" ")
        name = None
        if basic and scheme.lower() == "basic":
            name, given = _basic(given)
        elif scheme.lower() != "bearer":
            given = ""
        if not given.strip():
            raise Forbidden(HTTPStatus.UNAUTHORIZED, "a token is needed", challenge)
        try:
            token = known(read_tokens(self.web.token_file).values(), given.strip())
        except BadInput as error:
            raise Forbidden(HTTPStatus.FORBIDDEN, str(error)) from None
        if token is None or name not in (None, token.owner):
            raise Forbidden(HTTPStatus.UNAUTHORIZED, "the token is wrong", challenge)
        if not may(token.role, needed):
            raise Forbidden(
                HTTPStatus.FORBIDDEN, f"the token of {token.owner} has role {token.role}; this needs role {needed}"
            )
        return token.owner

    def anybody(self, connection: HTTPConnection) -> By:
        return By(STRANGER, _client(connection))

    def _from_here(self, headers: Headers) -> bool:
        """Whether the request may come from our page.

        Browsers send its origin (Fetch metadata, Origin); programs do not.
        """
        if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return False
        own = {headers.get("host", "")}
        if self.web.external_url:
            own.add(urlsplit(self.web.external_url).netloc)
        try:
            return all(urlsplit(origin).netloc in own for origin in headers.getlist("origin"))
        except ValueError:
            return False


def is_loopback(address: str) -> bool:
    """Whether the address is one of this machine's loopback addresses, also an IPv4 one that is written as IPv6."""
    found = _parsed(address)
    return found is not None and (getattr(found, "ipv4_mapped", None) or found).is_loopback


def _parsed(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return None


def _name(host_header: str) -> str | None:
    if not _OF_HOST.fullmatch(host_header):
        return None
    try:
        return urlsplit("//" + host_header).hostname
    except ValueError:
        return None


def _client(connection: HTTPConnection) -> str:
    """The address, or "socket"."""
    if _peer(connection) is not None:
        return "socket"
    return connection.client.host if connection.client else ""


def _peer(connection: HTTPConnection) -> Peer | None:
    found = connection.scope.get("state", {}).get("peer")
    return found if isinstance(found, Peer) else None


def _basic(credentials: str) -> tuple[str, str]:
    try:
        name, _, password = b64decode(credentials, validate=True).decode("ascii").partition(":")
    except ValueError:
        return "", ""
    return name, password


class Guard:
    """Wraps the application: the pace of each address and its turns, the names that it answers to, who may read, and
    headers for every answer.

    On loopback it answers only to this machine's names and the external address, so that no other site's page can read
    it by giving its own name this machine's address (DNS rebinding). Where it listens at a name, such as the host's own
    that /etc/hosts gives a loopback address, the connection's own address says whether that is loopback.
    """

    def __init__(self, app: ASGIApp, gate: Gate) -> None:
        self._app = app
        self._gate = gate
        self._pace = Pace()
        self._answers = FairAnswers()
        web = gate.web
        host = web.listen_address.rpartition(":")[0].strip("[]").lower()
        external = urlsplit(web.external_url).hostname if web.external_url else None
        self._names = _LOCAL_NAMES | {host} | ({external} if external else set())
        self._at_name = _parsed(host) is None
        self._on_loopback = is_loopback(host) or host == "localhost"

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

        connection = HTTPConnection(scope)
        who = f"{_kind(connection)} of {counted_for(connection)}"
        wait = self._pace.wait_seconds(who)
        if wait is None:
            await _too_many()(scope, receive, with_headers)
            return
        if wait:
            await asyncio.sleep(wait)
        app = self._refused(connection) or self._app
        if scope["method"] not in ("GET", "HEAD"):
            await app(scope, receive, with_headers)
            return
        async with self._answers.turn(who) as written:
            if written is None:
                await _too_many()(scope, receive, with_headers)
                return

            async def with_turn(message: Message) -> None:
                if message["type"] == "http.response.start":
                    written()
                await with_headers(message)

            await app(scope, receive, with_turn)

    def _refused(self, connection: HTTPConnection) -> Response | None:
        headers = connection.headers
        if "content-length" in headers and "transfer-encoding" in headers:  # a proxy may go by the other one
            return PlainTextResponse("The length of the body is given twice.\n", 400, {"Connection": "close"})
        if self._is_local(connection) and _name(connection.headers.get("host", "")) not in self._names:
            return PlainTextResponse("This host name is not served here: see web.external_url.\n", 421)
        if connection.scope["method"] in ("GET", "HEAD") and connection.scope["path"] not in _ALWAYS_READABLE:
            try:
                self._gate.may_read(connection)
            except Forbidden as error:
                return refused(error)
        return None

    def _is_local(self, connection: HTTPConnection) -> bool:
        """Whether only this machine's names are answered over this connection."""
        if _peer(connection) is not None:
            return False
        reached, _ = connection.scope.get("server") or ("", None)
        return self._on_loopback or (self._at_name and is_loopback(reached))


def _too_many() -> Response:
    return PlainTextResponse("Too many requests from this address.\n", 429, {"Retry-After": "2"})


def _kind(connection: HTTPConnection) -> str:
    """The kind of a request. Each kind has a pace of its own, so that a flood of one leaves the others alone."""
    if connection.scope["method"] not in ("GET", "HEAD"):
        return "orders"
    return "metrics" if connection.scope["path"] in _WATCHED else "reading"


def counted_for(connection: HTTPConnection) -> str:
    """Whose requests and listeners these count as."""
    peer = _peer(connection)
    return f"uid {peer.uid}" if peer is not None else place_of(_client(connection))


def refused(error: Forbidden) -> Response:
    """The response to a request that is refused before it is read."""
    headers = {}
    if error.status is HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = f'{error.challenge} realm="virtpoise"'
    return JSONResponse({"error": str(error)}, error.status, headers)
