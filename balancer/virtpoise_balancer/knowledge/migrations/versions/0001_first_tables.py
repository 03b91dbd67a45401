"""The first tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "cycles",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("started", sa.Float, nullable=False, index=True),
        sa.Column("seconds", sa.Float, nullable=False),
        sa.Column("mode", sa.String, nullable=False),
        sa.Column("result", sa.String, nullable=False),
        sa.Column("sentence", sa.Text, nullable=False),
    )
    op.create_table(
        "plans",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("made", sa.Float, nullable=False, index=True),
        sa.Column("strategy", sa.String, nullable=False),
        sa.Column("solved", sa.Boolean, nullable=False),
        sa.Column("summary", sa.Text, nullable=False),
        sa.Column("document", sa.Text, nullable=False),
        sa.Column("acted", sa.Boolean, nullable=False),
        sa.Column("settled", sa.Boolean, nullable=False, index=True),
    )
    op.create_table(
        "migrations",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("plan_id", sa.Integer, sa.ForeignKey("plans.id", ondelete="CASCADE"), nullable=False, index=True),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("domain", sa.String, nullable=False),
        sa.Column("uuid", sa.String, nullable=False, index=True),
        sa.Column("source", sa.String, nullable=False),
        sa.Column("destination", sa.String, nullable=False),
        sa.Column("began", sa.Float),
        sa.Column("ended", sa.Float),
        sa.Column("result", sa.String),
        sa.Column("why", sa.Text, nullable=False, server_default=""),
        sa.Column("seconds", sa.Float),
        sa.Column("downtime_seconds", sa.Float),
        sa.Column("transferred_bytes", sa.Integer),
        sa.Column("lost", sa.Boolean, nullable=False, server_default="0"),
    )
    op.create_table(
        "predictions",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column(
            "migration_id", sa.Integer, sa.ForeignKey("migrations.id", ondelete="CASCADE"), nullable=False, index=True
        ),
        sa.Column("host", sa.String, nullable=False, index=True),
        sa.Column("role", sa.String, nullable=False),
        sa.Column("resource", sa.String, nullable=False),
        sa.Column("made", sa.Float, nullable=False),
        sa.Column("predicted", sa.Float, nullable=False),
        sa.Column("lower", sa.Float, nullable=False),
        sa.Column("upper", sa.Float, nullable=False),
        sa.Column("spread", sa.Float),
        sa.Column("saturated", sa.Boolean),
        sa.Column("window_start", sa.Float),
        sa.Column("window_end", sa.Float),
        sa.Column("measured", sa.Float),
        sa.Column("error", sa.Float),
        sa.Column("verdict", sa.String, index=True),
    )
    op.create_table(
        "standings",
        sa.Column("host", sa.String, primary_key=True),
        sa.Column("counted_from", sa.Float),
        sa.Column("penalty_from", sa.Float),
        sa.Column("penalty_until", sa.Float),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("draining", sa.Boolean, nullable=False),
    )
    op.create_table(
        "steering",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("value", sa.String, nullable=False),
        sa.Column("instead_of", sa.String, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("who", sa.String, nullable=False),
    )
    op.create_table(
        "actions",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("at", sa.Float, nullable=False, index=True),
        sa.Column("who", sa.String, nullable=False),
        sa.Column("origin", sa.String, nullable=False),
        sa.Column("action", sa.String, nullable=False),
        sa.Column("target", sa.String, nullable=False),
        sa.Column("accepted", sa.Boolean, nullable=False),
        sa.Column("answer", sa.Text, nullable=False),
    )
