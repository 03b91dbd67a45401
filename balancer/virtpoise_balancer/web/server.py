"""Serves an application in its own thread, over TLS if a certificate is configured."""

from __future__ import annotations

import socket
import ssl
import threading

import uvicorn
from starlette.applications import Starlette

from virtpoise_balancer.config import Web
from virtpoise_balancer.errors import BadInput

_MOST_CONNECTIONS = 512
_GRACE_SECONDS = 1


class WebServer:
    """BadInput if the address is not available, or the certificate and its key cannot be used."""

    def __init__(self, app: Starlette, web: Web) -> None:
        self._web = web
        self._config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            limit_concurrency=_MOST_CONNECTIONS,
            timeout_graceful_shutdown=_GRACE_SECONDS,
            ssl_certfile=web.cert_file,
            ssl_keyfile=web.key_file,
        )
        try:
            self._config.load()
        except (OSError, ssl.SSLError) as error:
            raise BadInput(f"web.cert_file, web.key_file: expected a certificate and its key: {_said(error)}") from None
        self._socket = listen(web.listen_address)
        self._server = uvicorn.Server(self._config)
        self._thread = threading.Thread(
            target=lambda: self._server.run(sockets=[self._socket]), name="web", daemon=True
        )

    @property
    def port(self) -> int:
        return int(self._socket.getsockname()[1])

    def start(self) -> None:
        self._thread.start()

    def renew_certificate(self) -> None:
        """Load the certificate again; open connections keep the old one. After BadInput the old one stays in use."""
        if self._config.ssl is None or self._web.cert_file is None:
            return
        try:
            self._config.ssl.load_cert_chain(self._web.cert_file, self._web.key_file)
        except (OSError, ssl.SSLError) as error:
            raise BadInput(f"web.cert_file, web.key_file: expected a certificate and its key: {_said(error)}") from None

    @property
    def stopping(self) -> bool:
        return self._server.should_exit

    def stop(self) -> None:
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join(timeout=5)
        self._socket.close()


def listen(address: str) -> socket.socket:
    """A listening socket at a host and a port. BadInput when there can be none."""
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named, asyncio disables Nagle's algorithm; otherwise an answer in two writes waits 40 ms.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        # Resolved, so that an IPv6 address keeps its zone.
        found = socket.getaddrinfo(host.strip("[]"), int(port), family, socket.SOCK_STREAM)
        listening.bind(found[0][4])
        listening.listen()
    except OSError as error:
        listening.close()
        raise BadInput(f"web.listen_address: {address}: {error.strerror}") from None
    return listening


def _said(error: OSError) -> str:
    return str(getattr(error, "reason", None) or error.strerror or error)
