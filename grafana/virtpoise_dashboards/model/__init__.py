"""Dashboards as values, and their classic JSON (schema 39, which Grafana 9 to 13 read).

Format: https://grafana.com/docs/grafana/latest/dashboards/build-dashboards/view-dashboard-json-model/
"""

from virtpoise_dashboards.model.dashboard import Annotation, Dashboard, Row, Variable
from virtpoise_dashboards.model.kinds import BarGauge, Heatmap, Stat, StateTimeline, Table, TimeSeries
from virtpoise_dashboards.model.panel import BAD_IF_ANY, GREEN, LOAD, NEARLY_FULL, Link, Query, Step, Style, Value

__all__ = [
    "BAD_IF_ANY",
    "GREEN",
    "LOAD",
    "NEARLY_FULL",
    "Annotation",
    "BarGauge",
    "Dashboard",
    "Heatmap",
    "Link",
    "Query",
    "Row",
    "Stat",
    "StateTimeline",
    "Step",
    "Style",
    "Table",
    "TimeSeries",
    "Value",
    "Variable",
]
