"""The balancer's HTTP application: page, API, /metrics, and the same /-/healthy, /-/ready, /-/reload as Prometheus."""

from __future__ import annotations

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from virtpoise_balancer.errors import StoreError
from virtpoise_balancer.web import api
from virtpoise_balancer.web.context import Context
from virtpoise_balancer.web.guard import Guard, is_loopback
from virtpoise_balancer.web.kept import KeptAnswer
from virtpoise_balancer.web.live import Live
from virtpoise_balancer.web.openapi import document
from virtpoise_balancer.web.operations import PREFIX, operations
from virtpoise_balancer.web.page.routes import routes as page_routes

_MOST_NAMED = 10


def make_app(context: Context) -> Starlette:
    published, metrics = context.published, context.metrics

    def stalled() -> Response | None:
        seconds = published.stalled_seconds
        return None if seconds is None else PlainTextResponse(f"No cycle has ended for {seconds:.0f} s.\n", 503)

    def healthy(_request: Request) -> Response:
        if response := stalled():
            return response
        return PlainTextResponse("virtpoise is healthy.\n")

    def ready(_request: Request) -> Response:
        if published.state.cycle_at is None:
            return PlainTextResponse("No cycle has run yet.\n", 503)
        if response := stalled():
            return response
        silent, heard = sorted(published.state.silent), published.state.heard
        if silent and len(silent) == len(heard) and published.mode == "automatic":
            return PlainTextResponse("No host's libvirt answers the balancer, so nothing can be moved.\n", 503)
        if silent:
            more = f" and {len(silent) - _MOST_NAMED} more" if len(silent) > _MOST_NAMED else ""
            names = ", ".join(silent[:_MOST_NAMED])
            return PlainTextResponse(f"virtpoise is ready. Libvirt does not answer the balancer on {names}{more}.\n")
        return PlainTextResponse("virtpoise is ready.\n")

    def do_reload(request: Request) -> Response:
        # An order from another machine needs more than an open port.
        if request.client is None or not is_loopback(request.client.host) or "origin" in request.headers:
            return PlainTextResponse("Reload is possible only from this machine.\n", 403)
        context.reload()
        return PlainTextResponse("The configuration is reloaded before the next cycle.\n")

    def written_metrics() -> KeptAnswer:
        return KeptAnswer(metrics.exposition(), CONTENT_TYPE_LATEST)

    def show_metrics(request: Request) -> Response:
        return context.kept.get("/metrics", written_metrics, until_changed=False).answer(request)

    described = document(operations(context))

    def show_document(_request: Request) -> Response:
        return JSONResponse(described)

    return Starlette(
        routes=[
            Route("/-/healthy", healthy),
            Route("/-/ready", ready),
            Route("/-/reload", do_reload, methods=["POST"]),
            Route("/metrics", show_metrics),
            Route(f"{PREFIX}/openapi.json", show_document),
            Route(f"{PREFIX}/events", Live(context).events),
            *api.routes(context),
            *page_routes(context),
        ],
        exception_handlers={StoreError: _no_store},
        middleware=[
            Middleware(Guard, gate=context.gate),
        ],
    )


def _no_store(_request: Request, error: Exception) -> Response:
    return PlainTextResponse(f"{error}\n", 503)
