"""One HTTP exchange with Prometheus: a deadline for the whole of it, a bound on the reply, and how the balancer
authenticates.

The connection's own timeouts bound each wait for a byte, not the exchange: a server that sends a byte now and then
would be waited for without end. So a timer closes the socket at the deadline. Only the resolver's own time limit is not
covered.
"""

from __future__ import annotations

import ssl
import threading
import zlib
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from socket import SHUT_RDWR, socket
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from virtpoise_balancer.errors import BadInput, MonitorBadReply, MonitorError
from virtpoise_balancer.secret_files import check_secret, load_certificate, read_secret

_CHUNK_BYTES = 1 << 16
_GZIP = 16 + zlib.MAX_WBITS


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How Prometheus is reached and how it knows the balancer. Files are read at each request, because secrets are
    renewed.

    ``secret_file``: of ``scheme`` (Bearer or another), or the password of ``user``; ``secret_key``: its key in the
    configuration. ``headers``: further headers; ``header_files``: those whose values are secrets.
    """

    secret_file: Path | None = None
    secret_key: str = "prometheus.token_file"  # noqa: S105 - its name
    scheme: str = "Bearer"
    user: str | None = None
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    server_name: str | None = None
    insecure_skip_verify: bool = False
    proxy_url: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    header_files: Mapping[str, Path] = field(default_factory=dict)

    def request_headers(self) -> dict[str, str]:
        """The headers of a request. BadInput when a file with a secret cannot be used."""
        found = dict(self.headers)
        for name, path in self.header_files.items():
            found[name] = _one_line(read_secret(path, f"prometheus.http_config.http_headers.{name}.files"), name)
        if self.secret_file is not None:
            secret = _one_line(read_secret(self.secret_file, self.secret_key), self.secret_key)
            if self.user is not None:
                credentials = b64encode(f"{self.user}:{secret}".encode()).decode()
                found["Authorization"] = f"Basic {credentials}"
            else:
                found["Authorization"] = f"{self.scheme} {secret}"
        return found

    def check(self) -> None:
        """Check what a request needs. BadInput when a file with a secret, or the pair of the client's certificate and
        key, cannot be used.
        """
        self.request_headers()
        if self.cert_file is not None and self.key_file is not None:
            load_certificate(self.cert_file, self.key_file, "prometheus.http_config.tls_config")

    @property
    def verify(self) -> str | bool:
        if self.insecure_skip_verify:
            return False
        system = ssl.get_default_verify_paths()
        return str(self.ca_file or system.cafile or system.capath or "") or True


def _one_line(text: str, field: str) -> str:
    text = text.strip()
    if not text.isprintable() or not text:
        raise BadInput(f"{field}: expected one line of text")
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A server's reply. ``content``: decompressed; ``reason``: the text of the status."""

    status: int
    reason: str
    headers: Mapping[str, str]
    content: bytes


class Http:
    """Exchanges with the server at ``url``. Keeps open connections and nothing else, so several threads may use it."""

    def __init__(self, url: str, access: Access, most_bytes: int) -> None:
        self._url = url
        self._access = access
        self._most_bytes = most_bytes
        self._session = requests.Session()
        self._session.trust_env = False  # neither ~/.netrc nor proxies of the environment
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))  # each reply could bring megabytes
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, _Adapter(access.server_name))

    def close(self) -> None:
        self._session.close()

    def exchange(self, method: str, path: str, seconds: float, form: Mapping[str, str] | None = None) -> Reply:
        """The reply within ``seconds``.

        MonitorError when there is none; MonitorBadReply when a second request would not help.
        """
        access = self._access
        try:
            headers = {"Accept-Encoding": "gzip", **access.request_headers()}
            if access.key_file is not None:
                check_secret(access.key_file, "prometheus.http_config.tls_config.key_file")
        except BadInput as error:
            raise MonitorBadReply(str(error)) from None
        with _deadline(seconds) as timer:
            try:
                with self._session.request(
                    method,
                    self._url + path,
                    data=form,
                    headers=headers,
                    timeout=seconds,
                    verify=access.verify,
                    cert=(str(access.cert_file), str(access.key_file)) if access.cert_file else None,
                    proxies={"http": access.proxy_url, "https": access.proxy_url} if access.proxy_url else None,
                    allow_redirects=False,
                    stream=True,
                ) as response:
                    content = self._content(response)
            except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
                why = "no answer within the deadline" if timer.expired else reason(error)
                raise MonitorError(f"Prometheus at {self._url} cannot be asked: {why}") from None
            except OSError as error:  # a file, before anybody was asked
                raise MonitorBadReply(f"prometheus.ca_file or http_config.tls_config: {error}") from None
        if timer.expired:
            raise MonitorError(f"Prometheus at {self._url} cannot be asked: no answer within the deadline")
        return Reply(
            status=response.status_code, reason=response.reason or "", headers=response.headers, content=content
        )

    def _content(self, response: requests.Response) -> bytes:
        coding = response.headers.get("Content-Encoding", "identity").strip().lower()
        if coding not in ("identity", "gzip"):
            raise MonitorBadReply(f"Prometheus at {self._url}: expected gzip as Content-Encoding, got {coding[:40]!r}")
        unpack = zlib.decompressobj(_GZIP) if coding == "gzip" else None
        found, taken = bytearray(), 0
        while chunk := response.raw.read(_CHUNK_BYTES, decode_content=False):
            taken += len(chunk)
            room = self._most_bytes - len(found) + 1
            try:
                found += unpack.decompress(chunk, room) if unpack else chunk
            except zlib.error:
                raise MonitorBadReply(f"Prometheus at {self._url}: the reply is not the gzip that it claims") from None
            if max(len(found), taken) > self._most_bytes:
                raise MonitorBadReply(f"Prometheus at {self._url}: the reply exceeds {self._most_bytes} bytes")
            if unpack and unpack.unused_data:
                raise MonitorBadReply(f"Prometheus at {self._url}: the reply goes on after its end")
        if unpack and not unpack.eof:
            raise MonitorError(f"Prometheus at {self._url} cannot be asked: the reply ends too early")
        return bytes(found)


def reason(error: BaseException) -> str:
    """What went wrong, in one line."""
    if isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError):
        return "no answer within the deadline"
    cause: BaseException = error
    while (inner := cause.__cause__ or cause.__context__ or _inner(cause)) is not None:
        cause = inner
    return (getattr(cause, "strerror", None) or str(cause) or type(cause).__name__).splitlines()[0]


def _inner(error: BaseException) -> BaseException | None:
    reason = getattr(error, "reason", None)
    return reason if isinstance(reason, BaseException) else None


# --- the deadline -----------------------------------------------------------------------------------------------------


class _Timer:
    """Closes the sockets of one exchange at its deadline."""

    def __init__(self) -> None:
        self.expired = False
        self._lock = threading.Lock()
        self._sockets: list[socket] = []

    def watch(self, sock: socket) -> None:
        with self._lock:
            self._sockets.append(sock)
            if self.expired:
                _shut(sock)

    def expire(self) -> None:
        with self._lock:
            self.expired = True
            for sock in self._sockets:
                _shut(sock)


def _shut(sock: socket) -> None:
    with suppress(OSError):  # it is closed already
        socket.shutdown(sock, SHUT_RDWR)  # not the TLS socket's own: that one drops its encryption


_current = threading.local()  # the timer of the exchange that this thread makes


@contextmanager
def _deadline(seconds: float) -> Iterator[_Timer]:
    timer = _Timer()
    alarm = threading.Timer(seconds, timer.expire)
    alarm.daemon = True
    _current.timer = timer
    alarm.start()
    try:
        yield timer
    finally:
        alarm.cancel()
        _current.timer = None


def _watch(sock: Any) -> None:
    timer = getattr(_current, "timer", None)
    if timer is not None and sock is not None:
        timer.watch(sock)


class _Connection(HTTPConnection):
    def _new_conn(self) -> socket:
        sock = super()._new_conn()
        _watch(sock)
        return sock

    def request(self, *args: Any, **kwargs: Any) -> None:
        _watch(self.sock)  # one that an earlier exchange left open
        super().request(*args, **kwargs)


class _TlsConnection(HTTPSConnection):
    def _new_conn(self) -> socket:
        sock = super()._new_conn()
        _watch(sock)
        return sock

    def connect(self) -> None:
        super().connect()
        _watch(self.sock)  # TLS has taken the plain socket's place

    def request(self, *args: Any, **kwargs: Any) -> None:
        _watch(self.sock)
        super().request(*args, **kwargs)


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


class _Adapter(HTTPAdapter):
    """Connections that a deadline closes, to a server whose certificate bears ``server_name`` where that is not its
    address.
    """

    def __init__(self, server_name: str | None) -> None:
        self._name: dict[str, Any] = (
            {"server_hostname": server_name, "assert_hostname": server_name} if server_name else {}
        )
        super().__init__()

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **kwargs: Any) -> None:
        super().init_poolmanager(connections, maxsize, block, **kwargs, **self._name)
        self._watch_pools(self.poolmanager)

    def proxy_manager_for(self, proxy: Any, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **kwargs, **self._name)
        self._watch_pools(manager)
        return manager

    @staticmethod
    def _watch_pools(manager: Any) -> None:
        manager.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}
