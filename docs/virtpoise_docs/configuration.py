"""docs/configuration.md, from the comments of the example configuration."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "balancer" / "virtpoise.example.yml"

_CONFIGURATION = """\
# Configuration

Generated from [virtpoise.example.yml](../balancer/virtpoise.example.yml) by `scripts/generate-docs`. Tests compare both
with the schema, which has no other keys.
"""
_WIDTH = 120
_SETTING = re.compile(r"(?P<indent> *)(?P<unset>#?)(?P<item>- )?(?P<key>[a-z_]+):(?: (?P<value>.+))?")


@dataclass(frozen=True, slots=True)
class Setting:
    """A key of the example: its path, its value as written (empty for a section), whether it is commented out, its
    comment.
    """

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
    parts = [_CONFIGURATION, f"\n{textwrap.fill(introduction, _WIDTH)}\n"]
    tops = list(dict.fromkeys(one.path.partition(".")[0] for one in found))
    for top in tops:
        section = [one for one in found if one.path.partition(".")[0] == top]
        parts.append(f"\n## `{top}`\n\n{textwrap.fill(section[0].text, _WIDTH)}\n")
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
