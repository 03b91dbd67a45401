"""The balancer's HTTP application: page, API, /metrics, and the same /-/healthy, /-/ready, /-/reload as Prometheus."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from pydantic import TypeAdapter
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from virtpoise_balancer.errors import MonitorError, StoreError
from virtpoise_balancer.web import api
from virtpoise_balancer.web.context import Context
from virtpoise_balancer.web.discovery import Targets, targets
from virtpoise_balancer.web.groups import ByGroup, KnownGroup, OfGroups
from virtpoise_balancer.web.guard import Guard, is_loopback
from virtpoise_balancer.web.kept import KeptAnswer
from virtpoise_balancer.web.live import Live
from virtpoise_balancer.web.metrics import register_process
from virtpoise_balancer.web.openapi import document
from virtpoise_balancer.web.operations import PREFIX, operations
from virtpoise_balancer.web.page.routes import routes as page_routes

_MOST_NAMED = 10


def make_app(*contexts: Context) -> Starlette:
    """The application of a balancer. ``contexts``: of its groups, in the order of the configuration."""
    first = contexts[0]
    handlers = {StoreError: _no_store}
    common = _health(contexts)
    guard = Middleware(Guard, gate=first.gate)
    middleware = [guard, Middleware(KnownGroup, groups=[one.group for one in contexts], gate=first.gate)]
    if len(contexts) == 1 and not first.group:
        return Starlette(
            routes=[*common, _metrics(first.metrics.registry, first), *_of_group(first)],
            exception_handlers=handlers,
            middleware=middleware,
        )
    registry = CollectorRegistry()
    register_process(registry)
    registry.register(OfGroups(contexts))
    apps = {one.group: Starlette(routes=_of_group(one), exception_handlers=handlers) for one in contexts}
    app = Starlette(
        routes=[*common, _metrics(registry, first), *_discovery(contexts)],
        exception_handlers=handlers,
        middleware=middleware,
    )
    app.router.default = ByGroup(apps, contexts)
    return app


def _of_group(context: Context) -> list[Route]:
    described = document(operations(context))

    def show_document(_request: Request) -> Response:
        return JSONResponse(described)

    return [
        Route(f"{PREFIX}/openapi.json", show_document),
        Route(f"{PREFIX}/events", Live(context).events),
        *api.routes(context),
        *page_routes(context),
    ]


def _metrics(registry: CollectorRegistry, context: Context) -> Route:
    """The route of /metrics. ``context``: of any group; it keeps the answer for all who ask at once."""

    def written() -> KeptAnswer:
        return KeptAnswer(generate_latest(registry), CONTENT_TYPE_LATEST)

    def show(request: Request) -> Response:
        return context.kept.get("/metrics", written, until_changed=False).answer(request)

    return Route("/metrics", show)


def _discovery(contexts: Sequence[Context]) -> list[Route]:
    """The exporters of all groups, or of one."""
    answers = TypeAdapter(tuple[Targets, ...])

    def show(request: Request) -> Response:
        wanted = request.query_params.get("group")
        try:
            asked = [one for one in contexts if wanted in (None, one.group)]
            found = targets((one.config(), one.published.state.snapshot) for one in asked)
        except MonitorError as error:
            return api.refusal(error)
        return Response(answers.dump_json(found), media_type="application/json")

    return [Route("/sd/hosts", show)]


def _health(contexts: Sequence[Context]) -> list[Route]:
    first = contexts[0]

    def named(hosts: Sequence[str]) -> str:
        if not _may_name(first):
            return f"{len(hosts)} of its hosts"
        more = f" and {len(hosts) - _MOST_NAMED} more" if len(hosts) > _MOST_NAMED else ""
        return f"{', '.join(hosts[:_MOST_NAMED])}{more}"

    def stalled() -> Response | None:
        """The answer that a group has stopped, or None. Groups follow each other, so one that has stopped stops the
        others.
        """
        for context in contexts:
            if (seconds := context.published.stalled_seconds) is not None:
                return PlainTextResponse(f"No cycle has ended for {seconds:.0f} s{_of(context)}.\n", 503)
        return None

    def healthy(_request: Request) -> Response:
        if response := stalled():
            return response
        return PlainTextResponse("virtpoise is healthy.\n")

    def ready(_request: Request) -> Response:
        if any(context.published.state.cycle_at is None for context in contexts):
            return PlainTextResponse("No cycle has run yet.\n", 503)
        if response := stalled():
            return response
        refused = [why for context in contexts if (why := _why_not_ready(context))]
        if len(refused) == len(contexts):  # while any group can be moved in, the balancer is of use
            return PlainTextResponse("".join(refused), 503)
        silent = sorted({host for context in contexts for host in context.published.state.silent})
        if silent:
            return PlainTextResponse(f"virtpoise is ready. Libvirt does not answer the balancer on {named(silent)}.\n")
        return PlainTextResponse("virtpoise is ready.\n")

    def do_reload(request: Request) -> Response:
        # An order from another machine needs more than an open port.
        if request.client is None or not is_loopback(request.client.host) or "origin" in request.headers:
            return PlainTextResponse("Reload is possible only from this machine.\n", 403)
        first.reload()
        return PlainTextResponse("The configuration is reloaded before the next cycle.\n")

    return [
        Route("/-/healthy", healthy),
        Route("/-/ready", ready),
        Route("/-/reload", do_reload, methods=["POST"]),
    ]


def _may_name(context: Context) -> bool:
    """Whether hosts and groups may be named to everybody: health is open where reading is closed."""
    return context.gate.web.read == "everyone"


def _of(context: Context) -> str:
    return f" of the group {context.group}" if context.group and _may_name(context) else ""


def _why_not_ready(context: Context) -> str | None:
    state = context.published.state
    if state.silent and len(state.silent) == len(state.host_answers) and context.published.mode == "automatic":
        return f"No host's libvirt{_of(context)} answers the balancer, so nothing can be moved.\n"
    return None


def _no_store(_request: Request, error: Exception) -> Response:
    return PlainTextResponse(f"{error}\n", 503)
