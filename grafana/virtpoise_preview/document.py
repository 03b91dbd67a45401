"""What a dashboard asks: its panels with their repetitions, its annotations, and their answers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from virtpoise_preview.errors import PreviewError
from virtpoise_preview.prometheus import Series, Source, Span
from virtpoise_preview.variables import Values, intervals, options_of, plain, substitute

Json = dict[str, Any]
_LABEL = re.compile(r"\{\{\s*(\w+)\s*\}\}")


@dataclass(frozen=True, slots=True)
class Answer:
    """One query of a panel and what came: the series with the names that the legend gives them."""

    expr: str
    legend: str
    series: tuple[Series, ...]
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Drawn:
    """A panel ready to be drawn. ``source`` is its JSON; ``place`` is x, y, width and height in Grafana's grid."""

    source: Json
    title: str
    place: tuple[int, int, int, int]
    answers: tuple[Answer, ...]


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment, or a region, that an annotation marks."""

    start: float
    end: float
    text: str
    color: str


def read(path: Path) -> Json:
    try:
        document: Json = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PreviewError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise PreviewError(f"{path}: expected a dashboard's JSON: {error}") from None
    return document


def legend_labels(legend: str) -> set[str]:
    """The labels that a legend names."""
    return set(_LABEL.findall(legend))


def name_of(legend: str, labels: dict[str, str]) -> str:
    """What the legend calls the series."""
    return _LABEL.sub(lambda match: labels.get(match.group(1), ""), legend)


def answers_of(panel: Json, values: Values, source: Source) -> Iterator[Answer]:
    for target in panel.get("targets", ()):
        span = source.span
        if "interval" in target:
            span = _coarser(span, float(target["interval"].removesuffix("s")))
        expr = substitute(target["expr"], {**values, **intervals(span.step, source.scrape_seconds)})
        asked = source.prometheus
        found = asked.instant(expr, span.end) if target["instant"] else asked.range(expr, span)
        legend = plain(target["legendFormat"], values)
        yield Answer(expr, legend, tuple(found), tuple(name_of(legend, series.labels) for series in found))


def _coarser(span: Span, step: float) -> Span:
    """The span in steps of at least this length; the last step ends with the span."""
    step = max(span.step, step)
    return Span(span.end - (span.end - span.start) // step * step, span.end, step)


def draw_list(dashboard: Json, values: Values, source: Source) -> list[Drawn]:
    """The panels in their places; a repeated one once for each value of its variable, pushing down what is below."""
    drawn: list[Drawn] = []
    pushed = 0
    for panel in dashboard["panels"]:
        grid = panel["gridPos"]
        name = panel.get("repeat")
        repeats = _values_of(dashboard, name, values, source) if name else [None]
        per_line = panel.get("maxPerRow", 1)
        for i, value in enumerate(repeats):
            here = values if value is None else {**values, name: (value,)}
            place = (
                grid["x"] + (i % per_line) * grid["w"],
                grid["y"] + pushed + (i // per_line) * grid["h"],
                grid["w"],
                grid["h"],
            )
            answers = tuple(answers_of(panel, here, source))
            drawn.append(Drawn(panel, plain(panel["title"], here), place, answers))
        if name:
            pushed += (max(1, -(-len(repeats) // per_line)) - 1) * grid["h"]
    return drawn


def _values_of(dashboard: Json, name: str, values: Values, source: Source) -> list[str]:
    variable = next(one for one in dashboard["templating"]["list"] if one["name"] == name)
    chosen = values[name]
    return list(chosen) if isinstance(chosen, tuple) else options_of(variable, source, values)


def marks(dashboard: Json, values: Values, source: Source) -> list[Mark]:
    """What the dashboard's annotations mark; samples one step apart are one region, as in Grafana."""
    found: list[Mark] = []
    for annotation in dashboard["annotations"]["list"]:
        if "expr" not in annotation:
            continue
        for series in source.prometheus.range(substitute(annotation["expr"], values), source.span):
            text = name_of(annotation["titleFormat"], series.labels)
            regions: list[tuple[float, float]] = []
            for time, value in series.points:
                if not value:
                    continue
                if regions and time - regions[-1][1] <= 1.5 * source.span.step:
                    regions[-1] = (regions[-1][0], time)
                else:
                    regions.append((time, time))
            found += [Mark(start, end, text, annotation["iconColor"]) for start, end in regions]
    return found
