"""What a statement says is kept with it: ageing, customer, letterhead (B2, B3)."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

FORMS = ("balance_forward", "open_item")
AGEING = ("not_due", "days_1_30", "days_31_60", "days_61_90", "over_90", "unapplied_credit")

#: Statements that are there already say what was true when this ran; of their ageing, what their ledger says.
FILL = """
    WITH owed AS (
        SELECT statement.id, statement.period_end - 1 - coalesce(due_on, (occurred_at AT TIME ZONE zone)::date) AS late,
               closing, amount, sum(amount) OVER (
                   PARTITION BY statement.id
                   ORDER BY coalesce(due_on, (occurred_at AT TIME ZONE zone)::date) DESC, sequence DESC) AS running
          FROM tenure.statements AS statement
          JOIN (SELECT id AS account_id, time_zone AS zone FROM tenure.accounts) AS account USING (account_id)
          JOIN tenure.ledger_entries AS entry USING (account_id, currency)
         WHERE entry.sequence <= cutoff AND occurred_at < closes_at AND amount > 0 AND closing > 0
    ), ageing AS (
        SELECT id, sum(open) FILTER (WHERE late <= 0) AS not_due,
               sum(open) FILTER (WHERE late BETWEEN 1 AND 30) AS days_1_30,
               sum(open) FILTER (WHERE late BETWEEN 31 AND 60) AS days_31_60,
               sum(open) FILTER (WHERE late BETWEEN 61 AND 90) AS days_61_90,
               sum(open) FILTER (WHERE late > 90) AS over_90
          FROM (SELECT id, late, least(amount, closing - running + amount) AS open
                  FROM owed WHERE running - amount < closing) AS items
         GROUP BY id
    ), unnamed AS (
        INSERT INTO tenure.letterheads (sha256, content)
        SELECT sha256('unknown'), '{"name": "unknown", "address": [], "email": "", "website": "example.com"}'
         WHERE EXISTS (SELECT FROM tenure.statements)
    )
    UPDATE tenure.statements AS statement
       SET account_ref = ref, account_name = name, address = account.address, country = account.country,
           time_zone = account.time_zone, letterhead = sha256('unknown'),
           not_due = coalesce(ageing.not_due, 0), days_1_30 = coalesce(ageing.days_1_30, 0),
           days_31_60 = coalesce(ageing.days_31_60, 0), days_61_90 = coalesce(ageing.days_61_90, 0),
           over_90 = coalesce(ageing.over_90, 0), unapplied_credit = greatest(-statement.closing, 0)
      FROM tenure.accounts AS account, tenure.statements AS same LEFT JOIN ageing USING (id)
     WHERE account.id = statement.account_id AND same.id = statement.id"""


def form(name: str) -> sa.Enum:
    return sa.Enum(*FORMS, name=name, native_enum=False, create_constraint=True, length=32, schema="tenure")


def upgrade() -> None:
    op.create_table(
        "letterheads",
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("content", postgresql.JSONB(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("length(sha256) = 32", name=op.f("ck_letterheads_sha256")),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_letterheads")),
        schema="tenure",
    )
    op.add_column(
        "accounts",
        sa.Column("statement_form", form("statement_form"), server_default="balance_forward", nullable=False),
        schema="tenure",
    )
    added: list[sa.Column[Any]] = [
        *(sa.Column(name, sa.BigInteger()) for name in AGEING),
        sa.Column("form", form("form"), server_default="balance_forward", nullable=False),
        sa.Column("open_items", postgresql.JSONB()),
        sa.Column("account_ref", sa.Text()),
        sa.Column("account_name", sa.Text()),
        sa.Column("address", postgresql.ARRAY(sa.Text())),
        sa.Column("country", sa.Text()),
        sa.Column("time_zone", sa.Text()),
        sa.Column("language", sa.Text()),
        sa.Column("letterhead", sa.LargeBinary()),
        sa.Column("typesetter", sa.Text()),
    ]
    for column in added:
        op.add_column("statements", column, schema="tenure")
    op.execute(FILL)
    op.alter_column("statements", "form", server_default=None, schema="tenure")
    for name in (*AGEING, "account_ref", "account_name", "address", "time_zone", "letterhead"):
        op.alter_column("statements", name, nullable=False, schema="tenure")
    op.create_foreign_key(
        op.f("fk_statements_letterhead_letterheads"),
        "statements",
        "letterheads",
        ["letterhead"],
        ["sha256"],
        source_schema="tenure",
        referent_schema="tenure",
    )
    for name, condition in {
        "ageing": "not_due + days_1_30 + days_31_60 + days_61_90 + over_90 - unapplied_credit = closing",
        "ageing_parts": "least(not_due, days_1_30, days_31_60, days_61_90, over_90, unapplied_credit) >= 0",
        "open_items": "(form = 'open_item') = (open_items IS NOT NULL)",
    }.items():
        op.create_check_constraint(op.f(f"ck_statements_{name}"), "statements", condition, schema="tenure")
