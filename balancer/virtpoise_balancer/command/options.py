"""What several commands share: their options, completion in the shell, exit statuses."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from virtpoise_balancer.errors import BadInput, VirtpoiseError
from virtpoise_balancer.visible import visible_lines

DEFAULT_CONFIG = Path("/etc/virtpoise/virtpoise.yml")

EXIT_NO = 1
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130

Output = Literal["table", "json"]


def complete_host(incomplete: str) -> list[str]:
    """The hosts whose names begin with ``incomplete``."""
    return [name for name in _names("hosts") if name.startswith(incomplete)]


def complete_host_or_domain(incomplete: str) -> list[str]:
    """The hosts and domains whose names begin with ``incomplete``."""
    return [name for name in _names("hosts") + _names("domains") if name.startswith(incomplete)]


def _names(kind: str) -> list[str]:
    """The hosts or domains of the running balancer; empty if it does not answer within a second."""
    import os

    from virtpoise_balancer.command import client
    from virtpoise_balancer.config import read_config

    try:
        config = read_config(Path(os.environ.get("VIRTPOISE_CONFIG", str(DEFAULT_CONFIG))))
        groups = config.each_group.values()
        return [one["name"] for own in groups for one in client.get(own, kind, timeout_seconds=1.0)]
    except VirtpoiseError:
        return []


ConfigOption = Annotated[
    Path, typer.Option("--config", "-c", envvar="VIRTPOISE_CONFIG", help="The configuration file.", show_default=True)
]
OptionalConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", envvar="VIRTPOISE_CONFIG", help="The configuration file; optional with --snapshot."),
]
SnapshotOption = Annotated[
    Path | None,
    typer.Option("--snapshot", "-s", help="Plan for this file (- is standard input) instead of querying Prometheus."),
]
OutputOption = Annotated[Output, typer.Option("--output", "-o", help="A table for people or JSON for programs.")]
HostArgument = Annotated[
    str, typer.Argument(metavar="HOST", help="The host, as Prometheus names it.", autocompletion=complete_host)
]


def new_app() -> typer.Typer:
    """An empty group of commands. `rich` is not imported for its help, so that help is printed at once."""
    return typer.Typer(
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def print_out(text: str) -> None:
    sys.stdout.write(visible_lines(text) + "\n")


def warn_left_out(row: str) -> None:
    """Name a row of the store that cannot be read, on standard error."""
    sys.stderr.write(f"virtpoise: left out: {visible_lines(row)}\n")


def warn_unknown(line: str) -> None:
    """Say what could not be learned, on standard error."""
    sys.stderr.write(f"virtpoise: warning: {visible_lines(line)}\n")


def read_file(path: Path) -> bytes:
    """The content of the file, or of standard input for ``-``. BadInput if it cannot be read."""
    try:
        return sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from None
