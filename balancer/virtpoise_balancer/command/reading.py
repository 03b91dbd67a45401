"""The commands that only show: snapshot, plan, status, explain, history."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from virtpoise_balancer.command.group import group_and_policy, observe_now
from virtpoise_balancer.command.options import (
    DEFAULT_CONFIG,
    EXIT_NO,
    ConfigOption,
    OptionalConfigOption,
    Output,
    OutputOption,
    SnapshotOption,
    complete_host_or_domain,
    new_app,
    print_out,
    warn_left_out,
)
from virtpoise_balancer.command.which import GroupOption, settings_of_each, settings_of_one
from virtpoise_balancer.errors import BadInput, NotKnown

if TYPE_CHECKING:
    from virtpoise_balancer.command.past import HistoryKind

app = new_app()


@app.command(epilog="Examples: virtpoise snapshot > cluster.json | virtpoise snapshot --output table")
def snapshot(config: ConfigOption = DEFAULT_CONFIG, group: GroupOption = None, output: OutputOption = "json") -> None:
    """Print the group as the balancer sees it now: for a bug report, or for `virtpoise plan --snapshot`."""
    seen = observe_now(settings_of_one(config, group))

    from virtpoise_balancer.command import terminal
    from virtpoise_balancer.formats import write_snapshot

    if output == "json":
        terminal.print_json(write_snapshot(seen))
    else:
        terminal.show_snapshot(seen)


@app.command(
    epilog="Examples: virtpoise plan | virtpoise plan --snapshot cluster.json --config policy.yml --output json. "
    "virtpoise plan --replay 12. Exit status 1: there is a problem that the plan does not solve; with --replay: the outcome is "
    "not the same."
)
def plan(
    snapshot: SnapshotOption = None,
    config: OptionalConfigOption = None,
    replay: Annotated[
        int | None,
        typer.Option(
            "--replay",
            metavar="PLAN_ID",
            min=1,
            help="Make a stored plan again, from its snapshot and with its policy, and compare. `virtpoise history --plans` "
            "lists the ids.",
        ),
    ] = None,
    group: GroupOption = None,
    output: OutputOption = "table",
) -> None:
    """Show which domains would be migrated where, and why. Changes nothing."""
    if replay is not None:
        if snapshot is not None:
            raise BadInput("plan: expected one of --snapshot, --replay")
        _replay(replay, config, output)
        return
    seen, policy = group_and_policy(snapshot, config, group)

    from virtpoise_balancer.command import terminal
    from virtpoise_balancer.formats import write_plan
    from virtpoise_balancer.plan import plan as make_plan
    from virtpoise_balancer.plan.unmatched import own_notes

    made = make_plan(seen, policy)
    if snapshot is None or config is not None:
        common = settings_of_one(config or DEFAULT_CONFIG, group).common_policy
        made = replace(made, notes=own_notes(made.notes, policy, common))
    if output == "json":
        terminal.print_json(write_plan(made))
    else:
        terminal.show_plan(made)
    if not made.solved:
        raise typer.Exit(EXIT_NO)


def _replay(plan_id: int, config: Path | None, output: Output) -> None:
    from virtpoise_balancer.config import read_config

    settings = read_config(config or DEFAULT_CONFIG)

    from virtpoise_balancer.command import past, terminal
    from virtpoise_balancer.service import wiring

    store = wiring.open_store(settings, warn_left_out)
    try:
        found = past.make_again(store, plan_id)
    finally:
        store.close()
    if output == "json":
        terminal.as_json(past.replayed_json(plan_id, found))
    else:
        past.replayed(plan_id, found)
    if not found.same:
        raise typer.Exit(EXIT_NO)


@app.command(epilog="Example: virtpoise status --output json")
def status(config: ConfigOption = DEFAULT_CONFIG, group: GroupOption = None, output: OutputOption = "table") -> None:
    """Show the running balancer's hosts, its mode, and what it does or waits for.

    Of several groups all are shown; as JSON then one by its name.
    """
    from virtpoise_balancer.command import client, terminal

    every = settings_of_each(config, group)
    found = {one.group: client.get(one, "status") for one in every}
    if output == "json":
        terminal.as_json(found if len(every) > 1 else found[every[0].group])
        return
    for name, one in found.items():
        if len(every) > 1:
            print_out(f"group {name}:")
        terminal.show_status(one)


@app.command(epilog="Examples: virtpoise explain vm1 | virtpoise explain h2 --snapshot cluster.json")
def explain(
    name: Annotated[
        str,
        typer.Argument(help="A domain (name or uuid) or a host.", autocompletion=complete_host_or_domain),
    ],
    snapshot: SnapshotOption = None,
    config: OptionalConfigOption = None,
    group: GroupOption = None,
    output: OutputOption = "table",
) -> None:
    """Explain why a domain is (not) migrated, or why a host is (not) a destination, with the numbers."""
    from virtpoise_balancer.command import terminal
    from virtpoise_balancer.explain.explain import explain as explain_name
    from virtpoise_balancer.explain.explain import not_seen
    from virtpoise_balancer.plan import plan as make_plan

    if snapshot is None:
        every = [(observe_now(one), one.policy) for one in settings_of_each(config or DEFAULT_CONFIG, group)]
    else:
        every = [group_and_policy(snapshot, config, group)]
    explanations = [one for seen, policy in every for one in explain_name(seen, policy, make_plan(seen, policy), name)]
    if not explanations:
        raise NotKnown("; ".join(not_seen(seen, name) for seen, _ in every))
    if output == "json":
        terminal.as_json([terminal.plain(explanation) for explanation in explanations])
    else:
        terminal.show_explanations(explanations)


@app.command(
    epilog="Examples: virtpoise history --limit 50 | virtpoise history --orders | virtpoise history --cycles --limit 100 | "
    "virtpoise history --plans | virtpoise history --why 12"
)
def history(
    config: ConfigOption = DEFAULT_CONFIG,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many, newest first.")] = 20,
    orders: Annotated[
        bool,
        typer.Option("--orders", help="Show people's orders instead of the migrations: who, when, and the answer."),
    ] = False,
    cycles: Annotated[
        bool,
        typer.Option(
            "--cycles", help="Show what the cycles did and why. Cycles in a row that came to the same share a line."
        ),
    ] = False,
    others: Annotated[
        bool, typer.Option("--others", help="Show the migrations, starts and stops that are not the balancer's.")
    ] = False,
    plans: Annotated[bool, typer.Option("--plans", help="Show the stored plans with their ids.")] = False,
    why: Annotated[
        int | None,
        typer.Option(
            "--why",
            metavar="PLAN_ID",
            min=1,
            help="Show one stored plan: its moves, the reasons, what it refused, and how each move went.",
        ),
    ] = None,
    group: GroupOption = None,
    output: OutputOption = "table",
) -> None:
    """Show the migrations, each with what was predicted for both hosts and what was measured afterwards."""
    kinds: dict[HistoryKind, bool] = {"orders": orders, "cycles": cycles, "others": others, "plans": plans}
    chosen = [kind for kind, wanted in kinds.items() if wanted]
    if len(chosen) + (why is not None) > 1:
        raise BadInput("history: expected one of --orders, --cycles, --others, --plans, --why")
    from virtpoise_balancer.config import read_config

    settings = read_config(config)
    if group is not None:
        settings = settings.of_group(group)

    from virtpoise_balancer.command import past
    from virtpoise_balancer.service import wiring

    store = wiring.open_store(settings, warn_left_out)
    try:
        if why is not None:
            past.show_why(store, why, output)
        else:
            past.show_records(store, chosen[0] if chosen else "migrations", limit, output)
    finally:
        store.close()
