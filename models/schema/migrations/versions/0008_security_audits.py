"""Audits of dependencies and what they found (W24)."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

NOW = sa.text("now()")


def upgrade() -> None:
    op.create_table(
        "security_audits",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("begun_at", sa.TIMESTAMP(timezone=True), server_default=NOW, nullable=False),
        sa.Column("ended_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("packages", sa.Integer(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "(packages IS NULL) = (ended_at IS NULL OR error IS NOT NULL)", name=op.f("ck_security_audits_outcome")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_security_audits")),
        schema="tenure",
    )
    op.create_index(op.f("ix_security_audits_begun_at"), "security_audits", ["begun_at"], schema="tenure")
    op.create_table(
        "security_findings",
        sa.Column("package", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("advisory", sa.Text(), nullable=False),
        sa.Column("aliases", postgresql.ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("fixed_in", postgresql.ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("first_seen", sa.TIMESTAMP(timezone=True), server_default=NOW, nullable=False),
        sa.Column("last_seen", sa.TIMESTAMP(timezone=True), server_default=NOW, nullable=False),
        sa.Column("gone_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("accepted_until", sa.Date(), nullable=True),
        sa.Column("accepted_why", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "(accepted_until IS NULL) = (accepted_why IS NULL)", name=op.f("ck_security_findings_accepted")
        ),
        sa.CheckConstraint("accepted_why <> ''", name=op.f("ck_security_findings_accepted_why")),
        sa.PrimaryKeyConstraint("package", "version", "advisory", name=op.f("pk_security_findings")),
        schema="tenure",
    )
