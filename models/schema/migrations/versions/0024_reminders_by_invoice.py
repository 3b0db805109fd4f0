"""An index by which a purge of invoices finds their reminders (T19)."""

from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_reminders_invoice_id", "reminders", ["invoice_id"], schema="tenure")
