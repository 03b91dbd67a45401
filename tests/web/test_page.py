"""The page in a real browser: what an administrator sees and can do there, and what no visitor can."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median

import pytest
from playwright.sync_api import Page, expect
from pytest_httpserver import HTTPServer

from builders import domain, group, host
from storing import record
from virtpoise_balancer.execute.executor import InFlight
from virtpoise_balancer.model import MigrationOutcome, Move, Progress, Result, Rule, Trigger
from web.conftest import Watched, make_balancer
from web.serving import POLICY, TOKEN, Balancer, large

Show = Callable[..., Watched]
HOSTILE = "<script>alert(1)</script>"
HOSTILE_PAGE = "/domains/11111111-1111-4111-8111-111111111111"
PAGES = ("/", "/?sort=load", "/plan", "/history", "/hosts/h1", "/hosts/h4", HOSTILE_PAGE)


def first_move(balancer: Balancer) -> Move:
    assert balancer.published.state.plan is not None
    return balancer.published.state.plan.moves[0]


def with_history(balancer: Balancer) -> None:
    """A done migration whose name is hostile too, and a failed one."""
    assert balancer.published.state.plan is not None
    move = replace(balancer.published.state.plan.moves[0], domain=HOSTILE)
    plan = replace(balancer.published.state.plan, moves=(move, move))
    (done, _), (failed, _) = record(balancer.store, plan, time.time(), acted=True)
    balancer.store.begin(done)
    balancer.store.end(done, MigrationOutcome(result=Result.DONE, seconds=6.2, downtime_seconds=0.12))
    balancer.store.begin(failed)
    balancer.store.end(failed, MigrationOutcome(result=Result.FAILED, why="aborted: longer than 600 s"))


def test_every_page_is_quiet_keeps_to_itself_and_shows_hostile_names_as_text(show: Show, balancer: Balancer) -> None:
    with_history(balancer)
    watched = show(balancer)
    for path in PAGES:
        watched.open(path)
        assert watched.page.locator("main script").count() == 0
    expect(watched.open("/").locator(".names")).to_contain_text([HOSTILE, "mail", "build"])
    expect(watched.open("/history").locator(".title").first).to_contain_text(HOSTILE)
    expect(watched.open(HOSTILE_PAGE).locator("h1")).to_contain_text(HOSTILE)


def test_the_overview_says_what_is_wrong_and_what_would_be_done(show: Show, balancer: Balancer) -> None:
    page = show(balancer).open()
    expect(page.locator("h1")).to_contain_text("h1 is overloaded")
    expect(page.locator(".attention li")).to_contain_text(["h1 is overloaded: CPU load 88%", "h4 is unknown"])
    expect(page.locator("#host-h1 .tag")).to_have_text("overloaded")
    page.get_by_role("link", name="See the plan").click()
    move = first_move(balancer)
    expect(page.locator(".card .title").first).to_contain_text(move.domain)
    predicted = f"{move.predicted.source.cpu_ratio:.0%}"
    expect(page.locator(".end").first).to_contain_text(f"88% now, predicted {predicted}")


def test_it_is_live_and_leaves_alone_what_its_reader_does(show: Show, balancer: Balancer) -> None:
    page = show(balancer).open()
    page.locator("#filter").fill("h2")
    expect(page.locator("#host-h1")).to_be_hidden()
    page.evaluate("window.notReloaded = true")
    balancer.watching.seen = group(
        host("h1", 0.4, 0.4), host("h2", 0.6, 0.61), host("h5", 0.1), domain("vm", "h2", 2.0, uuid="u")
    )
    balancer.cycle()
    expect(page.locator("h1")).to_have_text(
        re.compile("^No host has had 3 consecutive samples at or above a threshold")
    )
    expect(page.locator("#host-h2 .load b")).to_have_text("61%")
    expect(page.locator("#host-h3")).to_have_count(0)
    expect(page.locator("#host-h5")).to_be_hidden()  # it came, and the filter holds
    expect(page.locator("#filter")).to_be_focused()
    assert page.evaluate("window.notReloaded")


def test_history_shows_what_the_cycles_did(show: Show, tmp_path: Path) -> None:
    busy = group(host("h1", 0.5, 0.88), host("h2", 0.1, 0.1), domain("vm", "h1", 1.0, uuid="u"))
    balancer = make_balancer(tmp_path, busy, replace(POLICY, cpu=Trigger(threshold=0.8, consecutive=1)))
    balancer.cycle()
    watched = show(balancer)
    expect(watched.open().locator(".attention li")).to_contain_text(["h1 is overloaded: CPU load 88%, 1 sample"])
    row = watched.open("/history").locator("#all-cycles tbody tr")
    expect(row).to_have_count(1)  # for both cycles
    expect(row.locator("td")).to_contain_text(["", "", "2", "recommended", "h1 is overloaded (CPU load 88%, 1 sample)"])


def test_open_details_and_choices_outlive_an_update(show: Show, balancer: Balancer) -> None:
    page = show(balancer).open("/plan")
    page.locator("summary").first.click()
    page.locator("input[data-move]").first.uncheck()
    balancer.cycle()
    at = page.locator("time").first
    before = at.get_attribute("datetime")
    balancer.cycle()
    expect(at).not_to_have_attribute("datetime", before or "")
    expect(page.locator("details").first).to_have_attribute("open", "")
    expect(page.locator("input[data-move]").first).not_to_be_checked()


def test_a_migration_under_way_is_followed(show: Show, balancer: Balancer) -> None:
    page = show(balancer).open()
    move = first_move(balancer)
    expect(page.locator(".flight")).to_have_count(0)
    for remaining, text in ((75, "25%, 3.0 s"), (10, "90%, 6.0 s")):
        seconds = 3.0 if remaining == 75 else 6.0
        progress = Progress(elapsed_seconds=seconds, total_bytes=100, processed_bytes=0, remaining_bytes=remaining)
        balancer.acting.in_flight = (InFlight(move, progress),)
        expect(page.locator(".flight .note")).to_have_text(text)
    balancer.acting.in_flight = ()
    expect(page.locator(".flight")).to_have_count(0)


def test_a_lost_balancer_is_shown(show: Show, balancer: Balancer) -> None:
    watched = show(balancer)
    page = watched.open()
    assert balancer.server is not None
    balancer.server.stop()
    expect(page.locator("#live")).to_have_text("not live", timeout=10_000)
    watched.problems.clear()  # the browser complains of the connection, rightly


# --- orders -----------------------------------------------------------------------------------------------------------


def give_token(page: Page, token: str = TOKEN) -> None:
    page.locator("#token").fill(token)
    page.get_by_role("button", name="Continue").click()


def test_a_plan_is_applied_with_a_token_and_journalled(show: Show, balancer: Balancer) -> None:
    page = show(balancer).open("/plan")
    page.get_by_role("button", name="Make all moves").click()
    page.get_by_role("button", name="Yes").click()
    give_token(page)
    move = first_move(balancer)
    expect(page.locator("#answer")).to_have_text(f"Begun: {move.domain} from h1 to {move.destination}.")
    ((entry,),) = balancer.acting.taken
    assert entry[1] == move
    (action,) = balancer.store.actions(5)
    assert (action.who, action.action, action.accepted, action.origin) == ("alice", "apply", True, "127.0.0.1")


def test_a_part_of_a_plan_takes_with_it_what_it_counts_on(show: Show, tmp_path: Path) -> None:
    many = [domain(f"vm{n}", "h1", 0.9) for n in range(8)]
    pair = Rule(name="pair", kind="together", domains=("vm0", "vm1"))
    seen = group(host("h1", 1.0, 1.0, 1.0), host("h2", 0.1, 0.1, 0.1), *many)
    balancer = make_balancer(tmp_path, seen, replace(POLICY, rules=(pair,)))
    page = show(balancer).open("/plan")
    moves = balancer.published.state.plan.moves if balancer.published.state.plan else ()
    assert [move.domain for move in moves if move.needs] == ["vm0", "vm1"]
    assert len(moves) > 2
    boxes = {move.domain: page.locator(f'input[data-move="{move.uuid}"]') for move in moves}
    button = page.locator("[data-chosen]")
    boxes["vm0"].uncheck()
    expect(boxes["vm1"]).not_to_be_checked()
    expect(button).to_have_text(f"Make {len(moves) - 2} move{'' if len(moves) == 3 else 's'}")
    for name in boxes.keys() - {"vm0", "vm1"}:
        boxes[name].uncheck()
    expect(button).to_be_disabled()
    boxes["vm1"].check()
    expect(boxes["vm0"]).to_be_checked()
    expect(button).to_have_text("Make 2 moves")
    button.click()
    page.get_by_role("button", name="Yes").click()
    give_token(page)
    expect(page.locator("#answer")).to_contain_text("Begun: ")
    (entries,) = balancer.acting.taken
    assert len(entries) == 2


def test_a_wrong_token_changes_nothing_and_is_asked_for_again(show: Show, balancer: Balancer) -> None:
    watched = show(balancer)
    page = watched.open()
    page.get_by_role("button", name="Pause").click()
    give_token(page, "not-the-token-of-anybody")
    expect(page.locator("#answer")).to_have_text("Refused: the token is wrong")
    assert balancer.store.overrides().paused is None
    (action,) = balancer.store.actions(5)
    assert (action.who, action.action, action.accepted) == ("?", "pause", False)
    assert "not-the-token" not in repr(action)
    watched.problems.clear()  # the browser logs the status 401
    page.get_by_role("button", name="Pause").click()
    give_token(page)
    expect(page.locator("#answer")).to_contain_text("Paused")
    expect(page.locator("#state")).to_contain_text("paused")
    page.get_by_role("button", name="Resume").click()  # the token is known now
    expect(page.locator("#answer")).to_have_text("Resumed.")


def test_a_plan_that_is_out_of_date_is_refused_in_words(show: Show, balancer: Balancer) -> None:
    watched = show(balancer)
    page = watched.open("/plan")
    balancer.watching.seen = group(host("h1", 0.3, 0.3, 0.3), host("h2", 0.3, 0.3, 0.3))
    page.get_by_role("button", name="Make all moves").click()
    page.get_by_role("button", name="Yes").click()
    give_token(page)
    expect(page.locator("#answer")).to_contain_text("Refused: out of date: the plan no longer has")
    assert balancer.acting.taken == []
    (action,) = balancer.store.actions(5)
    assert (action.accepted, action.answer.startswith("out of date")) == (False, True)
    watched.problems.clear()  # the browser logs the status 409


def test_a_page_of_another_site_cannot_order_anything(show: Show, balancer: Balancer, httpserver: HTTPServer) -> None:
    watched = show(balancer)
    forms = f"""<form method="post" action="{watched.address}/api/v1/pause" enctype="text/plain"><button>go</button></form>
        <script>
        const headers = {{ Authorization: "Bearer {TOKEN}", "Content-Type": "application/json" }};
        window.tries = Promise.allSettled([
          fetch("{watched.address}/api/v1/pause", {{ method: "POST", mode: "no-cors", body: "{{}}" }}),
          fetch("{watched.address}/api/v1/pause", {{ method: "POST", headers, body: "{{}}" }}),
          fetch("{watched.address}/api/v1/status"),
        ]).then((all) => all.map((one) => one.status));
        </script>"""
    httpserver.expect_request("/evil").respond_with_data(forms, content_type="text/html")
    page = watched.page
    page.goto(httpserver.url_for("/evil"))
    assert page.evaluate("window.tries")[1:] == ["rejected", "rejected"]
    page.get_by_role("button", name="go").click()
    expect(page.locator("body")).to_contain_text("the order comes from another site's page")
    assert balancer.store.overrides().paused is None
    assert {(action.accepted, action.answer) for action in balancer.store.actions(5)} == {
        (False, "the order comes from another site's page")
    }
    watched.problems.clear()


def test_without_a_token_file_the_page_is_for_reading(show: Show, balancer: Balancer) -> None:
    without = balancer.config.web.model_copy(update={"token_file": None})
    balancer.context = replace(balancer.context, gate=replace(balancer.context.gate, web=without))
    page = show(balancer).open()
    expect(page.locator("[data-order]")).to_have_count(0)
    expect(page.locator(".closed")).to_contain_text("web.token_file is not set")


# --- keyboard, phone, light and dark ----------------------------------------------------------------------------------


def test_the_keyboard_is_enough(show: Show, balancer: Balancer) -> None:
    page = show(balancer).open()
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    page.keyboard.press("/")
    expect(page.locator("#filter")).to_be_focused()
    page.keyboard.type("wiki")
    expect(page.locator(".host:visible")).to_have_count(1)
    page.keyboard.press("Tab")
    expect(page.locator("#host-h3 .name a")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_contain_text("h3")
    page.get_by_role("button", name="Drain").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Yes")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("#sure-dialog")).to_be_hidden()
    assert balancer.store.actions(5) == ()


@pytest.mark.parametrize("path", PAGES)
def test_nothing_is_wider_than_a_phone(show: Show, balancer: Balancer, path: str) -> None:
    with_history(balancer)
    page = show(balancer, viewport={"width": 360, "height": 740}).open(path)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


@pytest.mark.parametrize(("scheme", "dark"), [("light", False), ("dark", True)])
def test_light_and_dark_follow_the_reader_with_enough_contrast(
    show: Show, balancer: Balancer, scheme: str, dark: bool
) -> None:
    page = show(balancer, color_scheme=scheme).open()
    ground = luminance(page.evaluate("getComputedStyle(document.documentElement).backgroundColor"))
    assert (ground < 0.1) is dark
    for selector in ("h1", ".note", ".eyebrow", ".count", "nav a"):
        ink = luminance(page.eval_on_selector(selector, "node => getComputedStyle(node).color"))
        ratio = (max(ink, ground) + 0.05) / (min(ink, ground) + 0.05)
        assert ratio >= 4.5, f"{selector}: {ratio:.1f}"


def luminance(colour: str) -> float:
    """Relative luminance of an rgb() colour. Source: WCAG 2.2."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


# --- size -------------------------------------------------------------------------------------------------------------


def test_hosts_are_shown_in_proportion_and_stay_live(show: Show, tmp_path: Path) -> None:
    """Ten times the hosts cost the browser about ten times the CPU: each part of the page is visited once."""

    def seconds(balancer: Balancer, watched: Watched, hosts: int) -> float:
        """CPU time of the page's thread."""
        devtools = watched.page.context.new_cdp_session(watched.page)
        devtools.send("Performance.enable", {"timeDomain": "threadTicks"})
        took: list[float] = []
        for _ in range(4):
            balancer.cycle()  # so that nothing is kept from the last look
            watched.page.goto(watched.address + "/", wait_until="load")
            assert watched.page.locator(".host").count() == hosts
            metrics = {one["name"]: one["value"] for one in devtools.send("Performance.getMetrics")["metrics"]}
            took.append(metrics["TaskDuration"])
        devtools.detach()
        return median(took)

    balancer = make_balancer(tmp_path, large(hosts=25, domains=250))
    watched = show(balancer)
    few = seconds(balancer, watched, 25)
    balancer.watching.seen = large(hosts=250, domains=2500)
    assert seconds(balancer, watched, 250) < 10 * few
    page = watched.page
    page.wait_for_selector(".live.on")
    balancer.watching.seen = large(hosts=249, domains=2490)
    balancer.cycle()
    expect(page.locator(".host")).to_have_count(249, timeout=60_000)


def test_of_many_hosts_a_part_is_shown_and_any_is_found(show: Show, tmp_path: Path) -> None:
    watched = show(make_balancer(tmp_path, large(hosts=600, domains=1200)))
    page = watched.open()
    rows, part = page.locator(".host"), page.locator("#part")
    expect(part).to_contain_text("1 to 250 of 600 hosts, those that need attention first")
    expect(rows).to_have_count(250)
    hot = page.locator(".host:has(.tag.hot)")
    expect(hot).to_have_count(18)  # three in a hundred, wherever they stand in the group
    expect(rows.nth(17).locator(".tag.hot")).to_have_count(1)
    part.get_by_text("next").click()
    part.get_by_text("next").click()
    expect(part).to_contain_text("501 to 600 of 600 hosts")
    expect(rows).to_have_count(100)
    expect(rows.last).to_contain_text("node0599")
    # A domain of a host that this page does not show
    page.locator("#filter").fill("vm00100")
    expect(rows).to_have_count(1)
    expect(rows).to_contain_text("node0100")
    expect(page.locator("#filter")).to_be_focused()
    page.locator("#filter").fill("nothing has this name")
    expect(rows).to_have_count(0)
    expect(page.locator("#none")).to_be_visible()
    page.keyboard.press("Escape")
    expect(rows).to_have_count(250)
    page = watched.open("/?sort=load&find=node05")
    expect(part).to_contain_text("1 to 100 of 100 hosts")
    expect(page.locator("#filter")).to_have_value("node05")
    expect(watched.open("/?page=99999&sort=load").locator("#part")).to_contain_text("501 to 600 of 600 hosts")
    expect(watched.open("/?page=none").locator("#part")).to_contain_text("1 to 250 of 600 hosts")
