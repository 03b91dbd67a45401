"""A backtest as sentences, and as one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import cycle

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from virtpoise_balancer import __version__
from virtpoise_balancer.analyse.demand import Floats
from virtpoise_balancer.explain.wording import duration, percent
from virtpoise_balancer.simulate.backtest import Backtest, WorstHour
from virtpoise_balancer.simulate.tables import figure_rows, refusal_rows

_COLOURS = ("#c2410c", "#0f766e", "#4338ca", "#a16207", "#be185d", "#0369a1", "#4d7c0f", "#6b21a8", "#57534e")
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 960, 220, 46, 22
_MOST_BARS = 160
_MOST_UNKNOWN = 20
_MOST_GAPS = 5


def when(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")


def period(found: Backtest) -> str:
    """What was played, in one sentence."""
    there = found.inventory
    end = there.start + there.steps * there.step_seconds
    return (
        f"{len(there.hosts)} hosts and {len(there.domains)} domains from {when(there.start)} to {when(end)}, in steps of "
        f"{there.step_seconds:g} s"
    )


def notes(found: Backtest) -> list[str]:
    """What whoever reads the figures has to know of them."""
    step = found.inventory.step_seconds
    first = next(iter(found.readings))
    lines = [f"Overload is counted by the thresholds of {first!r}."] if len(found.readings) > 1 else []
    lines += [
        f"{name}: a host is overloaded after {steps} step{'' if steps == 1 else 's'} of {step:g} s at or above a threshold."
        for name, steps in found.readings.items()
    ]
    if found.hidden_core_hours is None:
        lines.append(
            "How long vCPUs waited is not recorded: what saturated hosts hid is not known, and counts as nothing."
        )
    elif found.bracketed:
        lines.append(
            f"vCPUs waited for {found.hidden_core_hours:.1f} core hours, beside {found.ran_core_hours:.1f} that they ran. "
            "What they wanted lies between the two, so figures have two ends: with the least demand and with the most."
        )
    else:
        lines.append(
            f"vCPUs waited for {found.hidden_core_hours:.1f} core hours, beside {found.ran_core_hours:.1f} that they ran: "
            "too little to hide anything."
        )
    if found.gaps:
        seconds = sum(end - start for start, end in found.gaps)
        longest = sorted(found.gaps, key=lambda gap: gap[0] - gap[1])[:_MOST_GAPS]
        named = ", ".join(f"{duration(end - start)} from {when(start)}" for start, end in longest)
        lines.append(
            f"No host has figures for {duration(seconds)} in all ({named}); nothing is decided or counted then."
        )
    if found.left_out:
        lines.append(f"{found.left_out} domains lived for less than an hour, and are left out.")
    lines.append(
        "Traffic and the domains' own placement rules are not part of it. What people moved is followed, but for domains "
        "that the balancer had moved before."
    )
    return lines


def html(found: Backtest, threshold: float) -> str:
    """The report. ``threshold``: of the CPU."""
    names = list(found.courses)
    colours = dict(zip(names, cycle(_COLOURS), strict=False))
    unknown = sorted((share, name) for name, share in found.known_ratio.items() if share < 0.995)
    environment = Environment(
        loader=PackageLoader("virtpoise_balancer.simulate", ""), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template("report.html.jinja").render(
        title="What virtpoise would have done",
        about=f"{period(found)}.",
        notes=notes(found),
        names=names,
        figures=figure_rows(found.courses),
        refusals=refusal_rows(found.courses),
        colours=list(colours.items()),
        over_time=_bars(found, colours),
        worst=[(_worst_text(one), _lines(one, colours, threshold)) for one in found.worst],
        unknown=[(name, percent(share, 1)) for share, name in unknown[:_MOST_UNKNOWN]],
        version=__version__,
        made=when(found.made_at),
    )


def _worst_text(one: WorstHour) -> str:
    return f"{when(one.start)}: {one.minutes:.0f} host-minutes without the balancer; {', '.join(one.hosts)}"


def _bars(found: Backtest, colours: Mapping[str, str]) -> Markup:
    """Host-minutes over a threshold, one group of bars for some hours."""
    hours = len(next(iter(found.hours.values())))
    together = max(-(-hours // _MOST_BARS), 1)
    series = {name: _summed(values, together) for name, values in found.hours.items()}
    bars = len(next(iter(series.values())))
    top = max((float(values.max(initial=0.0)) for values in series.values()), default=0.0) or 1.0
    slot = (_WIDTH - _LEFT) / max(bars, 1)
    width = slot * 0.85 / len(series)
    drawn = []
    for place, (name, values) in enumerate(series.items()):
        for number, value in enumerate(values.tolist()):
            if value:
                height = (_HEIGHT - _BOTTOM) * value / top
                drawn.append(
                    f'<rect x="{_LEFT + number * slot + place * width:.1f}" y="{_HEIGHT - _BOTTOM - height:.1f}" '
                    f'width="{max(width, 0.5):.2f}" height="{height:.1f}" fill="{colours[name]}">'
                    f"<title>{escape(name)}, {when(found.inventory.start + number * together * 3600)}: {value:.0f}</title></rect>"
                )
    first, last = when(found.inventory.start), when(found.inventory.start + hours * 3600)
    labels = [
        (4, 12, f"{top:.0f}"),
        (4, _HEIGHT - _BOTTOM, "0"),
        (_LEFT, _HEIGHT - 6, first),
        (_WIDTH - 130, _HEIGHT - 6, last),
    ]
    return _svg([*drawn, *(_text(*one) for one in labels)])


def _summed(values: Floats, together: int) -> Floats:
    """The sums of ``together`` values each."""
    padded = np.pad(values, (0, -len(values) % together))
    return np.asarray(padded.reshape(-1, together).sum(axis=1))


def _lines(one: WorstHour, colours: Mapping[str, str], threshold: float) -> Markup:
    """The loads of the hosts in one hour, a line for each host and course."""
    drawn = []
    high = _HEIGHT - _BOTTOM
    y = high * (1 - threshold)
    drawn.append(
        f'<line x1="{_LEFT}" x2="{_WIDTH}" y1="{y:.1f}" y2="{y:.1f}" stroke="#94a3b8" stroke-dasharray="5 4"/>'
    )
    drawn.append(_text(4, y + 4, percent(threshold)))
    for name, loads in one.loads.items():
        for host, row in zip(one.hosts, loads, strict=True):
            points = [
                f"{_LEFT + (_WIDTH - _LEFT) * at / max(len(row) - 1, 1):.1f},{high * (1 - min(value, 1.0)):.1f}"
                for at, value in enumerate(row.tolist())
                if not np.isnan(value)
            ]
            drawn.append(
                f'<polyline points="{" ".join(points)}" fill="none" stroke="{colours[name]}" stroke-width="1.6">'
                f"<title>{escape(host)}, {escape(name)}</title></polyline>"
            )
    drawn += [_text(4, 12, "100%"), _text(_LEFT, _HEIGHT - 6, when(one.start))]
    return _svg(drawn)


def _text(x: float, y: float, text: str) -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}">{escape(text)}</text>'


def _svg(parts: Sequence[str]) -> Markup:
    return Markup(f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">{"".join(parts)}</svg>')  # noqa: S704 - escaped above
