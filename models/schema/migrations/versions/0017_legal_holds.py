"""Legal holds (S6, T22)."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "legal_holds",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("reference", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("placed_by", sa.Text(), nullable=False),
        sa.Column("placed_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("released_by", sa.Text(), nullable=True),
        sa.Column("released_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.CheckConstraint("length(reference) BETWEEN 1 AND 200", name=op.f("ck_legal_holds_reference")),
        sa.CheckConstraint("length(reason) BETWEEN 1 AND 2000", name=op.f("ck_legal_holds_reason")),
        sa.CheckConstraint("length(placed_by) BETWEEN 1 AND 200", name=op.f("ck_legal_holds_placed_by")),
        sa.CheckConstraint("length(released_by) BETWEEN 1 AND 200", name=op.f("ck_legal_holds_released_by")),
        sa.CheckConstraint("(released_by IS NULL) = (released_at IS NULL)", name=op.f("ck_legal_holds_released")),
        sa.ForeignKeyConstraint(
            ["account_id"], ["tenure.accounts.id"], name=op.f("fk_legal_holds_account_id_accounts")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_legal_holds")),
        schema="tenure",
    )
    op.create_index(op.f("ix_legal_holds_account_id"), "legal_holds", ["account_id"], unique=False, schema="tenure")
    op.create_index(
        "ix_legal_holds_in_force",
        "legal_holds",
        ["account_id", "reference"],
        unique=True,
        schema="tenure",
        postgresql_where=sa.text("released_at IS NULL"),
    )
