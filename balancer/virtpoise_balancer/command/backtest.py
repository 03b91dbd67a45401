"""The command that plays the balancer's cycle on a recorded past."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from virtpoise_balancer.command.options import DEFAULT_CONFIG, OutputOption, new_app
from virtpoise_balancer.command.which import GroupOption, settings_of_one
from virtpoise_balancer.errors import BadInput

if TYPE_CHECKING:
    from virtpoise_balancer.config import Config
    from virtpoise_balancer.monitor.history import History, Part, PastGroup
    from virtpoise_balancer.monitor.observe import Observer
    from virtpoise_balancer.simulate.backtest import Backtest
    from virtpoise_balancer.simulate.recording import RecordingFile

app = new_app()

_SPAN = re.compile(r"(\d{1,6})(m|h|d|w)")
_UNITS = {"m": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}
_LONGEST_SECONDS = 400 * 86400.0


def _seconds(span: str) -> float:
    found = _SPAN.fullmatch(span)
    seconds = int(found[1]) * _UNITS[found[2]] if found else 0.0
    if not 0 < seconds <= _LONGEST_SECONDS:
        raise BadInput(f"--since: expected a time such as 12h, 30d or 4w, at most 400d, got {span!r}")
    return seconds


@app.command(
    epilog="Examples: virtpoise backtest --since 30d | virtpoise backtest --since 7d --against bolder.yml --report out.html "
    "| virtpoise backtest --threshold 0.7 --threshold 0.75 | virtpoise backtest --since 14d --record group.recording "
    "| virtpoise backtest group.recording --config bolder.yml"
)
def backtest(
    recording: Annotated[
        Path | None,
        typer.Argument(metavar="[RECORDING]", help="A file that --record made, instead of Prometheus' history."),
    ] = None,
    since: Annotated[str, typer.Option("--since", metavar="TIME", help="How far back: 12h, 30d, 4w.")] = "30d",
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            "-c",
            envvar="VIRTPOISE_CONFIG",
            help=f"Where Prometheus is, and the policy. [default: {DEFAULT_CONFIG}; with a recording: the defaults]",
        ),
    ] = None,
    against: Annotated[
        Path | None, typer.Option("--against", help="A second configuration whose policy is played beside the first.")
    ] = None,
    thresholds: Annotated[
        list[float] | None,
        typer.Option(
            "--threshold", min=0.05, max=1, help="Also play the policy with this CPU threshold (0 to 1). Repeatable."
        ),
    ] = None,
    report: Annotated[
        Path | None, typer.Option("--report", help="Write a report with pictures to this HTML file.")
    ] = None,
    record: Annotated[
        Path | None,
        typer.Option(
            "--record",
            help="Keep a copy of the history in this file, with numbers instead of names. If the file is there, it is gone on with.",
        ),
    ] = None,
    step_seconds: Annotated[
        float, typer.Option("--step-seconds", min=1, max=3600, help="The time between two looks at the history.")
    ] = 60.0,
    group: GroupOption = None,
    output: OutputOption = "table",
) -> None:
    """Show what the balancer would have done in the past, from Prometheus' own history. Changes nothing.

    The group is played without a balancer and with it: overload, moves, what they cost, and why others were not made.
    docs/backtesting.md says what such a figure can tell, and what it cannot.
    """
    if recording is not None and record is not None:
        raise BadInput("backtest: expected one of RECORDING, --record")
    seconds = _seconds(since)
    configs = _configs(config, against, group, has_recording=recording is not None)
    first = next(iter(configs.values()))
    configs |= {f"at {one:.3g}": _with_threshold(first, one) for one in thresholds or ()}

    from virtpoise_balancer.command import terminal
    from virtpoise_balancer.simulate.backtest import backtest as play
    from virtpoise_balancer.simulate.recording import RecordingFile

    with terminal.progress() as bar:
        if recording is not None:
            file = RecordingFile(recording)
            inventory, parts = file.inventory(), file.parts()
        else:
            inventory, parts = _from_prometheus(first, seconds, step_seconds, record, bar)
        found = play(
            inventory,
            parts,
            configs,
            lambda done: bar("playing the history", done, max(inventory.steps, 1)),
            now=time.time(),
        )
    if report is not None:
        _write(report, found, first)
    if output == "json":
        terminal.as_json(_json(found))
    else:
        _show(found, report)


def _configs(config: Path | None, against: Path | None, group: str | None, *, has_recording: bool) -> dict[str, Config]:
    """The configurations by the names of their courses."""
    from virtpoise_balancer.config import parse_config

    alone = config is None and has_recording
    first = parse_config("", "the defaults") if alone else settings_of_one(config or DEFAULT_CONFIG, group)
    if against is None:
        return {"with virtpoise": first}
    name = "the defaults" if alone else (config or DEFAULT_CONFIG).name
    other = against.name if against.name != name else str(against)
    return {f"with {name}": first, f"with {other}": settings_of_one(against, group)}


def _with_threshold(config: Config, threshold: float) -> Config:
    """The configuration with another CPU threshold, and the recovery level that follows from it."""
    cpu = replace(config.policy.cpu, threshold=threshold, recovery=None)
    return config.model_copy(update={"policy": replace(config.policy, cpu=cpu)})


def _from_prometheus(
    config: Config, seconds: float, step_seconds: float, record: Path | None, bar: Any
) -> tuple[PastGroup, Iterator[Part]]:
    """What there was, and the parts of the history as they are read; a recording is written on the way."""
    from virtpoise_balancer.monitor.history import History
    from virtpoise_balancer.service import wiring
    from virtpoise_balancer.simulate.recording import RecordingFile, anonymous

    if step_seconds < config.scrape_interval_seconds:
        raise BadInput(
            f"--step-seconds: expected at least the scrape interval ({config.scrape_interval_seconds:g}), got {step_seconds:g}"
        )
    observer = wiring.make_observer(config)
    file = RecordingFile(record) if record is not None else None

    def look(done: float) -> None:
        bar("looking for hosts and domains", done, 1.0)

    if file is not None and file.exists:
        return _go_on(observer, file, look)
    history = History(observer=observer, step_seconds=step_seconds)
    now = observer.client.time()
    inventory = history.inventory(now - seconds, now, look)
    if file is None:
        return inventory, history.parts(inventory)
    file.begin(inventory)
    return anonymous(inventory), _recorded(history, inventory, file, 0)


def _go_on(observer: Observer, file: RecordingFile, look: Callable[[float], None]) -> tuple[PastGroup, Iterator[Part]]:
    """A recording that was interrupted, as far as it goes, and then what is missing. Its time and steps are its own."""
    from virtpoise_balancer.monitor.history import History
    from virtpoise_balancer.simulate.recording import anonymous

    kept = file.inventory()
    history = History(observer=observer, step_seconds=kept.step_seconds)
    inventory = history.inventory(kept.start, kept.start + kept.steps * kept.step_seconds, look)
    if anonymous(inventory) != kept:
        raise BadInput(
            f"--record: {file.path}: Prometheus now has other hosts or domains of that time: begin another file"
        )
    done = sum(len(part) for part in file.parts())

    def parts() -> Iterator[Part]:
        yield from file.parts()
        yield from _recorded(history, inventory, file, done)

    return kept, parts()


def _recorded(history: History, inventory: PastGroup, file: RecordingFile, from_step: int) -> Iterator[Part]:
    for part in history.parts(inventory, from_step):
        yield file.append(part)


def _write(path: Path, found: Backtest, config: Config) -> None:
    from virtpoise_balancer.simulate.report import html

    try:
        path.write_text(html(found, config.policy.cpu.threshold), encoding="utf-8")
    except OSError as error:
        raise BadInput(f"{path}: cannot be written: {error.strerror}") from None


def _json(found: Backtest) -> dict[str, Any]:
    from virtpoise_balancer.command.simulate import figures_json

    there = found.inventory
    return {
        "format": "virtpoise/backtest/1",
        "start": there.start,
        "end": there.start + there.steps * there.step_seconds,
        "step_seconds": there.step_seconds,
        "hosts": len(there.hosts),
        "domains": len(there.domains),
        "gaps": [list(gap) for gap in found.gaps],
        "known_ratio": dict(found.known_ratio),
        "left_out_domains": found.left_out,
        "ran_core_hours": found.ran_core_hours,
        "hidden_core_hours": found.hidden_core_hours,
        "bracketed": found.bracketed,
        "courses": {
            name: {"lower": figures_json(ends.lower), "upper": figures_json(ends.upper)}
            for name, ends in found.courses.items()
        },
        "overload_host_minutes_by_hour": {name: values.tolist() for name, values in found.hours.items()},
        "worst_hours": [
            {"start": one.start, "overload_host_minutes": one.minutes, "hosts": list(one.hosts)} for one in found.worst
        ],
    }


def _show(found: Backtest, report: Path | None) -> None:
    from rich.text import Text

    from virtpoise_balancer.command import terminal
    from virtpoise_balancer.command.simulate import show_figures
    from virtpoise_balancer.simulate.report import notes, period, when

    console = terminal.Console()
    console.print(Text(f"{period(found)}", style="bold"))
    show_figures(found.courses)
    for one in found.worst:
        console.print(
            Text(f"worst hour without: {when(one.start)}, {one.minutes:.0f} host-minutes ({', '.join(one.hosts)})")
        )
    for line in notes(found):
        console.print(Text(line, style="dim"))
    if report is not None:
        terminal.note(f"the report is in {report}")
