"""What stays after a purge because a law demands it (T8)."""

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "retentions",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("termination_id", sa.Uuid(), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("account_ref", sa.Text(), nullable=True),
        sa.Column("place", sa.Text(), nullable=False),
        sa.Column("store", sa.Text(), nullable=False),
        sa.Column("legal_basis", sa.Text(), nullable=False),
        sa.Column("duration", sa.Text(), nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column("removed", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("retained_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("due_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("crashes", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("claim_token", sa.Uuid(), nullable=True),
        sa.Column("claimed_by", sa.Text(), nullable=True),
        sa.Column("lease_until", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("finished_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column(
            "state",
            sa.Enum(
                "pending",
                "running",
                "done",
                "failed",
                "cancelled",
                name="state",
                native_enum=False,
                create_constraint=True,
                length=32,
                schema="tenure",
            ),
            server_default="pending",
            nullable=False,
        ),
        sa.CheckConstraint("(state = 'running') = (lease_until IS NOT NULL)", name=op.f("ck_retentions_lease")),
        sa.CheckConstraint("state <> 'done' OR account_ref IS NULL", name=op.f("ck_retentions_account_ref")),
        sa.CheckConstraint("least(rows, removed) >= 0", name=op.f("ck_retentions_counts")),
        sa.ForeignKeyConstraint(["account_id"], ["tenure.accounts.id"], name=op.f("fk_retentions_account_id_accounts")),
        sa.ForeignKeyConstraint(
            ["termination_id"],
            ["tenure.terminations.id"],
            name=op.f("fk_retentions_termination_id_terminations"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_retentions")),
        sa.UniqueConstraint("termination_id", "place", "store", name=op.f("uq_retentions_termination_id_place_store")),
        schema="tenure",
    )
    op.create_index(
        "ix_retentions_due",
        "retentions",
        ["due_at", "id"],
        unique=False,
        schema="tenure",
        postgresql_where=sa.text("state = 'pending' AND crashes = 0"),
    )
    op.create_index(
        "ix_retentions_finished",
        "retentions",
        ["finished_at"],
        unique=False,
        schema="tenure",
        postgresql_where=sa.text("finished_at IS NOT NULL"),
    )
    op.create_index(
        "ix_retentions_lease",
        "retentions",
        ["lease_until"],
        unique=False,
        schema="tenure",
        postgresql_where=sa.text("state = 'running'"),
    )
    op.create_index(
        "ix_retentions_suspect",
        "retentions",
        ["due_at", "id"],
        unique=False,
        schema="tenure",
        postgresql_where=sa.text("state = 'pending' AND crashes > 0"),
    )
    op.create_index(
        "ix_retentions_wanting",
        "retentions",
        ["due_at"],
        unique=False,
        schema="tenure",
        postgresql_where=sa.text("state IN ('failed', 'unknown')"),
    )
    op.create_index(op.f("ix_retentions_account_id"), "retentions", ["account_id"], unique=False, schema="tenure")
