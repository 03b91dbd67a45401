"""The number of the balancer that acts, with each intent; bytes beyond 2 GiB in databases that bound integers."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "leaders",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("term", sa.Integer, nullable=False),
        sa.Column("holder", sa.String, nullable=False),
        sa.Column("since", sa.Float, nullable=False),
        sa.Column("seen", sa.Float, nullable=False),
    )
    op.add_column("migrations", sa.Column("term", sa.Integer))
    if op.get_bind().dialect.name != "sqlite":  # whose integers have 64 bits
        op.alter_column("migrations", "transferred_bytes", type_=sa.BigInteger)
