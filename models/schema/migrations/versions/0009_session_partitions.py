"""Sessions by partitions, each by the time in its ids (S1), and what the sweeps of each store came to (S7)."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("DROP VIEW IF EXISTS tenure.live_sessions")
    op.rename_table("sessions", "sessions_before", schema="tenure")
    for constraint in ("pk_sessions", "fk_sessions_account_id_accounts", "fk_sessions_contact_id_contacts"):
        op.drop_constraint(constraint, "sessions_before", schema="tenure")
    # Also NOT NULL has a name, which the new table is to have.
    for column in ("id", "account_id", "secret_sha256", "created_at"):
        op.alter_column("sessions_before", column, nullable=True, schema="tenure")
    for column in ("account_id", "contact_id", "created_at"):
        op.drop_index(f"ix_sessions_{column}", schema="tenure")
    op.create_table(
        "sessions",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("contact_id", sa.Uuid(), nullable=True),
        sa.Column("secret_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("ip", sa.Text(), nullable=True),
        sa.Column("user_agent", sa.Text(), nullable=True),
        sa.Column(
            "created_at",
            sa.TIMESTAMP(timezone=True),
            sa.Computed("uuid_extract_timestamp(id)", persisted=False),
            nullable=False,
        ),
        sa.CheckConstraint("uuid_extract_version(id) = 7", name=op.f("ck_sessions_id")),
        sa.CheckConstraint("octet_length(secret_sha256) = 32", name=op.f("ck_sessions_secret_sha256")),
        sa.ForeignKeyConstraint(["account_id"], ["tenure.accounts.id"], name=op.f("fk_sessions_account_id_accounts")),
        sa.ForeignKeyConstraint(["contact_id"], ["tenure.contacts.id"], name=op.f("fk_sessions_contact_id_contacts")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sessions")),
        schema="tenure",
        postgresql_partition_by="RANGE (id)",
    )
    op.create_index(op.f("ix_sessions_account_id"), "sessions", ["account_id"], unique=False, schema="tenure")
    op.create_index(op.f("ix_sessions_contact_id"), "sessions", ["contact_id"], unique=False, schema="tenure")
    op.execute("CREATE TABLE tenure.sessions_default PARTITION OF tenure.sessions DEFAULT")
    # Whose id does not say when it was made is over.
    op.execute("""
        INSERT INTO tenure.sessions (id, account_id, contact_id, secret_sha256, ip, user_agent)
        SELECT id, account_id, contact_id, secret_sha256, ip, user_agent FROM tenure.sessions_before
         WHERE created_at > now() - interval '24 hours' AND octet_length(secret_sha256) = 32
           AND uuid_extract_version(id) = 7
           AND uuid_extract_timestamp(id) BETWEEN created_at - interval '1 minute' AND created_at + interval '1 minute'
        """)
    op.drop_table("sessions_before", schema="tenure")
    op.create_table(
        "session_sweeps",
        sa.Column("store", sa.Text(), nullable=False),
        sa.Column("swept", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("swept_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("oldest_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("outlasting", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("trouble", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("store", name=op.f("pk_session_sweeps")),
        schema="tenure",
    )
