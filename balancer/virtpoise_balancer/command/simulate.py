"""The commands that play the balancer's cycle on simulated hosts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from virtpoise_balancer.command.options import EXIT_NO, OutputOption, new_app

if TYPE_CHECKING:
    from virtpoise_balancer.simulate.figures import RunFigures
    from virtpoise_balancer.simulate.outcome import Outcome
    from virtpoise_balancer.simulate.scenario import Scenario
    from virtpoise_balancer.simulate.tables import Bracket

app = new_app()


@app.command(
    epilog="Examples: virtpoise simulate scenario.yml | virtpoise simulate scenario.yml --config /etc/virtpoise/virtpoise.yml "
    "| virtpoise simulate scenario.yml --output json. Exit status 1: an expectation of the scenario fails."
)
def simulate(
    file: Annotated[Path, typer.Argument(metavar="SCENARIO", help="The scenario, in YAML.")],
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            "-c",
            help="Take policy, migration and measurement from this configuration instead of from the scenario.",
        ),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option("--seeds", min=1, max=10_000, help="Play this many seeds instead of the scenario's own."),
    ] = None,
    output: OutputOption = "table",
) -> None:
    """Play a scenario: simulated hosts, domains and migrations, and the balancer's own cycle on virtual time.

    Nothing is asked or moved. The same scenario always comes to the same. docs/simulating.md describes the file.
    """
    from virtpoise_balancer.simulate.scenario import read_scenario

    scenario = read_scenario(file)
    settings = None
    if config is not None:
        from virtpoise_balancer.config import read_config

        settings = read_config(config)
    if seeds is not None:
        scenario = scenario.model_copy(update={"seeds": seeds})

    from virtpoise_balancer.command import terminal
    from virtpoise_balancer.simulate.outcome import play_scenario

    with terminal.progress() as bar:
        outcome = play_scenario(scenario, file.parent, config=settings, progress=bar)
    if output == "json":
        terminal.as_json(_json(scenario, outcome))
    else:
        _show(scenario, outcome)
    if outcome.failures:
        raise typer.Exit(EXIT_NO)


def figures_json(found: RunFigures) -> dict[str, Any]:
    """The figures as plain values. Of the single overloads only the longest is in them."""
    from virtpoise_balancer.command import terminal

    plain: dict[str, Any] = terminal.plain(found)
    del plain["spells_minutes"]
    return {**plain, "longest_overload_minutes": found.longest_overload_minutes}


def _json(scenario: Scenario, outcome: Outcome) -> dict[str, Any]:
    return {
        "format": "virtpoise/simulation/1",
        "scenario": scenario.name,
        "about": scenario.about,
        "seeds": scenario.seeds,
        "without": figures_json(outcome.without),
        "with": figures_json(outcome.balanced),
        "each": [
            {"seed": seed, "without": figures_json(without), "with": figures_json(balanced)}
            for seed, without, balanced in outcome.each
        ],
        "failures": list(outcome.failures),
    }


def _show(scenario: Scenario, outcome: Outcome) -> None:
    from rich.text import Text

    from virtpoise_balancer.command.terminal import Console
    from virtpoise_balancer.simulate.tables import Bracket

    console = Console()
    seeds = f", {scenario.seeds} seeds together" if scenario.seeds > 1 else ""
    console.print(Text(f"{scenario.name}: {outcome.without.hours:g} hours{seeds}", style="bold"))
    if scenario.about:
        console.print(Text(scenario.about))
    show_figures({"without": Bracket.known(outcome.without), "with virtpoise": Bracket.known(outcome.balanced)})
    for line in outcome.failures:
        console.print(Text(f"✗ {line}", style="red"))
    if not outcome.failures and scenario.expect.model_fields_set:
        console.print(Text("✓ all expectations hold", style="green"))


def show_figures(courses: Mapping[str, Bracket]) -> None:
    """Print the figures of several courses side by side, and why what was considered was not moved."""
    from rich.text import Text

    from virtpoise_balancer.command import terminal
    from virtpoise_balancer.simulate.tables import figure_rows, refusal_rows

    console = terminal.Console()
    for title, rows in (("", figure_rows(courses)), ("not moved, or not taken, because", refusal_rows(courses))):
        if rows:
            table = terminal.make_table(title, *courses)
            for label, values in rows:
                table.add_row(*terminal.cells(label, *values))
            console.print(table)
    for sentence in dict.fromkeys(sentence for one in courses.values() for sentence in one.lower.sentences):
        console.print(Text(f"a cycle failed: {sentence}", style="red"))
