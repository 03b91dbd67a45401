"""Text of others as it can be shown: controls, marks of direction and what else cannot be seen become escapes.

Names come from libvirt, labels from Prometheus: a terminal obeys what a name contains, and marks of direction turn a
line around.
"""

from __future__ import annotations

import re
import unicodedata

# Plain text has none of these, so most text is passed on as it is.
_SUSPECT = re.compile(r"[^\x20-\x7e\u00a1-\u00ac\u00ae-\u02ff]")
_MOST_SHOWN = 120
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def visible(text: str) -> str:
    """The text on one line, with an escape such as ``\\x1b`` or ``\\u202e`` for each character that cannot be seen."""
    return _SUSPECT.sub(lambda found: _escape(found[0]), text)


def visible_lines(text: str) -> str:
    """The text of several lines with each character that cannot be shown escaped; line ends stay."""
    return "\n".join(visible(line) for line in text.split("\n"))


def visible_json(document: str) -> str:
    """A JSON document with JSON's own escapes in their place; what it says stays the same."""
    return "\n".join(_SUSPECT.sub(lambda found: _json_escape(found[0]), line) for line in document.split("\n"))


def shown(text: str, most: int = _MOST_SHOWN) -> str:
    """The text as printable ASCII on one line, cut to ``most`` characters: for values that were refused.

    Escapes stand for all other characters. Names that are accepted go through ``visible``, which keeps letters of any
    script.
    """
    escaped = text[: most + 1].encode("unicode_escape").decode("ascii")
    return escaped if len(escaped) <= most else f"{escaped[: most - 3]}..."


def _hidden(character: str) -> bool:
    return _SUSPECT.match(character) is not None and unicodedata.category(character) in _HIDDEN


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii") if _hidden(character) else character


def _json_escape(character: str) -> str:
    if not _hidden(character):
        return character
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[n]:02x}{units[n + 1]:02x}" for n in range(0, len(units), 2))
