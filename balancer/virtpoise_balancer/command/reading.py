"""The commands that only show: snapshot, plan, status, explain, history."""

from __future__ import annotations

from typing import Annotated

import typer

from virtpoise_balancer.command.group import group_and_policy, observe_now
from virtpoise_balancer.command.options import (
    DEFAULT_CONFIG,
    EXIT_NO,
    ConfigOption,
    OptionalConfigOption,
    OutputOption,
    SnapshotOption,
    complete_host_or_domain,
    new_app,
    print_out,
)
from virtpoise_balancer.errors import NotKnown

app = new_app()


@app.command(epilog="Examples: virtpoise snapshot > cluster.json | virtpoise snapshot --output table")
def snapshot(config: ConfigOption = DEFAULT_CONFIG, output: OutputOption = "json") -> None:
    """Print the group as the balancer sees it now: for a bug report, or for `virtpoise plan --snapshot`."""
    from virtpoise_balancer.config import read_config

    seen = observe_now(read_config(config))

    from virtpoise_balancer.command import terminal
    from virtpoise_balancer.formats import write_snapshot

    if output == "json":
        print_out(write_snapshot(seen))
    else:
        terminal.snapshot(seen)


@app.command(
    epilog="Examples: virtpoise plan | virtpoise plan --snapshot cluster.json --config policy.yml --output json. "
    "Exit status 1: there is a problem that the plan does not solve."
)
def plan(snapshot: SnapshotOption = None, config: OptionalConfigOption = None, output: OutputOption = "table") -> None:
    """Show which domains would be migrated where, and why. Changes nothing."""
    group, policy = group_and_policy(snapshot, config)

    from virtpoise_balancer.command import terminal
    from virtpoise_balancer.formats import write_plan
    from virtpoise_balancer.plan import plan as make_plan

    made = make_plan(group, policy)
    if output == "json":
        print_out(write_plan(made))
    else:
        terminal.plan(made)
    if not made.solved:
        raise typer.Exit(EXIT_NO)


@app.command(epilog="Example: virtpoise status --output json")
def status(config: ConfigOption = DEFAULT_CONFIG, output: OutputOption = "table") -> None:
    """Show the running balancer's hosts, its mode, and what it does or waits for."""
    from virtpoise_balancer.command import client, terminal
    from virtpoise_balancer.config import read_config

    found = client.get(read_config(config), "status")
    if output == "json":
        terminal.as_json(found)
    else:
        terminal.status(found)


@app.command(epilog="Examples: virtpoise explain vm1 | virtpoise explain h2 --snapshot cluster.json")
def explain(
    name: Annotated[
        str,
        typer.Argument(help="A domain (name or uuid) or a host.", autocompletion=complete_host_or_domain),
    ],
    snapshot: SnapshotOption = None,
    config: OptionalConfigOption = None,
    output: OutputOption = "table",
) -> None:
    """Explain why a domain is (not) migrated, or why a host is (not) a destination, with the numbers."""
    group, policy = group_and_policy(snapshot, config)

    from virtpoise_balancer.command import terminal
    from virtpoise_balancer.explain.explain import explain as explain_name
    from virtpoise_balancer.explain.explain import not_seen
    from virtpoise_balancer.plan import plan as make_plan

    explanations = explain_name(group, policy, make_plan(group, policy), name)
    if not explanations:
        raise NotKnown(not_seen(group, name))
    if output == "json":
        terminal.as_json([terminal.plain(explanation) for explanation in explanations])
    else:
        terminal.explanations(explanations)


@app.command(epilog="Examples: virtpoise history --limit 50 | virtpoise history --orders")
def history(
    config: ConfigOption = DEFAULT_CONFIG,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many, newest first.")] = 20,
    orders: Annotated[
        bool,
        typer.Option("--orders", help="Show people's orders instead of the migrations: who, when, and the answer."),
    ] = False,
    output: OutputOption = "table",
) -> None:
    """Show the migrations, each with what was predicted for both hosts and what was measured afterwards."""
    from virtpoise_balancer.config import read_config

    settings = read_config(config)

    from virtpoise_balancer.command import terminal
    from virtpoise_balancer.service import wiring

    store = wiring.make_store(settings)
    actions, migrations = store.actions(limit) if orders else (), () if orders else store.history(limit)
    store.close()
    if output == "json":
        terminal.as_json([terminal.plain(record) for record in (*actions, *migrations)])
    elif orders:
        terminal.orders(actions)
    else:
        terminal.history(migrations)
