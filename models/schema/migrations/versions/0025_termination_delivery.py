"""Mails about terminations belong to these; links to a record; the notice before a contract's end (P6.1, T18)."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None

STEPS = (
    "announce",
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
)


def upgrade() -> None:
    op.drop_constraint(op.f("ck_termination_steps_step"), "termination_steps", schema="tenure", type_="check")
    # As SQLAlchemy writes the check of an enumeration, so that both ways lead to the same.
    names = ", ".join(f"'{step}'" for step in STEPS)
    op.create_check_constraint(
        op.f("ck_termination_steps_step"), "termination_steps", f"step IN ({names})", schema="tenure"
    )

    op.alter_column("email_messages", "account_id", nullable=True, schema="tenure")
    op.alter_column("email_messages", "contact_id", nullable=True, schema="tenure")
    op.add_column("email_messages", sa.Column("termination_id", sa.Uuid(), nullable=True), schema="tenure")
    op.add_column(
        "email_messages",
        sa.Column("recipient", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        schema="tenure",
    )
    op.create_foreign_key(
        op.f("fk_email_messages_termination_id_terminations"),
        "email_messages",
        "terminations",
        ["termination_id"],
        ["id"],
        source_schema="tenure",
        referent_schema="tenure",
    )
    op.create_check_constraint(
        op.f("ck_email_messages_recipient"),
        "email_messages",
        "CASE WHEN termination_id IS NULL THEN num_nonnulls(account_id, contact_id) = 2 AND recipient IS NULL"
        " ELSE num_nonnulls(account_id, contact_id) = 0 AND recipient IS NOT NULL END",
        schema="tenure",
    )
    op.create_index(
        op.f("ix_email_messages_termination_id"),
        "email_messages",
        ["termination_id"],
        schema="tenure",
        postgresql_where=sa.text("termination_id IS NOT NULL"),
    )

    op.create_table(
        "export_links",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("termination_id", sa.Uuid(), nullable=False),
        sa.Column("secret_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("language", sa.Text(), server_default="en", nullable=False),
        sa.Column("time_zone", sa.Text(), server_default="UTC", nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("received", postgresql.INT8MULTIRANGE(), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("downloaded_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.CheckConstraint("length(secret_sha256) = 32", name=op.f("ck_export_links_secret")),
        sa.ForeignKeyConstraint(
            ["termination_id"], ["tenure.terminations.id"], name=op.f("fk_export_links_termination_id_terminations")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_export_links")),
        sa.UniqueConstraint("secret_sha256", name=op.f("uq_export_links_secret_sha256")),
        schema="tenure",
    )
    op.create_index(op.f("ix_export_links_termination_id"), "export_links", ["termination_id"], schema="tenure")
