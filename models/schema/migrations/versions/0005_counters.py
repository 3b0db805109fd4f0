"""Counts of what was done (W13), and an index of the rows that wait for a person."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "counters",
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("slot", sa.SmallInteger(), nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("value >= 0", name=op.f("ck_counters_value")),
        sa.PrimaryKeyConstraint("task", "outcome", "slot", name=op.f("pk_counters")),
        schema="tenure",
    )
    for table in ("email_messages", "job_requests", "statements"):
        op.create_index(
            f"ix_{table}_wanting",
            table,
            ["due_at"],
            schema="tenure",
            postgresql_where=sa.text("state IN ('failed', 'unknown')"),
        )
