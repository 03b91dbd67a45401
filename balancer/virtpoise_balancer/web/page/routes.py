"""The routes of the page."""

from __future__ import annotations

from functools import partial

from starlette.routing import Route

from virtpoise_balancer.web.context import Context
from virtpoise_balancer.web.page.domain import domain_page
from virtpoise_balancer.web.page.history import history_page
from virtpoise_balancer.web.page.host import host_page
from virtpoise_balancer.web.page.overview import OverviewPage
from virtpoise_balancer.web.page.plan import plan_page
from virtpoise_balancer.web.page.runbooks import RunbookPages
from virtpoise_balancer.web.page.writer import Writer


def routes(context: Context) -> list[Route]:
    """One for each page, and one for the files that pages load."""
    writer = Writer(context)
    runbooks = RunbookPages(writer)
    return [
        Route("/", OverviewPage(writer).page),
        Route("/plan", partial(plan_page, writer)),
        Route("/history", partial(history_page, writer)),
        Route("/hosts/{name:path}", partial(host_page, writer)),
        Route("/domains/{name:path}", partial(domain_page, writer)),
        Route("/runbooks", runbooks.index),
        Route("/runbooks/{name}", runbooks.one),
        Route("/static/{name}", writer.static),
    ]
