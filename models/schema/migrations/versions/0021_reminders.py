"""Reminders: policies, letters, what they reminded of, and what holds them back (B11 to B17)."""

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "reminder_policies",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("is_default", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("grace_days", sa.SmallInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("minimum_gap_days", sa.SmallInteger(), server_default=sa.text("3"), nullable=False),
        sa.Column("opens_at", sa.Time(), server_default=sa.text("'09:00'"), nullable=False),
        sa.Column("closes_at", sa.Time(), server_default=sa.text("'17:00'"), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("closes_at - opens_at >= interval '1 hour'", name=op.f("ck_reminder_policies_hours")),
        sa.CheckConstraint("grace_days BETWEEN 0 AND 60", name=op.f("ck_reminder_policies_grace_days")),
        sa.CheckConstraint("minimum_gap_days BETWEEN 1 AND 90", name=op.f("ck_reminder_policies_minimum_gap_days")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reminder_policies")),
        sa.UniqueConstraint("name", name=op.f("uq_reminder_policies_name")),
        schema="tenure",
    )
    op.create_index(
        "uq_reminder_policies_default",
        "reminder_policies",
        ["is_default"],
        unique=True,
        schema="tenure",
        postgresql_where=sa.text("is_default"),
    )
    op.create_table(
        "reminder_steps",
        sa.Column("policy_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("days", sa.SmallInteger(), nullable=False),
        sa.Column(
            "level",
            sa.Enum(
                "upcoming",
                "first",
                "second",
                "final",
                name="level",
                native_enum=False,
                create_constraint=True,
                length=32,
                schema="tenure",
            ),
            nullable=False,
        ),
        sa.Column("fee", sa.BigInteger(), nullable=True),
        sa.Column("fee_currency", sa.String(length=3), nullable=True),
        sa.Column("pay_within", sa.SmallInteger(), nullable=True),
        sa.CheckConstraint("(level = 'upcoming') = (days <= 0)", name=op.f("ck_reminder_steps_upcoming")),
        sa.CheckConstraint("level <> 'final' OR pay_within IS NOT NULL", name=op.f("ck_reminder_steps_final")),
        sa.CheckConstraint("(fee IS NULL) = (fee_currency IS NULL) AND fee > 0", name=op.f("ck_reminder_steps_fee")),
        sa.CheckConstraint("days BETWEEN -60 AND 365", name=op.f("ck_reminder_steps_days")),
        sa.CheckConstraint("number > 0", name=op.f("ck_reminder_steps_number")),
        sa.CheckConstraint("pay_within BETWEEN 1 AND 60", name=op.f("ck_reminder_steps_pay_within")),
        sa.ForeignKeyConstraint(
            ["policy_id"], ["tenure.reminder_policies.id"], name=op.f("fk_reminder_steps_policy_id_reminder_policies")
        ),
        sa.PrimaryKeyConstraint("policy_id", "number", name=op.f("pk_reminder_steps")),
        schema="tenure",
    )
    op.create_table(
        "reminder_letters",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("currency", sa.String(length=3), nullable=False),
        sa.Column(
            "kind",
            sa.Enum(
                "reminder",
                "promise_broken",
                name="kind",
                native_enum=False,
                create_constraint=True,
                length=32,
                schema="tenure",
            ),
            nullable=False,
        ),
        sa.Column("local_day", sa.Date(), nullable=False),
        sa.Column(
            "level",
            sa.Enum(
                "upcoming",
                "first",
                "second",
                "final",
                name="level",
                native_enum=False,
                create_constraint=True,
                length=32,
                schema="tenure",
            ),
            nullable=True,
        ),
        sa.Column("pay_by", sa.Date(), nullable=True),
        sa.Column("written_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("withdrawn_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("settled_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.CheckConstraint("(kind = 'reminder') = (level IS NOT NULL)", name=op.f("ck_reminder_letters_level_of_kind")),
        sa.CheckConstraint("currency ~ '^[A-Z]{3}$'", name=op.f("ck_reminder_letters_currency")),
        sa.CheckConstraint(
            "withdrawn_at IS NULL OR settled_at IS NOT NULL", name=op.f("ck_reminder_letters_settled_at")
        ),
        sa.ForeignKeyConstraint(
            ["account_id"], ["tenure.accounts.id"], name=op.f("fk_reminder_letters_account_id_accounts")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reminder_letters")),
        schema="tenure",
    )
    op.create_index("ix_reminder_letters_account_id", "reminder_letters", ["account_id"], unique=False, schema="tenure")
    op.create_index(
        "ix_reminder_letters_unsettled",
        "reminder_letters",
        ["id"],
        unique=False,
        schema="tenure",
        postgresql_where=sa.text("settled_at IS NULL"),
    )
    op.create_index(
        "uq_reminder_letters_day",
        "reminder_letters",
        ["account_id", "currency", "local_day"],
        unique=True,
        schema="tenure",
        postgresql_where=sa.text("withdrawn_at IS NULL"),
    )
    op.create_table(
        "reminder_holds",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("invoice_id", sa.Uuid(), nullable=True),
        sa.Column(
            "kind",
            sa.Enum(
                "pause", "promise", name="kind", native_enum=False, create_constraint=True, length=32, schema="tenure"
            ),
            nullable=False,
        ),
        sa.Column("until", sa.Date(), nullable=True),
        sa.Column("amount", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("ended_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column(
            "outcome",
            sa.Enum(
                "lifted",
                "replaced",
                "kept",
                "broken",
                name="outcome",
                native_enum=False,
                create_constraint=True,
                length=32,
                schema="tenure",
            ),
            nullable=True,
        ),
        sa.Column("letter_id", sa.Uuid(), nullable=True),
        sa.CheckConstraint(
            "CASE kind WHEN 'pause' THEN amount IS NULL "
            "ELSE num_nulls(invoice_id, until, amount) = 0 AND amount > 0 END",
            name=op.f("ck_reminder_holds_promise"),
        ),
        sa.CheckConstraint("letter_id IS NULL OR (outcome = 'broken') IS TRUE", name=op.f("ck_reminder_holds_letter")),
        sa.CheckConstraint("(ended_at IS NULL) = (outcome IS NULL)", name=op.f("ck_reminder_holds_ended")),
        sa.ForeignKeyConstraint(
            ["account_id"], ["tenure.accounts.id"], name=op.f("fk_reminder_holds_account_id_accounts")
        ),
        sa.ForeignKeyConstraint(
            ["invoice_id"], ["tenure.invoices.id"], name=op.f("fk_reminder_holds_invoice_id_invoices")
        ),
        sa.ForeignKeyConstraint(
            ["letter_id"], ["tenure.reminder_letters.id"], name=op.f("fk_reminder_holds_letter_id_reminder_letters")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reminder_holds")),
        schema="tenure",
    )
    op.create_index("ix_reminder_holds_account_id", "reminder_holds", ["account_id"], unique=False, schema="tenure")
    op.create_index(
        "ix_reminder_holds_invoice_id",
        "reminder_holds",
        ["invoice_id"],
        unique=False,
        schema="tenure",
        postgresql_where=sa.text("invoice_id IS NOT NULL"),
    )
    op.create_index(
        "ix_reminder_holds_letter_id",
        "reminder_holds",
        ["letter_id"],
        unique=False,
        schema="tenure",
        postgresql_where=sa.text("letter_id IS NOT NULL"),
    )
    op.create_index(
        "uq_reminder_holds_in_force",
        "reminder_holds",
        ["account_id", "invoice_id", "kind"],
        unique=True,
        schema="tenure",
        postgresql_nulls_not_distinct=True,
        postgresql_where=sa.text("ended_at IS NULL"),
    )
    op.create_table(
        "reminder_copies",
        sa.Column("email_message_id", sa.Uuid(), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("letter_id", sa.Uuid(), nullable=False),
        sa.ForeignKeyConstraint(
            ["account_id"], ["tenure.accounts.id"], name=op.f("fk_reminder_copies_account_id_accounts")
        ),
        sa.ForeignKeyConstraint(
            ["email_message_id"],
            ["tenure.email_messages.id"],
            name=op.f("fk_reminder_copies_email_message_id_email_messages"),
        ),
        sa.ForeignKeyConstraint(
            ["letter_id"], ["tenure.reminder_letters.id"], name=op.f("fk_reminder_copies_letter_id_reminder_letters")
        ),
        sa.PrimaryKeyConstraint("email_message_id", name=op.f("pk_reminder_copies")),
        schema="tenure",
    )
    op.create_index(
        op.f("ix_reminder_copies_account_id"), "reminder_copies", ["account_id"], unique=False, schema="tenure"
    )
    op.create_index(
        op.f("ix_reminder_copies_letter_id"), "reminder_copies", ["letter_id"], unique=False, schema="tenure"
    )
    op.create_table(
        "reminders",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("letter_id", sa.Uuid(), nullable=False),
        sa.Column("invoice_id", sa.Uuid(), nullable=False),
        sa.Column("step", sa.SmallInteger(), nullable=False),
        sa.Column(
            "level",
            sa.Enum(
                "upcoming",
                "first",
                "second",
                "final",
                name="level",
                native_enum=False,
                create_constraint=True,
                length=32,
                schema="tenure",
            ),
            nullable=False,
        ),
        sa.Column("fee", sa.BigInteger(), nullable=True),
        sa.Column("fee_entry_id", sa.Uuid(), nullable=True),
        sa.Column("withdrawn_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.CheckConstraint("fee > 0", name=op.f("ck_reminders_fee")),
        sa.CheckConstraint("step > 0", name=op.f("ck_reminders_step")),
        sa.ForeignKeyConstraint(["account_id"], ["tenure.accounts.id"], name=op.f("fk_reminders_account_id_accounts")),
        sa.ForeignKeyConstraint(
            ["fee_entry_id"], ["tenure.ledger_entries.id"], name=op.f("fk_reminders_fee_entry_id_ledger_entries")
        ),
        sa.ForeignKeyConstraint(["invoice_id"], ["tenure.invoices.id"], name=op.f("fk_reminders_invoice_id_invoices")),
        sa.ForeignKeyConstraint(
            ["letter_id"], ["tenure.reminder_letters.id"], name=op.f("fk_reminders_letter_id_reminder_letters")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reminders")),
        schema="tenure",
    )
    op.create_index("ix_reminders_account_id", "reminders", ["account_id"], unique=False, schema="tenure")
    op.create_index(
        "ix_reminders_fee_entry_id",
        "reminders",
        ["fee_entry_id"],
        unique=False,
        schema="tenure",
        postgresql_where=sa.text("fee_entry_id IS NOT NULL"),
    )
    op.create_index("ix_reminders_letter_id", "reminders", ["letter_id"], unique=False, schema="tenure")
    op.create_index(
        "uq_reminders_invoice_step",
        "reminders",
        ["invoice_id", "step"],
        unique=True,
        schema="tenure",
        postgresql_where=sa.text("withdrawn_at IS NULL"),
    )
    op.add_column("accounts", sa.Column("reminder_policy_id", sa.Uuid(), nullable=True), schema="tenure")
    op.create_index(
        "ix_accounts_reminder_policy_id",
        "accounts",
        ["reminder_policy_id"],
        unique=False,
        schema="tenure",
        postgresql_where=sa.text("reminder_policy_id IS NOT NULL"),
    )
    op.create_foreign_key(
        op.f("fk_accounts_reminder_policy_id_reminder_policies"),
        "accounts",
        "reminder_policies",
        ["reminder_policy_id"],
        ["id"],
        source_schema="tenure",
        referent_schema="tenure",
    )
