"""A whole dashboard: rows of panels, variables and annotations.

Panels of a row flow from left to right, 24 columns wide.
"""

from __future__ import annotations

from dataclasses import dataclass

from virtpoise_dashboards.model.panel import COLUMNS, DATASOURCE, Json, Panel

SCHEMA_VERSION = 39
TAG = "virtpoise"


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
