"""Certificates of erasure, their copies, and erasures repeated after a restore (T25, T26)."""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "certificates",
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column(
            "kind",
            sa.Enum(
                "key",
                "purge",
                "archive",
                "retention",
                name="kind",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=False,
        ),
        sa.Column("subject", sa.Uuid(), nullable=False),
        sa.Column("termination_id", sa.Uuid(), nullable=True),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("previous", sa.LargeBinary(), nullable=True),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("signature", sa.LargeBinary(), nullable=False),
        sa.Column("issued_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.CheckConstraint(
            "length(sha256) = 32 AND length(previous) = 32 AND length(signature) = 64",
            name=op.f("ck_certificates_lengths"),
        ),
        sa.CheckConstraint("(number = 1) = (previous IS NULL)", name=op.f("ck_certificates_first")),
        sa.CheckConstraint("(kind = 'key') = (termination_id IS NULL)", name=op.f("ck_certificates_termination")),
        sa.ForeignKeyConstraint(
            ["termination_id"], ["tenure.terminations.id"], name=op.f("fk_certificates_termination_id_terminations")
        ),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_certificates")),
        sa.UniqueConstraint("kind", "subject", name=op.f("uq_certificates_kind_subject")),
        schema="tenure",
    )
    op.create_index(op.f("ix_certificates_termination_id"), "certificates", ["termination_id"], schema="tenure")
    op.create_table(
        "certificate_copies",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
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
            ),
            server_default="pending",
            nullable=False,
        ),
        sa.Column("due_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("crashes", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("claim_token", sa.Uuid(), nullable=True),
        sa.Column("claimed_by", sa.Text(), nullable=True),
        sa.Column("lease_until", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("finished_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.CheckConstraint("(state = 'running') = (lease_until IS NOT NULL)", name=op.f("ck_certificate_copies_lease")),
        sa.ForeignKeyConstraint(
            ["number"], ["tenure.certificates.number"], name=op.f("fk_certificate_copies_number_certificates")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_certificate_copies")),
        sa.UniqueConstraint("number", name=op.f("uq_certificate_copies_number")),
        schema="tenure",
    )
    for name, columns, where in [
        ("due", ["due_at", "id"], "state = 'pending' AND crashes = 0"),
        ("suspect", ["due_at", "id"], "state = 'pending' AND crashes > 0"),
        ("lease", ["lease_until"], "state = 'running'"),
        ("wanting", ["due_at"], "state IN ('failed', 'unknown')"),
        ("finished", ["finished_at"], "finished_at IS NOT NULL"),
    ]:
        op.create_index(
            f"ix_certificate_copies_{name}",
            "certificate_copies",
            columns,
            schema="tenure",
            postgresql_where=sa.text(where),
        )
    op.create_table(
        "erasure_replays",
        sa.Column("termination_id", sa.Uuid(), nullable=False),
        sa.Column("found", sa.Boolean(), nullable=False),
        sa.Column("replayed_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("termination_id", name=op.f("pk_erasure_replays")),
        schema="tenure",
    )
