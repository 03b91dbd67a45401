"""Drains apart from back-off, plans with what they were made from, and cycles in a row that came to the same in one
row.

What earlier cycles said is dropped: there was a row for each cycle, and none of them was ever shown.
"""

import json
import zlib

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _split_standings()
    op.rename_table("steering", "overrides")
    _compress_plans()
    op.drop_table("cycles")
    op.create_table(
        "cycles",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("first", sa.Float, nullable=False),
        sa.Column("last", sa.Float, nullable=False, index=True),
        sa.Column("cycles", sa.Integer, nullable=False),
        sa.Column("result", sa.String, nullable=False),
        sa.Column("sentence", sa.Text, nullable=False),
        sa.Column("gist", sa.Text, nullable=False),
    )


def _split_standings() -> None:
    op.create_table(
        "drains",
        sa.Column("host", sa.String, primary_key=True),
        sa.Column("draining", sa.Boolean, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
    )
    op.create_table(
        "backoffs",
        sa.Column("host", sa.String, primary_key=True),
        sa.Column("counted_from", sa.Float),
        sa.Column("penalty_from", sa.Float),
        sa.Column("penalty_until", sa.Float),
        sa.Column("failures", sa.Integer, nullable=False),
    )
    # When these drains were ordered is not known: before every penalty, since an order ends the penalty before it.
    op.execute("INSERT INTO drains (host, draining, at) SELECT host, draining, 0 FROM standings WHERE draining")
    op.execute(
        "INSERT INTO backoffs (host, counted_from, penalty_from, penalty_until, failures)"
        " SELECT host, counted_from, penalty_from, penalty_until, failures FROM standings"
    )
    op.drop_table("standings")


def _compress_plans() -> None:
    """Tables are not copied, since dropping the old ``plans`` would delete all migrations with it."""
    op.add_column("plans", sa.Column("moves", sa.Integer, nullable=False, server_default="0"))
    op.add_column("plans", sa.Column("gist", sa.String, nullable=False, server_default=""))
    op.add_column("plans", sa.Column("packed", sa.LargeBinary))
    op.add_column("plans", sa.Column("inputs", sa.LargeBinary))
    op.add_column("plans", sa.Column("bytes", sa.Integer, nullable=False, server_default="0"))
    connection = op.get_bind()
    for (plan_id,) in connection.execute(sa.text("SELECT id FROM plans")).all():
        text = connection.execute(sa.text("SELECT document FROM plans WHERE id = :id"), {"id": plan_id}).scalar_one()
        packed = zlib.compress(text.encode())
        connection.execute(
            sa.text("UPDATE plans SET packed = :packed, bytes = :bytes, moves = :moves WHERE id = :id"),
            {"packed": packed, "bytes": len(packed), "moves": _moves(text), "id": plan_id},
        )
    op.drop_column("plans", "document")
    op.execute("ALTER TABLE plans RENAME COLUMN packed TO document")


def _moves(document: str) -> int:
    try:
        return len(json.loads(document)["moves"])
    except (ValueError, KeyError, TypeError):  # a broken document is kept as it is
        return 0
