"""The walking skeleton: accounts, contacts, contracts, ledger, statements, e-mails, sessions, requests."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(sa.schema.CreateSequence(sa.Sequence("ledger_sequence", schema="tenure")))

    op.create_table(
        "accounts",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("ref", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("address", postgresql.ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("country", sa.Text(), nullable=True),
        sa.Column("currency", sa.String(length=3), nullable=False),
        sa.Column(
            "status",
            sa.Enum(
                "active",
                "frozen",
                "purged",
                name="status",
                native_enum=False,
                create_constraint=True,
                length=32,
                schema="tenure",
            ),
            server_default="active",
            nullable=False,
        ),
        sa.Column("time_zone", sa.Text(), server_default="UTC", nullable=False),
        sa.Column("billing_day", sa.SmallInteger(), server_default=sa.text("1"), nullable=False),
        sa.Column("period_start", sa.Date(), server_default=sa.text("current_date"), nullable=False),
        sa.Column("statement_due_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("currency ~ '^[A-Z]{3}$'", name=op.f("ck_accounts_currency")),
        sa.CheckConstraint("billing_day BETWEEN 1 AND 31", name=op.f("ck_accounts_billing_day")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_accounts")),
        sa.UniqueConstraint("ref", name=op.f("uq_accounts_ref")),
        schema="tenure",
    )
    op.create_index(
        "ix_accounts_statement_due",
        "accounts",
        ["statement_due_at"],
        unique=False,
        schema="tenure",
        postgresql_where=sa.text("status = 'active'"),
    )
    op.create_table(
        "quarantine",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("received_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("message_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=True),
        sa.Column("headers", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("replayed_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_quarantine")),
        sa.UniqueConstraint("message_id", name=op.f("uq_quarantine_message_id")),
        schema="tenure",
    )
    op.create_index(op.f("ix_quarantine_received_at"), "quarantine", ["received_at"], unique=False, schema="tenure")
    op.create_table(
        "request_kinds",
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("version", sa.SmallInteger(), nullable=False),
        sa.Column("fields", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.PrimaryKeyConstraint("kind", name=op.f("pk_request_kinds")),
        schema="tenure",
    )
    op.create_table(
        "contacts",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("email", sa.Text(), nullable=False),
        sa.Column("language", sa.Text(), server_default="en", nullable=False),
        sa.Column("time_zone", sa.Text(), server_default="UTC", nullable=False),
        sa.Column("receives_statements", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["tenure.accounts.id"], name=op.f("fk_contacts_account_id_accounts")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_contacts")),
        sa.UniqueConstraint("account_id", "email", name=op.f("uq_contacts_account_id_email")),
        schema="tenure",
    )
    op.create_table(
        "contracts",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("plan", sa.Text(), nullable=False),
        sa.Column("starts_on", sa.Date(), nullable=False),
        sa.Column("ends_on", sa.Date(), nullable=True),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("ends_on IS NULL OR ends_on >= starts_on", name=op.f("ck_contracts_ends_after_it_starts")),
        sa.ForeignKeyConstraint(["account_id"], ["tenure.accounts.id"], name=op.f("fk_contracts_account_id_accounts")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_contracts")),
        schema="tenure",
    )
    op.create_index(op.f("ix_contracts_account_id"), "contracts", ["account_id"], unique=False, schema="tenure")
    op.create_table(
        "job_requests",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("args", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=True),
        sa.Column("dedupe_key", sa.Text(), nullable=True),
        sa.Column("source", sa.Text(), server_default="sql", nullable=False),
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
        sa.CheckConstraint("(state = 'running') = (lease_until IS NOT NULL)", name=op.f("ck_job_requests_lease")),
        sa.CheckConstraint("source IN ('sql', 'queue', 'operator')", name=op.f("ck_job_requests_source")),
        sa.ForeignKeyConstraint(
            ["account_id"], ["tenure.accounts.id"], name=op.f("fk_job_requests_account_id_accounts")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job_requests")),
        sa.UniqueConstraint("kind", "dedupe_key", name=op.f("uq_job_requests_kind_dedupe_key")),
        schema="tenure",
    )
    op.create_index(op.f("ix_job_requests_account_id"), "job_requests", ["account_id"], unique=False, schema="tenure")
    op.create_index(
        "ix_job_requests_due",
        "job_requests",
        ["due_at", "id"],
        unique=False,
        schema="tenure",
        postgresql_where=sa.text("state = 'pending' AND crashes = 0"),
    )
    op.create_index(
        "ix_job_requests_finished",
        "job_requests",
        ["finished_at"],
        unique=False,
        schema="tenure",
        postgresql_where=sa.text("finished_at IS NOT NULL"),
    )
    op.create_index(
        "ix_job_requests_lease",
        "job_requests",
        ["lease_until"],
        unique=False,
        schema="tenure",
        postgresql_where=sa.text("state = 'running'"),
    )
    op.create_index(
        "ix_job_requests_suspect",
        "job_requests",
        ["due_at", "id"],
        unique=False,
        schema="tenure",
        postgresql_where=sa.text("state = 'pending' AND crashes > 0"),
    )
    op.create_table(
        "ledger_entries",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column(
            "kind",
            sa.Enum(
                "charge",
                "payment",
                "credit",
                "refund",
                "chargeback",
                name="kind",
                native_enum=False,
                create_constraint=True,
                length=32,
                schema="tenure",
            ),
            nullable=False,
        ),
        sa.Column("currency", sa.String(length=3), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("occurred_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("recorded_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("due_on", sa.Date(), nullable=True),
        sa.Column("external_ref", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "CASE WHEN kind IN ('payment', 'credit') THEN amount < 0 ELSE amount > 0 END",
            name=op.f("ck_ledger_entries_sign"),
        ),
        sa.CheckConstraint("currency ~ '^[A-Z]{3}$'", name=op.f("ck_ledger_entries_currency")),
        sa.ForeignKeyConstraint(
            ["account_id"], ["tenure.accounts.id"], name=op.f("fk_ledger_entries_account_id_accounts")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ledger_entries")),
        sa.UniqueConstraint("account_id", "external_ref", name=op.f("uq_ledger_entries_account_id_external_ref")),
        sa.UniqueConstraint("account_id", "sequence", name=op.f("uq_ledger_entries_account_id_sequence")),
        schema="tenure",
    )
    op.create_index(
        op.f("ix_ledger_entries_account_id_currency_occurred_at"),
        "ledger_entries",
        ["account_id", "currency", "occurred_at"],
        unique=False,
        schema="tenure",
    )
    op.create_table(
        "statements",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("currency", sa.String(length=3), nullable=False),
        sa.Column("period_start", sa.Date(), nullable=False),
        sa.Column("period_end", sa.Date(), nullable=False),
        sa.Column("opens_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("closes_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("opening_cutoff", sa.BigInteger(), nullable=False),
        sa.Column("cutoff", sa.BigInteger(), nullable=False),
        sa.Column("opening", sa.BigInteger(), nullable=False),
        sa.Column("closing", sa.BigInteger(), nullable=False),
        sa.Column("line_count", sa.Integer(), nullable=False),
        sa.Column("document_key", sa.Text(), nullable=True),
        sa.Column("document_sha256", sa.LargeBinary(), nullable=True),
        sa.Column("document_bytes", sa.Integer(), nullable=True),
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
        sa.CheckConstraint("(state = 'running') = (lease_until IS NOT NULL)", name=op.f("ck_statements_lease")),
        sa.CheckConstraint("currency ~ '^[A-Z]{3}$'", name=op.f("ck_statements_currency")),
        sa.CheckConstraint("opening_cutoff <= cutoff", name=op.f("ck_statements_cutoff")),
        sa.CheckConstraint("period_end > period_start", name=op.f("ck_statements_period")),
        sa.ForeignKeyConstraint(["account_id"], ["tenure.accounts.id"], name=op.f("fk_statements_account_id_accounts")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_statements")),
        sa.UniqueConstraint(
            "account_id", "currency", "period_start", name=op.f("uq_statements_account_id_currency_period_start")
        ),
        schema="tenure",
    )
    op.create_index(
        "ix_statements_due",
        "statements",
        ["due_at", "id"],
        unique=False,
        schema="tenure",
        postgresql_where=sa.text("state = 'pending' AND crashes = 0"),
    )
    op.create_index(
        "ix_statements_finished",
        "statements",
        ["finished_at"],
        unique=False,
        schema="tenure",
        postgresql_where=sa.text("finished_at IS NOT NULL"),
    )
    op.create_index(
        "ix_statements_lease",
        "statements",
        ["lease_until"],
        unique=False,
        schema="tenure",
        postgresql_where=sa.text("state = 'running'"),
    )
    op.create_index(
        "ix_statements_suspect",
        "statements",
        ["due_at", "id"],
        unique=False,
        schema="tenure",
        postgresql_where=sa.text("state = 'pending' AND crashes > 0"),
    )
    op.create_table(
        "email_messages",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("contact_id", sa.Uuid(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("to_address", sa.Text(), nullable=False),
        sa.Column("context", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column(
            "attachments", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'[]'"), nullable=False
        ),
        sa.Column("urgent", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("dedupe_key", sa.Text(), nullable=False),
        sa.Column("message_id", sa.Text(), nullable=False),
        sa.Column("committing_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("accepted_as", sa.Text(), nullable=True),
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
        sa.CheckConstraint("(state = 'running') = (lease_until IS NOT NULL)", name=op.f("ck_email_messages_lease")),
        sa.ForeignKeyConstraint(
            ["account_id"], ["tenure.accounts.id"], name=op.f("fk_email_messages_account_id_accounts")
        ),
        sa.ForeignKeyConstraint(
            ["contact_id"], ["tenure.contacts.id"], name=op.f("fk_email_messages_contact_id_contacts")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_email_messages")),
        sa.UniqueConstraint("dedupe_key", name=op.f("uq_email_messages_dedupe_key")),
        sa.UniqueConstraint("message_id", name=op.f("uq_email_messages_message_id")),
        schema="tenure",
    )
    op.create_index(
        op.f("ix_email_messages_account_id"), "email_messages", ["account_id"], unique=False, schema="tenure"
    )
    op.create_index(
        op.f("ix_email_messages_contact_id"), "email_messages", ["contact_id"], unique=False, schema="tenure"
    )
    op.create_index(
        "ix_email_messages_due",
        "email_messages",
        ["due_at", "id"],
        unique=False,
        schema="tenure",
        postgresql_where=sa.text("state = 'pending' AND crashes = 0"),
    )
    op.create_index(
        "ix_email_messages_finished",
        "email_messages",
        ["finished_at"],
        unique=False,
        schema="tenure",
        postgresql_where=sa.text("finished_at IS NOT NULL"),
    )
    op.create_index(
        "ix_email_messages_lease",
        "email_messages",
        ["lease_until"],
        unique=False,
        schema="tenure",
        postgresql_where=sa.text("state = 'running'"),
    )
    op.create_index(
        "ix_email_messages_suspect",
        "email_messages",
        ["due_at", "id"],
        unique=False,
        schema="tenure",
        postgresql_where=sa.text("state = 'pending' AND crashes > 0"),
    )
    op.create_table(
        "sessions",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("contact_id", sa.Uuid(), nullable=True),
        sa.Column("secret_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("ip", sa.Text(), nullable=True),
        sa.Column("user_agent", sa.Text(), nullable=True),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["tenure.accounts.id"], name=op.f("fk_sessions_account_id_accounts")),
        sa.ForeignKeyConstraint(["contact_id"], ["tenure.contacts.id"], name=op.f("fk_sessions_contact_id_contacts")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sessions")),
        schema="tenure",
    )
    op.create_index(op.f("ix_sessions_account_id"), "sessions", ["account_id"], unique=False, schema="tenure")
    op.create_index(op.f("ix_sessions_contact_id"), "sessions", ["contact_id"], unique=False, schema="tenure")
    op.create_index(op.f("ix_sessions_created_at"), "sessions", ["created_at"], unique=False, schema="tenure")
