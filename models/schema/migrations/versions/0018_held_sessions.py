"""Sessions that a legal hold keeps (S6)."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "held_sessions",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("contact_id", sa.Uuid(), nullable=True),
        sa.Column("ip", sa.Text(), nullable=True),
        sa.Column("user_agent", sa.Text(), nullable=True),
        sa.Column(
            "created_at",
            sa.TIMESTAMP(timezone=True),
            sa.Computed("uuid_extract_timestamp(id)", persisted=False),
            nullable=False,
        ),
        sa.Column("ended_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["account_id"], ["tenure.accounts.id"], name=op.f("fk_held_sessions_account_id_accounts")
        ),
        sa.ForeignKeyConstraint(
            ["contact_id"], ["tenure.contacts.id"], name=op.f("fk_held_sessions_contact_id_contacts")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_held_sessions")),
        schema="tenure",
    )
    op.create_index(op.f("ix_held_sessions_account_id"), "held_sessions", ["account_id"], unique=False, schema="tenure")
    op.create_index(op.f("ix_held_sessions_contact_id"), "held_sessions", ["contact_id"], unique=False, schema="tenure")
