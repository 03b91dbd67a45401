"""What the commands print: tables for people, JSON for programs. Names are shown as they are, never read as markup."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from virtpoise_balancer.knowledge.store import MigrationRecord
from virtpoise_balancer.model import Plan

BAR_WIDTH = 24
_MOST_REFUSALS = 20


def as_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def load_bar(ratio: float | None, threshold: float, width: int = BAR_WIDTH) -> Text:
    """A bar of the load with a mark at the threshold, red from there on; and the figure."""
    if ratio is None:
        return Text("no fresh figures".ljust(width + 5), style="dim")
    filled = min(round(ratio * width), width)
    mark = min(int(threshold * width), width - 1)
    colour = "red" if ratio >= threshold else "green"
    bar = Text()
    for i in range(width):
        symbol = "│" if i == mark else "█" if i < filled else "─"
        bar.append(symbol, style="bold yellow" if i == mark else colour if i < filled else "dim")
    bar.append(f" {ratio:4.0%}", style=colour)
    return bar


def percent(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.1%}"


def seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s"


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _cells(*values: object) -> list[Text]:
    return [value if isinstance(value, Text) else Text(str(value)) for value in values]


def plan(made: Plan) -> None:
    console = Console()
    console.print(Text(made.summary))
    if made.moves:
        table = _table("domain", "from", "to", "predicted source", "predicted destination")
        for move in made.moves:
            table.add_row(
                *_cells(
                    move.domain,
                    move.source,
                    move.destination,
                    percent(move.predicted.source.cpu_ratio),
                    percent(move.predicted.destination.cpu_ratio),
                )
            )
        console.print(table)
    if made.refusals:
        table = _table("refused domain", "host", "reason", "numbers")
        for refusal in made.refusals[:_MOST_REFUSALS]:
            numbers = ", ".join(f"{key} {_figure(value)}" for key, value in refusal.detail.items())
            table.add_row(*_cells(refusal.domain or "-", refusal.host or "-", refusal.reason.value, numbers))
        console.print(table)
        if len(made.refusals) > _MOST_REFUSALS:
            console.print(f"and {len(made.refusals) - _MOST_REFUSALS} more: see --output json")


def _figure(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def status(found: dict[str, Any]) -> None:
    console = Console()
    acting = "acts" if found["leader"] else "waits for another balancer"
    console.print(f"mode {found['mode']}, strategy {found['strategy']}, {acting}")
    table = _table("host", "state", "load", f"of {found['consecutive']}", "memory", "penalty", "domains")
    for host in found["hosts"]:
        table.add_row(
            *_cells(
                host["name"],
                host["state"],
                load_bar(host["cpu_ratio"], found["threshold"]),
                host["consecutive"],
                percent(host["memory_ratio"]),
                f"{host['penalty_seconds']:.0f} s" if host["penalty_seconds"] else "-",
                len(host["domains"]),
            )
        )
    console.print(table)
    console.print(Text(found["sentence"]))


def history_values(records: Sequence[MigrationRecord]) -> list[dict[str, Any]]:
    return [asdict(record) for record in records]


def history(records: Sequence[MigrationRecord]) -> None:
    console = Console()
    if not records:
        console.print("No domain has been migrated yet.")
        return
    console.print(history_table(records))


def history_table(records: Sequence[MigrationRecord]) -> Table:
    """One row a migration: predicted, measured and error of source and destination."""
    table = _table("when", "domain", "from", "to", "result", "seconds", "downtime", "source", "destination")
    for record in records:
        ends = {prediction.role: prediction for prediction in record.predictions}
        table.add_row(
            *_cells(
                datetime.fromtimestamp(record.began).strftime("%m-%d %H:%M:%S") if record.began else "-",
                record.domain,
                record.source,
                record.destination,
                _result(record),
                seconds(record.seconds),
                seconds(record.downtime_seconds),
                _prediction(ends.get("source")),
                _prediction(ends.get("destination")),
            )
        )
    return table


def _result(record: MigrationRecord) -> str:
    if record.result is None:
        return "under way" if record.began else "to be made"
    return f"{record.result}: {record.why}" if record.why else record.result


def _prediction(prediction: Any) -> str:
    if prediction is None:
        return "-"
    text = f"predicted {percent(prediction.predicted)}"
    if prediction.measured is not None:
        return f"{text}, measured {percent(prediction.measured)} ({prediction.error:+.1%})"
    verdict = {None: "not measured yet", "not_moved": "not moved"}.get(prediction.verdict, prediction.verdict)
    return f"{text}, {verdict}"


@contextmanager
def progress() -> Iterator[Callable[[str, float, float], None]]:
    """A progress bar; call what it gives with a text, how much is done, and of how much."""
    with Progress(
        TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn(), console=Console(stderr=True)
    ) as bar:
        task = bar.add_task("")

        def update(text: str, done: float, total: float) -> None:
            bar.update(task, description=text, completed=done, total=total)

        yield update
