"""Pictures of the page for the documentation, from real hosts with a real migration: python tests/web/take_screenshots.py docs/pictures"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from virtpoise_lab.balancer import Balancer
from virtpoise_lab.lab import Lab
from virtpoise_lab.model import DomainSpec, Load
from virtpoise_lab.stack import Stack

TOKEN = "a-token-for-pictures-only"
DOMAINS = (
    ("db-primary", "h1", 10),
    ("web-1", "h1", 20),
    ("mail", "h1", 10),
    ("wiki", "h1", 5),
    ("build", "h2", 15),
    ("ci-runner", "h2", 10),
)
WIDE = {"width": 1200, "height": 760}
PHONE = {"width": 390, "height": 844}


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lab = Lab.up(hosts=2, domains=[DomainSpec(name, host, Load(cpu=load)) for name, host, load in DOMAINS], say=print)
    try:
        stack = Stack.start(lab, scrape_seconds=2, balancer=True)
        balancer = Balancer(lab)
        tokens = balancer.folder / "tokens"
        tokens.write_text(f"alice:{TOKEN}\n")
        tokens.chmod(0o600)
        balancer.configure(
            stack.url,
            mode="recommend",
            prometheus={"scrape_interval_seconds": 2},
            interval_seconds=4,
            policy={"cpu": {"threshold": 0.6, "consecutive": 3}},
            migration={"bandwidth_mib_per_second": 20},
            measurement={"settle_seconds": 8, "window_seconds": 24},
            web={"token_file": str(tokens)},
        )
        balancer.start()
        sys.stdout.write(balancer.run("doctor").stdout)
        lab.load("db-primary", 40)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path="/usr/bin/chromium", args=["--headless", "--no-sandbox"]
            )
            page = browser.new_page(viewport=WIDE)
            take(page, balancer, folder)
            browser.close()
        sys.stdout.write(balancer.run("history").stdout + balancer.run("history", "--orders").stdout)
    finally:
        lab.down()


def take(page: Page, balancer: Balancer, folder: Path) -> None:
    address = f"http://{balancer.address}"

    def shoot(name: str, path: str | None = None) -> None:
        if path is not None:
            page.goto(address + path)
        page.wait_for_selector(".live.on")
        page.screenshot(path=folder / f"page-{name}.png", full_page=True)

    page.goto(address)
    page.get_by_role("link", name="See the plan").wait_for(timeout=90_000)
    shoot("overview")
    shoot("plan", "/plan")
    page.get_by_role("button", name="Make all moves").click()
    page.get_by_role("button", name="Yes").click()
    page.locator("#token").fill(TOKEN)
    page.get_by_role("button", name="Go on").click()
    page.locator("#answer:not(:empty)").wait_for()
    page.goto(address)
    page.locator(".flight progress[value]").wait_for(timeout=30_000)
    shoot("migration")
    wait_for_verdicts(balancer)
    shoot("history", "/history")
    shoot("host", "/hosts/h1")
    page.set_viewport_size(PHONE)
    page.emulate_media(color_scheme="dark")
    shoot("phone", "/")


def wait_for_verdicts(balancer: Balancer) -> None:
    deadline = time.monotonic() + 120
    while not all(end["verdict"] for record in balancer.history() for end in record["predictions"]):
        if time.monotonic() > deadline:
            raise TimeoutError(balancer.last_words())
        time.sleep(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
