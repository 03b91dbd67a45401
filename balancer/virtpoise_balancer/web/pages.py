"""The page: written on the server, from the board, at each look. Whatever comes from outside is escaped by the templates."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from functools import partial
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from virtpoise_balancer import __version__
from virtpoise_balancer.errors import BadInput, NotKnown, Refused
from virtpoise_balancer.explain import wording
from virtpoise_balancer.web import views
from virtpoise_balancer.web.api import MOST_RECORDS, domain_detail, host_detail, limit
from virtpoise_balancer.web.context import Context
from virtpoise_balancer.web.state import domains_by_host, flights

_STATIC = {"style.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}
_HISTORY = 50
_OF_ONE = 20


def routes(context: Context) -> list[Route]:
    """The pages and what they are made of."""
    pages = Pages(context)
    return [
        Route("/", pages.overview),
        Route("/plan", pages.plan),
        Route("/history", pages.history),
        Route("/hosts/{name:path}", pages.host),
        Route("/domains/{name:path}", pages.domain),
        Route("/runbooks", pages.runbooks),
        Route("/runbooks/{name}", pages.runbook),
        Route("/static/{name}", pages.static),
    ]


class Pages:
    def __init__(self, context: Context) -> None:
        self._context = context
        folder = files("virtpoise_balancer.web") / "static"
        self._static = {name: (folder / name).read_bytes() for name in _STATIC}
        self._version = hashlib.sha256(b"".join(self._static.values())).hexdigest()[:12]
        # The alerts link to these; the package carries the folder alerts/runbooks.
        folder = files("virtpoise_balancer.web") / "runbooks"
        self._runbooks = {one.name: one.read_text(encoding="utf-8") for one in folder.iterdir()}
        self._templates = Environment(
            loader=PackageLoader("virtpoise_balancer.web"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.globals.update(
            program=__version__,
            files=self._version,
            iso=views.iso,
            clock=views.clock,
            WIDTH=views.WIDTH,
            host_link=views.host_link,
        )
        self._templates.filters.update(percent=wording.percent, size=wording.size, duration=wording.duration)
        self._kept = _Kept()

    # --- pages --------------------------------------------------------------------------------------------------------

    def overview(self, request: Request) -> Response:
        board = self._context.board
        by_load = request.query_params.get("sort") == "load"
        # It is the heaviest page and everybody looks at it: written once for all who see the same.
        key = (board.state, board.steering(), board.in_flight(), self._closed(request), by_load)
        return HTMLResponse(self._kept.get(key, partial(self._overview, request, by_load=by_load)))

    def _overview(self, request: Request, *, by_load: bool) -> str:
        state = self._context.board.state
        found = views.overview(state)
        rows = found.rows if found else ()
        if by_load:
            rows = tuple(sorted(rows, key=lambda row: -1.0 if row.cpu.ratio is None else row.cpu.ratio, reverse=True))
        return self._write(request, "overview.html", found=found, rows=rows, by_load=by_load)

    def plan(self, request: Request) -> Response:
        state = self._context.board.state
        found = None
        if state.plan is not None and state.snapshot is not None:
            found = views.plan_view(state.plan, state.snapshot, state.policy)
        return HTMLResponse(self._write(request, "plan.html", found=found))

    def history(self, request: Request) -> Response:
        try:
            most = limit(request, _HISTORY)
        except BadInput as error:
            return self._wrong(request, str(error), 400)
        state, store = self._context.board.state, self._context.store
        records = [views.migration_view(record, state.policy) for record in store.history(most)]
        more = min(most * 4, MOST_RECORDS) if len(records) == most < MOST_RECORDS else None
        return HTMLResponse(
            self._write(request, "history.html", migrations=records, actions=store.actions(most), more=more)
        )

    def host(self, request: Request) -> Response:
        state = self._context.board.state
        try:
            detail = host_detail(state, request.path_params["name"])
        except (NotKnown, Refused) as error:
            return self._wrong(request, str(error), 404)
        assert state.snapshot is not None  # noqa: S101 - host_detail has seen to it
        host = next(one for one in state.snapshot.hosts if one.name == detail.status.name)
        domains = domains_by_host(state.snapshot).get(host.name, [])
        history = self._context.store.history(_OF_ONE, host=host.name)
        return HTMLResponse(
            self._write(
                request,
                "host.html",
                status=detail.status,
                explanation=detail.explanation,
                row=views.host_row(state.policy, host, detail.status, domains, named=False),
                readings=views.readings(host.cpu_ratio, state.snapshot.step_seconds, state.policy),
                domains=views.domain_rows(domains, host, state.plan),
                migrations=[views.migration_view(record, state.policy) for record in history],
                standing=state.standings.get(host.name),
            )
        )

    def domain(self, request: Request) -> Response:
        state = self._context.board.state
        try:
            detail = domain_detail(self._context, request.path_params["name"])
        except (NotKnown, Refused) as error:
            return self._wrong(request, str(error), 404)
        assert state.snapshot is not None  # noqa: S101 - domain_detail has seen to it
        host = state.snapshot.host(detail.domain.host)
        return HTMLResponse(
            self._write(
                request,
                "domain.html",
                domain=detail.domain,
                host=views.host_link(detail.domain.host),
                explanation=detail.explanation,
                figures=views.domain_figures(detail.domain, host),
                migrations=[views.migration_view(record, state.policy) for record in detail.migrations[:_OF_ONE]],
            )
        )

    def runbooks(self, request: Request) -> Response:
        return HTMLResponse(self._write(request, "runbooks.html", names=sorted(self._runbooks)))

    def runbook(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in self._runbooks:
            return self._wrong(request, f"{name}: there is no such runbook", 404)
        text = Markup(MarkdownIt("commonmark", {"html": False}).render(self._runbooks[name]))  # noqa: S704 - our own file
        return HTMLResponse(self._write(request, "runbook.html", name=name, text=text))

    def static(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in self._static:
            return PlainTextResponse("There is no such file.\n", 404)
        # Pages name their files with a version, so a file never changes under its name.
        return Response(
            self._static[name],
            media_type=_STATIC[name],
            headers={"Cache-Control": "public, max-age=31536000, immutable"},
        )

    # --- what all pages have ------------------------------------------------------------------------------------------

    def _write(self, request: Request, template: str, **values: Any) -> str:
        board = self._context.board
        state = board.state
        steering = board.steering()
        return self._templates.get_template(template).render(
            page=template.removesuffix(".html"),
            state=state,
            steering=steering,
            mode=steering.mode_over(state.mode),
            sentence=views.sentence(state),
            flights=views.flight_views(flights(board)),
            closed=self._closed(request),
            **values,
        )

    def _wrong(self, request: Request, why: str, status: int) -> Response:
        return HTMLResponse(self._write(request, "wrong.html", why=why), status)

    def _closed(self, request: Request) -> str | None:
        return self._context.gate.closed(request)


class _Kept:
    """What was written last, for a handful of keys; a key that is no longer equal is written anew."""

    _MOST = 4

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: list[tuple[tuple[object, ...], str]] = []

    def get(self, key: tuple[object, ...], write: Callable[[], str]) -> str:
        with self._lock:
            for known, text in self._kept:
                # The state is compared by identity first: it is replaced as a whole, and large.
                if known[0] is key[0] and known[1:] == key[1:]:
                    return text
            text = write()
            self._kept = [(key, text), *self._kept][: self._MOST]
            return text
