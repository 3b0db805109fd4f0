"""Which kinds of message were queued, told by an index however many there are (P3.1e)."""

from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(op.f("ix_email_messages_message"), "email_messages", ["message"], schema="tenure")
