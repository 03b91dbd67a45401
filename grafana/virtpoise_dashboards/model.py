"""Dashboards as values, and their classic JSON (schema 39, which Grafana 9 to 13 read).

Only core panels. A dashboard is a list of rows; panels of a row flow from left to right, 24 columns wide.
Format: https://grafana.com/docs/grafana/latest/dashboards/build-dashboards/view-dashboard-json-model/
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Json = dict[str, Any]

COLUMNS = 24
SCHEMA_VERSION = 39
DATASOURCE: Json = {"type": "prometheus", "uid": "${datasource}"}
TAG = "virtpoise"

Format = Literal["time_series", "table", "heatmap"]


@dataclass(frozen=True, slots=True)
class Query:
    """One PromQL query. ``legend`` may name labels of the result, as ``{{host}}``; ``instant``: only the newest value.

    ``min_step``: at least this far apart, so that events that are counted per step show once and not at each of many
    steps.
    """

    expr: str
    legend: str = ""
    instant: bool = False
    format: Format = "time_series"
    min_step: str | None = None

    def to_json(self, ref: str) -> Json:
        target: Json = {
            "refId": ref,
            "datasource": DATASOURCE,
            "editorMode": "code",
            "expr": self.expr,
            "legendFormat": self.legend,
            "format": self.format,
            "instant": self.instant,
            "range": not self.instant,
        }
        return target if self.min_step is None else target | {"interval": self.min_step}


@dataclass(frozen=True, slots=True)
class Style:
    """How the series whose displayed name matches ``name`` (a regular expression) is drawn.

    ``band_to``: fill the area down to the series of that exact name.
    """

    name: str
    color: str
    dashed: bool = False
    width: int = 2
    band_to: str | None = None
    in_legend: bool = True

    def to_json(self) -> Json:
        properties: list[Json] = [
            {"id": "color", "value": {"mode": "fixed", "fixedColor": self.color}},
            {"id": "custom.lineWidth", "value": self.width},
            {"id": "custom.fillOpacity", "value": 0 if self.band_to is None else 20},
        ]
        if self.dashed:
            properties.append({"id": "custom.lineStyle", "value": {"fill": "dash", "dash": [8, 6]}})
        if self.band_to is not None:
            properties.append({"id": "custom.fillBelowTo", "value": self.band_to})
        if not self.in_legend:
            properties.append({"id": "custom.hideFrom", "value": {"legend": True, "tooltip": False, "viz": False}})
        return {"matcher": {"id": "byRegexp", "options": f"/{self.name}/"}, "properties": properties}


@dataclass(frozen=True, slots=True)
class Step:
    """The colour from ``value`` on; None: from the lowest value."""

    value: float | None
    color: str


GREEN = (Step(None, "green"),)
BLUE = (Step(None, "blue"),)
BAD_IF_ANY = (Step(None, "green"), Step(1, "red"))
# The defaults of the policy; where the threshold itself is drawn it is the configured one.
LOAD = (Step(None, "green"), Step(0.7, "yellow"), Step(0.8, "red"))
NEARLY_FULL = (Step(None, "green"), Step(0.8, "yellow"), Step(0.9, "red"))


@dataclass(frozen=True, slots=True)
class Value:
    """What a number means."""

    number: int
    text: str
    color: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """What all panels have. ``description``: what is shown, and its meaning."""

    title: str
    description: str
    queries: tuple[Query, ...]
    unit: str
    width: int = 12
    height: int = 8
    decimals: int | None = None
    minimum: float | None = None
    maximum: float | None = None
    repeat: str | None = None
    link: Link | None = None

    def kind(self) -> str:
        raise NotImplementedError

    def options(self) -> Json:
        raise NotImplementedError

    def defaults(self) -> Json:
        """This kind of panel's additions to the defaults of its fields."""
        return {}

    def overrides(self) -> list[Json]:
        return []

    def extra(self) -> Json:
        return {}

    def to_json(self, number: int, x: int, y: int) -> Json:
        defaults: Json = {"unit": self.unit, "mappings": []}
        for key, value in (("decimals", self.decimals), ("min", self.minimum), ("max", self.maximum)):
            if value is not None:
                defaults[key] = value
        if self.link is not None:
            defaults["links"] = [self.link.to_json()]
        panel: Json = {
            "id": number,
            "type": self.kind(),
            "title": self.title,
            "description": self.description,
            "datasource": DATASOURCE,
            "gridPos": {"x": x, "y": y, "w": self.width, "h": self.height},
            "targets": [query.to_json(chr(ord("A") + i)) for i, query in enumerate(self.queries)],
            "fieldConfig": {"defaults": defaults | self.defaults(), "overrides": self.overrides()},
            "options": self.options(),
        }
        if self.repeat is not None:
            panel |= {"repeat": self.repeat, "repeatDirection": "h", "maxPerRow": max(1, COLUMNS // self.width)}
        return panel | self.extra()


@dataclass(frozen=True, slots=True)
class Link:
    """A link from a series to its dashboard, whose ``variable`` is set to the series' label ``label``."""

    title: str
    uid: str
    variable: str
    label: str

    def to_json(self) -> Json:
        url = (
            f"/d/{self.uid}?${{__url_time_range}}&${{datasource:queryparam}}"
            f"&var-{self.variable}=${{__field.labels.{self.label}}}"
        )
        return {"title": self.title, "url": url}


def thresholds(steps: tuple[Step, ...]) -> Json:
    return {
        "color": {"mode": "thresholds"},
        "thresholds": {"mode": "absolute", "steps": [{"color": step.color, "value": step.value} for step in steps]},
    }


def mappings(values: tuple[Value, ...]) -> list[Json]:
    options = {
        str(value.number): {"text": value.text, "color": value.color, "index": i} for i, value in enumerate(values)
    }
    return [{"type": "value", "options": options}] if options else []


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeSeries(Panel):
    stacked: bool = False
    bars: bool = False
    legend_table: bool = False
    styles: tuple[Style, ...] = ()

    def kind(self) -> str:
        return "timeseries"

    def defaults(self) -> Json:
        custom: Json = {
            "drawStyle": "bars" if self.bars else "line",
            "lineWidth": 1,
            "fillOpacity": 60 if self.bars else 30 if self.stacked else 5,
            "showPoints": "never",
            "spanNulls": False,
            "stacking": {"mode": "normal" if self.stacked else "none", "group": "A"},
            "thresholdsStyle": {"mode": "off"},
        }
        return {"color": {"mode": "palette-classic"}, "custom": custom}

    def overrides(self) -> list[Json]:
        return [style.to_json() for style in self.styles]

    def options(self) -> Json:
        return {
            "legend": {
                "displayMode": "table" if self.legend_table else "list",
                "placement": "right" if self.legend_table else "bottom",
                "showLegend": True,
                "calcs": ["lastNotNull", "max"] if self.legend_table else [],
            },
            "tooltip": {"mode": "multi", "sort": "desc"},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Stat(Panel):
    """A number. ``names``: show the series' name in place of its value."""

    steps: tuple[Step, ...] = BLUE
    values: tuple[Value, ...] = ()
    names: bool = False
    width: int = 4
    height: int = 4

    def kind(self) -> str:
        return "stat"

    def defaults(self) -> Json:
        return thresholds(self.steps) | {"mappings": mappings(self.values)}

    def options(self) -> Json:
        return {
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "textMode": "name" if self.names else "auto",
            "colorMode": "value",
            "graphMode": "none",
            "justifyMode": "auto",
            "orientation": "auto",
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class BarGauge(Panel):
    steps: tuple[Step, ...]

    def kind(self) -> str:
        return "bargauge"

    def defaults(self) -> Json:
        return thresholds(self.steps)

    def options(self) -> Json:
        return {
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "orientation": "horizontal",
            "displayMode": "basic",
            "showUnfilled": True,
            "minVizHeight": 16,
            "minVizWidth": 8,
            "valueMode": "color",
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class StateTimeline(Panel):
    """A line for each series, coloured by what its number means."""

    values: tuple[Value, ...]

    def kind(self) -> str:
        return "state-timeline"

    def defaults(self) -> Json:
        return thresholds(GREEN) | {
            "mappings": mappings(self.values),
            "custom": {"fillOpacity": 80, "lineWidth": 0, "spanNulls": False},
        }

    def options(self) -> Json:
        return {
            "alignValue": "left",
            "mergeValues": True,
            "rowHeight": 0.8,
            "showValue": "never",
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "single", "sort": "none"},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Heatmap(Panel):
    """The buckets of a histogram over time; the unit is that of the buckets' bounds."""

    def kind(self) -> str:
        return "heatmap"

    def options(self) -> Json:
        return {
            "calculate": False,
            "cellGap": 1,
            "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64, "exponent": 0.5, "fill": "dark-orange"},
            "filterValues": {"le": 1e-9},
            "legend": {"show": True},
            "rowsFrame": {"layout": "auto"},
            "tooltip": {"mode": "single", "yHistogram": False},
            "yAxis": {"axisPlacement": "left", "reverse": False, "unit": self.unit},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Table(Panel):
    """The labels of instant queries as columns. ``columns``: label (or ``Value``) to its heading, in this order."""

    columns: Mapping[str, str]
    column_units: Mapping[str, str]

    def kind(self) -> str:
        return "table"

    def defaults(self) -> Json:
        return {"custom": {"align": "auto", "cellOptions": {"type": "auto"}, "filterable": False}}

    def overrides(self) -> list[Json]:
        return [
            {"matcher": {"id": "byName", "options": heading}, "properties": [{"id": "unit", "value": unit}]}
            for heading, unit in self.column_units.items()
        ]

    def options(self) -> Json:
        return {"showHeader": True, "cellHeight": "sm", "footer": {"show": False, "reducer": ["sum"], "fields": ""}}

    def extra(self) -> Json:
        names = list(self.columns)
        return {
            "transformations": [
                {"id": "merge", "options": {}},
                {"id": "filterFieldsByName", "options": {"include": {"names": names}}},
                {
                    "id": "organize",
                    "options": {
                        "indexByName": {name: i for i, name in enumerate(names)},
                        "renameByName": dict(self.columns),
                        "excludeByName": {},
                    },
                },
            ]
        }


@dataclass(frozen=True, slots=True)
class Row:
    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """A choice at the top of the page: the values of ``query``, or the parts of them that ``regex`` captures.

    ``anything``: "All" matches every value, instead of a list of all values (which may be a thousand hosts).
    """

    name: str
    label: str
    query: str
    regex: str = ""
    multi: bool = True
    anything: bool = True

    def to_json(self) -> Json:
        variable: Json = {
            "type": "query",
            "name": self.name,
            "label": self.label,
            "datasource": DATASOURCE,
            "definition": self.query,
            "query": {"query": self.query, "refId": "StandardVariableQuery"},
            "regex": self.regex,
            "refresh": 2,
            "sort": 1,
            "hide": 0,
            "skipUrlSync": False,
            "multi": self.multi,
            "includeAll": self.multi,
            "options": [],
        }
        if self.multi and self.anything:
            variable["allValue"] = ".*"
        all_of_it: Json = {"selected": True, "text": ["All"], "value": ["$__all"]}
        return variable | {"current": all_of_it if self.multi else {}}


DATASOURCE_VARIABLE: Json = {
    "type": "datasource",
    "name": "datasource",
    "label": "Data source",
    "query": "prometheus",
    "regex": "",
    "refresh": 1,
    "hide": 0,
    "skipUrlSync": False,
    "multi": False,
    "includeAll": False,
    "options": [],
    "current": {},
}


@dataclass(frozen=True, slots=True)
class Annotation:
    """Marks on all time axes while ``expr`` is above zero; consecutive marks form one region."""

    name: str
    expr: str
    color: str
    title: str

    def to_json(self) -> Json:
        return {
            "name": self.name,
            "datasource": DATASOURCE,
            "enable": True,
            "hide": False,
            "iconColor": self.color,
            "expr": self.expr,
            "step": "10s",
            "titleFormat": self.title,
            "textFormat": "",
            "tagKeys": "",
            "useValueForTime": False,
        }


GRAFANA_ANNOTATIONS: Json = {
    "builtIn": 1,
    "name": "Annotations & Alerts",
    "type": "dashboard",
    "datasource": {"type": "grafana", "uid": "-- Grafana --"},
    "enable": True,
    "hide": True,
    "iconColor": "rgba(0, 211, 255, 1)",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Dashboard:
    uid: str
    title: str
    description: str
    variables: tuple[Variable, ...]
    rows: tuple[Row, ...]
    annotations: tuple[Annotation, ...] = ()
    time_from: str = "now-1h"

    def to_json(self) -> Json:
        return {
            "uid": self.uid,
            "title": self.title,
            "description": self.description,
            "tags": [TAG],
            "schemaVersion": SCHEMA_VERSION,
            "version": 1,
            "editable": True,
            "graphTooltip": 1,
            "refresh": "10s",
            "time": {"from": self.time_from, "to": "now"},
            "timepicker": {},
            "timezone": "browser",
            "links": [
                {
                    "type": "dashboards",
                    "title": "Virtpoise",
                    "tags": [TAG],
                    "asDropdown": True,
                    "includeVars": True,
                    "keepTime": True,
                    "targetBlank": False,
                }
            ],
            "annotations": {"list": [GRAFANA_ANNOTATIONS, *(annotation.to_json() for annotation in self.annotations)]},
            "templating": {"list": [DATASOURCE_VARIABLE, *(variable.to_json() for variable in self.variables)]},
            "panels": lay_out(self.rows),
        }


def lay_out(rows: tuple[Row, ...]) -> list[Json]:
    """The rows' panels with numbers and positions: from left to right, then below the highest panel of the line."""
    placed: list[Json] = []
    y = 0
    for row in rows:
        placed.append(
            {
                "id": len(placed) + 1,
                "type": "row",
                "title": row.title,
                "collapsed": False,
                "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1},
                "panels": [],
            }
        )
        y += 1
        x = line_height = 0
        for panel in row.panels:
            if x + panel.width > COLUMNS:
                y += line_height
                x = line_height = 0
            placed.append(panel.to_json(len(placed) + 1, x, y))
            x += panel.width
            line_height = max(line_height, panel.height)
        y += line_height
    return placed
