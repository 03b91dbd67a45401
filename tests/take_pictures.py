"""The pictures of the documentation, all of one run on real hosts: python tests/take_pictures.py docs/pictures

One overload is recommended and applied by hand on the page, one is relieved by the balancer itself, and a host is
drained: so each page and each dashboard has something to show.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from playwright.sync_api import Page, ViewportSize, sync_playwright

from virtpoise_lab.balancer import Balancer
from virtpoise_lab.lab import Lab
from virtpoise_lab.model import DomainSpec, Load
from virtpoise_lab.stack import Stack
from virtpoise_preview.__main__ import DASHBOARDS, preview
from virtpoise_preview.prometheus import Prometheus

TOKEN = "a-token-for-pictures-only"
SCRAPE_SECONDS = 2
PORT = 19092
# Percent of the host's CPU
DOMAINS = (
    ("db-primary", "h1", 10),
    ("web-1", "h1", 20),
    ("mail", "h1", 10),
    ("wiki", "h1", 5),
    ("build", "h2", 15),
    ("ci-runner", "h2", 15),
)
CALM = 0.4
WIDE = ViewportSize(width=1200, height=760)
PHONE = ViewportSize(width=390, height=844)


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lab = Lab.up(
        hosts=2,
        domains=[DomainSpec(name, host, Load(cpu=load, kind="work")) for name, host, load in DOMAINS],
        say=print,
    )
    try:
        stack = Stack.start(lab, scrape_seconds=SCRAPE_SECONDS, port=PORT, balancer=True)
        began = time.time()
        balancer = start_balancer(lab, stack)
        sys.stdout.write(balancer.run("doctor").stdout)
        # Prometheus cannot tell a migration of the balancer's first half minute from an old one.
        balancer.wait_for("half a minute of scrapes", lambda _: time.time() > began + 35)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path="/usr/bin/chromium", args=["--headless", "--no-sandbox"]
            )
            page = browser.new_page(viewport=WIDE)
            lab.load("db-primary", 40)
            take_pages(page, balancer, folder)
            browser.close()
        go_on_alone(lab, balancer)
        sys.stdout.write(balancer.run("history").stdout + balancer.run("history", "--orders").stdout)
        draw_dashboards(stack, balancer, folder, began)
    finally:
        lab.down()


def start_balancer(lab: Lab, stack: Stack) -> Balancer:
    balancer = Balancer(lab)
    tokens = balancer.folder / "tokens"
    tokens.write_text(f"alice:{TOKEN}\n")
    tokens.chmod(0o600)
    balancer.configure(
        stack.url,
        mode="recommend",
        prometheus={"scrape_interval_seconds": SCRAPE_SECONDS},
        interval_seconds=4,
        policy={"cpu": {"threshold": 0.6, "consecutive": 3}, "penalty": {"initial_seconds": 10}},
        migration={"bandwidth_mib_per_second": 10},
        measurement={"settle_seconds": 8, "window_seconds": 24},
        web={"token_file": str(tokens)},
    )
    balancer.start()
    return balancer


def take_pages(page: Page, balancer: Balancer, folder: Path) -> None:
    """The page while the busy host's plan waits, is applied and is held against what came of it."""
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
    page.get_by_role("button", name="Continue").click()
    page.locator("#answer:not(:empty)").wait_for()
    page.goto(address)
    page.locator(".flight progress[value]").wait_for(timeout=30_000)
    shoot("migration")
    wait_for_verdicts(balancer, migrations=1)
    moved, *others = balancer.history()
    if others or any(one["verdict"] != "measured" for one in moved["predictions"]):
        raise SystemExit("the plan was not one migration that was measured: other programs were busy; take them again")
    shoot("history", "/history")
    shoot("host", f"/hosts/{moved['destination']}")
    shoot("domain", f"/domains/{moved['uuid']}")
    page.set_viewport_size(PHONE)
    page.emulate_media(color_scheme="dark")
    shoot("phone", "/")


def go_on_alone(lab: Lab, balancer: Balancer) -> None:
    """The balancer relieves the other host by itself; then that one is drained, and taken back."""
    balancer.run("mode", "automatic")
    lab.load("db-primary", 5)
    lab.load("web-1", 5)
    lab.load("build", 50)
    wait_for_verdicts(balancer, migrations=2)
    lab.load("build", 5)
    balancer.wait_for("calm", lambda status: all(host["cpu_ratio"] < CALM for host in status["hosts"]))
    balancer.run("drain", "h2", "--wait")
    balancer.run("undrain", "h2")


def wait_for_verdicts(balancer: Balancer, migrations: int) -> None:
    def judged(_status: object) -> bool:
        done = [record for record in balancer.history() if record["result"] == "done"]
        return len(done) >= migrations and all(end["verdict"] for record in done for end in record["predictions"])

    balancer.wait_for(f"verdict on {migrations} migrations", judged, seconds=120)


def draw_dashboards(stack: Stack, balancer: Balancer, folder: Path, began: float) -> None:
    end = time.time()
    moved = balancer.history()[0]
    chosen = {"source": moved["source"], "destination": moved["destination"], "domain": moved["domain"]}
    for file in sorted(DASHBOARDS.glob("*.json")):
        known = {name: value for name, value in chosen.items() if f'"name": "{name}"' in file.read_text()}
        preview(
            Prometheus(stack.url),
            file,
            folder / f"dashboard-{file.stem.removeprefix('virtpoise-')}.png",
            start=began - 10,
            end=end,
            scrape_seconds=SCRAPE_SECONDS,
            chosen=known,
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
