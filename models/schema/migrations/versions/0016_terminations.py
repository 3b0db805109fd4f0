"""Terminations and their steps (P6.1, T1)."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "terminations",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column(
            "stage",
            sa.Enum(
                "requested",
                "grace",
                "frozen",
                "exporting",
                "sealed",
                "delivered",
                "purging",
                "verifying",
                "certified",
                "cancelled",
                "held",
                "failed",
                name="stage",
                native_enum=False,
                create_constraint=True,
                length=32,
                schema="tenure",
            ),
            server_default="requested",
            nullable=False,
        ),
        sa.Column(
            "stage_before",
            sa.Enum(
                "requested",
                "grace",
                "frozen",
                "exporting",
                "sealed",
                "delivered",
                "purging",
                "verifying",
                "certified",
                "cancelled",
                "held",
                "failed",
                name="stage_before_names",
                native_enum=False,
                create_constraint=True,
                length=32,
                schema="tenure",
            ),
            nullable=True,
        ),
        sa.Column("requested_by", sa.Text(), nullable=False),
        sa.Column("requested_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("ends_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("cancel_until", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("frozen_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("correspondence", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column("archive_key", sa.Text(), nullable=True),
        sa.Column("archive_sha256", sa.LargeBinary(), nullable=True),
        sa.Column("manifest_sha256", sa.LargeBinary(), nullable=True),
        sa.Column("archive_size", sa.BigInteger(), nullable=True),
        sa.Column("content_size", sa.BigInteger(), nullable=True),
        sa.Column("exported_rows", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column("exported_objects", sa.BigInteger(), nullable=True),
        sa.Column("map_sha256", sa.LargeBinary(), nullable=True),
        sa.Column("sealed_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("available_until", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("downloaded_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("delivered_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column(
            "delivered_by",
            sa.Enum(
                "download",
                "notice",
                name="delivered_by",
                native_enum=False,
                create_constraint=True,
                length=32,
                schema="tenure",
            ),
            nullable=True,
        ),
        sa.Column("purge_began_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("verified_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("certified_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("cancelled_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("archive_purged_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(stage IN ('held', 'failed')) = (stage_before IS NOT NULL)", name=op.f("ck_terminations_stage_before")
        ),
        sa.CheckConstraint(
            "coalesce(stage_before, stage) NOT IN ('delivered', 'purging', 'verifying', 'certified')"
            " OR (delivered_at IS NOT NULL AND delivered_by IS NOT NULL)",
            name=op.f("ck_terminations_delivered"),
        ),
        sa.CheckConstraint(
            "coalesce(stage_before, stage) NOT IN ('sealed', 'delivered', 'purging', 'verifying', 'certified')"
            " OR (archive_key IS NOT NULL AND archive_sha256 IS NOT NULL"
            " AND manifest_sha256 IS NOT NULL"
            " AND exported_rows IS NOT NULL AND sealed_at IS NOT NULL)",
            name=op.f("ck_terminations_sealed"),
        ),
        sa.CheckConstraint(
            "stage <> 'certified' OR (verified_at IS NOT NULL AND certified_at IS NOT NULL)",
            name=op.f("ck_terminations_certified"),
        ),
        sa.CheckConstraint(
            "length(archive_sha256) = 32 AND length(manifest_sha256) = 32", name=op.f("ck_terminations_hashes")
        ),
        sa.ForeignKeyConstraint(
            ["account_id"], ["tenure.accounts.id"], name=op.f("fk_terminations_account_id_accounts")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_terminations")),
        schema="tenure",
    )
    op.create_index(
        "uq_terminations_open_account_id",
        "terminations",
        ["account_id"],
        unique=True,
        schema="tenure",
        postgresql_where=sa.text("stage <> 'cancelled'"),
    )
    op.create_table(
        "termination_steps",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("termination_id", sa.Uuid(), nullable=False),
        sa.Column(
            "step",
            sa.Enum(
                "begin",
                "freeze",
                "export",
                "notify",
                "remind",
                "deliver",
                "purge",
                "purge_again",
                "verify",
                "certify",
                "forget",
                "retire_archive",
                name="step",
                native_enum=False,
                create_constraint=True,
                length=32,
                schema="tenure",
            ),
            nullable=False,
        ),
        sa.Column("number", sa.SmallInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("evidence", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'"), nullable=False),
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
        sa.CheckConstraint("(state = 'running') = (lease_until IS NOT NULL)", name=op.f("ck_termination_steps_lease")),
        sa.ForeignKeyConstraint(
            ["termination_id"],
            ["tenure.terminations.id"],
            name=op.f("fk_termination_steps_termination_id_terminations"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_termination_steps")),
        schema="tenure",
    )
    op.create_index(
        "ix_termination_steps_due",
        "termination_steps",
        ["due_at", "id"],
        unique=False,
        schema="tenure",
        postgresql_where=sa.text("state = 'pending' AND crashes = 0"),
    )
    op.create_index(
        "ix_termination_steps_finished",
        "termination_steps",
        ["finished_at"],
        unique=False,
        schema="tenure",
        postgresql_where=sa.text("finished_at IS NOT NULL"),
    )
    op.create_index(
        "ix_termination_steps_lease",
        "termination_steps",
        ["lease_until"],
        unique=False,
        schema="tenure",
        postgresql_where=sa.text("state = 'running'"),
    )
    op.create_index(
        "ix_termination_steps_suspect",
        "termination_steps",
        ["due_at", "id"],
        unique=False,
        schema="tenure",
        postgresql_where=sa.text("state = 'pending' AND crashes > 0"),
    )
    op.create_index(
        "ix_termination_steps_wanting",
        "termination_steps",
        ["due_at"],
        unique=False,
        schema="tenure",
        postgresql_where=sa.text("state IN ('failed', 'unknown')"),
    )
    op.create_index(
        "uq_termination_steps_step",
        "termination_steps",
        ["termination_id", "step", "number"],
        unique=True,
        schema="tenure",
    )
