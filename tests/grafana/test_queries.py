"""Every query of the dashboards, variables filled in, asked of a real Prometheus that holds a made-up half hour."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from filled_prometheus import filled_prometheus
from grafana.scenario import BLACKOUT, BRAKE, STEP, Scenario
from virtpoise_dashboards import promql
from virtpoise_dashboards.__main__ import FOLDER
from virtpoise_preview.__main__ import preview
from virtpoise_preview.document import draw_list, legend_labels, marks, read
from virtpoise_preview.prometheus import Prometheus, Source, Span
from virtpoise_preview.variables import intervals, options_of, resolve, substitute

RULES = Path(__file__).parents[2] / "alerts/recording.rules.yml"
DASHBOARDS = sorted(FOLDER.glob("*.json"))
CHOSEN = {"source": "h1", "destination": "h2", "domain": "vm2"}
SCRAPE = 10.0
# A host that was only a source has no prediction as a destination, and the other way round.
MAY_BE_EMPTY = {("$host", "as source"), ("$host", "as destination")}
each_dashboard = pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)


@pytest.fixture
def source(prometheus: Prometheus, span: Span) -> Source:
    return Source(prometheus, SCRAPE, span)


def of(chosen: dict[str, str], dashboard: Any) -> dict[str, str]:
    names = {variable["name"] for variable in dashboard["templating"]["list"]}
    return {name: value for name, value in chosen.items() if name in names}


@each_dashboard
def test_every_panel_has_data_and_the_labels_that_its_legend_names(path: Path, source: Source) -> None:
    dashboard = read(path)
    values = resolve(dashboard, source, of(CHOSEN, dashboard))
    for panel in draw_list(dashboard, values, source):
        for answer in panel.answers:
            may_be_empty = (panel.source["title"], answer.legend.rpartition(" ")[0]) in MAY_BE_EMPTY
            assert answer.series or may_be_empty, f"{panel.title}: nothing for {answer.expr}"
            for series in answer.series:
                assert legend_labels(answer.legend) <= set(series.labels), f"{panel.title}: {series.labels}"
            assert len(set(answer.names)) == len(answer.names) or not answer.legend, f"{panel.title}: {answer.names}"


@each_dashboard
def test_every_table_has_its_columns(path: Path, source: Source) -> None:
    dashboard = read(path)
    values = resolve(dashboard, source, of(CHOSEN, dashboard))
    for panel in draw_list(dashboard, values, source):
        if panel.source["type"] == "table":
            include = next(t for t in panel.source["transformations"] if t["id"] == "filterFieldsByName")
            columns = set(include["options"]["include"]["names"]) - {"Value"}
            assert all(columns <= set(series.labels) for answer in panel.answers for series in answer.series)


@each_dashboard
def test_every_variable_has_values(path: Path, source: Source) -> None:
    dashboard = read(path)
    values = resolve(dashboard, source, {})
    for variable in dashboard["templating"]["list"][1:]:
        assert bool(options_of(variable, source, values)) is (variable["name"] != "group"), variable["name"]


def test_a_group_is_chosen_where_there_are_several(span: Span, tmp_path: Path) -> None:
    """Each figure of the balancer has its group's label then, but for those of the process."""
    plain = Scenario(span.end).openmetrics()
    exposition = re.sub(r'(?m)^(virtpoise_(?!start_)\w+{)(?=.*job="virtpoise-balancer")', r'\1group="blue",', plain)
    dashboard = read(FOLDER / "virtpoise-balancer.json")
    with filled_prometheus(exposition, tmp_path, "--query.lookback-delta=25s") as url:
        source = Source(Prometheus(url), SCRAPE, span)
        variable = next(one for one in dashboard["templating"]["list"] if one["name"] == "group")
        assert options_of(variable, source, resolve(dashboard, source, {})) == ["blue"]
        for chosen, seen in (({}, True), ({"group": "blue"}, True), ({"group": "red"}, False)):
            panels = draw_list(dashboard, resolve(dashboard, source, chosen), source)
            answers = [answer for panel in panels for answer in panel.answers]
            assert {bool(answer.series) for answer in answers} == {seen}


def test_hosts_are_called_by_their_names_without_the_port(source: Source) -> None:
    dashboard = read(FOLDER / "virtpoise-fleet.json")
    variable = next(v for v in dashboard["templating"]["list"] if v["name"] == "host")
    assert options_of(variable, source, resolve(dashboard, source, {})) == ["h1", "h2", "h3"]


def test_a_chosen_host_is_the_only_one_shown(source: Source) -> None:
    dashboard = read(FOLDER / "virtpoise-exporter-health.json")
    values = resolve(dashboard, source, {"host": "h2"})
    panels = {panel.title: panel for panel in draw_list(dashboard, values, source)}
    assert panels["Exporter answers"].answers[0].names == ("h2",)


def test_migrations_and_drains_are_marked(source: Source) -> None:
    dashboard = read(FOLDER / "virtpoise-fleet.json")
    found = {
        (mark.text, round(mark.start - source.span.start))
        for mark in marks(dashboard, resolve(dashboard, source, {}), source)
    }
    assert found == {
        *(("Running migration", start) for start in (420, 700, 900, 1500)),
        ("h1 → h2: done", 440),
        ("h1 → h2: failed", 720),
        ("h1 → h3: done", 930),
        ("h3 → h2: done", 1520),
        ("h3 drains", 1400),
    }


def test_what_keeps_the_balancer_from_acting_is_shown_for_as_long_as_it_does(source: Source) -> None:
    dashboard = read(FOLDER / "virtpoise-balancer.json")
    panels = {panel.title: panel for panel in draw_list(dashboard, resolve(dashboard, source, {}), source)}
    held = {
        name: [round(at - source.span.start) for at, value in series.points if value == 1]
        for answer in panels["What keeps the balancer from acting"].answers
        for name, series in zip(answer.names, answer.series, strict=True)
    }
    assert {name: (times[0], times[-1] + STEP) for name, times in held.items() if times} == {
        f"brake: {BRAKE[0]}": BRAKE[1:],
        f"blackout: {BLACKOUT[0]}": BLACKOUT[1:],
    }
    assert {"paused", "brake: predictions", "brake: others"} <= held.keys()


@pytest.mark.parametrize(
    "earlier", [0, 5], ids=["the balancer is there", "it starts just before the range, and is scraped in it"]
)
def test_each_migration_is_counted_once_though_series_begin_at_one(source: Source, earlier: int) -> None:
    source = replace(source, span=replace(source.span, start=source.span.start - earlier))
    dashboard = read(FOLDER / "virtpoise-balancer.json")
    panels = {panel.title: panel for panel in draw_list(dashboard, resolve(dashboard, source, {}), source)}
    counted = {
        (s.labels["source"], s.labels["destination"], s.labels["result"]): round(s.points[-1][1])
        for s in panels["Migrations by pair of hosts"].answers[0].series
    }
    assert counted == {
        ("h1", "h2", "done"): 1,
        ("h1", "h2", "failed"): 1,
        ("h1", "h3", "done"): 1,
        ("h3", "h2", "done"): 1,
    }


# Recorded series that the dashboards compute as well, with the dashboards' query
RECORDED = [
    ("instance:virtpoise_host_cpu_load:ratio_rate2m", promql.CPU_LOAD),
    ("instance:virtpoise_host_memory_used:ratio", promql.MEMORY_LOAD),
    ("instance_device:virtpoise_host_network_receive_load:ratio_rate2m", promql.uplink_load("receive")),
    ("instance_device:virtpoise_host_network_transmit_load:ratio_rate2m", promql.uplink_load("transmit")),
]


@pytest.mark.parametrize(("name", "query"), RECORDED, ids=[name for name, _ in RECORDED])
def test_rules_and_dashboards_mean_the_same(name: str, query: str, source: Source) -> None:
    rules = {
        rule["record"]: rule["expr"]
        for group in yaml.safe_load(RULES.read_text())["groups"]
        for rule in group["rules"]
        if "record" in rule
    }
    values = {"job": ".*", "host": ".*", **intervals(SCRAPE, SCRAPE), "__rate_interval": "2m"}
    at = source.span.start + 1000
    by_rule = source.prometheus.instant(rules[name], at)
    by_panel = source.prometheus.instant(substitute(query, values), at)
    assert {s.labels["host"]: s.points[0][1] for s in by_rule} == pytest.approx(
        {s.labels["host"]: s.points[0][1] for s in by_panel}
    )
    assert len(by_rule) == 3


@each_dashboard
def test_preview_draws_each_dashboard(path: Path, source: Source, tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    dashboard = json.loads(path.read_text())
    preview(
        source.prometheus,
        path,
        picture,
        start=source.span.start,
        end=source.span.end,
        scrape_seconds=SCRAPE,
        chosen=of(CHOSEN, dashboard),
    )
    assert picture.read_bytes().startswith(b"\x89PNG")
