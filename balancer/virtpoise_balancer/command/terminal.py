"""What the commands print: tables for people, JSON for programs. Names are never read as markup."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich.console import Console as RichConsole
from rich.console import ConsoleOptions, RenderableType
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from virtpoise_balancer.explain import wording
from virtpoise_balancer.explain.wording import percent
from virtpoise_balancer.model import Role
from virtpoise_balancer.visible import visible, visible_json, visible_lines

if TYPE_CHECKING:
    from virtpoise_balancer.command.finding import Finding
    from virtpoise_balancer.explain.explain import Explanation
    from virtpoise_balancer.knowledge.records import Action, MigrationRecord, PredictionRecord
    from virtpoise_balancer.model import Move, Plan, Snapshot

_BAR_WIDTH = 24
_MOST_REFUSALS = 20
_MOST_DESTINATIONS = 20


class Console(RichConsole):
    """Shows names as they are: no markup, no emoji, and an escape for what a terminal would obey."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, markup=False, emoji=False, highlight=False)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible_lines(segment.text), segment.style)

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # `virtpoise history | head` is not an error: main() exits quietly


def as_json(value: Any) -> None:
    """Print a value as JSON."""
    print_json(json.dumps(value, indent=1, ensure_ascii=False))


def print_json(document: str) -> None:
    sys.stdout.write(visible_json(document) + "\n")


def _load_bar(ratio: float | None, threshold: float) -> Text:
    """A bar of the load with a mark at the threshold, red from there on, and the percentage."""
    if ratio is None:
        return Text("no fresh samples".ljust(_BAR_WIDTH + 5), style="dim")
    filled = min(round(ratio * _BAR_WIDTH), _BAR_WIDTH)
    mark = min(int(threshold * _BAR_WIDTH), _BAR_WIDTH - 1)
    colour = "red" if ratio >= threshold else "green"
    bar = Text()
    for i in range(_BAR_WIDTH):
        symbol = "│" if i == mark else "█" if i < filled else "─"
        bar.append(symbol, style="bold yellow" if i == mark else colour if i < filled else "dim")
    bar.append(f" {ratio:4.0%}", style=colour)
    return bar


def when(at: float) -> str:
    """A time (Unix seconds) as local date and time."""
    return datetime.fromtimestamp(at).strftime("%m-%d %H:%M:%S")


def make_table(*columns: str) -> Table:
    """An empty table with these columns, in the style of all commands."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def cells(*values: object) -> list[Text]:
    """The cells of a row; what cannot be shown is escaped."""
    return [value if isinstance(value, Text) else Text(visible(str(value))) for value in values]


def plain(value: Any) -> Any:
    """A dataclass as plain values for JSON."""
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


def show_snapshot(seen: Snapshot) -> None:
    """Print the hosts and domains of a snapshot as tables."""
    console = Console()
    hosts = make_table("host", "state", "CPUs", "load", "memory", "of", "domains")
    for host in seen.hosts:
        here = sum(domain.host == host.name for domain in seen.domains) or (0 if host.known else "-")
        load, memory = (percent(host.load, 1), percent(host.memory_ratio, 1)) if host.known else ("-", "-")
        hosts.add_row(*cells(host.name, host.state, host.cpus, load, memory, wording.size(host.memory_bytes), here))
    console.print(hosts)
    domains = make_table("domain", "host", "state", "vCPUs", "cores", "steal", "memory", "uuid")
    for domain in seen.domains:
        cores, waits = wording.cores(domain.used_cores), wording.cores(domain.cpu_delay_cores)
        memory = wording.size(domain.memory_bytes or None)
        domains.add_row(*cells(domain.name, domain.host, domain.state, domain.vcpus, cores, waits, memory, domain.uuid))
    console.print(domains)


def show_plan(made: Plan) -> None:
    """Print a plan: its summary, its moves and what it refused."""
    console = Console()
    console.print(Text(made.summary))
    for note in made.notes:
        console.print(Text(f"note: {note}"))
    if made.moves:
        show_moves(made.moves)
    if made.refusals:
        table = make_table("refused domain", "host", "why")
        for refusal in made.refusals[:_MOST_REFUSALS]:
            table.add_row(*cells(refusal.domain or "-", refusal.host or "-", wording.refusal(refusal)))
        console.print(table)
        if len(made.refusals) > _MOST_REFUSALS:
            console.print(f"and {len(made.refusals) - _MOST_REFUSALS} more: see --output json")


def show_moves(made: Sequence[Move]) -> None:
    """Print moves as a table, with the predicted loads."""
    table = make_table("domain", "from", "to", "predicted source", "predicted destination", "why")
    for move in made:
        table.add_row(
            *cells(
                move.domain,
                move.source,
                move.destination,
                percent(move.predicted.source.cpu_ratio, 1),
                percent(move.predicted.destination.cpu_ratio, 1),
                move.why or "-",
            )
        )
    Console().print(table)


def show_explanations(found: Sequence[Explanation]) -> None:
    """Print each explanation: the verdict, the reasons, and the destinations of a domain."""
    console = Console()
    for one in found:
        console.print(Text(one.verdict, style="bold"))
        for reason in one.reasons:
            console.print(Text(f"  {reason}"))
        if one.destinations:
            table = make_table("host", "", "room left", "why")
            for host in one.destinations[:_MOST_DESTINATIONS]:
                mark = Text("✓", style="green") if host.takes else Text("✗", style="red")
                table.add_row(*cells(host.host, mark, percent(host.room_ratio, 1), host.why))
            console.print(table)
            if len(one.destinations) > _MOST_DESTINATIONS:
                console.print(f"and {len(one.destinations) - _MOST_DESTINATIONS} more: see --output json")


def show_status(found: dict[str, Any]) -> None:
    """Print the status that the API returns."""
    console = Console()
    acting = "active" if found["leader"] else "standby, another balancer is active"
    if found["paused"]:
        acting = f"paused by {found['paused']['who']}"
    console.print(Text(f"mode {found['mode']}, strategy {found['strategy']}, {acting}"))
    if brake := found["brake"]:
        console.print(Text(f"the brake is on since {when(brake['at'])}: {brake['why']} (virtpoise release)"))
    if blackout := found["blackout"]:
        console.print(Text(f"no migration begins {blackout['text']}"))
    table = make_table("host", "state", "load", "samples", "memory", "uplink", "back-off", "domains")
    for host in found["hosts"]:
        table.add_row(
            *cells(
                host["name"],
                host["state"],
                _load_bar(host["cpu_ratio"], host["threshold"]),
                f"{host['consecutive']} of {host['needed']}",
                percent(host["memory_ratio"], 1),
                wording.use(wording.busiest_direction(host["rx_ratio"], host["tx_ratio"]), 1),
                f"{host['penalty_seconds']:.0f} s" if host["penalty_seconds"] else "-",
                len(host["domains"]) or ("-" if host["why_unknown"] else 0),
            )
        )
    console.print(table)
    for host in found["hosts"]:
        if host["why_unknown"]:
            console.print(Text(f"{host['name']} is unknown: {host['why_unknown']}"))
    refused = found["refused_targets"]
    if refused["counts"]:
        targets = make_table("refused target", "reason", "why")
        for one in refused["named"]:
            targets.add_row(*cells(one["instance"], one["reason"], one["why"]))
        console.print(targets)
        if (more := sum(refused["counts"].values()) - len(refused["named"])) > 0:
            console.print(f"and {more} more refused targets")
    console.print(Text(found["sentence"]))


def show_history(records: Sequence[MigrationRecord]) -> None:
    """Print migrations as a table, with their predictions and measurements."""
    if records:
        Console().print(history_table(records))
    else:
        Console().print("No migrations yet.")


def show_orders(records: Sequence[Action]) -> None:
    """Print orders as a table."""
    if not records:
        Console().print("No orders yet.")
        return
    table = make_table("when", "who", "from", "order", "target", "", "answer")
    for record in records:
        outcome = Text("followed", style="green") if record.accepted else Text("refused", style="red")
        table.add_row(
            *cells(when(record.at), record.who, record.origin, record.action, record.target, outcome, record.answer)
        )
    Console().print(table)


def show_ends(moves: Sequence[tuple[Move, Mapping[str, Any] | None]]) -> None:
    """How each move ended, from its record of the history; None: the history no longer holds it."""
    table = make_table("domain", "from", "to", "result", "took", "downtime")
    for move, record in moves:
        result, why, took, downtime = (
            (record["result"], record["why"], record["seconds"], record["downtime_seconds"])
            if record
            else ("unknown", "see virtpoise history", None, None)
        )
        result = Text(f"{result}: {why}" if why else result, style="green" if result == "done" else "red")
        table.add_row(
            *cells(
                move.domain, move.source, move.destination, result, wording.duration(took), wording.duration(downtime)
            )
        )
    Console().print(table)


def history_table(records: Sequence[MigrationRecord]) -> Table:
    """One row for each migration: predicted, measured and error of source and destination."""
    table = make_table("when", "domain", "from", "to", "result", "took", "downtime", "source", "destination")
    for record in records:
        ends = {prediction.role: prediction for prediction in record.predictions}
        table.add_row(
            *cells(
                when(record.began) if record.began else "-",
                record.domain,
                record.source,
                record.destination,
                _result(record),
                wording.duration(record.seconds),
                wording.duration(record.downtime_seconds),
                _prediction(ends.get(Role.SOURCE)),
                _prediction(ends.get(Role.DESTINATION)),
            )
        )
    return table


def _result(record: MigrationRecord) -> str:
    if record.result is None:
        return "running" if record.began else "pending"
    return f"{record.result}: {record.why}" if record.why else record.result


def _prediction(prediction: PredictionRecord | None) -> str:
    if prediction is None:
        return "-"
    text = f"predicted {percent(prediction.predicted, 1)}"
    if prediction.measured is not None:
        off = "" if prediction.error is None else f" ({prediction.error:+.1%})"
        return f"{text}, measured {percent(prediction.measured, 1)}{off}"
    return f"{text}, {wording.unmeasured(prediction.verdict)}"


_SEVERITIES = {"good": ("✓", "green"), "warning": ("!", "yellow"), "bad": ("✗", "red"), "not known": ("?", "dim")}


def show_findings(found: Sequence[Finding]) -> None:
    """One line for each finding, with its remedy if it has one."""
    console = Console()
    for one in found:
        symbol, style = _SEVERITIES[one.verdict]
        line = Text(f"{symbol} ", style=style)
        line.append(one.subject, style="bold")
        line.append(f": {one.text}", style="" if one.verdict == "good" else style)
        if one.remedy:
            line.append(f" → {one.remedy}", style="default")
        console.print(line, soft_wrap=True)


def note(text: str) -> None:
    """A line for people beside a command's output, on standard error."""
    Console(stderr=True).print(Text(text), soft_wrap=True)


@contextmanager
def progress() -> Iterator[Callable[[str, float, float], None]]:
    """A progress bar. Yields a function to update it: text, amount done, total."""
    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as bar:
        task = bar.add_task("")

        def update(text: str, done: float, total: float) -> None:
            bar.update(task, description=text, completed=done, total=total)

        yield update
