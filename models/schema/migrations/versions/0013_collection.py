"""How customers pay by themselves, and each attempt to collect an invoice (B20, B21)."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "payment_methods",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("provider", sa.Text(), server_default="stripe", nullable=False),
        sa.Column("provider_customer", sa.Text(), nullable=False),
        sa.Column("provider_method", sa.Text(), nullable=False),
        sa.Column(
            "kind",
            sa.Enum(
                "card",
                "direct_debit",
                name="kind",
                native_enum=False,
                create_constraint=True,
                length=32,
                schema="tenure",
            ),
            nullable=False,
        ),
        sa.Column("digits", sa.Text(), server_default="", nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("retired_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.CheckConstraint("digits ~ '^[0-9]{0,4}$'", name=op.f("ck_payment_methods_digits")),
        sa.CheckConstraint(
            "provider_method ~ '[A-Za-z]' AND provider_customer ~ '[A-Za-z]'", name=op.f("ck_payment_methods_token")
        ),
        sa.ForeignKeyConstraint(
            ["account_id"], ["tenure.accounts.id"], name=op.f("fk_payment_methods_account_id_accounts")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_payment_methods")),
        sa.UniqueConstraint("provider", "provider_method", name=op.f("uq_payment_methods_provider_provider_method")),
        schema="tenure",
    )
    op.create_index(op.f("ix_payment_methods_account_id"), "payment_methods", ["account_id"], schema="tenure")
    op.create_index(
        "uq_payment_methods_in_use",
        "payment_methods",
        ["account_id"],
        unique=True,
        schema="tenure",
        postgresql_where=sa.text("retired_at IS NULL"),
    )
    op.create_table(
        "collection_attempts",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("invoice_id", sa.Uuid(), nullable=False),
        sa.Column("method_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.SmallInteger(), nullable=False),
        sa.Column("local_day", sa.Date(), nullable=False),
        sa.Column("currency", sa.String(length=3), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=True),
        sa.Column("asked_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column(
            "outcome",
            sa.Enum(
                "charged",
                "declined",
                "processing",
                "not_needed",
                "not_made",
                name="outcome",
                native_enum=False,
                create_constraint=True,
                length=32,
                schema="tenure",
            ),
            nullable=True,
        ),
        sa.Column("provider_payment", sa.Text(), nullable=True),
        sa.Column("provider_charge", sa.Text(), nullable=True),
        sa.Column(
            "decline_reason",
            sa.Enum(
                "not_enough_money",
                "expired",
                "wrong_details",
                "confirmation_needed",
                "refused",
                "technical",
                name="decline_reason",
                native_enum=False,
                create_constraint=True,
                length=32,
                schema="tenure",
            ),
            nullable=True,
        ),
        sa.Column("decline_code", sa.Text(), nullable=True),
        sa.Column("decline_is_final", sa.Boolean(), nullable=True),
        sa.Column("next_attempt_on", sa.Date(), nullable=True),
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
                "unknown",
                name="state",
                native_enum=False,
                create_constraint=True,
                length=32,
                schema="tenure",
            ),
            server_default="pending",
            nullable=False,
        ),
        sa.CheckConstraint(
            "(outcome = 'charged') IS NOT TRUE OR provider_charge IS NOT NULL",
            name=op.f("ck_collection_attempts_charge"),
        ),
        sa.CheckConstraint(
            "(outcome = 'declined') IS NOT TRUE OR decline_reason IS NOT NULL",
            name=op.f("ck_collection_attempts_decline"),
        ),
        sa.CheckConstraint(
            "(state = 'running') = (lease_until IS NOT NULL)", name=op.f("ck_collection_attempts_lease")
        ),
        sa.CheckConstraint("currency ~ '^[A-Z]{3}$'", name=op.f("ck_collection_attempts_currency")),
        sa.CheckConstraint("(asked_at IS NULL) = (amount IS NULL)", name=op.f("ck_collection_attempts_asked_at")),
        sa.CheckConstraint("amount > 0", name=op.f("ck_collection_attempts_amount")),
        sa.CheckConstraint("next_attempt_on > local_day", name=op.f("ck_collection_attempts_next_attempt_on")),
        sa.CheckConstraint("number > 0", name=op.f("ck_collection_attempts_number")),
        sa.ForeignKeyConstraint(
            ["account_id"], ["tenure.accounts.id"], name=op.f("fk_collection_attempts_account_id_accounts")
        ),
        sa.ForeignKeyConstraint(
            ["invoice_id"], ["tenure.invoices.id"], name=op.f("fk_collection_attempts_invoice_id_invoices")
        ),
        sa.ForeignKeyConstraint(
            ["method_id"], ["tenure.payment_methods.id"], name=op.f("fk_collection_attempts_method_id_payment_methods")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_collection_attempts")),
        sa.UniqueConstraint("invoice_id", "local_day", name=op.f("uq_collection_attempts_invoice_id_local_day")),
        sa.UniqueConstraint("invoice_id", "number", name=op.f("uq_collection_attempts_invoice_id_number")),
        sa.UniqueConstraint("provider_charge", name=op.f("uq_collection_attempts_provider_charge")),
        sa.UniqueConstraint("provider_payment", name=op.f("uq_collection_attempts_provider_payment")),
        schema="tenure",
    )
    op.create_index(
        "ix_collection_attempts_account_id", "collection_attempts", ["account_id"], unique=False, schema="tenure"
    )
    op.create_index(
        "ix_collection_attempts_due",
        "collection_attempts",
        ["due_at", "id"],
        unique=False,
        schema="tenure",
        postgresql_where=sa.text("state = 'pending' AND crashes = 0"),
    )
    op.create_index(
        "ix_collection_attempts_finished",
        "collection_attempts",
        ["finished_at"],
        unique=False,
        schema="tenure",
        postgresql_where=sa.text("finished_at IS NOT NULL"),
    )
    op.create_index(
        "ix_collection_attempts_lease",
        "collection_attempts",
        ["lease_until"],
        unique=False,
        schema="tenure",
        postgresql_where=sa.text("state = 'running'"),
    )
    op.create_index(
        "ix_collection_attempts_method_id", "collection_attempts", ["method_id"], unique=False, schema="tenure"
    )
    op.create_index(
        "ix_collection_attempts_processing",
        "collection_attempts",
        ["asked_at"],
        unique=False,
        schema="tenure",
        postgresql_where=sa.text("outcome = 'processing'"),
    )
    op.create_index(
        "ix_collection_attempts_suspect",
        "collection_attempts",
        ["due_at", "id"],
        unique=False,
        schema="tenure",
        postgresql_where=sa.text("state = 'pending' AND crashes > 0"),
    )
    op.create_index(
        "ix_collection_attempts_wanting",
        "collection_attempts",
        ["due_at"],
        unique=False,
        schema="tenure",
        postgresql_where=sa.text("state IN ('failed', 'unknown')"),
    )
    op.create_index(
        "uq_collection_attempts_in_flight",
        "collection_attempts",
        ["invoice_id"],
        unique=True,
        schema="tenure",
        postgresql_where=sa.text("state IN ('pending', 'running', 'unknown', 'failed') OR outcome = 'processing'"),
    )
