"""Whose rows are whose: each of a group of hosts, those so far of the only one."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_TABLES = ("cycles", "plans", "migrations", "looks", "others", "drains", "brakes", "actions")


def upgrade() -> None:
    for table in _TABLES:
        op.add_column(table, sa.Column("group_name", sa.String, nullable=False, server_default=""))
    op.rename_table("overrides", "overrides_before")
    op.create_table(
        "overrides",
        sa.Column("group_name", sa.String, primary_key=True, server_default=""),
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("value", sa.String, nullable=False),
        sa.Column("instead_of", sa.String, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("who", sa.String, nullable=False),
    )
    op.execute(
        "INSERT INTO overrides (name, value, instead_of, at, who)"
        " SELECT name, value, instead_of, at, who FROM overrides_before"
    )
    op.drop_table("overrides_before")
