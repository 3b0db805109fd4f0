"""Events of the payment provider, and its days compared with the ledger (B22, B24)."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "reconciliations",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("movements", sa.Integer(), nullable=True),
        sa.Column("recorded", sa.Integer(), nullable=True),
        sa.Column("differences", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
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
        sa.CheckConstraint("(state = 'running') = (lease_until IS NOT NULL)", name=op.f("ck_reconciliations_lease")),
        sa.CheckConstraint("jsonb_typeof(differences) = 'array'", name=op.f("ck_reconciliations_differences")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reconciliations")),
        sa.UniqueConstraint("provider", "day", name=op.f("uq_reconciliations_provider_day")),
        schema="tenure",
    )
    op.create_index(
        "ix_reconciliations_due",
        "reconciliations",
        ["due_at", "id"],
        unique=False,
        schema="tenure",
        postgresql_where=sa.text("state = 'pending' AND crashes = 0"),
    )
    op.create_index(
        "ix_reconciliations_finished",
        "reconciliations",
        ["finished_at"],
        unique=False,
        schema="tenure",
        postgresql_where=sa.text("finished_at IS NOT NULL"),
    )
    op.create_index(
        "ix_reconciliations_lease",
        "reconciliations",
        ["lease_until"],
        unique=False,
        schema="tenure",
        postgresql_where=sa.text("state = 'running'"),
    )
    op.create_index(
        "ix_reconciliations_suspect",
        "reconciliations",
        ["due_at", "id"],
        unique=False,
        schema="tenure",
        postgresql_where=sa.text("state = 'pending' AND crashes > 0"),
    )
    op.create_index(
        "ix_reconciliations_wanting",
        "reconciliations",
        ["due_at"],
        unique=False,
        schema="tenure",
        postgresql_where=sa.text("state IN ('failed', 'unknown')"),
    )
    op.create_table(
        "payment_events",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=True),
        sa.Column("provider", sa.Text(), server_default="stripe", nullable=False),
        sa.Column("delivery", sa.LargeBinary(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=True),
        sa.Column("signature", sa.Text(), nullable=True),
        sa.Column("event", sa.Text(), nullable=True),
        sa.Column("event_type", sa.Text(), nullable=True),
        sa.Column("payment", sa.Text(), nullable=True),
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
        sa.CheckConstraint("(state = 'running') = (lease_until IS NOT NULL)", name=op.f("ck_payment_events_lease")),
        sa.CheckConstraint("(body IS NULL) = (signature IS NULL)", name=op.f("ck_payment_events_signature")),
        sa.ForeignKeyConstraint(
            ["account_id"], ["tenure.accounts.id"], name=op.f("fk_payment_events_account_id_accounts")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_payment_events")),
        sa.UniqueConstraint("delivery", name=op.f("uq_payment_events_delivery")),
        schema="tenure",
    )
    op.create_index("ix_payment_events_account_id", "payment_events", ["account_id"], unique=False, schema="tenure")
    op.create_index(
        "ix_payment_events_due",
        "payment_events",
        ["due_at", "id"],
        unique=False,
        schema="tenure",
        postgresql_where=sa.text("state = 'pending' AND crashes = 0"),
    )
    op.create_index(
        "ix_payment_events_finished",
        "payment_events",
        ["finished_at"],
        unique=False,
        schema="tenure",
        postgresql_where=sa.text("finished_at IS NOT NULL"),
    )
    op.create_index(
        "ix_payment_events_lease",
        "payment_events",
        ["lease_until"],
        unique=False,
        schema="tenure",
        postgresql_where=sa.text("state = 'running'"),
    )
    op.create_index(
        "ix_payment_events_suspect",
        "payment_events",
        ["due_at", "id"],
        unique=False,
        schema="tenure",
        postgresql_where=sa.text("state = 'pending' AND crashes > 0"),
    )
    op.create_index(
        "ix_payment_events_wanting",
        "payment_events",
        ["due_at"],
        unique=False,
        schema="tenure",
        postgresql_where=sa.text("state IN ('failed', 'unknown')"),
    )
