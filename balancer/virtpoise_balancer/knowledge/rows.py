"""Queries of the store, each made once. A row that holds what its columns cannot hold is left out and named, and harms
no other.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

from sqlalchemy import (
    Boolean,
    Column,
    ColumnElement,
    CompoundSelect,
    Connection,
    Float,
    Integer,
    Label,
    LargeBinary,
    Row,
    Select,
)

_MOST = 1e18
_MOST_SHOWN = 40


class Query:
    """A query with the checks of its columns.

    Made once and asked often: SQLAlchemy needs longer to build a statement than to run it. What differs from one time
    to the next is a ``bindparam``, whose value ``rows`` and ``row`` take.
    """

    def __init__(self, statement: Select[Any] | CompoundSelect[Any], what: str) -> None:
        """Prepare a query. ``what``: what a row is called in words, before its first column."""
        self._statement = statement
        self._what = what
        self._checks = tuple(_check(column) for column in statement.selected_columns)

    def rows(self, connection: Connection, broken: list[str], **values: Any) -> list[Row[Any]]:
        """The rows that can be. ``broken`` gets a line for each other one."""
        found = []
        for row in connection.execute(self._statement, values).all():
            problems = (check.problem(value) for check, value in zip(self._checks, row, strict=True))
            if problem := next(filter(None, problems), None):
                broken.append(f"state.url: {self._what} {_shown(row[0])}: {problem}")
            else:
                found.append(row)
        return found

    def row(self, connection: Connection, broken: list[str], **values: Any) -> Row[Any] | None:
        """The first row, if there is one and it can be. The statement has the limit 1."""
        return next(iter(self.rows(connection, broken, **values)), None)


def fields_of(row: Row[Any], kind: type) -> dict[str, Any]:
    """The row's columns that are fields of the dataclass."""
    columns = row._mapping
    return {name: columns[name] for name in _names(kind)}


@cache
def _names(kind: type) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))


@dataclass(frozen=True, slots=True)
class _Check:
    """What a column may hold: in words, and as a test of a value that is not null."""

    name: str
    expected: str
    holds: Callable[[Any], bool]
    required: bool

    def problem(self, value: Any) -> str | None:
        if value is None:
            return f"{self.name}: missing" if self.required else None
        return None if self.holds(value) else f"{self.name}: expected {self.expected}, got {_shown(value)}"


def _check(column: ColumnElement[Any]) -> _Check:
    """SQLite stores any value in any column, so what is read is checked."""
    # A label stands for an expression, or for a column of a table that is joined where there is one.
    declared = column.element if isinstance(column, Label) else column
    info = declared.info if isinstance(declared, Column) else {}
    kind, most, name = column.type, info.get("most", _MOST), str(column.name)
    required = isinstance(column, Column) and not column.nullable
    if choices := info.get("one_of"):
        return _Check(name, " or ".join(choices), lambda value: value in choices, required)
    if isinstance(kind, Float):
        return _Check(name, f"a number of at most {most:g}", lambda value: _is_number(value, most), required)
    if isinstance(kind, Boolean | Integer):
        return _Check(name, "a whole number", lambda value: isinstance(value, int) and abs(value) <= most, required)
    if isinstance(kind, LargeBinary):
        return _Check(name, "bytes", lambda value: isinstance(value, bytes), required)
    return _Check(name, "text", lambda value: isinstance(value, str), required)


def _is_number(value: Any, most: float) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and abs(value) <= most


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."
