"""What the last plan of an account saw, with or without a statement (B1, B3)."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("accounts", sa.Column("stated_until", sa.TIMESTAMP(timezone=True), nullable=True), schema="tenure")
    op.add_column("accounts", sa.Column("stated_cutoff", sa.BigInteger(), nullable=True), schema="tenure")
    op.execute("""
        UPDATE tenure.accounts AS account SET stated_until = latest.closes_at, stated_cutoff = latest.cutoff
          FROM (SELECT account_id, max(closes_at) AS closes_at, max(cutoff) AS cutoff
                  FROM tenure.statements GROUP BY account_id) AS latest
         WHERE account.id = latest.account_id""")
