"""Serves an application in a thread of its own: over TCP, with TLS where a certificate is configured, and over a Unix
socket.
"""

from __future__ import annotations

import asyncio
import errno
import grp
import logging
import os
import socket
import stat
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import structlog
import uvicorn
from anyio import to_thread
from starlette.applications import Starlette

from virtpoise_balancer.config import Web
from virtpoise_balancer.errors import BadInput
from virtpoise_balancer.secret_files import load_certificate
from virtpoise_balancer.web.connections import (
    ACCEPTED_AT_ONCE,
    RECEIVED_BYTES,
    SENT_BYTES,
    BoundedProtocol,
    Connections,
    Listener,
)

log = structlog.get_logger()

_GRACE_SECONDS = 1
_KEEP_ALIVE_SECONDS = 5
_MOST_HEAD_BYTES = 16 * 1024
# Threads that answer readers at once; other readers wait. All that asked while the balancer was held come together.
_MOST_READERS = 8


class WebServer:
    """Serves the page and the API in a thread of its own. ``open`` makes one."""

    def __init__(self, web: Web, config: uvicorn.Config, serving: Sequence[tuple[uvicorn.Server, Listener]]) -> None:
        """A server that is ready to start.

        ``config``: with the certificate. ``serving``: the servers with their sockets, the first of the network.
        """
        self._web, self._config, self._serving = web, config, serving
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="web", daemon=True)

    @classmethod
    def open(cls, app: Starlette, web: Web) -> WebServer:
        """The server, with its certificate read and its sockets open. BadInput if the address is not available, or the
        certificate and its key cannot be used.
        """
        # What it would log is what strangers send.
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
        config = _config(app, ssl_certfile=web.cert_file, ssl_keyfile=web.key_file)
        if web.cert_file is not None:
            load_certificate(web.cert_file, web.key_file, "web")
        try:
            config.load()
        except OSError as error:
            raise BadInput(f"web.cert_file, web.key_file: expected a certificate and its key: {_said(error)}") from None
        listening = listen(web.listen_address, tls=web.cert_file is not None)
        try:
            local = listen_locally(web)
        except BadInput:
            listening.close()
            raise
        serving = [(uvicorn.Server(config), listening)]
        if local is not None:
            serving.append((uvicorn.Server(_config(app)), local))
        return cls(web, config, serving)

    async def _serve(self) -> None:
        to_thread.current_default_thread_limiter().total_tokens = _MOST_READERS
        await asyncio.gather(*(server.serve(sockets=[listening]) for server, listening in self._serving))

    @property
    def port(self) -> int:
        return int(self._serving[0][1].getsockname()[1])

    def start(self) -> None:
        self._thread.start()

    def renew_certificate(self) -> None:
        """Load the certificate again; open connections keep the old one. After BadInput the old one stays in use."""
        if self._config.ssl is None or self._web.cert_file is None:
            return
        load_certificate(self._web.cert_file, self._web.key_file, "web", self._config.ssl)

    @property
    def stopping(self) -> bool:
        return any(server.should_exit for server, _ in self._serving)

    def stop(self) -> None:
        for server, listening in self._serving:
            # While it is open no other file has its number. What has taken its place stays.
            if listening.file is not None and listening.file == _file_at(self._web.socket):
                self._web.socket.unlink(missing_ok=True)
            server.should_exit = True
        if self._thread.is_alive():
            self._thread.join(timeout=5)
        for _, listening in self._serving:
            listening.close()


def _config(app: Starlette, **tls: Any) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=cast(Any, BoundedProtocol),
        ws="none",
        loop="asyncio",
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        proxy_headers=False,
        backlog=ACCEPTED_AT_ONCE,
        h11_max_incomplete_event_size=_MOST_HEAD_BYTES,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_GRACE_SECONDS,
        **tls,
    )


def listen(address: str, *, tls: bool) -> Listener:
    """A listening socket at a host and a port. BadInput when there can be none."""
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Named as TCP, asyncio sends each answer at once; otherwise an answer in two writes waits 40 ms for an
    # acknowledgement.
    listening = Listener(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.connections = Connections(tls=tls)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Its connections inherit them.
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVED_BYTES)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SENT_BYTES)
    try:
        # Resolved, so that an IPv6 address keeps its zone.
        found = socket.getaddrinfo(host.strip("[]"), int(port), family, socket.SOCK_STREAM)
        listening.bind(found[0][4])
        listening.listen()
    except OSError as error:
        listening.close()
        raise BadInput(f"web.listen_address: {address}: {error.strerror}") from None
    return listening


def listen_locally(web: Web) -> Listener | None:
    """The Unix socket for commands on this machine.

    None, with a line in the log, where the default one cannot be had.
    """
    try:
        return _listen_at(web.socket, web.socket_group)
    except (OSError, KeyError) as error:
        why = error.strerror if isinstance(error, OSError) else f"there is no group {web.socket_group}"
        if {"socket", "socket_group"} & web.model_fields_set:
            raise BadInput(f"web.socket: {web.socket}: {why}") from None
        log.info("the socket for local commands cannot be opened", path=str(web.socket), why=why)
        return None


def _listen_at(path: Path, group: str | None) -> Listener:
    if path.parent.stat().st_mode & stat.S_IWOTH:
        raise OSError(errno.EPERM, "other users may write to its folder")
    _remove_stale(path)
    listening = Listener(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.connections = Connections(tls=False)
    try:
        before = os.umask(0o177)
        try:
            listening.bind(str(path))
            listening.file = _file_at(path)
            listening.listen()  # at once: another balancer would take it for one that was left behind
        finally:
            os.umask(before)
        if group is not None:
            os.chown(path, -1, grp.getgrnam(group).gr_gid)
        # Who may do what is decided for each request, by the user at the other end; with a group, its members alone get
        # in.
        path.chmod(0o666 if group is None else 0o660)
    except BaseException:
        listening.close()
        raise
    return listening


def _file_at(path: Path) -> tuple[int, int] | None:
    """Which file the path names, links not followed: its device and number. None where there is none."""
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _remove_stale(path: Path) -> None:
    """Remove the socket of a balancer that was killed. OSError when another one answers there, or it is no socket."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise OSError(errno.EEXIST, "expected a socket or nothing")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as trial:
        trial.setblocking(False)
        try:
            trial.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
        except BlockingIOError:  # its queue is full: it listens, and accepts nothing
            raise OSError(errno.EADDRINUSE, "another balancer listens there, and answers nothing") from None
        else:
            raise OSError(errno.EADDRINUSE, "another balancer listens there")


def _said(error: OSError) -> str:
    return str(getattr(error, "reason", None) or error.strerror or error)
