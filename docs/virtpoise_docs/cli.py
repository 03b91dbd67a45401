"""docs/cli.md, from the help of each command."""

from __future__ import annotations

import re

import typer

from virtpoise_balancer.command.main import app

_CLI = """\
# The command `virtpoise`

Generated from the code by `scripts/generate-docs`; a test compares the two.

| exit status | meaning |
| --- | --- |
| 0 | done |
| 1 | the answer is no: a problem that the plan does not solve, a failed check of the doctor, a refused order |
| 2 | bad input, or something could not be reached; one line on standard error names what was expected |
| 130 | interrupted |

`--config` is also taken from the environment variable `VIRTPOISE_CONFIG`. `virtpoise --install-completion` enables
completion in the shell for commands, options, and the names of hosts and domains. Tables are for people and may change;
`--output json` is for programs. Bytes are shown in binary units, ratios as percent.
"""


def cli() -> str:
    """docs/cli.md."""
    command = typer.main.get_command(app)
    parts = [_CLI]
    with command.make_context("virtpoise", [], resilient_parsing=True) as context:
        for name, one in command.commands.items():  # type: ignore[attr-defined]
            with one.make_context(name, [], parent=context, resilient_parsing=True) as inner:
                inner.terminal_width = 100
                text = re.sub(r"(?m)[ \t]+$", "", one.get_help(inner))
            parts.append(f"\n## virtpoise {name}\n\n```text\n{text}\n```\n")
    return "".join(parts)
