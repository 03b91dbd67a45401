"""The command `virtpoise`."""

from __future__ import annotations

import os
import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import requests
import typer

from virtpoise_balancer import __version__, show, wiring
from virtpoise_balancer.config import Config, read_config
from virtpoise_balancer.cycle import placed
from virtpoise_balancer.errors import BadInput, VirtpoiseError
from virtpoise_balancer.formats import read_snapshot, write_plan, write_snapshot
from virtpoise_balancer.model import DomainState, HostState, Policy, Snapshot
from virtpoise_balancer.plan import plan as make_plan

DEFAULT_CONFIG = Path("/etc/virtpoise/virtpoise.yml")

EXIT_UNSOLVED = 1
EXIT_BAD_INPUT = 2

app = typer.Typer(
    help="Keeps plain libvirt/KVM hosts in balance, driven by Prometheus.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Output(StrEnum):
    TABLE = "table"
    JSON = "json"


ConfigOption = Annotated[
    Path, typer.Option("--config", "-c", envvar="VIRTPOISE_CONFIG", help="The configuration file.", show_default=True)
]
OutputOption = Annotated[Output, typer.Option("--output", "-o", help="A table for people or JSON for programs.")]


@app.command(epilog="Example: virtpoise run --config /etc/virtpoise/virtpoise.yml")
def run(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Run the balancer until SIGTERM. SIGHUP reads the configuration again."""
    from virtpoise_balancer.daemon import Daemon  # the other commands need no scheduler and no web server
    from virtpoise_balancer.logs import set_up

    settings = read_config(config)
    set_up(settings.log.level, settings.log.format)
    Daemon(config).run()


@app.command(epilog="Example: virtpoise snapshot > cluster.json")
def snapshot(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Print the group as the balancer sees it now, as JSON: for a bug report, or for [bold]virtpoise plan --snapshot[/]."""
    print_out(write_snapshot(_look(read_config(config))))


@app.command(
    epilog="Examples: virtpoise plan | virtpoise plan --snapshot cluster.json --config policy.yml --output json. "
    "Exit status: 0 with or without moves, 1 when a problem stands that the plan does not solve, 2 for bad input."
)
def plan(
    snapshot: Annotated[
        Path | None, typer.Option("--snapshot", "-s", help="Plan for this file instead of asking Prometheus.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", "-c", envvar="VIRTPOISE_CONFIG", help="The configuration file; with --snapshot optional."
        ),
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show what would be moved where, and why. Changes nothing."""
    if snapshot is None:
        settings = read_config(config or DEFAULT_CONFIG)
        group, policy = _look(settings), settings.policy
    else:
        group = read_snapshot(_read(snapshot), str(snapshot))
        policy = read_config(config).policy if config else Policy()
    made = make_plan(group, policy)
    if output is Output.JSON:
        print_out(write_plan(made))
    else:
        show.plan(made)
    if not made.solved:
        raise typer.Exit(EXIT_UNSOLVED)


@app.command(epilog="Example: virtpoise status --output json")
def status(config: ConfigOption = DEFAULT_CONFIG, output: OutputOption = Output.TABLE) -> None:
    """Show what the running balancer sees, does and waits for."""
    found = _ask_daemon(read_config(config))
    if output is Output.JSON:
        show.as_json(found)
    else:
        show.status(found)


@app.command(epilog="Example: virtpoise history --limit 50")
def history(
    config: ConfigOption = DEFAULT_CONFIG,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many migrations, the newest first.")] = 20,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show the migrations, each with what was predicted for both hosts and what was measured afterwards."""
    records = wiring.make_store(read_config(config)).history(limit)
    if output is Output.JSON:
        show.as_json(show.history_values(records))
    else:
        show.history(records)


@app.command(epilog="Example: virtpoise drain h1 --wait")
def drain(
    host: Annotated[str, typer.Argument(help="The host to empty, as Prometheus names it.")],
    config: ConfigOption = DEFAULT_CONFIG,
    wait: Annotated[bool, typer.Option("--wait", help="Stay until the host is empty, and show how far it is.")] = False,
) -> None:
    """Move all running domains off a host and keep it out of the group until [bold]virtpoise undrain[/]."""
    settings = read_config(config)
    group = _look(settings)
    found = _known(group, host)
    if found.state is HostState.UNKNOWN:
        raise BadInput(f"{host}: Prometheus has no fresh figures of it, so nothing can be moved off it")
    if not any(other.state is HostState.ACTIVE and other.name != host for other in group.hosts):
        raise BadInput(f"{host}: it is the last host of the group, there is nowhere to move its domains")
    changed = wiring.make_store(settings).set_draining(host, draining=True)
    print_out(f"{host} drains from the next cycle on." if changed else f"{host} is draining already.")
    if settings.mode == "recommend":
        print_out("The mode is recommend: its moves are recommended, not made.")
    if wait:
        _wait_until_empty(settings, host)


@app.command(epilog="Example: virtpoise undrain h1")
def undrain(
    host: Annotated[str, typer.Argument(help="The host to take back into the group.")],
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Take a drained or draining host back into the group."""
    settings = read_config(config)
    changed = wiring.make_store(settings).set_draining(host, draining=False)
    if not changed:
        _known(_look(settings), host)
    print_out(f"{host} is back in the group." if changed else f"{host} is not draining.")


@app.command("check-config", epilog="Example: virtpoise check-config virtpoise.yml")
def check_config(file: Annotated[Path, typer.Argument(help="The configuration file to check.")]) -> None:
    """Read a configuration and say whether it can be used."""
    settings = read_config(file)
    print_out(f"{file}: good (mode {settings.mode}, strategy {settings.policy.strategy}).")


def _version(wanted: bool) -> None:
    if wanted:
        print_out(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    pass


def print_out(text: str) -> None:
    sys.stdout.write(text + "\n")


def _look(settings: Config) -> Snapshot:
    """The group now, with what the store remembers of it."""
    now = time.time()
    seen = wiring.make_observer(settings).observe(now).snapshot
    store = wiring.make_store(settings)
    try:
        return placed(seen, store.standings(), store.last_moved(now - settings.policy.rest_seconds))
    finally:
        store.close()


def _known(group: Snapshot, name: str) -> Any:
    host = group.host(name)
    if host is None:
        names = ", ".join(host.name for host in group.hosts) or "none"
        raise BadInput(f"{name}: no such host is scraped; there are: {names}")
    return host


def _wait_until_empty(settings: Config, host: str) -> None:
    with show.progress() as bar:
        total: int | None = None
        while True:
            here = [d for d in _look(settings).domains if d.host == host and d.state is not DomainState.SHUTOFF]
            total = max(total or 0, len(here))
            bar(f"{host}: {len(here)} of {total} domains left", total - len(here), total)
            if not here:
                break
            time.sleep(settings.interval_seconds)
    print_out(f"{host} is empty.")


def _ask_daemon(settings: Config) -> dict[str, Any]:
    address = settings.web.listen_address
    try:
        response = requests.get(f"http://{address}/api/v1/status", timeout=5)
        response.raise_for_status()
        found: dict[str, Any] = response.json()
    except (requests.RequestException, ValueError):
        raise VirtpoiseError(
            f"no balancer answers at {address} (web.listen_address): is `virtpoise run` running?"
        ) from None
    return found


def _read(path: Path) -> bytes:
    try:
        return sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from None


def main() -> None:
    """Run the command; a mistake of the user's is told in one line, with exit status 2."""
    try:
        app(prog_name="virtpoise")
    except VirtpoiseError as error:
        sys.stderr.write(f"virtpoise: {error}\n")
        raise SystemExit(EXIT_BAD_INPUT) from None
    except BrokenPipeError:  # `virtpoise history | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
