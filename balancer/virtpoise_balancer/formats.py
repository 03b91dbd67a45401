"""Reads and writes the files of the contract: snapshots and plans as JSON. Refuses what is not one, naming the field."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter, ValidationError

from virtpoise_balancer.errors import BadInput
from virtpoise_balancer.model import InconsistentSnapshot, Plan, Snapshot, check_consistent

_SNAPSHOT = TypeAdapter(Snapshot)
_PLAN = TypeAdapter(Plan)


def first_problem(error: ValidationError) -> str:
    """The first problem of a validation, as ``path.to.field: what was expected, got what``; how many more there are, if any."""
    # A misspelt key shows as an unknown and a missing one: the unknown one is the mistake.
    unknown = ("extra_forbidden", "unexpected_keyword_argument")
    problems = sorted(error.errors(include_url=False), key=lambda problem: problem["type"] not in unknown)
    first = problems[0]
    path = ".".join(str(part) for part in first["loc"]) or "(top)"
    if first["type"] in unknown:
        line = f"{path}: unknown key"
    elif first["type"] == "json_invalid":
        line = f"expected JSON: {first['msg'].removeprefix('Invalid JSON: ')}"
    elif first["type"] == "missing":
        line = f"{path}: missing"
    elif first["type"] == "value_error" and not first["loc"]:  # of the whole: it names its field itself
        line = first["msg"].removeprefix("Value error, ")
    else:
        message = first["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
        line = f"{path}: expected {message}, got {_shown(first['input'])}"
    more = len(problems) - 1
    return line if not more else f"{line} (and {more} more)"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def read_snapshot(text: str | bytes, source: str) -> Snapshot:
    """The snapshot in ``text``; ``source`` names it in a BadInput."""
    try:
        snapshot = _SNAPSHOT.validate_json(text)
        check_consistent(snapshot)
    except ValidationError as error:
        raise BadInput(f"{source}: {first_problem(error)}") from None
    except InconsistentSnapshot as error:
        raise BadInput(f"{source}: {error}") from None
    return snapshot


def write_snapshot(snapshot: Snapshot) -> str:
    return _SNAPSHOT.dump_json(snapshot, indent=1).decode()


def read_plan(text: str | bytes, source: str) -> Plan:
    try:
        return _PLAN.validate_json(text)
    except ValidationError as error:
        raise BadInput(f"{source}: {first_problem(error)}") from None


def write_plan(plan: Plan) -> str:
    return _PLAN.dump_json(plan, indent=1).decode()
