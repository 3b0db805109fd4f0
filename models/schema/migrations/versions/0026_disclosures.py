"""Disclosures that a law requires, and what was done about them (P4, T29)."""

import sqlalchemy as sa
from alembic import op

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "disclosures",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("reference", sa.Text(), nullable=False),
        sa.Column("legal_basis", sa.Text(), nullable=False),
        sa.Column("asked_by", sa.Text(), nullable=False),
        sa.Column("asked_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("length(reference) BETWEEN 1 AND 200", name=op.f("ck_disclosures_reference")),
        sa.CheckConstraint("length(legal_basis) BETWEEN 1 AND 2000", name=op.f("ck_disclosures_legal_basis")),
        sa.CheckConstraint("length(asked_by) BETWEEN 1 AND 200", name=op.f("ck_disclosures_asked_by")),
        sa.ForeignKeyConstraint(
            ["account_id"], ["tenure.accounts.id"], name=op.f("fk_disclosures_account_id_accounts")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_disclosures")),
        schema="tenure",
    )
    op.create_index(op.f("ix_disclosures_account_id"), "disclosures", ["account_id"], schema="tenure")
    op.create_table(
        "disclosure_events",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("disclosure_id", sa.Uuid(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("person", sa.Text(), nullable=False),
        sa.Column("at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("manifest_sha256", sa.LargeBinary(), nullable=True),
        sa.CheckConstraint("action IN ('approved', 'refused', 'made')", name=op.f("ck_disclosure_events_action")),
        sa.CheckConstraint("(action = 'made') = (manifest_sha256 IS NOT NULL)", name=op.f("ck_disclosure_events_made")),
        sa.CheckConstraint("length(person) BETWEEN 1 AND 200", name=op.f("ck_disclosure_events_person")),
        sa.ForeignKeyConstraint(
            ["disclosure_id"], ["tenure.disclosures.id"], name=op.f("fk_disclosure_events_disclosure_id_disclosures")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_disclosure_events")),
        schema="tenure",
    )
    op.create_index(op.f("ix_disclosure_events_disclosure_id"), "disclosure_events", ["disclosure_id"], schema="tenure")
    op.create_index(
        "uq_disclosure_events_approved",
        "disclosure_events",
        ["disclosure_id", "person"],
        unique=True,
        schema="tenure",
        postgresql_where=sa.text("action = 'approved'"),
    )
