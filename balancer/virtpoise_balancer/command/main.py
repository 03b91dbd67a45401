"""The command `virtpoise`. Each command imports what it needs when it runs: help and mistakes are answered at once."""

from __future__ import annotations

import gc
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from virtpoise_balancer import __version__
from virtpoise_balancer.command import backtest, orders, reading, simulate
from virtpoise_balancer.command.options import (
    DEFAULT_CONFIG,
    EXIT_BAD_INPUT,
    EXIT_INTERRUPTED,
    EXIT_NO,
    ConfigOption,
    OutputOption,
    complete_host,
    new_app,
    print_out,
)
from virtpoise_balancer.command.which import GroupOption, settings_of_each
from virtpoise_balancer.errors import BadInput, Refused, VirtpoiseError
from virtpoise_balancer.tokens import TokenRole
from virtpoise_balancer.visible import visible

# What the parser raises for a wrong option or argument; typer exports only its descendants.
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]

app = new_app()


def _version(wanted: bool) -> None:
    if wanted:
        print_out(__version__)
        raise typer.Exit


@app.callback(
    help="Keeps plain libvirt/KVM hosts in balance, driven by Prometheus.\n\n"
    "Exit status: 0 done; 1 the answer is no (a problem remains, a check failed, an order was refused); "
    "2 bad input, or something could not be reached, with one line on standard error; 130 interrupted.",
)
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


@app.command(epilog="Example: virtpoise run --config /etc/virtpoise/virtpoise.yml")
def run(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Run the balancer until SIGTERM. SIGHUP reloads the configuration."""
    from virtpoise_balancer.config import read_config

    settings = read_config(config)

    from virtpoise_balancer.command.check import asks, runs_as

    if (owner := runs_as(settings)) != asks():
        raise BadInput(
            f"run: the folder of state.url belongs to {owner}, who could not write to what {asks()} makes there: "
            f"systemctl start virtpoise, or: runuser -u {owner} -- virtpoise run"
        )

    from virtpoise_balancer.service.daemon import Daemon
    from virtpoise_balancer.service.logs import set_up

    set_up(settings.log.level, settings.log.format)
    gc.freeze()  # what is imported stays: else each look's many objects have all of it searched for garbage
    Daemon(config).run()


@app.command(
    epilog="Examples: virtpoise doctor | virtpoise doctor h1 h2. Exit status 1: a check failed. Between two hosts, the "
    "connection is tested by asking the first to migrate a running domain with an XML that no libvirt accepts. "
    "The domain stays."
)
def doctor(
    hosts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="HOST",
            help="Only these hosts, each with every other; by default all.",
            autocompletion=complete_host,
        ),
    ] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    group: GroupOption = None,
    output: OutputOption = "table",
) -> None:
    """Check everything that migrations need: one line for each check, with the remedy."""
    every = settings_of_each(config, group)
    if hosts and len(every) > 1:
        raise BadInput(f"--group: expected one of {', '.join(one.group for one in every)}, whose hosts these are")

    from virtpoise_balancer.command import terminal
    from virtpoise_balancer.command.doctor import examine
    from virtpoise_balancer.command.finding import Severity

    with terminal.progress() as bar:
        findings = list(examine(every, hosts or [], bar))
    if output == "json":
        terminal.as_json([terminal.plain(finding) for finding in findings])
    else:
        terminal.show_findings(findings)
    if any(finding.verdict is Severity.BAD for finding in findings):
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
            help="Check that this user can read all files. By default the user who asks; if that is root, the owner of "
            "the folder of state.url, as whom the balancer runs.",
        ),
    ] = None,
    output: OutputOption = "table",
) -> None:
    """Check whether the balancer can use a configuration file and the files that it names, and warn of likely mistakes.

    Whether rules match the existing hosts and domains, `virtpoise doctor` and `virtpoise plan` report: that needs
    Prometheus.
    """
    from virtpoise_balancer.advice import warnings
    from virtpoise_balancer.command.check import check

    found = check(file, user)
    mode, strategy = found.config.mode, found.config.policy.strategy
    groups = {name: own for name, own in found.config.each_group.items() if name}
    warned = warnings(found.config)
    if output == "json":
        from virtpoise_balancer.command import terminal

        about: dict[str, object] = {"file": str(file), "mode": mode, "strategy": strategy, "user": found.user}
        if groups:
            about["groups"] = {
                name: {"mode": own.mode, "strategy": own.policy.strategy} for name, own in groups.items()
            }
        terminal.as_json({**about, "unchecked": [str(path) for path in found.unchecked], "warnings": warned})
        return
    for warning in warned:
        sys.stderr.write(f"virtpoise: {file}: warning: {visible(warning)}\n")
    print_out(f"{file}: good for the user {found.user} (mode {mode}, strategy {strategy}).")
    for name, own in groups.items():
        print_out(f"group {name}: mode {own.mode}, strategy {own.policy.strategy}, targets {own.prometheus.matchers}")
    for path in found.unchecked:
        print_out(f"{path}: not checked, systemd puts it there when it starts the service.")


@app.command(epilog="Example: virtpoise token alice --role order")
def token(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Whose it is; the journal names the owner of each order.")
    ],
    role: Annotated[
        TokenRole,
        typer.Option(
            "--role",
            help="read, if web.read asks for a token; order: also moves, drains and pauses; mode: also the mode.",
        ),
    ] = "order",
) -> None:
    """Make a token.

    The first line is the token itself, for its owner; the second is the line with its hash for web.token_file.
    """
    from virtpoise_balancer.tokens import new_token

    print_out("\n".join(new_token(name, role)))


app.add_typer(reading.app)
app.add_typer(simulate.app)
app.add_typer(backtest.app)
app.add_typer(orders.app)


# --group as it may be given: also with its value attached, and after flags.
_GROUP = re.compile(r"--group(=|$)|-[hy]*g")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status. Standard error has one line for each mistake of the user."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        # The last one would count without an error, and an order be followed for one group alone.
        if sum(_GROUP.match(one) is not None for one in given) > 1:
            raise BadInput("--group: expected once")
        code = app(args=given, prog_name="virtpoise", standalone_mode=False)
    except VirtpoiseError as error:
        sys.stderr.write("".join(f"virtpoise: {visible(line)}\n" for line in str(error).splitlines()))
        return EXIT_NO if isinstance(error, Refused) else EXIT_BAD_INPUT
    except _UsageError as error:
        message: str = error.format_message()  # type: ignore[attr-defined]
        message = " ".join(message.split()).replace("Value error, ", "")
        sys.stderr.write(f"virtpoise: {visible(message)} (see virtpoise --help)\n")
        return EXIT_BAD_INPUT
    except (KeyboardInterrupt, typer.Abort):
        sys.stderr.write("virtpoise: interrupted\n")
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # `virtpoise history | head`
        import os

        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return int(code or 0)
