"""Which migrations have left a domain active on two hosts."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("migrations", sa.Column("doubled", sa.Boolean, nullable=False, server_default="0"))
