"""Suppressed addresses, what providers tell of a message, and changes of details (E10, E11, E12, P8.1)."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

KINDS = ("sent", "delivered", "deferred", "bounced", "complained", "rejected")
REASONS = ("bounce", "complaint", "operator")
STATES = "'pending', 'running', 'done', 'failed', 'cancelled', 'unknown', 'suppressed'"


def upgrade() -> None:
    op.create_table(
        "detail_changes",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("contact_id", sa.Uuid(), nullable=True),
        sa.Column("changes", postgresql.JSONB(), nullable=False),
        sa.Column("changed_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("jsonb_typeof(changes) = 'array'", name=op.f("ck_detail_changes_changes")),
        sa.ForeignKeyConstraint(
            ["account_id"], ["tenure.accounts.id"], name=op.f("fk_detail_changes_account_id_accounts")
        ),
        sa.ForeignKeyConstraint(
            ["contact_id"], ["tenure.contacts.id"], name=op.f("fk_detail_changes_contact_id_contacts")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_detail_changes")),
        schema="tenure",
    )
    for column in ("account_id", "changed_at", "contact_id"):
        op.create_index(op.f(f"ix_detail_changes_{column}"), "detail_changes", [column], schema="tenure")
    op.create_table(
        "delivery_events",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("email_message_id", sa.Uuid(), nullable=False),
        sa.Column(
            "kind", sa.Enum(*KINDS, name="kind", native_enum=False, create_constraint=True, length=32), nullable=False
        ),
        sa.Column("occurred_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("recorded_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["email_message_id"],
            ["tenure.email_messages.id"],
            name=op.f("fk_delivery_events_email_message_id_email_messages"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_delivery_events")),
        sa.UniqueConstraint(
            "email_message_id",
            "kind",
            "occurred_at",
            name=op.f("uq_delivery_events_email_message_id_kind_occurred_at"),
        ),
        schema="tenure",
    )
    op.create_table(
        "suppressions",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=True),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column(
            "reason",
            sa.Enum(*REASONS, name="reason", native_enum=False, create_constraint=True, length=32),
            nullable=False,
        ),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("email_message_id", sa.Uuid(), nullable=True),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("lifted_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("lifted_why", sa.Text(), nullable=True),
        sa.CheckConstraint("address = lower(address)", name=op.f("ck_suppressions_address")),
        sa.CheckConstraint("(lifted_at IS NULL) = (lifted_why IS NULL)", name=op.f("ck_suppressions_lifted")),
        sa.ForeignKeyConstraint(
            ["account_id"], ["tenure.accounts.id"], name=op.f("fk_suppressions_account_id_accounts")
        ),
        sa.ForeignKeyConstraint(
            ["email_message_id"],
            ["tenure.email_messages.id"],
            name=op.f("fk_suppressions_email_message_id_email_messages"),
            ondelete="SET NULL",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_suppressions")),
        schema="tenure",
    )
    op.create_index(op.f("ix_suppressions_email_message_id"), "suppressions", ["email_message_id"], schema="tenure")
    op.create_index(op.f("ix_suppressions_account_id"), "suppressions", ["account_id"], schema="tenure")
    op.create_index(
        "uq_suppressions_address",
        "suppressions",
        ["address"],
        unique=True,
        schema="tenure",
        postgresql_where=sa.text("lifted_at IS NULL"),
    )

    op.drop_constraint(op.f("ck_email_messages_state"), "email_messages", schema="tenure")
    op.create_check_constraint(
        op.f("ck_email_messages_state"), "email_messages", f"state IN ({STATES})", schema="tenure"
    )
    added: dict[str, sa.types.TypeEngine[Any]] = {
        "accepted_by": sa.Text(),
        "content_sha256": sa.LargeBinary(),
        "sent_again_at": sa.TIMESTAMP(timezone=True),
        "forgotten_at": sa.TIMESTAMP(timezone=True),
    }
    for name, kind in added.items():
        op.add_column("email_messages", sa.Column(name, kind, nullable=True), schema="tenure")
    op.create_index(op.f("ix_email_messages_accepted_as"), "email_messages", ["accepted_as"], schema="tenure")
    for name, columns, where in (
        ("remembered", ["finished_at"], "finished_at IS NOT NULL AND forgotten_at IS NULL"),
        ("unknown", ["finished_at"], "state = 'unknown'"),
        ("urgent_due", ["due_at", "id"], "state = 'pending' AND crashes = 0 AND urgent"),
        ("waiting_address", [sa.literal_column("lower(to_address)")], "state = 'pending'"),
    ):
        op.create_index(
            f"ix_email_messages_{name}", "email_messages", columns, schema="tenure", postgresql_where=sa.text(where)
        )
