"""Brakes: why the balancer made no more moves by itself."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "brakes",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("cause", sa.String, nullable=False),
        sa.Column("why", sa.Text, nullable=False),
    )
