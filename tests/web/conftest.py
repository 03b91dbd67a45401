"""A real browser for the tests in this folder."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Dialog, Page

from virtpoise_balancer.config import Web
from virtpoise_balancer.model import Policy, Snapshot
from web.serving import POLICY, Balancer, small, token_file


class Watched:
    """A page whose console, dialogs and requests are watched; ``problems`` must stay empty."""

    def __init__(self, page: Page, address: str) -> None:
        self.page = page
        self.address = address
        self.problems: list[str] = []
        page.on("console", lambda m: self.problems.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("dialog", self._close)
        page.on("request", lambda request: self._look(request.url))

    def _close(self, dialog: Dialog) -> None:
        self.problems.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _look(self, url: str) -> None:
        if not url.startswith(self.address):
            self.problems.append(f"request to {url}")

    def open(self, path: str = "/") -> Page:
        """Go there and wait until the page is live."""
        self.page.goto(self.address + path)
        self.page.wait_for_selector(".live.on")
        return self.page


@pytest.fixture
def balancer(tmp_path: Path) -> Balancer:
    return make_balancer(tmp_path, small())


def make_balancer(folder: Path, snapshot: Snapshot, policy: Policy = POLICY) -> Balancer:
    made = Balancer(folder, snapshot, Web(listen_address="127.0.0.1:0", token_file=token_file(folder)), policy)
    made.cycle()
    return made


@pytest.fixture
def show(browser: Browser) -> Iterator[Callable[..., Watched]]:
    """Opens a page on a balancer; when the test ends, no page may have had a problem."""
    with ExitStack() as ending:
        opened: list[Watched] = []

        def open_on(balancer: Balancer, **options: object) -> Watched:
            address = ending.enter_context(balancer.served())
            context = browser.new_context(**options)  # type: ignore[arg-type]
            ending.callback(context.close)
            opened.append(Watched(context.new_page(), address))
            return opened[-1]

        yield open_on
        assert [problem for watched in opened for problem in watched.problems] == []
