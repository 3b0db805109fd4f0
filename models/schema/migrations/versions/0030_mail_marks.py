"""A mail that may be out is neither due again nor failed (E10)."""

from alembic import op

revision = "0028_mail_marks"
down_revision = "0029"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_check_constraint(
        op.f("ck_email_messages_committing_at"),
        "email_messages",
        "committing_at IS NULL OR state IN ('running', 'done', 'unknown')",
        schema="tenure",
    )
