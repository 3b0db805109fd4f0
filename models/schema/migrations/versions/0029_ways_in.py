"""The ways in by which each kind of request may come."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0029"
down_revision = "0028"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "request_kinds",
        sa.Column(
            "ways", postgresql.ARRAY(sa.Text()), server_default=sa.text("'{sql,queue,operator}'"), nullable=False
        ),
        schema="tenure",
    )
