"""Panels as pictures: close enough to Grafana to judge a dashboard by, and no closer."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, Locator, MaxNLocator, MultipleLocator

from virtpoise_preview.document import Answer, Drawn, Json, Mark
from virtpoise_preview.prometheus import Series, Span

# Grafana's palette by the names that dashboards use
COLORS = {
    "green": "#56a64b",
    "yellow": "#e0b400",
    "orange": "#ff780a",
    "red": "#e02f44",
    "blue": "#3274d9",
    "purple": "#a352cc",
}
PALETTE = ("#73a84f", "#d9a400", "#5aa3d6", "#e5762e", "#d9453c", "#2f6fb5", "#b5479f", "#6d5ba8", "#44787f", "#8c7a4a")
INK, FAINT, CARD, PAGE = "#24292e", "#8a939c", "#ffffff", "#f4f5f5"
COLUMN_INCHES, LINE_INCHES = 0.62, 0.36
HEAD_INCHES = 0.55
MOST_NAMES = 14
_ROUND_SECONDS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400)


def draw(title: str, panels: Sequence[Drawn], marked: Sequence[Mark], span: Span, path: Path) -> None:
    """One picture with all panels in their places."""
    top = min(panel.place[1] for panel in panels)
    lines = max(panel.place[1] + panel.place[3] for panel in panels) - top
    width, height = 24 * COLUMN_INCHES, lines * LINE_INCHES + HEAD_INCHES
    with mpl.rc_context({"font.size": 8, "text.color": INK, "axes.edgecolor": "#d5d9dd", "font.family": "DejaVu Sans"}):
        figure = Figure(figsize=(width, height), dpi=110, facecolor=PAGE)
        figure.text(0.15 / width, 1 - 0.32 / height, title, fontsize=13, fontweight="bold")
        times = f"{_clock(span.start)} to {_clock(span.end)} UTC"
        figure.text(1 - 0.15 / width, 1 - 0.3 / height, times, color=FAINT, ha="right")
        for panel in panels:
            x, y, w, h = panel.place
            left, box_width = x * COLUMN_INCHES / width, w * COLUMN_INCHES / width
            bottom = 1 - (HEAD_INCHES + (y - top + h) * LINE_INCHES) / height
            _panel(figure, panel, (left, bottom, box_width, h * LINE_INCHES / height), marked, span)
        figure.savefig(path)


def _panel(
    figure: Figure, panel: Drawn, box: tuple[float, float, float, float], marked: Sequence[Mark], span: Span
) -> None:
    left, bottom, width, height = box
    inches = figure.get_size_inches()
    gap_x, gap_y = 0.05 / inches[0], 0.05 / inches[1]
    kind = panel.source["type"]
    if kind == "row":
        figure.text(left + 3 * gap_x, bottom + height / 2, panel.title, fontsize=10, fontweight="bold", va="center")
        return
    card = figure.add_axes((left + gap_x, bottom + gap_y, width - 2 * gap_x, height - 2 * gap_y), facecolor=CARD)
    card.set_xticks([])
    card.set_yticks([])
    figure.text(left + 3 * gap_x, bottom + height - 0.2 / inches[1], panel.title, fontweight="bold", fontsize=8)
    pad_left = 1.35 if kind in ("bargauge", "state-timeline") else 0.75
    pad_bottom = 0.62 if kind == "timeseries" else 0.32
    inner = (
        left + pad_left / inches[0],
        bottom + pad_bottom / inches[1],
        width - (pad_left + 0.2) / inches[0],
        height - (pad_bottom + 0.38) / inches[1],
    )
    if not any(answer.series for answer in panel.answers):
        card.text(0.5, 0.45, "No data", ha="center", va="center", color=FAINT, transform=card.transAxes)
        return
    if kind in ("stat", "table"):
        _TEXTS[kind](card, panel)
        return
    axes = figure.add_axes(inner, facecolor=CARD)
    axes.spines[["top", "right"]].set_visible(False)
    _AXES[kind](axes, panel)
    if kind != "bargauge":
        _time_axis(axes, span)
        for mark in marked:
            _mark(axes, mark)


def _mark(axes: Axes, mark: Mark) -> None:
    start, end = mark.start, mark.end
    color = COLORS.get(mark.color, mark.color)
    if mark.end > mark.start:
        axes.axvspan(start, end, color=color, alpha=0.08, linewidth=0)
    axes.axvline(start, color=color, linewidth=0.8, linestyle=(0, (3, 3)), alpha=0.8)


# Kinds of panels


def _timeseries(axes: Axes, panel: Drawn) -> None:
    defaults = panel.source["fieldConfig"]["defaults"]
    custom = defaults["custom"]
    named = [(name, series) for answer in panel.answers for name, series in _named(answer)]
    step = _step(named)
    by_name = dict(named)
    stacked = custom["stacking"]["mode"] == "normal"
    reached: dict[float, float] = {}
    handles: list[tuple[Artist | BarContainer, str]] = []
    for i, (name, series) in enumerate(named):
        style = _style(panel.source, name)
        color = _color(style, i)
        times, heights = _broken(series, step)
        ground = [reached.get(time, 0.0) if stacked else 0.0 for time in times]
        roof = [low + height for low, height in zip(ground, heights, strict=True)]
        reached.update((time, top) for time, top in zip(times, roof, strict=True) if not math.isnan(top))
        handle: Artist | BarContainer
        if custom["drawStyle"] == "bars":
            handle = axes.bar(times, heights, 0.9 * step, ground, color=color)
        elif stacked:
            handle = axes.fill_between(times, ground, roof, color=color, alpha=0.5, linewidth=0)
        else:
            width, dashed = style.get("custom.lineWidth", custom["lineWidth"]), "custom.lineStyle" in style
            handle = axes.plot(times, heights, color=color, linewidth=width, linestyle="--" if dashed else "-")[0]
            if style.get("custom.fillBelowTo") in by_name:
                _band(axes, by_name[style["custom.fillBelowTo"]], series, step, color)
        if not style.get("custom.hideFrom", {}).get("legend"):
            handles.append((handle, name))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _written(value, defaults)))
    axes.yaxis.set_major_locator(_locator(axes, defaults))
    axes.grid(axis="y", color="#e9ecef", linewidth=0.7)
    axes.set_ylim(bottom=defaults.get("min"), top=defaults.get("max"))
    _legend(axes, handles[:MOST_NAMES])


def _locator(axes: Axes, defaults: Json) -> Locator:
    """Where the vertical axis has ticks: at whole numbers of what is counted, and of bytes by powers of two."""
    most = axes.get_ylim()[1]
    if defaults["unit"] in ("bytes", "Bps") and most > 0:
        return MultipleLocator(2 ** math.ceil(math.log2(most / 5)))
    return MaxNLocator(5, integer=defaults.get("decimals") == 0)


def _band(axes: Axes, lower: Series, upper: Series, step: float, color: str) -> None:
    """The area between two series, where both are there."""
    floor = dict(lower.points)
    times, tops = _broken(Series({}, tuple(point for point in upper.points if point[0] in floor)), step)
    bottoms = [floor.get(time, math.nan) for time in times]
    axes.fill_between(times, bottoms, tops, color=color, alpha=0.18, linewidth=0)


def _legend(axes: Axes, handles: Sequence[tuple[Artist | BarContainer, str]]) -> None:
    inches = axes.bbox.height / axes.get_figure(root=True).dpi  # type: ignore[union-attr]
    axes.legend(
        [handle for handle, _ in handles],
        [name for _, name in handles],
        loc="upper center",
        bbox_to_anchor=(0.5, -0.22 / inches),
        ncols=min(len(handles), 7),
        frameon=False,
        fontsize=6.5,
        handlelength=1.4,
        columnspacing=1.0,
    )


def _state_timeline(axes: Axes, panel: Drawn) -> None:
    defaults = panel.source["fieldConfig"]["defaults"]
    meaning = {key: value for mapping in defaults["mappings"] for key, value in mapping["options"].items()}
    named = sorted((name, series) for answer in panel.answers for name, series in _named(answer))
    step = _step(named)
    for row, (_, series) in enumerate(named):
        for start, end, value in _runs(series, step):
            color = COLORS.get(meaning.get(f"{value:g}", {}).get("color", "blue"), "#999999")
            axes.broken_barh([(start, end - start)], (row - 0.38, 0.76), color=color, alpha=0.85)
    axes.set_yticks(range(len(named)), [name for name, _ in named])
    axes.tick_params(axis="y", labelsize=7 if len(named) < 25 else 4.5, length=0)
    axes.set_ylim(len(named) - 0.4, -0.6)


def _bargauge(axes: Axes, panel: Drawn) -> None:
    defaults = panel.source["fieldConfig"]["defaults"]
    named = [(name, series.points[-1][1]) for answer in panel.answers for name, series in _named(answer)]
    named = [(name, value) for name, value in named if math.isfinite(value)][:30]
    most = defaults.get("max") or max((value for _, value in named), default=1.0) or 1.0
    rows = range(len(named))
    axes.barh(rows, [most] * len(named), color="#eef0f2", height=0.7)
    axes.barh(rows, [value for _, value in named], color=[_by_steps(value, defaults) for _, value in named], height=0.7)
    for row, (_, value) in enumerate(named):
        axes.text(most * 0.99, row, _written(value, defaults), va="center", ha="right", fontsize=7.5)
    axes.set_yticks(rows, [name for name, _ in named])
    axes.tick_params(axis="y", length=0)
    axes.set_xticks([])
    axes.set_xlim(0, most)
    axes.set_ylim(max(len(named), 3) - 0.4, -0.6)
    axes.spines[["bottom", "left"]].set_visible(False)


def _heatmap(axes: Axes, panel: Drawn) -> None:
    defaults = panel.source["fieldConfig"]["defaults"]
    buckets = sorted((float(series.labels["le"]), dict(series.points)) for a in panel.answers for series in a.series)
    times = sorted({time for _, points in buckets for time in points})
    cells = []
    below = dict.fromkeys(times, 0.0)
    for _, points in buckets:
        cells.append([max(0.0, points.get(time, 0.0) - below[time]) or math.nan for time in times])
        below = {time: points.get(time, 0.0) for time in times}
    edges = [*times, times[-1] + (times[-1] - times[0]) / max(1, len(times) - 1)]
    axes.pcolormesh(edges, range(len(buckets) + 1), cells, cmap="Oranges", vmin=0)
    axes.set_yticks(
        range(1, len(buckets) + 1),
        ["more" if math.isinf(bound) else _written(bound, defaults) for bound, _ in buckets],
        fontsize=6.5,
    )


def _stat(card: Axes, panel: Drawn) -> None:
    defaults = panel.source["fieldConfig"]["defaults"]
    meaning = {key: value for mapping in defaults["mappings"] for key, value in mapping["options"].items()}
    named = [(name, series.points[-1][1]) for answer in panel.answers for name, series in _named(answer)][:4]
    for i, (name, value) in enumerate(named):
        known = meaning.get(f"{value:g}")
        text = known["text"] if known else _written(value, defaults)
        color = COLORS[known["color"]] if known else _by_steps(value, defaults)
        if panel.source["options"]["textMode"] == "name":
            text = name
        x = (i + 0.5) / len(named)
        size = 17 if len(text) * len(named) < 12 else 11
        card.text(x, 0.42, text, ha="center", va="center", fontsize=size, color=color, fontweight="bold")
        if len(named) > 1:
            card.text(x, 0.14, name, ha="center", va="center", fontsize=7, color=FAINT)


def _table(card: Axes, panel: Drawn) -> None:
    defaults = panel.source["fieldConfig"]["defaults"]
    organize = next(t["options"] for t in panel.source["transformations"] if t["id"] == "organize")
    columns: dict[str, str] = organize["renameByName"]
    units = {
        override["matcher"]["options"]: {"unit": override["properties"][0]["value"]}
        for override in panel.source["fieldConfig"]["overrides"]
    }
    rows = [
        [
            _written(series.points[-1][1], defaults | units.get(heading, {}))
            if name == "Value"
            else series.labels.get(name, "")
            for name, heading in columns.items()
        ]
        for answer in panel.answers
        for series in answer.series
    ]
    for x, heading in enumerate(columns.values()):
        card.text(0.02 + 0.97 * x / len(columns), 0.8, heading, color=FAINT, fontsize=7.5)
    lines = 8 if panel.place[3] > 6 else 3
    for y, row in enumerate(sorted(rows)[:lines]):
        for x, cell in enumerate(row):
            card.text(0.02 + 0.97 * x / len(columns), 0.68 - y * 0.7 / lines, cell, fontsize=7.5, va="center")


_AXES: dict[str, Callable[[Axes, Drawn], None]] = {
    "timeseries": _timeseries,
    "state-timeline": _state_timeline,
    "bargauge": _bargauge,
    "heatmap": _heatmap,
}
_TEXTS: dict[str, Callable[[Axes, Drawn], None]] = {"stat": _stat, "table": _table}


# What the kinds share


def _named(answer: Answer) -> list[tuple[str, Series]]:
    return list(zip(answer.names, answer.series, strict=True))


def _style(panel: Json, name: str) -> dict[str, Any]:
    style: dict[str, Any] = {}
    for override in panel["fieldConfig"]["overrides"]:
        matcher = override["matcher"]
        if matcher["id"] == "byRegexp" and re.search(matcher["options"].strip("/"), name):
            style |= {one["id"]: one["value"] for one in override["properties"]}
    return style


def _color(style: dict[str, Any], i: int) -> str:
    fixed = style.get("color", {}).get("fixedColor")
    return COLORS.get(fixed, fixed) if fixed else PALETTE[i % len(PALETTE)]


def _by_steps(value: float, defaults: Json) -> str:
    steps = defaults["thresholds"]["steps"]
    reached: list[str] = [step["color"] for step in steps if step["value"] is None or value >= step["value"]]
    return COLORS.get(reached[-1], reached[-1])


def _step(named: Sequence[tuple[str, Series]]) -> float:
    gaps = [b - a for _, series in named for (a, _), (b, _) in pairwise(series.points)]
    return min(gaps, default=1.0)


def _broken(series: Series, step: float) -> tuple[list[float], list[float]]:
    """Times and values, with a hole where samples are missing."""
    times: list[float] = []
    values: list[float] = []
    for time, value in series.points:
        if times and time - times[-1] > 1.5 * step:
            times.append(times[-1] + step)
            values.append(math.nan)
        times.append(time)
        values.append(value)
    return times, values


def _runs(series: Series, step: float) -> list[tuple[float, float, float]]:
    """Start, end and value of each stretch of equal values without a gap."""
    runs: list[tuple[float, float, float]] = []
    for time, value in series.points:
        if runs and runs[-1][2] == value and time - runs[-1][1] <= 0.5 * step:
            runs[-1] = (runs[-1][0], time + step, value)
        else:
            runs.append((time, time + step, value))
    return runs


def _time_axis(axes: Axes, span: Span) -> None:
    """Ticks at round times, Unix seconds on the axis."""
    length = span.end - span.start
    apart = next((step for step in _ROUND_SECONDS if length / step <= 8), _ROUND_SECONDS[-1])
    first = math.ceil(span.start / apart)
    ticks = [i * apart for i in range(first, math.floor(span.end / apart) + 1)]
    axes.set_xlim(span.start, span.end)
    axes.set_xticks(ticks, [_clock(tick)[11 : 16 if apart >= 60 else 19] for tick in ticks])
    axes.tick_params(labelsize=7, colors=FAINT)


def _clock(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _written(value: float, defaults: Json) -> str:
    """The number in its unit, as Grafana writes it."""
    unit = defaults.get("unit", "none")
    if unit == "percentunit":
        return f"{value * 100:.{defaults.get('decimals', 0 if value >= 0.1 or value == 0 else 1)}f}%"
    if unit == "s":
        return _seconds(value)
    if unit in ("bytes", "Bps"):
        return _bytes(value) + ("/s" if unit == "Bps" else "")
    suffix = unit.removeprefix("suffix:") if unit.startswith("suffix:") else ""
    decimals = defaults.get("decimals")
    return (f"{value:.{decimals}f}" if decimals is not None else f"{value:.3g}") + suffix


def _seconds(value: float) -> str:
    if abs(value) < 1:
        return f"{value * 1000:.0f} ms"
    return f"{value:.3g} s" if abs(value) < 120 else f"{value / 60:.3g} min"


def _bytes(value: float) -> str:
    for prefix in ("", "Ki", "Mi", "Gi", "Ti"):
        if abs(value) < 1024 or prefix == "Ti":
            return f"{value:.3g} {prefix}B"
        value /= 1024
    raise AssertionError("the largest prefix ends the loop")
