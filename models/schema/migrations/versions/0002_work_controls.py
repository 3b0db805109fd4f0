"""Limits on jobs: paused, so many at once, so many a second (W7)."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "work_controls",
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("paused", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("concurrency", sa.Integer(), nullable=True),
        sa.Column("rate", sa.Double(), nullable=True),
        sa.Column("tokens", sa.Double(), server_default=sa.text("0"), nullable=False),
        sa.Column("refilled_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("concurrency >= 0", name=op.f("ck_work_controls_concurrency")),
        sa.CheckConstraint("rate > 0", name=op.f("ck_work_controls_rate")),
        sa.PrimaryKeyConstraint("task", name=op.f("pk_work_controls")),
        schema="tenure",
    )
