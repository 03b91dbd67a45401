"""The commands that order something: apply, drain, undrain, acknowledge, pause, resume, mode, release."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from virtpoise_balancer.command.options import (
    DEFAULT_CONFIG,
    EXIT_NO,
    ConfigOption,
    HostArgument,
    new_app,
    print_out,
    warn_left_out,
)
from virtpoise_balancer.command.which import GroupOption, settings_of_each, settings_of_host, settings_of_one
from virtpoise_balancer.errors import Refused
from virtpoise_balancer.model import Mode

if TYPE_CHECKING:
    from virtpoise_balancer.config import Config
    from virtpoise_balancer.control.orders import By, Orders
    from virtpoise_balancer.model import Move

app = new_app()


@app.command(
    epilog="Examples: virtpoise apply | virtpoise apply vm1 --yes --wait. Exit status 1: the plan is out of date or "
    "cannot be carried out now, and nothing was changed; with --wait also: a move was not done. What this command "
    "refuses without asking the balancer (a domain that the plan does not move, no token) is not an order and is "
    "not journalled."
)
def apply(
    domains: Annotated[
        list[str] | None,
        typer.Argument(metavar="DOMAIN", help="Only these domains' moves; by default the whole plan."),
    ] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until the moves have ended, and show how each ended.")
    ] = False,
    group: GroupOption = None,
) -> None:
    """Have the running balancer make the moves that it recommends, after checking them against fresh data.

    Root and the balancer's own user use its socket, as do members of web.socket_group. Anyone else needs a token in
    web.token_file, and the balancer TLS. The journal names the user, also behind sudo.
    """
    from virtpoise_balancer.command import client, terminal

    every = settings_of_each(config, group)
    plans = [(one, moves) for one in every if (moves := _recommended(one))]
    if domains:
        having = {move.domain: one for one, moves in plans for move in moves if {move.domain, move.uuid} & {*domains}}
        plans = [(one, moves) for one, moves in plans if one in having.values()] or plans[:1]
    if len(plans) > 1:
        raise Refused(f"--group: the plans of {', '.join(one.group for one, _ in plans)} have moves: name one of them")
    settings, recommended = plans[0] if plans else (every[0], ())
    chosen = _chosen(recommended, domains or [])
    if not chosen:
        print_out("The plan has no moves: nothing to apply.")
        return
    terminal.show_moves(chosen)
    if not yes and not typer.confirm("Make these moves?"):
        raise Refused("not confirmed, nothing was changed")

    from virtpoise_balancer.command.wait import newest_migration, until_ended

    wanted = [{"uuid": move.uuid, "destination": move.destination} for move in chosen]
    before = newest_migration(settings)
    print_out(client.order(settings, "plan/apply", {"moves": wanted}, _by().who))
    if wait and not until_ended(settings, chosen, before):
        raise typer.Exit(EXIT_NO)


@app.command(
    epilog="Example: virtpoise drain h1 --wait. A host is empty when its own libvirt, which the running balancer "
    "queries, lists no domain in any state but shut off. --wait shows what the drain waits for. Exit status 1: the drain "
    "was refused, or ended by `virtpoise undrain` before the host was empty."
)
def drain(
    host: HostArgument,
    config: ConfigOption = DEFAULT_CONFIG,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the host is empty, and show the progress.")] = False,
    group: GroupOption = None,
) -> None:
    """Evacuate a host: migrate all running domains off it, and keep it empty until `virtpoise undrain`."""
    import time

    with _orders(settings_of_host(config, group, host)) as (settings, orders, by):
        print_out(orders.drain(host, by))
    since = time.time()  # a cycle that began earlier may not know the order
    if wait:
        from virtpoise_balancer.command.drained import wait_until_empty

        wait_until_empty(settings, host, since)
        print_out(f"{host} is empty.")


@app.command(epilog="Example: virtpoise undrain h1")
def undrain(host: HostArgument, config: ConfigOption = DEFAULT_CONFIG, group: GroupOption = None) -> None:
    """Return a drained or draining host to the group."""
    with _orders(settings_of_host(config, group, host)) as (_, orders, by):
        print_out(orders.undrain(host, by))


@app.command(
    epilog="Example: virtpoise acknowledge vm1. First make sure that the domain runs on one host at most, and where: nothing "
    "checks that afterwards. A domain that runs again, or that its guest shut down, needs no acknowledgement."
)
def acknowledge(
    domain: Annotated[str, typer.Argument(metavar="DOMAIN", help="Its name or its uuid.")],
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """End the wait for a domain that was lost in a migration, or whose migration has no known end."""
    with _orders(settings_of_each(config, None)[0]) as (_, orders, by):  # of any group
        print_out(orders.acknowledge(domain, by))


@app.command(epilog="Examples: virtpoise pause | virtpoise pause --group blue")
def pause(config: ConfigOption = DEFAULT_CONFIG, group: GroupOption = None) -> None:
    """Start no migration until `virtpoise resume`, even after a restart; without --group in all groups.

    Running migrations, monitoring and planning continue.
    """
    _in_each(config, group, lambda orders, by: orders.pause(by))


@app.command(epilog="Examples: virtpoise resume | virtpoise resume --group blue")
def resume(config: ConfigOption = DEFAULT_CONFIG, group: GroupOption = None) -> None:
    """End a pause; without --group in all groups."""
    _in_each(config, group, lambda orders, by: orders.resume(by))


@app.command(epilog="Example: virtpoise mode automatic")
def mode(
    mode: Annotated[
        Mode,
        typer.Argument(metavar="MODE", help="recommend: moves are only recommended. automatic: they are made."),
    ],
    config: ConfigOption = DEFAULT_CONFIG,
    group: GroupOption = None,
) -> None:
    """Set the mode of the running balancer.

    It survives restarts, until it is set again or changed in the configuration.
    """
    with _orders(settings_of_one(config, group)) as (_, orders, by):
        print_out(orders.set_mode(mode, by))


@app.command(
    epilog="Example: virtpoise release. The brake is on when migrations failed or predictions were too far off "
    "(policy.brake): moves are then only recommended, even after a restart. What happened before the release does not "
    "count any more."
)
def release(config: ConfigOption = DEFAULT_CONFIG, group: GroupOption = None) -> None:
    """Release the brake: in mode automatic, moves are made again."""
    with _orders(settings_of_one(config, group)) as (_, orders, by):
        print_out(orders.release(by))


def _in_each(path: Path, group: str | None, give: Callable[[Orders, By], str]) -> None:
    """Give an order in each group, or in this one."""
    for settings in settings_of_each(path, group):
        with _orders(settings) as (_, orders, by):
            print_out(f"{settings.group}: {give(orders, by)}" if settings.group else give(orders, by))


@contextmanager
def _orders(settings: Config) -> Iterator[tuple[Config, Orders, By]]:
    """The configuration, what takes the orders, and who gives them. Orders go to the store: no balancer need run."""
    import time

    from virtpoise_balancer.control.orders import Orders
    from virtpoise_balancer.service import wiring

    with closing(wiring.open_store(settings, warn_left_out)) as store:
        orders = Orders(
            store=store,
            look=lambda: wiring.make_observer(settings).observe(time.time()).snapshot,
            mode=lambda: settings.mode,
            policy=lambda: settings.policy,
            only_recommends=lambda: settings.libvirt.only_recommends,
        )
        yield settings, orders, _by()


def _by() -> By:
    """The calling user; behind sudo, the user who called it."""
    import os

    from virtpoise_balancer.control.orders import By
    from virtpoise_balancer.tokens import user_name

    return By(os.environ.get("SUDO_USER") or user_name(os.getuid()), "command")


def _recommended(settings: Config) -> Sequence[Move]:
    """The moves of the running balancer's plan."""
    from virtpoise_balancer.command import client

    plan = client.plan_in(client.get(settings, "plan"))
    return plan.moves if plan else ()


def _chosen(recommended: Sequence[Move], domains: Sequence[str]) -> list[Move]:
    """The recommended moves of these domains (names or uuids), or all. Refused if one of them is not moved."""
    for name in domains:
        if not any(name in (move.domain, move.uuid) for move in recommended):
            names = ", ".join(move.domain for move in recommended) or "no domain"
            raise Refused(f"{name}: the plan does not move it; it moves {names}")
    return [move for move in recommended if not domains or move.domain in domains or move.uuid in domains]
