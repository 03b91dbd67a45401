"""How far earlier errors moved what is predicted, so that later ones are learned from the formula's own word."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("predictions", sa.Column("bias", sa.Float, nullable=False, server_default="0"))
