"""Reads and writes the files of the contract: snapshots and plans as JSON.

Refuses what is not one, naming the field.
"""

from __future__ import annotations

import re
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from virtpoise_balancer.errors import BadInput, first_ones
from virtpoise_balancer.model import InconsistentSnapshot, Plan, Snapshot, check_consistent
from virtpoise_balancer.visible import visible

# The type of an error that is about several fields: its lines name them.
INCONSISTENT = "inconsistent"
# The type of an error whose value is not shown; its message is what was expected.
SECRET = "secret"  # noqa: S105 - no password

_LONGEST_KEY = 300  # the longest name of a host has 255
_PASSWORD = re.compile(r"((?:://|')[^/@\s:']*):[^\s']*@")  # of a URL
# Where a secret may stand by mistake, in place of its file.
_OF_SECRETS = re.compile("http_config|token|password|secret|credential|key_file")
_KINDS = ((str, "a text"), (list, "a list"), (dict, "a mapping"), (type(None), "nothing"))
_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")
_SNAPSHOT = TypeAdapter(Snapshot)
_PLAN = TypeAdapter(Plan)


def in_one_line(error: ValidationError) -> str:
    """The problems of a validation, the first 20 of them by name, in one line."""
    return "; ".join(first_ones(problems(error)))


def problems(error: ValidationError) -> list[str]:
    """The problems of a validation, each as ``path.to.field: what was expected, got what``."""
    # A misspelt key shows as an unknown and a missing one: the unknown one is the mistake.
    found = sorted(error.errors(include_url=False), key=lambda problem: problem["type"] not in _UNKNOWN)
    return [line for problem in found for line in _lines(problem)]


def _lines(problem: ErrorDetails) -> list[str]:
    path = ".".join(_key(part) for part in problem["loc"]) or "(top)"
    if problem["type"] in _UNKNOWN:
        return [f"{path}: unknown key"]
    if problem["type"] == "json_invalid":
        return [f"expected JSON: {problem['msg'].removeprefix('Invalid JSON: ')}"]
    if problem["type"] == "missing":
        return [f"{path}: missing"]
    if problem["type"] == INCONSISTENT:  # each line names its field below this one
        above = f"{path}." if problem["loc"] else ""
        return [f"{above}{line}" for line in problem["msg"].splitlines()]
    if problem["type"] == SECRET:
        return [f"{path}: expected {problem['msg']}"]
    message = problem["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    value = problem["input"]
    hidden = _OF_SECRETS.search(path) or "dictionary" in message or isinstance(value, (list, dict))
    return [f"{path}: expected {message}, got {kind_of(value) if hidden else _shown(value)}"]


def _key(part: int | str) -> str:
    text = visible(str(part))
    return text if len(text) <= _LONGEST_KEY else f"{text[: _LONGEST_KEY - 3]}..."


def kind_of(value: object) -> str:
    """What is said of a value that is not shown, since it may be a secret."""
    return next((words for kind, words in _KINDS if isinstance(value, kind)), "a value")


def _shown(value: Any) -> str:
    text = _PASSWORD.sub(r"\1:***@", repr(value))
    return text if len(text) <= 60 else f"{text[:57]}..."


def read_snapshot(text: str | bytes, source: str) -> Snapshot:
    """The snapshot in ``text``; ``source`` names it in a BadInput."""
    try:
        snapshot = _SNAPSHOT.validate_json(text)
        check_consistent(snapshot)
    except ValidationError as error:
        raise BadInput.of(source, problems(error)) from None
    except InconsistentSnapshot as error:
        raise BadInput(f"{source}: {error}") from None
    return snapshot


def write_snapshot(snapshot: Snapshot) -> str:
    """The snapshot as JSON, as `read_snapshot` reads it."""
    return _SNAPSHOT.dump_json(snapshot, indent=1).decode()


def read_plan(text: str | bytes, source: str) -> Plan:
    """The plan in ``text``; ``source`` names it in a BadInput."""
    try:
        return _PLAN.validate_json(text)
    except ValidationError as error:
        raise BadInput(f"{source}: {in_one_line(error)}") from None


def write_plan(plan: Plan) -> str:
    """The plan as JSON, as `read_plan` reads it."""
    return _PLAN.dump_json(plan, indent=1).decode()
