"""How far purges came (T19)."""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "purge_stores",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("termination_id", sa.Uuid(), nullable=False),
        sa.Column("pass_number", sa.SmallInteger(), nullable=False),
        sa.Column("number", sa.SmallInteger(), nullable=False),
        sa.Column(
            "kind",
            sa.Enum(
                "processor",
                "redis",
                "objects",
                "key",
                "mail",
                "table",
                name="kind",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=False,
        ),
        sa.Column("place", sa.Text(), nullable=False),
        sa.Column("store", sa.Text(), nullable=False),
        sa.Column(
            "method",
            sa.Enum(
                "deleted",
                "redacted",
                "retained",
                "destroyed",
                name="method",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=False,
        ),
        sa.Column("expected", sa.BigInteger(), nullable=True),
        sa.Column("removed", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("kept", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("in_flight", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("remark", sa.Text(), nullable=True),
        sa.Column("began_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("done_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.CheckConstraint("least(expected, removed, kept, in_flight) >= 0", name=op.f("ck_purge_stores_counts")),
        sa.CheckConstraint("done_at IS NULL OR in_flight = 0", name=op.f("ck_purge_stores_in_flight")),
        sa.ForeignKeyConstraint(
            ["termination_id"],
            ["tenure.terminations.id"],
            name=op.f("fk_purge_stores_termination_id_terminations"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_purge_stores")),
        sa.UniqueConstraint(
            "termination_id",
            "pass_number",
            "kind",
            "place",
            "store",
            name=op.f("uq_purge_stores_termination_id_pass_number_kind_place_store"),
        ),
        schema="tenure",
    )
