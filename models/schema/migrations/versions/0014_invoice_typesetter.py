"""Which typesetter made an invoice's document (B3)."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("invoice_documents", sa.Column("typesetter", sa.Text(), nullable=True), schema="tenure")
