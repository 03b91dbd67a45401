"""27 hostile pages in a real browser: no script from names or queries runs, and no page asks another site."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import pytest

from builders import domain, group, host
from storing import record
from virtpoise_balancer.model import MigrationOutcome, Result
from web.conftest import Watched, make_balancer, show
from web.serving import Balancer

__all__ = ["show"]
pytestmark = pytest.mark.hostile

NAMES = (
    "<script>hit=1</script>",
    "\"'><script>hit=1</script>",
    "<img src=http://evil.example/x onerror=hit=1>",
    "<svg/onload=hit=1>",
    "' onmouseover='hit=1' autofocus onfocus='hit=1' x='",
    "javascript:hit=1",
    "{{ cycler.__init__.__globals__ }}${hit=1}<%= 1 %>",
    "</title></textarea></script><iframe srcdoc='<script>parent.hit=1</script>'></iframe>",
    '\u202e--><style>*{background:url(http://evil.example/)}</style><a href="javascript:hit=1">x</a>\x1b[2J',
)


def uuid(number: int) -> str:
    return f"11111111-1111-4111-8111-{number:012d}"


def pages() -> list[str]:
    """For each name: the page of its domain, and two pages with the name in their address."""
    own = [f"/domains/{uuid(number)}" for number in range(len(NAMES))]
    others = [
        page
        for name in NAMES
        for page in (f"/hosts/{quote(name, safe='')}", f"/?sort={quote(name)}&find={quote(name)}")
    ]
    return own + others


@pytest.fixture
def balancer(tmp_path: Path) -> Balancer:
    """Its domains have the names; one of them has moved."""
    domains = [domain(name, "h1", 0.7, uuid=uuid(number)) for number, name in enumerate(NAMES)]
    made = make_balancer(
        tmp_path, group(host("h1", *[0.9] * 8), host("h2", *[0.2] * 8), host("h3", *[0.2] * 8), *domains)
    )
    plan = made.published.state.plan
    assert plan is not None
    moves = tuple(replace(plan.moves[0], domain=name) for name in NAMES)
    for move, _ in record(made.store, replace(plan, moves=moves), time.time(), acted=True):
        made.store.begin(move)
        made.store.end(move, MigrationOutcome(result=Result.FAILED, why=f"libvirt: {NAMES[0]}"))
    return made


def test_no_script_runs_on_a_hostile_page(show: Callable[..., Watched], balancer: Balancer) -> None:
    watched = show(balancer)
    opened = pages()
    assert len(opened) == 27
    for path in [*opened, "/", "/plan", "/history"]:
        watched.page.goto(watched.address + path)
        # A handler in an attribute would have its chance here.
        watched.page.mouse.move(200, 200)
        assert watched.page.evaluate("typeof hit") == "undefined"
        assert watched.page.locator("main script, main iframe, main style, main img, main svg[onload]").count() == 0
        assert watched.page.locator("[onload], [onerror], [onfocus], [onmouseover], a[href^='javascript']").count() == 0
        # A page that does not exist is an error for the browser's console, and the only one.
        watched.problems[:] = [problem for problem in watched.problems if "status of 404" not in problem]
    assert watched.problems == []
    shown = watched.page.locator("main").inner_text()
    assert all(name in shown for name in NAMES[:4])
