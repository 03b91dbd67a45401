"""The store's statements on the straight way to SQLite: as SQLAlchemy compiles them, which it does once for each.

It takes ten times as long to hand a small statement on as SQLite takes to carry it out, and a run of the campaign has
hundreds.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Dialect
from sqlalchemy.engine.result import IteratorResult, SimpleResultMetaData
from sqlalchemy.exc import DBAPIError


@dataclass(frozen=True, slots=True)
class _Compiled:
    """A statement as text.

    ``names``: of its values, in their order. ``given``: the values that it brings along. ``writes``: what becomes of a
    value on its way to the driver. ``columns``: of the rows that it returns, if any.
    """

    text: str
    names: tuple[str, ...]
    given: Mapping[str, Any]
    writes: Mapping[str, Callable[[Any], Any]]
    columns: SimpleResultMetaData | None

    def carry_out(self, driver: Any, values: Mapping[str, Any]) -> Any:
        """The rows that it returns, or else the cursor, which knows how many it changed."""
        sent = {**self.given, **values}
        for name, write in self.writes.items():
            sent[name] = write(sent[name])
        cursor = driver.execute(self.text, [sent[name] for name in self.names])
        return cursor if self.columns is None else IteratorResult(self.columns, cursor)


# By statement, and by the names and the lengths of its values.
_known: WeakKeyDictionary[Any, dict[object, _Compiled]] = WeakKeyDictionary()


class Straight:
    """A connection that stands in for SQLAlchemy's in a transaction of the store."""

    def __init__(self, driver: Any, dialect: Dialect) -> None:
        self._driver = driver
        self._dialect = dialect

    def execute(self, statement: Any, values: Any = None) -> Any:
        """Execute a statement. ``values``: of one row, or a list of several."""
        try:
            if isinstance(values, list):
                return [self._execute(statement, one) for one in values]
            return self._execute(statement, values or {})
        except sqlite3.Error as error:
            raise DBAPIError(str(statement), values, error) from None

    def scalar(self, statement: Any, values: Any = None) -> Any:
        return self.execute(statement, values).scalar()

    def _execute(self, statement: Any, values: Mapping[str, Any]) -> Any:
        lists = {name: value for name, value in values.items() if isinstance(value, list)}
        shape = (*values, *map(len, lists.values()))
        known = _known.setdefault(statement, {})
        if shape not in known:
            known[shape] = _compiled(statement, values, self._dialect)
        items = {f"{name}_{at}": item for name, several in lists.items() for at, item in enumerate(several, 1)}
        return known[shape].carry_out(self._driver, {**values, **items})


def _compiled(statement: Any, values: Mapping[str, Any], dialect: Dialect) -> _Compiled:
    plain: Any = statement.compile(dialect=dialect, column_keys=[*values])
    if plain.insert_prefetch or plain.update_prefetch:
        raise NotImplementedError(f"values that SQLAlchemy makes up itself: {statement}")
    made = plain.construct_expanded_state({**values})
    writes = {**plain._bind_processors, **made.processors}
    columns = plain._result_columns
    return _Compiled(
        text=made.statement,
        names=tuple(made.positiontup),
        given={name: value for name, value in made.parameters.items() if name not in values},
        writes={name: write for name, write in writes.items() if name in made.positiontup},
        columns=SimpleResultMetaData(
            [column.name for column in columns],
            _processors=[column.type._cached_result_processor(dialect, None) for column in columns],
        )
        if columns
        else None,
    )
