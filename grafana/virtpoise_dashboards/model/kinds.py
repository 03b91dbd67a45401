"""The kinds of panel. Only those that Grafana itself has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from virtpoise_dashboards.model.panel import BLUE, GREEN, Json, Panel, Step, Style, Value, mappings, thresholds


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
