"""Invoices, credit notes, open items and their allocation; currencies; tax in the ledger (B1, B8 to B10)."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "currencies",
        sa.Column("code", sa.String(length=3), nullable=False),
        sa.Column("digits", sa.SmallInteger(), nullable=False),
        sa.PrimaryKeyConstraint("code", name=op.f("pk_currencies")),
        schema="tenure",
    )
    op.create_table(
        "invoice_series",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column(
            "kind",
            sa.Enum(
                "invoice",
                "credit_note",
                name="kind",
                native_enum=False,
                create_constraint=True,
                length=32,
                schema="tenure",
            ),
            nullable=False,
        ),
        sa.Column("prefix", sa.Text(), nullable=False),
        sa.Column("last_number", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.CheckConstraint("prefix ~ '^[A-Za-z0-9./_-]{1,20}$'", name=op.f("ck_invoice_series_prefix")),
        sa.PrimaryKeyConstraint("name", "kind", name=op.f("pk_invoice_series")),
        sa.UniqueConstraint("prefix", name=op.f("uq_invoice_series_prefix")),
        schema="tenure",
    )
    op.create_table(
        "invoices",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column(
            "kind",
            sa.Enum(
                "invoice",
                "credit_note",
                name="kind",
                native_enum=False,
                create_constraint=True,
                length=32,
                schema="tenure",
            ),
            nullable=False,
        ),
        sa.Column("series", sa.Text(), nullable=False),
        sa.Column("series_number", sa.BigInteger(), nullable=False),
        sa.Column("number", sa.Text(), nullable=False),
        sa.Column("corrects_id", sa.Uuid(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("issued_on", sa.Date(), nullable=False),
        sa.Column(
            "issued_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("period_start", sa.Date(), nullable=True),
        sa.Column("period_end", sa.Date(), nullable=True),
        sa.Column("payment_terms", sa.SmallInteger(), nullable=True),
        sa.Column("due_on", sa.Date(), nullable=True),
        sa.Column("currency", sa.String(length=3), nullable=False),
        sa.Column("net", sa.BigInteger(), nullable=False),
        sa.Column("tax", sa.BigInteger(), nullable=False),
        sa.Column("total", sa.BigInteger(), nullable=False),
        sa.Column("letterhead", sa.LargeBinary(), nullable=False),
        sa.Column("buyer", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("language", sa.Text(), nullable=False),
        sa.Column("time_zone", sa.Text(), nullable=False),
        sa.CheckConstraint("(kind = 'credit_note') = (corrects_id IS NOT NULL)", name=op.f("ck_invoices_corrects")),
        sa.CheckConstraint(
            "(kind = 'invoice') = (period_start IS NOT NULL AND period_end IS NOT NULL)",
            name=op.f("ck_invoices_period"),
        ),
        sa.CheckConstraint("currency ~ '^[A-Z]{3}$'", name=op.f("ck_invoices_currency")),
        sa.CheckConstraint("due_on >= issued_on", name=op.f("ck_invoices_due_on")),
        sa.CheckConstraint("total = net + tax AND total > 0 AND tax >= 0 AND net >= 0", name=op.f("ck_invoices_total")),
        sa.ForeignKeyConstraint(["account_id"], ["tenure.accounts.id"], name=op.f("fk_invoices_account_id_accounts")),
        sa.ForeignKeyConstraint(["corrects_id"], ["tenure.invoices.id"], name=op.f("fk_invoices_corrects_id_invoices")),
        sa.ForeignKeyConstraint(
            ["letterhead"], ["tenure.letterheads.sha256"], name=op.f("fk_invoices_letterhead_letterheads")
        ),
        sa.ForeignKeyConstraint(
            ["series", "kind"],
            ["tenure.invoice_series.name", "tenure.invoice_series.kind"],
            name=op.f("fk_invoices_series_kind_invoice_series"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_invoices")),
        sa.UniqueConstraint("number", name=op.f("uq_invoices_number")),
        sa.UniqueConstraint("series", "kind", "series_number", name=op.f("uq_invoices_series_kind_series_number")),
        schema="tenure",
    )
    op.create_index(
        op.f("ix_invoices_account_id_issued_on"), "invoices", ["account_id", "issued_on"], unique=False, schema="tenure"
    )
    op.create_index(
        "ix_invoices_corrects_id",
        "invoices",
        ["corrects_id"],
        unique=False,
        schema="tenure",
        postgresql_where=sa.text("corrects_id IS NOT NULL"),
    )
    op.create_table(
        "invoice_documents",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("invoice_id", sa.Uuid(), nullable=False),
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
        sa.CheckConstraint("(state = 'running') = (lease_until IS NOT NULL)", name=op.f("ck_invoice_documents_lease")),
        sa.ForeignKeyConstraint(
            ["invoice_id"], ["tenure.invoices.id"], name=op.f("fk_invoice_documents_invoice_id_invoices")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_invoice_documents")),
        sa.UniqueConstraint("invoice_id", name=op.f("uq_invoice_documents_invoice_id")),
        schema="tenure",
    )
    op.create_index(
        "ix_invoice_documents_due",
        "invoice_documents",
        ["due_at", "id"],
        unique=False,
        schema="tenure",
        postgresql_where=sa.text("state = 'pending' AND crashes = 0"),
    )
    op.create_index(
        "ix_invoice_documents_finished",
        "invoice_documents",
        ["finished_at"],
        unique=False,
        schema="tenure",
        postgresql_where=sa.text("finished_at IS NOT NULL"),
    )
    op.create_index(
        "ix_invoice_documents_lease",
        "invoice_documents",
        ["lease_until"],
        unique=False,
        schema="tenure",
        postgresql_where=sa.text("state = 'running'"),
    )
    op.create_index(
        "ix_invoice_documents_suspect",
        "invoice_documents",
        ["due_at", "id"],
        unique=False,
        schema="tenure",
        postgresql_where=sa.text("state = 'pending' AND crashes > 0"),
    )
    op.create_index(
        "ix_invoice_documents_wanting",
        "invoice_documents",
        ["due_at"],
        unique=False,
        schema="tenure",
        postgresql_where=sa.text("state IN ('failed', 'unknown')"),
    )
    op.create_table(
        "invoice_taxes",
        sa.Column("invoice_id", sa.Uuid(), nullable=False),
        sa.Column(
            "tax_category",
            sa.Enum(
                "S",
                "Z",
                "E",
                "AE",
                "K",
                "G",
                "O",
                name="tax_category",
                native_enum=False,
                create_constraint=True,
                length=32,
                schema="tenure",
            ),
            nullable=False,
        ),
        sa.Column("tax_rate", sa.Integer(), nullable=False),
        sa.Column("base", sa.BigInteger(), nullable=False),
        sa.Column("tax", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "CASE WHEN tax_category = 'S' THEN tax_rate BETWEEN 1 AND 10000 ELSE tax_rate = 0 END",
            name=op.f("ck_invoice_taxes_tax"),
        ),
        sa.CheckConstraint("base >= 0 AND tax >= 0", name=op.f("ck_invoice_taxes_amounts")),
        sa.ForeignKeyConstraint(
            ["invoice_id"], ["tenure.invoices.id"], name=op.f("fk_invoice_taxes_invoice_id_invoices")
        ),
        sa.PrimaryKeyConstraint("invoice_id", "tax_category", "tax_rate", name=op.f("pk_invoice_taxes")),
        schema="tenure",
    )
    op.create_table(
        "invoice_lines",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("invoice_id", sa.Uuid(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("entry_id", sa.Uuid(), nullable=True),
        sa.Column("corrects_id", sa.Uuid(), nullable=True),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("occurred_on", sa.Date(), nullable=False),
        sa.Column(
            "tax_category",
            sa.Enum(
                "S",
                "Z",
                "E",
                "AE",
                "K",
                "G",
                "O",
                name="tax_category",
                native_enum=False,
                create_constraint=True,
                length=32,
                schema="tenure",
            ),
            nullable=False,
        ),
        sa.Column("tax_rate", sa.Integer(), nullable=False),
        sa.Column("net", sa.BigInteger(), nullable=False),
        sa.Column("gross", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "CASE WHEN tax_category = 'S' THEN tax_rate BETWEEN 1 AND 10000 ELSE tax_rate = 0 END",
            name=op.f("ck_invoice_lines_tax"),
        ),
        sa.CheckConstraint("(entry_id IS NULL) <> (corrects_id IS NULL)", name=op.f("ck_invoice_lines_origin")),
        sa.CheckConstraint("gross > 0 AND net BETWEEN 0 AND gross", name=op.f("ck_invoice_lines_gross")),
        sa.ForeignKeyConstraint(
            ["corrects_id"], ["tenure.invoice_lines.id"], name=op.f("fk_invoice_lines_corrects_id_invoice_lines")
        ),
        sa.ForeignKeyConstraint(
            ["entry_id"], ["tenure.ledger_entries.id"], name=op.f("fk_invoice_lines_entry_id_ledger_entries")
        ),
        sa.ForeignKeyConstraint(
            ["invoice_id"], ["tenure.invoices.id"], name=op.f("fk_invoice_lines_invoice_id_invoices")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_invoice_lines")),
        sa.UniqueConstraint("entry_id", name=op.f("uq_invoice_lines_entry_id")),
        sa.UniqueConstraint("invoice_id", "position", name=op.f("uq_invoice_lines_invoice_id_position")),
        schema="tenure",
    )
    op.create_index(
        "ix_invoice_lines_corrects_id",
        "invoice_lines",
        ["corrects_id"],
        unique=False,
        schema="tenure",
        postgresql_where=sa.text("corrects_id IS NOT NULL"),
    )
    op.create_table(
        "open_items",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("currency", sa.String(length=3), nullable=False),
        sa.Column(
            "side",
            sa.Enum(
                "debit", "credit", name="side", native_enum=False, create_constraint=True, length=32, schema="tenure"
            ),
            nullable=False,
        ),
        sa.Column("invoice_id", sa.Uuid(), nullable=True),
        sa.Column("entry_id", sa.Uuid(), nullable=True),
        sa.Column("due_on", sa.Date(), nullable=True),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("open", sa.BigInteger(), nullable=False),
        sa.Column("credited", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("disputed", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.CheckConstraint("currency ~ '^[A-Z]{3}$'", name=op.f("ck_open_items_currency")),
        sa.CheckConstraint("credited BETWEEN 0 AND amount", name=op.f("ck_open_items_credited")),
        sa.CheckConstraint("disputed BETWEEN 0 AND amount", name=op.f("ck_open_items_disputed")),
        sa.CheckConstraint("num_nonnulls(invoice_id, entry_id) = 1", name=op.f("ck_open_items_origin")),
        sa.CheckConstraint("open BETWEEN 0 AND amount", name=op.f("ck_open_items_open")),
        sa.ForeignKeyConstraint(["account_id"], ["tenure.accounts.id"], name=op.f("fk_open_items_account_id_accounts")),
        sa.ForeignKeyConstraint(
            ["entry_id"], ["tenure.ledger_entries.id"], name=op.f("fk_open_items_entry_id_ledger_entries")
        ),
        sa.ForeignKeyConstraint(["invoice_id"], ["tenure.invoices.id"], name=op.f("fk_open_items_invoice_id_invoices")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_open_items")),
        sa.UniqueConstraint("entry_id", name=op.f("uq_open_items_entry_id")),
        sa.UniqueConstraint("invoice_id", name=op.f("uq_open_items_invoice_id")),
        schema="tenure",
    )
    op.create_index(op.f("ix_open_items_account_id"), "open_items", ["account_id"], unique=False, schema="tenure")
    op.create_index(
        "ix_open_items_due",
        "open_items",
        ["due_on"],
        unique=False,
        schema="tenure",
        postgresql_where=sa.text("open > 0 AND invoice_id IS NOT NULL"),
    )
    op.create_index(
        "ix_open_items_open",
        "open_items",
        ["account_id", "currency", "side"],
        unique=False,
        schema="tenure",
        postgresql_where=sa.text("open > 0"),
    )
    op.create_table(
        "allocations",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("credit_id", sa.Uuid(), nullable=False),
        sa.Column("debit_id", sa.Uuid(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("recorded_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("amount <> 0", name=op.f("ck_allocations_amount")),
        sa.ForeignKeyConstraint(
            ["account_id"], ["tenure.accounts.id"], name=op.f("fk_allocations_account_id_accounts")
        ),
        sa.ForeignKeyConstraint(
            ["credit_id"], ["tenure.open_items.id"], name=op.f("fk_allocations_credit_id_open_items")
        ),
        sa.ForeignKeyConstraint(
            ["debit_id"], ["tenure.open_items.id"], name=op.f("fk_allocations_debit_id_open_items")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_allocations")),
        schema="tenure",
    )
    op.create_index(op.f("ix_allocations_account_id"), "allocations", ["account_id"], unique=False, schema="tenure")
    op.create_index(op.f("ix_allocations_credit_id"), "allocations", ["credit_id"], unique=False, schema="tenure")
    op.create_index(op.f("ix_allocations_debit_id"), "allocations", ["debit_id"], unique=False, schema="tenure")
    op.add_column("accounts", sa.Column("tax_id", sa.Text(), nullable=True), schema="tenure")
    op.add_column(
        "accounts",
        sa.Column("payment_terms", sa.SmallInteger(), server_default=sa.text("14"), nullable=True),
        schema="tenure",
    )
    op.add_column(
        "accounts", sa.Column("invoice_series", sa.Text(), server_default="main", nullable=False), schema="tenure"
    )
    op.add_column("accounts", sa.Column("invoiced_from", sa.Date(), nullable=True), schema="tenure")
    op.add_column(
        "accounts",
        sa.Column("invoice_period_start", sa.Date(), server_default=sa.FetchedValue(), nullable=True),
        schema="tenure",
    )
    op.add_column(
        "accounts",
        sa.Column("invoice_due_at", sa.TIMESTAMP(timezone=True), server_default=sa.FetchedValue(), nullable=True),
        schema="tenure",
    )
    op.create_index(
        "ix_accounts_invoice_due",
        "accounts",
        ["invoice_due_at"],
        unique=False,
        schema="tenure",
        postgresql_where=sa.text("status = 'active'"),
    )
    op.add_column(
        "ledger_entries",
        sa.Column(
            "tax_category",
            sa.Enum(
                "S",
                "Z",
                "E",
                "AE",
                "K",
                "G",
                "O",
                name="tax_category",
                native_enum=False,
                create_constraint=True,
                length=32,
                schema="tenure",
            ),
            server_default="O",
            nullable=False,
        ),
        schema="tenure",
    )
    op.add_column(
        "ledger_entries",
        sa.Column("tax_rate", sa.Integer(), server_default=sa.text("0"), nullable=False),
        schema="tenure",
    )
    op.add_column("ledger_entries", sa.Column("applies_to", sa.Uuid(), nullable=True), schema="tenure")
    op.add_column("ledger_entries", sa.Column("reverses", sa.Uuid(), nullable=True), schema="tenure")
    op.create_index(
        "ix_ledger_entries_applies_to",
        "ledger_entries",
        ["applies_to"],
        unique=False,
        schema="tenure",
        postgresql_where=sa.text("applies_to IS NOT NULL"),
    )
    op.create_index(
        "ix_ledger_entries_reverses",
        "ledger_entries",
        ["reverses"],
        unique=False,
        schema="tenure",
        postgresql_where=sa.text("reverses IS NOT NULL"),
    )
    op.create_foreign_key(
        op.f("fk_ledger_entries_reverses_ledger_entries"),
        "ledger_entries",
        "ledger_entries",
        ["reverses"],
        ["id"],
        source_schema="tenure",
        referent_schema="tenure",
    )
    op.create_foreign_key(
        op.f("fk_ledger_entries_applies_to_invoices"),
        "ledger_entries",
        "invoices",
        ["applies_to"],
        ["id"],
        source_schema="tenure",
        referent_schema="tenure",
    )
    op.create_check_constraint(
        op.f("ck_accounts_payment_terms"), "accounts", "payment_terms BETWEEN 0 AND 365", schema="tenure"
    )
    op.create_check_constraint(
        op.f("ck_accounts_invoiced_from"),
        "accounts",
        "(invoiced_from IS NULL) = (invoice_period_start IS NULL)",
        schema="tenure",
    )
    op.create_check_constraint(
        op.f("ck_ledger_entries_tax"),
        "ledger_entries",
        "CASE WHEN tax_category = 'S' THEN tax_rate BETWEEN 1 AND 10000 ELSE tax_rate = 0 END",
        schema="tenure",
    )
    op.create_check_constraint(
        op.f("ck_ledger_entries_applies_to"),
        "ledger_entries",
        "applies_to IS NULL OR kind IN ('payment', 'credit')",
        schema="tenure",
    )
    op.create_check_constraint(
        op.f("ck_ledger_entries_reverses"),
        "ledger_entries",
        "reverses IS NULL OR kind IN ('refund', 'chargeback')",
        schema="tenure",
    )
    # Entries are numbered for each account now, and what refuses their change refuses that of invoices as well.
    op.execute("DROP SEQUENCE tenure.ledger_sequence")
    op.execute("DROP FUNCTION IF EXISTS tenure.refuse_ledger_change() CASCADE")
