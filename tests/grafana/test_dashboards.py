"""The dashboards as files: what a reviewer, or Grafana's own linter, would look for."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from virtpoise_dashboards.__main__ import FOLDER, files

DASHBOARDS = sorted(FOLDER.glob("*.json"))
PROVISIONING = FOLDER.parent / "provisioning"
CORE_PANELS = {"row", "timeseries", "stat", "bargauge", "table", "state-timeline", "heatmap"}
UIDS = {
    "virtpoise-fleet",
    "virtpoise-predictions",
    "virtpoise-balancer",
    "virtpoise-host",
    "virtpoise-domain",
    "virtpoise-exporter-health",
}
BUILT_IN = {"__rate_interval", "__interval", "__range", "__range_s", "__url_time_range", "__field"}
PROMETHEUS = {"type": "prometheus", "uid": "${datasource}"}

each_dashboard = pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def without_texts(expr: str) -> str:
    """The query without the texts in it, which may hold brackets and names of their own."""
    return re.sub(r'"[^"]*"', '""', expr)


def panels(dashboard: Any) -> list[Any]:
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def test_files_are_what_the_code_writes() -> None:
    written = {path: path.read_text(encoding="utf-8") for path in DASHBOARDS}
    assert written == files(), "run: python -m virtpoise_dashboards"


def test_addresses_of_dashboards_stay() -> None:
    assert {read(path)["uid"] for path in DASHBOARDS} == UIDS
    assert all(path.stem == read(path)["uid"] for path in DASHBOARDS)


@each_dashboard
def test_dashboard_is_classic_and_described(path: Path) -> None:
    dashboard = read(path)
    assert dashboard["schemaVersion"] == 39
    assert dashboard["description"].endswith(".")
    assert dashboard["title"].startswith("Virtpoise / ")
    assert {panel["type"] for panel in dashboard["panels"]} <= CORE_PANELS


@each_dashboard
def test_panels_are_numbered_once_and_do_not_overlap(path: Path) -> None:
    dashboard = read(path)
    numbers = [panel["id"] for panel in dashboard["panels"]]
    assert len(numbers) == len(set(numbers))
    taken: dict[tuple[int, int], str] = {}
    for panel in dashboard["panels"]:
        grid = panel["gridPos"]
        assert 0 <= grid["x"] < grid["x"] + grid["w"] <= 24
        for x in range(grid["x"], grid["x"] + grid["w"]):
            for y in range(grid["y"], grid["y"] + grid["h"]):
                assert (x, y) not in taken, f"{panel['title']} lies on {taken[x, y]}"
                taken[x, y] = panel["title"]


@each_dashboard
def test_each_panel_says_what_it_shows_and_in_which_unit(path: Path) -> None:
    titles = []
    for panel in panels(read(path)):
        titles.append(panel["title"])
        assert panel["title"]
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["targets"], panel["title"]
        references = [target["refId"] for target in panel["targets"]]
        assert len(references) == len(set(references))
    assert len(titles) == len(set(titles)), "two panels have the same title"


@each_dashboard
def test_nothing_names_a_data_source_of_its_own(path: Path) -> None:
    dashboard = read(path)
    for panel in panels(dashboard):
        assert panel["datasource"] == PROMETHEUS
        assert all(target["datasource"] == PROMETHEUS for target in panel["targets"])
    for annotation in dashboard["annotations"]["list"]:
        assert annotation.get("builtIn") or annotation["datasource"] == PROMETHEUS
    first, *others = dashboard["templating"]["list"]
    assert (first["name"], first["type"], first["query"]) == ("datasource", "datasource", "prometheus")
    assert all(variable["datasource"] == PROMETHEUS for variable in others)


@each_dashboard
def test_every_variable_that_is_named_exists_and_each_that_exists_is_used(path: Path) -> None:
    dashboard = read(path)
    named: set[str] = set()
    for part in ("panels", "annotations"):
        text = json.dumps(dashboard[part])
        # $1 belongs to label_replace
        named |= {
            name for pair in re.findall(r"\$\{(\w+)|\$(\w+)", text) for name in pair if name and not name.isdigit()
        }
    queries = json.dumps(dashboard["templating"])
    there = {variable["name"] for variable in dashboard["templating"]["list"]}
    assert named - BUILT_IN <= there
    assert {name for name in there if name not in named and f"${name}" not in queries} == set()


@each_dashboard
def test_migrations_and_drains_are_marked_on_every_time_axis(path: Path) -> None:
    marked = {annotation["name"] for annotation in read(path)["annotations"]["list"] if not annotation.get("builtIn")}
    assert marked == {"Running migrations", "Migrations ended", "Drains"}


@each_dashboard
def test_rates_follow_the_scrape_interval(path: Path) -> None:
    for panel in panels(read(path)):
        for target in panel["targets"]:
            expr = without_texts(target["expr"])
            assert all(window == "$__rate_interval" for window in re.findall(r"\brate\([^\[]*\[([^\]]*)\]", expr)), expr
            windows = re.findall(r"\[([^\]:]*)[\]:]", expr)
            assert all(window in ("$__rate_interval", "$__range") for window in windows), expr


@each_dashboard
def test_every_query_keeps_to_the_jobs_that_are_chosen(path: Path) -> None:
    for panel in panels(read(path)):
        for target in panel["targets"]:
            metrics = re.findall(r"\b(?:virtpoise_\w+|up|scrape_\w+)\b", without_texts(target["expr"]))
            chosen = re.findall(r'\b(?:virtpoise_\w+|up|scrape_\w+)\{job=~"\$(?:job|balancer)"', target["expr"])
            assert len(metrics) == len(chosen), f"{panel['title']}: {target['expr']}"


@each_dashboard
def test_nothing_counts_as_none_where_there_are_no_series(path: Path) -> None:
    """Of a Prometheus that has nothing of the hosts a panel shows nothing, and no green 0."""
    shown = [(panel["title"], target["expr"]) for panel in panels(read(path)) for target in panel["targets"]]
    # ALERTS exists only while one fires; an exporter without the figure of huge pages has none.
    reasons = ("ALERTS{", "virtpoise_host_memory_hugepages_bytes{")
    assert [title for title, expr in shown if "vector(0)" in expr and not any(one in expr for one in reasons)] == []


@each_dashboard
def test_links_lead_to_dashboards_of_ours(path: Path) -> None:
    variables = {read(one)["uid"]: {v["name"] for v in read(one)["templating"]["list"]} for one in DASHBOARDS}
    for panel in panels(read(path)):
        for link in panel["fieldConfig"]["defaults"].get("links", []):
            match = re.match(r"/d/([\w-]+)\?.*&var-(\w+)=", link["url"])
            assert match
            assert match.group(2) in variables[match.group(1)]


def test_provisioning_names_what_exists() -> None:
    sources = yaml.safe_load((PROVISIONING / "datasources/virtpoise.yml").read_text())
    assert sources["apiVersion"] == 1
    assert [source["type"] for source in sources["datasources"]] == ["prometheus"]
    providers = yaml.safe_load((PROVISIONING / "dashboards/virtpoise.yml").read_text())
    assert providers["apiVersion"] == 1
    assert [provider["type"] for provider in providers["providers"]] == ["file"]
