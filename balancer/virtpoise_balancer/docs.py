"""Writes pages of docs/ from what they describe: `python -m virtpoise_balancer.docs cli > docs/cli.md`, and so with each of PAGES."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import typer

from virtpoise_balancer.analyse.measure import DuePrediction, Measured
from virtpoise_balancer.execute.reach import Heard
from virtpoise_balancer.knowledge.steering import Action
from virtpoise_balancer.knowledge.store import PredictionRecord
from virtpoise_balancer.model import (
    Host,
    HostState,
    Move,
    Outcome,
    Plan,
    Policy,
    PredictedLoads,
    Prediction,
    Reason,
    Refusal,
    Result,
    Snapshot,
)
from virtpoise_balancer.monitor.observe import Observation
from virtpoise_balancer.web.metrics import Metrics
from virtpoise_balancer.web.state import Board, State

EXAMPLE = Path(__file__).parents[1] / "virtpoise.example.yml"

_CLI = """\
# The command `virtpoise`

Generated from the code by `python -m virtpoise_balancer.docs cli`; a test compares the two.

| exit status | meaning |
| --- | --- |
| 0 | done |
| 1 | the answer is no: a problem stands that the plan does not solve, a check of the doctor failed, an order was refused |
| 2 | bad input, or something could not be reached; one line on standard error says what was expected |
| 130 | interrupted |

`--config` is also taken from the environment variable `VIRTPOISE_CONFIG`. `virtpoise --install-completion` has the shell complete
commands, options, and the names of hosts and domains. Tables are for people and may change; `--output json` is for programs.
Bytes are shown in binary units, ratios as percent.
"""
_CONFIGURATION = """\
# Configuration

Generated from [virtpoise.example.yml](../balancer/virtpoise.example.yml) by `python -m virtpoise_balancer.docs configuration`;
tests hold both to the schema, which knows no key that is not here.
"""
_METRICS = """\
# The balancer's metrics

Generated from the code by `python -m virtpoise_balancer.docs balancer-metrics`; a test compares the two. Those of the exporter are in
[metrics.md](metrics.md).

- Names carry their unit; ratios go from 0 to 1. A host is called what Prometheus calls it (its target's `instance` without the port).
- Only the balancer that acts (`virtpoise_leader`) tells of hosts and plans.
- The metrics are stable: one that is to be renamed is served under both names for one release.

`process_*` are the balancer's own use of its machine, as every Prometheus client tells it.

| metric | kind | labels | meaning |
| --- | --- | --- | --- |
"""
_SETTING = re.compile(r"(?P<indent> *)(?P<unset>#?)(?P<item>- )?(?P<key>[a-z_]+):(?: (?P<value>.+))?")


@dataclass(frozen=True, slots=True)
class Setting:
    """A key of the example: its whole path, its value as written (empty for a section), whether it is commented out, what is said of it."""

    path: str
    value: str
    unset: bool
    text: str


def settings(example: str) -> Iterator[Setting]:
    """The keys of the example with the comments above them, in its order."""
    comment: list[str] = []
    above: list[tuple[int, str]] = []
    for line in example.splitlines():
        stripped = line.strip()
        if stripped == "#" or not stripped:
            comment = []
        elif stripped.startswith("# "):
            comment.append(stripped[2:])
        elif match := _SETTING.fullmatch(line):
            indent = len(match["indent"]) + len(match["item"] or "")
            above = [(depth, path) for depth, path in above if depth < indent]
            path = f"{above[-1][1]}.{match['key']}" if above else match["key"]
            above.append((indent, path))
            yield Setting(path, match["value"] or "", bool(match["unset"]), " ".join(comment))
            comment = []


def configuration() -> str:
    """docs/configuration.md."""
    text = EXAMPLE.read_text(encoding="utf-8")
    found = list(settings(text))
    introduction = " ".join(line[2:] for line in text.split("\n\n")[0].splitlines() if line.startswith("# "))
    parts = [_CONFIGURATION, f"\n{introduction}\n"]
    tops = list(dict.fromkeys(one.path.partition(".")[0] for one in found))
    for top in tops:
        section = [one for one in found if one.path.partition(".")[0] == top]
        parts.append(f"\n## `{top}`\n\n{section[0].text}\n")
        if section[0].value:
            parts.append(f"\nDefault: `{section[0].value}`.\n")
        else:
            parts.append("\n| key | default | meaning |\n| --- | --- | --- |\n")
            parts += [_row(one) for one in section[1:]]
    return "".join(parts)


def _row(one: Setting) -> str:
    value = f"`{one.value}`" if one.value else ""
    if one.unset:
        value = f"unset, e.g. {value}" if value else "unset"
    return f"| `{one.path}` | {value} | {one.text} |\n"


def cli() -> str:
    """docs/cli.md."""
    from virtpoise_balancer.command.main import app

    command = typer.main.get_command(app)
    parts = [_CLI]
    with command.make_context("virtpoise", [], resilient_parsing=True) as context:
        for name, one in command.commands.items():  # type: ignore[attr-defined]
            with one.make_context(name, [], parent=context, resilient_parsing=True) as inner:
                inner.terminal_width = 100
                text = re.sub(r"(?m)[ \t]+$", "", one.get_help(inner))
            parts.append(f"\n## virtpoise {name}\n\n```text\n{text}\n```\n")
    return "".join(parts)


def balancer_metrics() -> str:
    """docs/balancer-metrics.md."""
    rows = []
    for family in _one_of_everything().registry.collect():
        if family.name.startswith("process_"):
            continue
        labels = {name: None for sample in family.samples for name in sample.labels if name != "le"}
        name = f"{family.name}_total" if family.type == "counter" else family.name
        told = ", ".join(f"`{label}`" for label in labels)
        rows.append(f"| `{name}` | {family.type} | {told} | {family.documentation} |\n")
    return _METRICS + "".join(sorted(rows))


def _one_of_everything() -> Metrics:
    """The metrics of a balancer to which everything has happened that has a metric."""
    unknown = Host(name="h2", state=HostState.UNKNOWN, cpus=1, memory_bytes=1)
    host = Host(name="h1", cpus=1, cpu_ratio=(0.5,), memory_bytes=1, memory_used_bytes=0, penalty_until=1.0)
    ends = PredictedLoads(source=Prediction.exact(0.5), destination=Prediction.exact(0.5))
    predicted = PredictionRecord(
        host="h1",
        role="source",
        resource="cpu",
        made=0.0,
        predicted=0.5,
        lower=0.5,
        upper=0.5,
        measured=None,
        error=None,
        verdict=None,
    )
    state = State(
        mode="automatic",
        leader=True,
        policy=Policy(),
        interval_seconds=10,
        cycle_at=0.0,
        figures_at=0.0,
        observation=Observation(snapshot=Snapshot(time=0.0, hosts=(host, unknown), domains=()), age_seconds=0.0),
        plan=Plan(strategy="default", solved=True, summary="", refusals=(Refusal(host="h1", reason=Reason.PENALTY),)),
        predictions=(predicted,),
        heard={"h1": Heard(asked_at=0.0, active_domains=0)},
    )
    metrics = Metrics(Board(state))
    metrics.migration_ended(
        Move(domain="vm1", uuid="u", source="h1", destination="h2", predicted=ends), Outcome(result=Result.DONE)
    )
    due = DuePrediction(
        id=1, host="h1", role="source", predicted=0.5, lower=0.5, upper=0.5, migrated=0.0, disturbed_from=None
    )
    metrics.prediction_measured(due, ("h1", "h2"), Measured(verdict="measured", ratio=0.5, error=0.0))
    metrics.ordered(Action(at=0.0, who="alice", origin="command", action="pause", accepted=True, answer=""))
    return metrics


PAGES: dict[str, Callable[[], str]] = {
    "cli": cli,
    "configuration": configuration,
    "balancer-metrics": balancer_metrics,
}

if __name__ == "__main__":
    sys.stdout.write(PAGES[sys.argv[1]]())
