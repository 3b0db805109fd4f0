"""Keys of accounts, with which what lies in the object store is sealed (T17, T27)."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "account_keys",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column(
            "purpose",
            sa.Enum("export", "objects", name="purpose", native_enum=False, create_constraint=True, length=32),
            nullable=False,
        ),
        sa.Column("subject", sa.Uuid(), nullable=True),
        sa.Column("recipient", sa.LargeBinary(), nullable=False),
        sa.Column("wrapped_secret", sa.LargeBinary(), nullable=True),
        sa.Column("wrapped_by", sa.Text(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("destroyed_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.CheckConstraint("(purpose = 'export') = (subject IS NOT NULL)", name=op.f("ck_account_keys_subject")),
        sa.CheckConstraint(
            "(wrapped_secret IS NULL) = (destroyed_at IS NOT NULL)", name=op.f("ck_account_keys_destroyed")
        ),
        sa.CheckConstraint("length(recipient) = 32", name=op.f("ck_account_keys_recipient")),
        sa.ForeignKeyConstraint(
            ["account_id"], ["tenure.accounts.id"], name=op.f("fk_account_keys_account_id_accounts")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_account_keys")),
        sa.UniqueConstraint(
            "account_id",
            "purpose",
            "subject",
            name=op.f("uq_account_keys_account_id_purpose_subject"),
            postgresql_nulls_not_distinct=True,
        ),
        schema="tenure",
    )
