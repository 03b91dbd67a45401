"""The variables of a dashboard: their values, and how Grafana writes them into text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from virtpoise_preview.errors import PreviewError
from virtpoise_preview.prometheus import Source

Json = dict[str, Any]
# A text is written as it is (an allValue such as ``.*``); several values become a choice of a regular expression.
Values = Mapping[str, str | tuple[str, ...]]

_VARIABLE = re.compile(r"\$\{(\w+)(?::\w+)?\}|\$(\w+)")
_LABEL_VALUES = re.compile(r"label_values\((?P<selector>.*),\s*(?P<label>\w+)\)", re.DOTALL)
_SPECIAL = re.compile(r"[\\^$*+?.()|\[\]{}]")


def substitute(text: str, values: Values) -> str:
    """The text with its variables filled in, for PromQL; what is no variable (``$1``) stays."""

    def fill(match: re.Match[str]) -> str:
        name = match.group(1) or match.group(2)
        value = values.get(name)
        if value is None:
            return match.group(0)
        return value if isinstance(value, str) else _choice(value)

    return _VARIABLE.sub(fill, text)


def plain(text: str, values: Values) -> str:
    """The text with its variables filled in, for people."""
    return substitute(
        text, {name: value if isinstance(value, str) else " + ".join(value) for name, value in values.items()}
    )


def _choice(values: Sequence[str]) -> str:
    escaped = [_SPECIAL.sub(lambda match: "\\\\" + match.group(0), value) for value in values]
    return escaped[0] if len(escaped) == 1 else f"({'|'.join(escaped)})"


def resolve(dashboard: Json, source: Source, chosen: Mapping[str, str]) -> dict[str, str | tuple[str, ...]]:
    """A value for each variable: what was chosen, else all values, or the first where only one may be chosen."""
    values: dict[str, str | tuple[str, ...]] = dict(built_in(source))
    for variable in dashboard["templating"]["list"]:
        if variable["type"] != "query":
            continue
        name = variable["name"]
        options = tuple(options_of(variable, source, values))
        if name in chosen:
            values[name] = (chosen[name],)
        elif variable["includeAll"]:
            values[name] = variable.get("allValue", options)
        else:
            values[name] = options[:1]
    return values


def options_of(variable: Json, source: Source, values: Values) -> list[str]:
    """The choices, sorted: the values of the label, or the parts of them that the variable's ``regex`` captures."""
    match = _LABEL_VALUES.fullmatch(variable["query"]["query"])
    if match is None:
        raise PreviewError(f"variable {variable['name']}: expected label_values(selector, label)")
    selector = substitute(match["selector"], values)
    found = source.prometheus.label_values(selector, match["label"], source.span)
    if variable["regex"]:
        pattern = re.compile(variable["regex"].strip("/"))
        found = [cut.group(1) for value in found if (cut := pattern.match(value))]
    return sorted(set(found))


def built_in(source: Source) -> dict[str, str]:
    """Grafana's own variables of time; a rate's interval holds at least four scrapes."""
    span = source.span
    return intervals(span.step, source.scrape_seconds) | {
        "__range": _duration(span.end - span.start),
        "__range_s": str(round(span.end - span.start)),
    }


def intervals(step: float, scrape_seconds: float) -> dict[str, str]:
    return {
        "__interval": _duration(step),
        "__rate_interval": _duration(max(step + scrape_seconds, 4 * scrape_seconds)),
    }


def _duration(seconds: float) -> str:
    return f"{max(1, round(seconds * 1000))}ms"
