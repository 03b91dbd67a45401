"""The balancer's HTTP application: the same words as Prometheus' own (/-/healthy, /-/ready, /-/reload, /metrics), and the status."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from dataclasses import asdict

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from virtpoise_balancer.errors import BadInput
from virtpoise_balancer.knowledge.store import Store
from virtpoise_balancer.web.board import Board, status
from virtpoise_balancer.web.metrics import Metrics

_LOOPBACK = ("127.0.0.1", "::1")
_MOST_HISTORY = 1000


def make_app(board: Board, metrics: Metrics, store: Store, reload: Callable[[], None]) -> Starlette:
    def healthy(_request: Request) -> Response:
        return PlainTextResponse("virtpoise is healthy.\n")

    def ready(_request: Request) -> Response:
        if board.state.cycle_at is None:
            return PlainTextResponse("No cycle has run yet.\n", 503)
        return PlainTextResponse("virtpoise is ready.\n")

    def do_reload(request: Request) -> Response:
        # Changing anything from another machine needs more than an open port.
        if request.client is None or request.client.host not in _LOOPBACK or "origin" in request.headers:
            return PlainTextResponse("Reload is for this machine alone.\n", 403)
        reload()
        return PlainTextResponse("The configuration is read again before the next cycle.\n")

    def show_metrics(_request: Request) -> Response:
        return Response(metrics.exposition(), media_type=CONTENT_TYPE_LATEST)

    def show_status(_request: Request) -> Response:
        return JSONResponse(asdict(status(board)))

    def show_history(request: Request) -> Response:
        limit = request.query_params.get("limit", "20")
        if not limit.isascii() or not limit.isdigit() or not 1 <= int(limit) <= _MOST_HISTORY:
            return JSONResponse({"error": f"limit: expected 1 to {_MOST_HISTORY}, got {limit!r}"}, 400)
        return JSONResponse([asdict(record) for record in store.history(int(limit))])

    return Starlette(
        routes=[
            Route("/-/healthy", healthy),
            Route("/-/ready", ready),
            Route("/-/reload", do_reload, methods=["POST"]),
            Route("/metrics", show_metrics),
            Route("/api/v1/status", show_status),
            Route("/api/v1/history", show_history),
        ]
    )


class WebServer:
    """Serves an application in a thread of its own. BadInput when the address cannot be had."""

    def __init__(self, app: Starlette, listen_address: str) -> None:
        host, _, port = listen_address.rpartition(":")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((host.strip("[]"), int(port)))
            self._socket.listen()
        except OSError as error:
            self._socket.close()
            raise BadInput(f"web.listen_address: {listen_address}: {error.strerror}") from None
        self._server = uvicorn.Server(
            uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=1)
        )
        self._thread = threading.Thread(
            target=lambda: self._server.run(sockets=[self._socket]), name="web", daemon=True
        )

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join(timeout=5)
        self._socket.close()
