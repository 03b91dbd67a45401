"""The page /history: migrations with their predictions and measurements, cycles, what others did, and the orders."""

from __future__ import annotations

from starlette.requests import Request

from virtpoise_balancer.errors import BadInput
from virtpoise_balancer.web.context import MOST_RECORDS
from virtpoise_balancer.web.kept import KeptAnswer
from virtpoise_balancer.web.operations import limit
from virtpoise_balancer.web.page.parts import migration_card
from virtpoise_balancer.web.page.writer import Writer

_AT_FIRST = 50
_MORE = 4  # times as many at each "Show more"


def history_page(writer: Writer, request: Request) -> KeptAnswer:
    """The page /history. With a limit that is wrong, a page that names the error."""
    try:
        most = limit(request, _AT_FIRST)
    except BadInput as error:
        return writer.error(request, str(error), 400)
    store = writer.context.store
    migrations = [migration_card(record, writer.state) for record in store.history(most)]
    more = min(most * _MORE, MOST_RECORDS) if len(migrations) == most < MOST_RECORDS else None
    return writer.page(
        request,
        "history.html",
        migrations=migrations,
        actions=store.actions(most),
        cycles=store.cycles(_AT_FIRST),
        others=store.others(_AT_FIRST),
        more=more,
    )
