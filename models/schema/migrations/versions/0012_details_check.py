"""When a contact was last asked after its details, and whether it wants what one can do without (E8, E14)."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "contacts",
        sa.Column("optional_mail", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        schema="tenure",
    )
    op.add_column(
        "contacts", sa.Column("details_checked_at", sa.TIMESTAMP(timezone=True), nullable=True), schema="tenure"
    )
    op.create_index(
        "ix_contacts_details_checked",
        "contacts",
        [sa.literal_column("coalesce(details_checked_at, created_at)")],
        schema="tenure",
    )
