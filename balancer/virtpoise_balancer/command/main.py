"""The command `virtpoise`. Only what a command needs is imported, when it runs: help and mistakes must come at once."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from virtpoise_balancer import __version__
from virtpoise_balancer.errors import BadInput, NotKnown, Refused, VirtpoiseError

if TYPE_CHECKING:
    from virtpoise_balancer.config import Config
    from virtpoise_balancer.control.orders import By, Orders
    from virtpoise_balancer.model import Move, Policy, Snapshot

DEFAULT_CONFIG = Path("/etc/virtpoise/virtpoise.yml")

# As many migrations as the API tells at once.
_MOST_RECORDS = 1000

EXIT_NO = 1
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130

# What the parser raises for a wrong option or argument; typer exports only its descendants.
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]

app = typer.Typer(
    help="Keeps plain libvirt/KVM hosts in balance, driven by Prometheus.\n\n"
    "Exit status of every command: 0 done; 1 the answer is no (a problem stands, a check failed, an order was refused); "
    "2 bad input, or something could not be reached, which one line on standard error tells; 130 interrupted.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Output(StrEnum):
    TABLE = "table"
    JSON = "json"


class ModeName(StrEnum):
    RECOMMEND = "recommend"
    AUTOMATIC = "automatic"


def _hosts(incomplete: str) -> list[str]:
    return [name for name in _names("hosts") if name.startswith(incomplete)]


def _hosts_and_domains(incomplete: str) -> list[str]:
    return [name for name in _names("hosts") + _names("domains") if name.startswith(incomplete)]


def _names(kind: str) -> list[str]:
    """The running balancer's hosts or domains, for the shell to complete; none when it does not answer at once."""
    import os

    from virtpoise_balancer.command import client
    from virtpoise_balancer.config import read_config

    try:
        config = read_config(Path(os.environ.get("VIRTPOISE_CONFIG", str(DEFAULT_CONFIG))))
        return [one["name"] for one in client.get(config, kind, timeout_seconds=1.0)]
    except VirtpoiseError:
        return []


ConfigOption = Annotated[
    Path, typer.Option("--config", "-c", envvar="VIRTPOISE_CONFIG", help="The configuration file.", show_default=True)
]
OptionalConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", envvar="VIRTPOISE_CONFIG", help="The configuration file; with --snapshot optional."),
]
SnapshotOption = Annotated[
    Path | None,
    typer.Option("--snapshot", "-s", help="Plan for this file (- is standard input) instead of asking Prometheus."),
]
OutputOption = Annotated[Output, typer.Option("--output", "-o", help="A table for people or JSON for programs.")]
HostArgument = Annotated[
    str, typer.Argument(metavar="HOST", help="The host, as Prometheus names it.", autocompletion=_hosts)
]


@app.command(epilog="Example: virtpoise run --config /etc/virtpoise/virtpoise.yml")
def run(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Run the balancer until SIGTERM. SIGHUP reads the configuration again."""
    from virtpoise_balancer.config import read_config

    settings = read_config(config)

    from virtpoise_balancer.service.daemon import Daemon
    from virtpoise_balancer.service.logs import set_up

    set_up(settings.log.level, settings.log.format)
    Daemon(config).run()


@app.command(epilog="Examples: virtpoise snapshot > cluster.json | virtpoise snapshot --output table")
def snapshot(config: ConfigOption = DEFAULT_CONFIG, output: OutputOption = Output.JSON) -> None:
    """Print the group as the balancer sees it now: for a bug report, or for `virtpoise plan --snapshot`."""
    from virtpoise_balancer.config import read_config

    seen = _look(read_config(config))

    from virtpoise_balancer.command import terminal
    from virtpoise_balancer.formats import write_snapshot

    if output is Output.JSON:
        print_out(write_snapshot(seen))
    else:
        terminal.snapshot(seen)


@app.command(
    epilog="Examples: virtpoise plan | virtpoise plan --snapshot cluster.json --config policy.yml --output json. "
    "Exit status 1: a problem stands that the plan does not solve."
)
def plan(
    snapshot: SnapshotOption = None, config: OptionalConfigOption = None, output: OutputOption = Output.TABLE
) -> None:
    """Show what would be moved where, and why. Changes nothing."""
    group, policy = _group(snapshot, config)

    from virtpoise_balancer.command import terminal
    from virtpoise_balancer.formats import write_plan
    from virtpoise_balancer.plan import plan as make_plan

    made = make_plan(group, policy)
    if output is Output.JSON:
        print_out(write_plan(made))
    else:
        terminal.plan(made)
    if not made.solved:
        raise typer.Exit(EXIT_NO)


@app.command(
    epilog="Examples: virtpoise apply | virtpoise apply vm1 --yes --wait. Exit status 1: the plan is out of date or "
    "cannot be followed now, and nothing was changed; with --wait also: a move was not done. What this command refuses "
    "before it asks the balancer (a domain that the plan does not move, no token) was not ordered, so it is not journalled."
)
def apply(
    domains: Annotated[
        list[str] | None,
        typer.Argument(metavar="DOMAIN", help="Only these domains' moves; by default the whole plan."),
    ] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask first.")] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Stay until the moves have ended, and show how each ended.")
    ] = False,
) -> None:
    """Have the running balancer make the moves that it recommends, after it has looked at the group afresh.

    Needs web.token_file in the configuration, with a token of whoever calls it; root may take another's, and the journal names both.
    """
    import json

    from virtpoise_balancer.command import client, terminal
    from virtpoise_balancer.config import read_config
    from virtpoise_balancer.formats import read_plan

    settings = read_config(config)
    plan = client.get(settings, "plan")["plan"]
    chosen = _chosen(read_plan(json.dumps(plan), "the balancer's plan").moves if plan else (), domains or [])
    if not chosen:
        print_out("The plan has no moves: nothing to apply.")
        return
    terminal.moves(chosen)
    if not yes and not typer.confirm("Make these moves?"):
        raise Refused("not confirmed, nothing was changed")
    wanted = [{"uuid": move.uuid, "destination": move.destination} for move in chosen]
    before = max((record["id"] for record in client.get(settings, "history?limit=1")), default=0)
    print_out(client.order(settings, "plan/apply", {"moves": wanted}, _by().who))
    if wait and not _all_done(settings, chosen, before):
        raise typer.Exit(EXIT_NO)


@app.command(epilog="Example: virtpoise status --output json")
def status(config: ConfigOption = DEFAULT_CONFIG, output: OutputOption = Output.TABLE) -> None:
    """Show what the running balancer sees, does and waits for."""
    from virtpoise_balancer.command import client, terminal
    from virtpoise_balancer.config import read_config

    found = client.get(read_config(config), "status")
    if output is Output.JSON:
        terminal.as_json(found)
    else:
        terminal.status(found)


@app.command(epilog="Examples: virtpoise explain vm1 | virtpoise explain h2 --snapshot cluster.json")
def explain(
    name: Annotated[str, typer.Argument(help="A domain (name or uuid) or a host.", autocompletion=_hosts_and_domains)],
    snapshot: SnapshotOption = None,
    config: OptionalConfigOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Say why a domain is (not) moved, or why a host is (not) a destination, with the numbers."""
    group, policy = _group(snapshot, config)

    from virtpoise_balancer.command import terminal
    from virtpoise_balancer.explain.explain import explain as say_why
    from virtpoise_balancer.explain.explain import not_seen
    from virtpoise_balancer.plan import plan as make_plan

    explanations = say_why(group, policy, make_plan(group, policy), name)
    if not explanations:
        raise NotKnown(not_seen(group, name))
    if output is Output.JSON:
        terminal.as_json([terminal.plain(explanation) for explanation in explanations])
    else:
        terminal.explanations(explanations)


@app.command(epilog="Examples: virtpoise history --limit 50 | virtpoise history --orders")
def history(
    config: ConfigOption = DEFAULT_CONFIG,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many, the newest first.")] = 20,
    orders: Annotated[
        bool,
        typer.Option("--orders", help="What people ordered, instead of the migrations: who, when, and the answer."),
    ] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show the migrations, each with what was predicted for both hosts and what was measured afterwards."""
    from virtpoise_balancer.config import read_config

    settings = read_config(config)

    from virtpoise_balancer.command import terminal
    from virtpoise_balancer.service import wiring

    with closing(wiring.make_store(settings)) as store:
        actions, migrations = store.actions(limit) if orders else (), () if orders else store.history(limit)
    if output is Output.JSON:
        terminal.as_json([terminal.plain(record) for record in (*actions, *migrations)])
    elif orders:
        terminal.orders(actions)
    else:
        terminal.history(migrations)


@app.command(
    epilog="Example: virtpoise drain h1 --wait. A host is empty when its own libvirt, which the running balancer asks, lists no domain in "
    "any state but shut off. --wait shows what the drain waits for. Exit status 1: the drain was refused, or taken back before its end."
)
def drain(
    host: HostArgument,
    config: ConfigOption = DEFAULT_CONFIG,
    wait: Annotated[bool, typer.Option("--wait", help="Stay until the host is empty, and show how far it is.")] = False,
) -> None:
    """Move all running domains off a host and keep it out of the group until `virtpoise undrain`."""
    import time

    with _orders(config) as (settings, orders, by):
        print_out(orders.drain(host, by))
    since = time.time()  # a cycle that began earlier may not know the order
    if wait:
        from virtpoise_balancer.command.drained import wait_until_empty

        wait_until_empty(settings, host, since)
        print_out(f"{host} is empty.")


@app.command(epilog="Example: virtpoise undrain h1")
def undrain(host: HostArgument, config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Take a drained or draining host back into the group."""
    with _orders(config) as (_, orders, by):
        print_out(orders.undrain(host, by))


@app.command(epilog="Example: virtpoise pause")
def pause(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Begin no migration until `virtpoise resume`, even after a restart. One under way goes on; looking and planning, too."""
    with _orders(config) as (_, orders, by):
        print_out(orders.pause(by))


@app.command(epilog="Example: virtpoise resume")
def resume(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Take a pause back."""
    with _orders(config) as (_, orders, by):
        print_out(orders.resume(by))


@app.command(epilog="Example: virtpoise mode automatic")
def mode(
    mode: Annotated[
        ModeName,
        typer.Argument(metavar="MODE", help="recommend: moves are only recommended. automatic: they are made."),
    ],
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Set the mode while the balancer runs. It holds, also after a restart, until it is set again or changed in the configuration."""
    with _orders(config) as (_, orders, by):
        print_out(orders.set_mode(mode.value, by))


@app.command(
    epilog="Examples: virtpoise doctor | virtpoise doctor h1 h2. Exit status 1: something is wrong. Between two hosts the way is "
    "tried by asking the first to migrate a running domain with a description that no libvirt accepts; the domain stays."
)
def doctor(
    hosts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="HOST", help="Only these hosts, each with every other; by default all.", autocompletion=_hosts
        ),
    ] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    output: OutputOption = Output.TABLE,
) -> None:
    """Look at everything that must be in place before domains can be moved: one line each, with the remedy."""
    from virtpoise_balancer.config import read_config

    settings = read_config(config)

    from virtpoise_balancer.command import terminal
    from virtpoise_balancer.command.doctor import Verdict, examine

    with terminal.progress() as bar:
        findings = list(examine(settings, hosts or [], bar))
    if output is Output.JSON:
        terminal.as_json([terminal.plain(finding) for finding in findings])
    else:
        terminal.findings(findings)
    if any(finding.verdict is Verdict.BAD for finding in findings):
        raise typer.Exit(EXIT_NO)


@app.command(
    "check-config",
    epilog="Examples: virtpoise check-config virtpoise.yml | virtpoise check-config virtpoise.yml --user virtpoise",
)
def check_config(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The configuration file to check.")],
    user: Annotated[
        str | None,
        typer.Option(
            "--user",
            metavar="NAME",
            help="Check that this user can read all files. By default whoever asks; where root asks, the owner of the "
            "folder of state.url, as whom the balancer runs.",
        ),
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Read a configuration and the files that it names, and say whether the balancer can use them, with warnings of likely mistakes.

    Whether rules fit the hosts and domains that there are, `virtpoise doctor` and `virtpoise plan` say: only Prometheus knows.
    """
    from virtpoise_balancer.advice import warnings
    from virtpoise_balancer.command import terminal
    from virtpoise_balancer.command.check import check

    found = check(file, user)
    mode, strategy = found.config.mode, found.config.policy.strategy
    warned = warnings(found.config)
    if output is Output.JSON:
        about = {"file": str(file), "mode": mode, "strategy": strategy, "user": found.user}
        terminal.as_json({**about, "unchecked": [str(path) for path in found.unchecked], "warnings": warned})
        return
    for warning in warned:
        sys.stderr.write(f"virtpoise: {file}: warning: {warning}\n")
    print_out(f"{file}: good for the user {found.user} (mode {mode}, strategy {strategy}).")
    for path in found.unchecked:
        print_out(f"{path}: not checked, systemd puts it there when it starts the service.")


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


def _group(snapshot: Path | None, config: Path | None) -> tuple[Snapshot, Policy]:
    """The group and the policy to plan with: of the file and the defaults, or of what runs."""
    if snapshot is None:
        from virtpoise_balancer.config import read_config

        settings = read_config(config or DEFAULT_CONFIG)
        return _look(settings), settings.policy
    from virtpoise_balancer.formats import read_snapshot
    from virtpoise_balancer.model import Policy

    group = read_snapshot(_read(snapshot), str(snapshot))
    if config is None:
        return group, Policy()
    from virtpoise_balancer.config import read_config

    return group, read_config(config).policy


def _look(settings: Config) -> Snapshot:
    """The group now, with what the store remembers of it."""
    import time

    from virtpoise_balancer.control.cycle import placed, remembered_seconds
    from virtpoise_balancer.service import wiring

    now = time.time()
    seen = wiring.make_observer(settings).observe(now).snapshot
    store = wiring.make_store(settings)
    try:
        return placed(seen, store.standings(), store.experience(now - remembered_seconds(settings.policy)))
    finally:
        store.close()


@contextmanager
def _orders(path: Path) -> Iterator[tuple[Config, Orders, By]]:
    """What takes a command's orders. They go to the store, so they hold whether a balancer runs or not."""
    from virtpoise_balancer.config import read_config

    settings = read_config(path)

    import time

    from virtpoise_balancer.control.orders import Orders
    from virtpoise_balancer.service import wiring

    store = wiring.make_store(settings)
    orders = Orders(
        store=store,
        look=lambda: wiring.make_observer(settings).observe(time.time()).snapshot,
        mode=lambda: settings.mode,
        may_act=lambda: settings.libvirt.names_hosts,
    )
    try:
        yield settings, orders, _by()
    finally:
        store.close()


def _by() -> By:
    """Who types: behind sudo, who called it."""
    import os
    import pwd

    from virtpoise_balancer.control.orders import By

    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        user = str(os.getuid())
    return By(os.environ.get("SUDO_USER", user), "command")


def _chosen(recommended: Sequence[Move], domains: Sequence[str]) -> list[Move]:
    for name in domains:
        if not any(name in (move.domain, move.uuid) for move in recommended):
            names = ", ".join(move.domain for move in recommended) or "no domain"
            raise Refused(f"{name}: the plan does not move it; it moves {names}")
    return [move for move in recommended if not domains or move.domain in domains or move.uuid in domains]


def _all_done(settings: Config, moves: Sequence[Move], before: int) -> bool:
    """Wait until these moves have ended, and show how; whether all were done. ``before``: the newest migration before they were ordered."""
    import time

    from virtpoise_balancer.command import client, terminal

    wanted = {(move.uuid, move.destination) for move in moves}
    with terminal.progress() as bar:
        while True:
            records = {
                (record["uuid"], record["destination"]): record  # the oldest comes last: a later plan may move it again
                for record in client.get(settings, f"history?limit={_MOST_RECORDS}")
                if record["id"] > before and (record["uuid"], record["destination"]) in wanted
            }
            left = [record for record in records.values() if record["result"] is None]
            if not left:
                break
            flights = client.get(settings, "status")["in_flight"]
            done = sum((flight["progress"] or {}).get("processed_bytes", 0) for flight in flights)
            total = sum((flight["progress"] or {}).get("total_bytes", 0) for flight in flights)
            names = ", ".join(flight["domain"] for flight in flights) or "next move"
            bar(f"{names} ({len(left)} left)", min(done, total), max(total, 1))
            time.sleep(0.5)
    ended = [(move, records.get((move.uuid, move.destination))) for move in moves]
    terminal.ends(ended)
    return all(record is not None and record["result"] == "done" for _, record in ended)


def _read(path: Path) -> bytes:
    try:
        return sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; its exit status. Standard error has one line for each mistake of the user."""
    try:
        code = app(args=None if arguments is None else list(arguments), prog_name="virtpoise", standalone_mode=False)
    except VirtpoiseError as error:
        sys.stderr.write("".join(f"virtpoise: {line}\n" for line in str(error).splitlines()))
        return EXIT_NO if isinstance(error, Refused) else EXIT_BAD_INPUT
    except _UsageError as error:
        message: str = error.format_message()  # type: ignore[attr-defined]
        sys.stderr.write(f"virtpoise: {' '.join(message.split())} (see virtpoise --help)\n")
        return EXIT_BAD_INPUT
    except (KeyboardInterrupt, typer.Abort):
        sys.stderr.write("virtpoise: interrupted\n")
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # `virtpoise history | head`
        import os

        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if (why := _said_by_the_store(error)) is None:
            raise
        sys.stderr.write(f"virtpoise: state.url: {why}\n")
        return EXIT_BAD_INPUT
    return int(code or 0)


def _said_by_the_store(error: Exception) -> str | None:
    """Why the database (read-only, locked, full) did not do what it was asked, in one line; None for any other error."""
    known = sys.modules.get("sqlalchemy.exc")  # not imported, it has raised nothing
    if known is None or not isinstance(error, known.SQLAlchemyError):
        return None
    return str(getattr(error, "orig", None) or error).splitlines()[0]
