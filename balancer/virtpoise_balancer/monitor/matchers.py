"""PromQL label matchers as the configuration gives them: read strictly, written into every query."""

from __future__ import annotations

import re

_LABEL = r"[a-zA-Z_][a-zA-Z0-9_]*"
# A string as PromQL has it: Go's escapes between quotes, none between backticks.
_HALF = "[dD][89a-fA-F]"  # of a surrogate pair, which is no character
_ESCAPE = (
    rf"[abfnrtv\\]|x[0-9a-fA-F]{{2}}|[0-3][0-7]{{2}}|u(?!{_HALF})[0-9a-fA-F]{{4}}"
    rf"|U(?!0000{_HALF})00(?:0[0-9a-fA-F]|10)[0-9a-fA-F]{{4}}"
)
_STRING = rf"""(?:"(?:[^"\\\n]|\\(?:"|{_ESCAPE}))*"|'(?:[^'\\\n]|\\(?:'|{_ESCAPE}))*'|`[^`]*`)"""
_MATCHER = re.compile(rf"\s*({_LABEL})\s*(=~|!~|!=|=)\s*({_STRING})\s*")

# They stand in each of some thirty queries of a cycle.
_LONGEST = 4096

EXAMPLE = 'job="virtpoise-exporter"'


def label_name(text: str) -> str:
    """The text, if it is the name of a label that a target may have. ValueError with what was expected."""
    if not re.fullmatch(_LABEL, text) or text in ("__name__", "instance", "job"):
        raise ValueError(f"the name of a label, like replica, other than instance and job, got {text[:40]!r}")
    return text


def read_matchers(text: str) -> str:
    """The matchers, ready to stand between the braces of a selector. ValueError with what was expected.

    An empty text matches every target.
    """
    text = text.strip()
    if len(text) > _LONGEST:
        raise ValueError(f"at most {_LONGEST} characters of PromQL label matchers (these are {len(text)})")
    written: list[str] = []
    at = 0
    while at < len(text):
        found = _MATCHER.match(text, at)
        if found is None:
            raise ValueError(
                f"PromQL label matchers like {EXAMPLE}, comma between them, from {text[at : at + 40]!r} on"
            )
        label, operator, value = found.groups()
        if label == "__name__":
            raise ValueError(f"PromQL label matchers like {EXAMPLE}; the metric's name stands in each query already")
        written.append(f"{label}{operator}{value}")
        at = found.end()
        if at < len(text):
            if text[at] != ",":
                raise ValueError(f"a comma between PromQL label matchers, before {text[at : at + 40]!r}")
            at += 1
    if not (matchers := ",".join(written)).isprintable():
        raise ValueError("PromQL label matchers of printable characters, with escapes such as \\u202e for others")
    return matchers
