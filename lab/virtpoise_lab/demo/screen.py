"""The output of the demo: a live screen for a terminal, or lines for a log."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live as RichLive
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from virtpoise_balancer.explain.wording import dirtied, duration, percent, size

Status = Mapping[str, Any]
_EVENTS = 7
_BAR_WIDTH = 36


class View(Protocol):
    """What the demo writes to."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def say(self, text: str) -> None:
        """Something happened."""
        ...

    def show(self, status: Status) -> None:
        """The balancer's newest status."""
        ...

    def finish(self, table: RenderableType, words: Sequence[str]) -> None:
        """The end: the table of predictions and measurements, and the closing sentences."""
        ...


def _load(ratio: float | None, threshold: float) -> RenderableType:
    """The host's CPU load as a bar, red from the threshold on."""
    if ratio is None:
        return Text("no fresh samples", style="dim")
    colour = "red" if ratio >= threshold else "green"
    bar = Table.grid(padding=(0, 1))
    bar.add_row(
        ProgressBar(total=1.0, completed=ratio, width=_BAR_WIDTH, complete_style=colour, finished_style=colour),
        Text(percent(ratio), style=colour),
    )
    return bar


def _samples(host: Status, wanted: int) -> Text:
    """A dot for each of the ``wanted`` consecutive samples, filled for those that there are."""
    count = min(host["consecutive"], wanted)
    return Text("●" * count + "○" * (wanted - count), style="bold red" if count else "dim")


def _share_done(progress: Status | None) -> float:
    if not progress or not progress["total_bytes"] or progress["remaining_bytes"] is None:
        return 0.0
    return 1.0 - float(progress["remaining_bytes"]) / float(progress["total_bytes"])


class Lines:
    """The view for a log or a pipe: a line for each event and for each cycle of the balancer."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, soft_wrap=True)
        self._began = time.monotonic()
        self._shown: float | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def say(self, text: str) -> None:
        self._console.print(f"{time.monotonic() - self._began:5.1f} s  ", Text(text), sep="")

    def show(self, status: Status) -> None:
        if status["cycle_at"] is None or status["cycle_at"] == self._shown:
            return
        self._shown = status["cycle_at"]
        hosts = "  ".join(
            f"{host['name']} {percent(host['cpu_ratio'], 1)} ({min(host['consecutive'], status['consecutive'])}"
            f" of {status['consecutive']})"
            for host in status["hosts"]
        )
        self.say(f"{hosts} | {status['sentence']}")

    def finish(self, table: RenderableType, words: Sequence[str]) -> None:
        self._console.print()
        Console(width=130, highlight=False).print(table)
        for text in words:
            self._console.print(Text(text))


class Live:
    """The view for a terminal: the load of each host, the balancer's sentence and the migration's progress."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()
        self._live = RichLive(console=self._console, refresh_per_second=8, transient=True)
        self._events: deque[str] = deque(maxlen=_EVENTS)
        self._status: Status | None = None
        self._began = time.monotonic()

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.__exit__(kind, error, trace)

    def say(self, text: str) -> None:
        line = f"{time.monotonic() - self._began:5.1f} s  {text}"
        if self._live.is_started:
            self._events.append(line)
            self._live.update(self._drawn())
        else:  # after finish() nothing is drawn any more
            self._console.print(Text(line), soft_wrap=True)

    def show(self, status: Status) -> None:
        self._status = status
        self._live.update(self._drawn())

    def finish(self, table: RenderableType, words: Sequence[str]) -> None:
        self._live.update(self._drawn())
        self._live.stop()
        self._console.print(self._drawn())
        self._console.print(table)
        for text in words:
            self._console.print(Text(text))

    def _drawn(self) -> RenderableType:
        parts: list[RenderableType] = []
        if self._status and self._status["hosts"]:
            parts.append(_hosts(self._status))
            parts.append(Text(self._status["sentence"], style="bold"))
            parts += [_flight(flight) for flight in self._status["in_flight"]]
            parts.append(Text(""))
        parts += [Text(event, style="dim") for event in self._events]
        return Panel(Group(*parts), title="virtpoise", subtitle="real libvirt, real QEMU, real Prometheus", width=100)


def _hosts(status: Status) -> RenderableType:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in (
        "host",
        f"load (threshold {status['threshold']:.0%})",
        f"{status['consecutive']} samples",
        "domains",
    ):
        table.add_column(title)
    for host in status["hosts"]:
        table.add_row(
            Text(host["name"], style="bold"),
            _load(host["cpu_ratio"], status["threshold"]),
            _samples(host, status["consecutive"]),
            Text(" ".join(host["domains"])),
        )
    return table


def _flight(flight: Status) -> RenderableType:
    grid = Table.grid(padding=(0, 1))
    progress = flight["progress"]
    figures = ""
    if progress:
        figures = f"{size(progress['remaining_bytes'])} left, {progress['elapsed_seconds']:.1f} s"
        figures += dirtied(progress["dirty_bytes_per_second"])
    grid.add_row(
        Text(f"{flight['domain']}: {flight['source']} → {flight['destination']}"),
        ProgressBar(total=1.0, completed=_share_done(progress), width=30),
        Text(figures),
    )
    return grid


def result_table(records: Sequence[Status]) -> Table:
    """Two rows for each migration, one for each host: the predicted and the measured load, and the error."""
    table = Table(title="What was predicted, and what was measured", title_justify="left")
    for title in ("domain", "from", "to", "seconds", "downtime", "host", "predicted", "measured", "error"):
        table.add_column(title, justify="left" if title in ("domain", "from", "to", "host") else "right")
    for record in records:
        for i, end in enumerate(record["predictions"]):
            about = [record["domain"], record["source"], record["destination"], duration(record["seconds"])]
            about.append(duration(record["downtime_seconds"]))
            error = "-" if end["error"] is None else f"{end['error'] * 100:+.1f} points"
            figures = [f"{end['role']} {end['host']}", percent(end["predicted"], 1), percent(end["measured"], 1), error]
            table.add_row(*[Text(cell) for cell in (about if i == 0 else [""] * 5) + figures])
    return table
