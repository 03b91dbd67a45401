"""What all panels have: queries, styles, colours, links, and their place on the page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Json = dict[str, Any]

COLUMNS = 24
DATASOURCE: Json = {"type": "prometheus", "uid": "${datasource}"}

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
