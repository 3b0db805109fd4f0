"""Usage events by month, submitted records, submitted files (P2.1a, P2.1c)."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "submitted_files",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column(
            "state",
            sa.Enum(
                "uploading",
                "stored",
                "discarded",
                name="state",
                native_enum=False,
                create_constraint=True,
                length=32,
                schema="tenure",
            ),
            server_default="uploading",
            nullable=False,
        ),
        sa.Column(
            "object_key",
            sa.Text(),
            sa.Computed("'files/' || account_id::text || '/' || id::text", persisted=True),
            nullable=False,
        ),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("media_type", sa.Text(), server_default="application/octet-stream", nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=True),
        sa.Column("sha256", sa.LargeBinary(), nullable=True),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("stored_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.CheckConstraint(
            "state <> 'stored' OR (size >= 0 AND length(sha256) = 32 AND stored_at IS NOT NULL)",
            name=op.f("ck_submitted_files_stored"),
        ),
        sa.CheckConstraint("length(name) BETWEEN 1 AND 255", name=op.f("ck_submitted_files_name")),
        sa.ForeignKeyConstraint(
            ["account_id"], ["tenure.accounts.id"], name=op.f("fk_submitted_files_account_id_accounts")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_submitted_files")),
        schema="tenure",
    )
    op.create_index(
        op.f("ix_submitted_files_account_id_created_at"),
        "submitted_files",
        ["account_id", "created_at"],
        unique=False,
        schema="tenure",
    )
    op.create_index(
        "ix_submitted_files_unsettled",
        "submitted_files",
        ["created_at"],
        unique=False,
        schema="tenure",
        postgresql_where=sa.text("state <> 'stored'"),
    )
    op.create_table(
        "submitted_records",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("external_ref", sa.Text(), nullable=False),
        sa.Column("content", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["account_id"], ["tenure.accounts.id"], name=op.f("fk_submitted_records_account_id_accounts")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_submitted_records")),
        sa.UniqueConstraint(
            "account_id", "kind", "external_ref", name=op.f("uq_submitted_records_account_id_kind_external_ref")
        ),
        schema="tenure",
    )
    op.create_table(
        "usage_events",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("contact_id", sa.Uuid(), nullable=True),
        sa.Column("occurred_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("ip", postgresql.INET(), nullable=True),
        sa.Column("location", sa.Text(), nullable=True),
        sa.Column("browser", sa.Text(), nullable=True),
        sa.Column("operating_system", sa.Text(), nullable=True),
        sa.Column("referral_source", sa.Text(), nullable=True),
        sa.Column("details", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.ForeignKeyConstraint(
            ["account_id"], ["tenure.accounts.id"], name=op.f("fk_usage_events_account_id_accounts")
        ),
        sa.PrimaryKeyConstraint("account_id", "occurred_at", "id", name=op.f("pk_usage_events")),
        schema="tenure",
        postgresql_partition_by="RANGE (occurred_at)",
    )
