"""The routes of the page."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from virtpoise_balancer.web.context import Context
from virtpoise_balancer.web.kept import LONGEST_ARGUMENT, KeptAnswer
from virtpoise_balancer.web.page.domain import domain_page
from virtpoise_balancer.web.page.history import history_page
from virtpoise_balancer.web.page.host import host_page
from virtpoise_balancer.web.page.overview import overview_page
from virtpoise_balancer.web.page.plan import plan_page
from virtpoise_balancer.web.page.runbooks import RunbookPages
from virtpoise_balancer.web.page.writer import Writer

_ARGUMENTS = ("sort", "limit", "page", "find")


def routes(context: Context) -> list[Route]:
    """One for each page, and one for the files that pages load."""
    writer = Writer(context)
    runbooks = RunbookPages.read(writer)

    def page(write: Callable[[Request], KeptAnswer], *, until_changed: bool = True) -> Callable[[Request], Response]:
        """The page, written once for all readers who see the same."""

        def endpoint(request: Request) -> Response:
            asked = tuple(request.query_params.get(name, "")[:LONGEST_ARGUMENT] for name in _ARGUMENTS)
            key = (request.scope["path"], asked, writer.closed(request))
            return context.kept.get(key, partial(write, request), until_changed=until_changed).answer(request)

        return endpoint

    return [
        Route("/", page(partial(overview_page, writer))),
        Route("/plan", page(partial(plan_page, writer))),
        Route("/history", page(partial(history_page, writer), until_changed=False)),
        Route("/hosts/{name:path}", page(partial(host_page, writer), until_changed=False)),
        Route("/domains/{name:path}", page(partial(domain_page, writer), until_changed=False)),
        Route("/runbooks", page(runbooks.index)),
        Route("/runbooks/{name}", page(runbooks.one)),
        Route("/static/{name}", writer.static),
    ]
