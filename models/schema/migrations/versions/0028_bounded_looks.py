"""What clocks, health checks, metrics and evidence ask is found by an index that history is not in (W6)."""

import sqlalchemy as sa
from alembic import op

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None

#: Name, table, columns, and which rows.
INDEXES = (
    ("ix_contacts_language", "contacts", ["language"], None),
    ("ix_contacts_time_zone", "contacts", ["time_zone"], None),
    ("ix_quarantine_waiting", "quarantine", ["received_at"], "replayed_at IS NULL"),
    ("ix_quarantine_replayed", "quarantine", ["replayed_at"], "replayed_at IS NOT NULL"),
    ("ix_reconciliations_day", "reconciliations", ["day"], "state = 'done'"),
    ("ix_reconciliations_differing", "reconciliations", ["day"], "differences <> '[]'"),
    ("ix_security_findings_open", "security_findings", ["first_seen"], "gone_at IS NULL"),
    ("ix_terminations_going_on", "terminations", ["stage"], "stage NOT IN ('cancelled', 'certified')"),
    ("ix_terminations_certified", "terminations", ["certified_at"], "stage = 'certified'"),
    ("ix_disclosure_events_made", "disclosure_events", ["at"], "action = 'made'"),
    ("ix_payment_methods_created_at", "payment_methods", ["created_at"], None),
    ("ix_open_items_collect", "open_items", ["collect_from"], "open > 0 AND invoice_id IS NOT NULL"),
    ("ix_open_items_remind", "open_items", ["remind_from"], "open > 0 AND invoice_id IS NOT NULL"),
    (
        "ix_statements_long_due",
        "statements",
        ["due_at", "id"],
        "state = 'pending' AND crashes = 0 AND line_count > 500",
    ),
    (
        "ix_collection_attempts_unasked_due",
        "collection_attempts",
        ["due_at", "id"],
        "state = 'pending' AND crashes = 0 AND asked_at IS NULL",
    ),
    (
        "ix_collection_attempts_asked_due",
        "collection_attempts",
        ["due_at", "id"],
        "state = 'pending' AND crashes = 0 AND asked_at IS NOT NULL",
    ),
    ("ix_reminder_letters_written_at", "reminder_letters", ["written_at"], None),
)


def upgrade() -> None:
    op.drop_index("ix_contacts_details_checked", "contacts", schema="tenure")
    op.create_index(
        "ix_contacts_details_checked",
        "contacts",
        [sa.text("coalesce(details_checked_at, created_at)")],
        schema="tenure",
        postgresql_where=sa.text("optional_mail"),
    )
    op.drop_index("ix_open_items_due", "open_items", schema="tenure")
    for column in ("collect_from", "remind_from"):
        op.add_column(
            "open_items", sa.Column(column, sa.Date(), server_default=sa.text("'0001-01-01'")), schema="tenure"
        )
    op.drop_index("ix_quarantine_received_at", "quarantine", schema="tenure")
    for name, table, columns, rows in INDEXES:
        where = None if rows is None else sa.text(rows)
        op.create_index(name, table, columns, schema="tenure", postgresql_where=where)
