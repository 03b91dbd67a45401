"""The tables.

Times are Unix seconds; a ratio is 0..1. ``info``: what a column may hold, beside its type (rows.py checks it).
"""

from __future__ import annotations

from typing import Any, get_args

import sqlalchemy
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    TypeDecorator,
)

from virtpoise_balancer.analyse.brake import BrakeCause
from virtpoise_balancer.analyse.others import ChangeKind
from virtpoise_balancer.model import Cause, PredictionVerdict, Result, Role

metadata = MetaData()

VERDICTS = get_args(PredictionVerdict)
# The last moment that a calendar can show is a little later.
_LATEST = 2e11


class _Escaped(TypeDecorator[str]):
    """A text with an escape for what a database cannot keep: NUL in PostgreSQL, half a character in either."""

    impl = sqlalchemy.String
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: object) -> str | None:  # noqa: ARG002
        return None if value is None else value.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()


class String(_Escaped):
    cache_ok = True


class Text(_Escaped):
    impl = sqlalchemy.Text
    cache_ok = True


def _time(name: str, **options: Any) -> Column[float]:
    return Column(name, Float, info={"most": _LATEST}, **options)


def _group(**options: Any) -> Column[str]:
    """The group of hosts that the row is of; empty where the configuration has no groups."""
    return Column("group_name", String, nullable=False, server_default="", **options)


# Cycles in a row that came to the same share a row.
cycles = Table(
    "cycles",
    metadata,
    Column("id", Integer, primary_key=True),
    _time("first", nullable=False),  # when the first of them began
    _time("last", nullable=False, index=True),
    Column("cycles", Integer, nullable=False),
    Column("result", String, nullable=False),
    Column("sentence", Text, nullable=False),  # of the newest
    Column("gist", Text, nullable=False),  # the sentence without its figures
    _group(),
)

plans = Table(
    "plans",
    metadata,
    Column("id", Integer, primary_key=True),
    _time("made", nullable=False, index=True),
    Column("strategy", String, nullable=False),
    Column("solved", Boolean, nullable=False),
    Column("summary", Text, nullable=False),
    Column("moves", Integer, nullable=False, server_default="0"),  # how many
    Column("gist", String, nullable=False, server_default=""),  # equal for plans that want the same moves
    Column("document", LargeBinary),  # the plan as its file format has it, compressed
    Column(
        "inputs", LargeBinary
    ),  # the snapshot and the policy it was made from, compressed; null once they were dropped
    Column("bytes", Integer, nullable=False, server_default="0"),  # of document and inputs
    Column("acted", Boolean, nullable=False),  # whether its moves were made, not only recommended
    Column("settled", Boolean, nullable=False, index=True),  # whether the back-offs account for how it ended
    _group(),
)

migrations = Table(
    "migrations",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("plan_id", Integer, ForeignKey("plans.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("position", Integer, nullable=False),  # of the move in its plan
    Column("domain", String, nullable=False),
    Column("uuid", String, nullable=False, index=True),
    Column("source", String, nullable=False),
    Column("destination", String, nullable=False),
    _time("began"),  # null until it really starts
    _time("ended"),
    Column("result", String, info={"one_of": [*Result]}),  # null while it is not known
    Column("why", Text, nullable=False, server_default=""),
    Column("cause", String, info={"one_of": [*Cause]}),  # of a move that was not made, where it is known
    Column("seconds", Float),
    Column("downtime_seconds", Float),
    Column("transferred_bytes", BigInteger().with_variant(Integer, "sqlite")),
    Column("dirty_bytes_per_second", Float),
    # the domain ran on neither host afterwards and has not been seen running since
    Column("lost", Boolean, nullable=False, server_default="0"),
    Column("doubled", Boolean, nullable=False, server_default="0"),  # the domain was active on two hosts since it began
    Column("term", Integer),  # of the leader that wrote it down, or whose it was when it began
    Column("volumes", Text),  # JSON, a list of paths: created on the destination and to be deleted if it fails
    _group(),
)

# One row: the newest leader.
leaders = Table(
    "leaders",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("term", Integer, nullable=False),
    Column("holder", String, nullable=False),
    _time("since", nullable=False),
    _time("seen", nullable=False),  # when it last wrote, by its own clock
)

predictions = Table(
    "predictions",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("migration_id", Integer, ForeignKey("migrations.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("host", String, nullable=False, index=True),
    Column("role", String, nullable=False, info={"one_of": [*Role]}),
    Column("resource", String, nullable=False),
    _time("made", nullable=False),
    Column("predicted", Float, nullable=False),
    Column("lower", Float, nullable=False),
    Column("upper", Float, nullable=False),
    Column("spread", Float),  # how unsure the strategy was of itself; null for one that knows no interval
    Column("bias", Float, nullable=False, server_default="0"),  # how far earlier errors moved what is predicted
    Column("saturated", Boolean),  # whether the source hid demand
    _time("window_start"),
    _time("window_end"),
    Column("measured", Float),
    Column("error", Float),
    Column("verdict", String, index=True, info={"one_of": VERDICTS}),  # null: not yet due
)

# A row for each group: what the newest look showed. Written by cycles alone.
looks = Table(
    "looks",
    metadata,
    Column("id", Integer, primary_key=True),
    _time("at", nullable=False),
    Column("document", LargeBinary, nullable=False),  # known hosts and active domains, as compressed JSON
    _group(),
)

# Changes by others. Written by cycles alone.
others = Table(
    "others",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("kind", String, nullable=False, info={"one_of": [*ChangeKind]}),
    Column("domain", String, nullable=False),
    Column("uuid", String, nullable=False),
    Column("source", String),  # null: a start
    Column("destination", String),  # null: a stop
    _time("before", nullable=False),  # the last look that does not show it
    _time("at", nullable=False, index=True),  # the first that does
    _group(),
)

# The newest order for each host. Written by orders alone.
drains = Table(
    "drains",
    metadata,
    Column("host", String, primary_key=True),
    Column("draining", Boolean, nullable=False),  # false: the drain was taken back
    _time("at", nullable=False),
    _group(),  # of the host when this was ordered
)

# Written by cycles alone. A host has one, whatever its group.
backoffs = Table(
    "backoffs",
    metadata,
    Column("host", String, primary_key=True),
    _time("counted_from"),
    _time("penalty_from"),
    _time("penalty_until"),
    Column("failures", Integer, nullable=False),
)

# What each host's libvirt said when it was last looked at. A host has one, whatever its group.
host_facts = Table(
    "host_facts",
    metadata,
    Column("host", String, primary_key=True),
    _time("at", nullable=False),
    Column("document", LargeBinary, nullable=False),  # as execute has it, compressed
)

# Written by cycles alone. One is on until a release (an override) that is newer.
brakes = Table(
    "brakes",
    metadata,
    Column("id", Integer, primary_key=True),
    _time("at", nullable=False),
    Column("cause", String, nullable=False, info={"one_of": [*BrakeCause]}),
    Column("why", Text, nullable=False),
    _group(),
)

# What a person has set over the configuration.
overrides = Table(
    "overrides",
    metadata,
    _group(primary_key=True),
    Column("name", String, primary_key=True),  # paused, mode, released
    Column("value", String, nullable=False),
    Column("instead_of", String, nullable=False),  # what the configuration said then
    _time("at", nullable=False),
    Column("who", String, nullable=False),
)

actions = Table(
    "actions",
    metadata,
    Column("id", Integer, primary_key=True),
    _time("at", nullable=False, index=True),
    Column("who", String, nullable=False),
    Column("origin", String, nullable=False),  # "command", or the address it came from
    Column("action", String, nullable=False),
    Column("target", String, nullable=False),
    Column("accepted", Boolean, nullable=False),
    Column("answer", Text, nullable=False),
    _group(),
)
