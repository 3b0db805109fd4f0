"""A database that has years behind it, and what each query reads of it.

`fill` gives every table rows that are at their end, in one statement a table; `watched` runs each statement that
SQLAlchemy sends under EXPLAIN (ANALYZE, BUFFERS) first, in a savepoint that is rolled back, and keeps what the plan
read. Nothing is listed by hand: a new table is filled and a new query is watched, or the test that uses them fails.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus
from sqlalchemy import Column, Engine, Table, event
from sqlalchemy.dialects import postgresql

from models.base.base import SCHEMA, Base
from models.work.row import Work
from workers.local.place import existing_place

ROOT = Path(__file__).parents[3]
#: What a plan says of rows that it read in vain.
REMOVED = ("Filter", "Join Filter", "Index Recheck")
#: Tables that hold one row for each name, kind or setting, however old the company is; and what lies in the last two
#: as long as it is due only.
CATALOGUES = frozenset(
    {
        "applied_definitions",
        "counters",
        "currencies",
        "erasure_replays",
        "held_session_keys",
        "held_sessions",
        "invoice_series",
        "reminder_policies",
        "reminder_steps",
        "request_kinds",
        "session_sweeps",
        "work_controls",
    }
)
#: SQL for row `n` of each table, by column, where the type alone does not say what the end of its work looks like.
PAST = "now() - interval '2 days' - n % 500 * interval '1 minute'"
EVERY_TABLE: Mapping[str, str] = {
    "currency": "'EUR'",
    "time_zone": "'Europe/Berlin'",
    "language": "'de'",
    "tax_category": "'S'",
    "tax_rate": "1900",
    "letterhead": "decode(md5('letterheads' || n) || md5(n::text), 'hex')",
    "due_at": PAST,
    "created_at": PAST,
    "finished_at": PAST,
    "recorded_at": PAST,
    "settled_at": PAST,
    "local_day": "now()::date - 20",
    "state": "'done'",
}
TABLES: Mapping[str, Mapping[str, str]] = {
    "account_keys": {"purpose": "'objects'", "wrapped_secret": "'\\x00'", "wrapped_by": "'first'"},
    "accounts": {
        "status": "'active'",
        "billing_day": "1",
        "period_start": "(date_trunc('month', now()))::date",
        "statement_due_at": "now() + interval '5 days'",
        "invoiced_from": "(date_trunc('month', now()))::date",
        "invoice_period_start": "(date_trunc('month', now()))::date",
        "invoice_due_at": "now() + interval '5 days'",
    },
    "allocations": {"amount": "100"},
    "certificates": {
        "number": "n",
        "kind": "'purge'",
        "subject": "md5('subject' || n)::uuid",
        "previous": "CASE WHEN n > 1 THEN sha256(n::text::bytea) END",
        "signature": "sha256(n::text::bytea) || sha256('x')",
    },
    "certificate_copies": {"number": "n"},
    "collection_attempts": {
        "number": "1",
        "amount": "100",
        "asked_at": PAST,
        "outcome": "CASE WHEN n % 2 = 0 THEN 'charged' ELSE 'declined' END",
        "provider_payment": "'pi_' || n",
        "provider_charge": "'ch_' || n",
        "decline_reason": "CASE WHEN n % 2 = 1 THEN 'refused' END",
        "decline_is_final": "n % 2 = 1",
    },
    "contacts": {
        "email": "'contact-' || n || '@customer.example'",
        "details_checked_at": f"{PAST} - n % 2 * interval '2 years'",
        "optional_mail": "n % 2 = 0",
    },
    "contracts": {"ends_on": "NULL"},
    "delivery_events": {"kind": "'delivered'"},
    "detail_changes": {"changes": "'[]'"},
    "disclosure_events": {"action": "'refused'", "manifest_sha256": "NULL"},
    "email_messages": {
        "message": "(ARRAY['statement-ready', 'invoice-issued', 'payment-received'])[1 + n % 3]",
        "to_address": "'contact-' || n || '@customer.example'",
        "termination_id": "NULL",
        "committing_at": PAST,
        "forgotten_at": PAST,
        "accepted_as": "'accepted-' || n",
    },
    "invoices": {
        "kind": "'invoice'",
        "series_number": "n",
        "corrects_id": "NULL",
        "issued_on": "now()::date - 90",
        "due_on": "now()::date - 60",
        "period_start": "now()::date - 120",
        "period_end": "now()::date - 90",
        "net": "100",
        "tax": "19",
        "total": "119",
        "series": "'main'",
    },
    "invoice_lines": {"corrects_id": "NULL", "net": "100", "gross": "119", "position": "1"},
    "job_requests": {"kind": "'statements.send'", "source": "'sql'"},
    "ledger_entries": {
        "kind": "'charge'",
        "amount": "119",
        "applies_to": "NULL",
        "reverses": "NULL",
        "sequence": "n",
        "occurred_at": PAST,
    },
    "legal_holds": {"released_by": "'somebody'", "released_at": PAST},
    # Every second one will never be collected: it is open, and its last attempt was declined for good.
    "open_items": {
        "side": "'debit'",
        "entry_id": "NULL",
        "amount": "119",
        "open": "CASE WHEN n % 2 = 1 THEN 119 ELSE 0 END",
        "disputed": "0",
        "credited": "0",
        "due_on": "now()::date - 60",
        # As the planners have rested them.
        "collect_from": "NULL",
        "remind_from": "NULL",
    },
    "payment_events": {"body": "NULL", "signature": "NULL", "payment": "NULL"},
    "payment_methods": {
        "created_at": f"{PAST} - interval '10 days'",
        "provider": "'stripe'",
        "provider_customer": "'cus_' || n",
        "provider_method": "'pm_' || n",
        "digits": "'4242'",
        "retired_at": "NULL",
    },
    "purge_stores": {"pass_number": "1", "number": "1", "done_at": PAST, "in_flight": "0"},
    "quarantine": {"message_id": "'message-' || n", "replayed_at": PAST},
    "reconciliations": {"provider": "'provider-' || n", "differences": "'[]'", "movements": "0", "recorded": "0"},
    "reminder_holds": {
        "kind": "'pause'",
        "amount": "NULL",
        "outcome": "'lifted'",
        "ended_at": PAST,
        "letter_id": "NULL",
    },
    "reminder_letters": {"kind": "'reminder'", "level": "'final'", "withdrawn_at": "NULL"},
    "reminders": {"step": "3", "level": "'final'", "fee_entry_id": "NULL", "withdrawn_at": "NULL", "fee": "NULL"},
    "retentions": {"account_ref": "NULL"},
    "security_audits": {"packages": "100", "ended_at": PAST, "begun_at": PAST},
    "security_findings": {"gone_at": PAST, "package": "'package-' || n"},
    "sessions": {"id": "uuidv7(interval '-23 hours' * random())"},
    "statements": {
        "form": "'balance_forward'",
        "period_start": "now()::date - 60",
        "period_end": "now()::date - 30",
        "closing": "0",
        "opening": "0",
        "line_count": "1",
        **dict.fromkeys(("not_due", "days_1_30", "days_31_60", "days_61_90", "over_90", "unapplied_credit"), "0"),
        "opening_cutoff": "n",
        "cutoff": "n",
        "closes_at": PAST,
    },
    "submitted_files": {"state": "'stored'", "size": "1", "stored_at": PAST},
    "suppressions": {"address": "'gone-' || n || '@customer.example'", "email_message_id": "NULL"},
    "termination_steps": {"number": "1"},
    "terminations": {
        "stage": "'certified'",
        "delivered_by": "'download'",
        **dict.fromkeys(
            ("delivered_at", "verified_at", "certified_at", "sealed_at", "archive_purged_at", "purge_began_at"), PAST
        ),
        "archive_key": "'key-' || n",
        "archive_sha256": "sha256(n::text::bytea)",
        "manifest_sha256": "sha256(n::text::bytea)",
        "exported_rows": "'{}'",
    },
}


def expression(table: Table, column: Column[Any]) -> str | None:
    """The SQL of a column for row `n`; None where its default will do."""
    if column.computed is not None:
        return None
    if chosen := TABLES.get(table.name, {}).get(column.name):
        return chosen
    if column.foreign_keys and column.name.endswith("_id"):
        target = next(iter(column.foreign_keys)).target_fullname.split(".")[-2]
        return f"md5('{target}' || n)::uuid"
    if column.name == "id":
        return f"md5('{table.name}' || n)::uuid"
    return EVERY_TABLE.get(column.name) or (None if column.nullable else _by_type(table, column))


def _by_type(table: Table, column: Column[Any]) -> str | None:
    """What a column holds that must hold something; None where it has a default that says nothing of the time."""
    kind = column.type.compile(dialect=postgresql.dialect()).upper()
    choices = getattr(column.type, "enums", None)
    if kind == "TIMESTAMP WITH TIME ZONE":
        return PAST
    if column.server_default is not None:
        return None
    made = {
        "UUID": f"md5('{column.name}' || n)::uuid",
        "BYTEA": f"sha256(('{table.name}' || n)::bytea)",
        "JSONB": "'{}'",
        "BOOLEAN": "false",
        "DATE": "now()::date - 30",
        "TEXT": f"'{column.name}-' || n",
        "TEXT[]": "'{}'",
    }
    return f"'{choices[0]}'" if choices else made.get(kind, "1")


def superuser(servers: Mapping[str, str], address: str) -> psycopg.Connection[Any]:
    """A connection to this test's PostgreSQL as its superuser, who alone may insert without triggers."""
    place = existing_place(Path(servers["TENURE_INBOX"]).parent)
    assert place is not None
    return psycopg.connect(address, user="postgres", password=place.secrets.postgres_superuser, autocommit=True)


def fill(connection: psycopg.Connection[Any], rows: int) -> None:
    """Give every table that grows `rows` rows at their end; the connection is a superuser's, in autocommit."""
    connection.execute("SET session_replication_role = replica")
    for table in Base.metadata.sorted_tables:
        if table.name in CATALOGUES:
            continue
        made = {c.name: sql for c in table.columns if (sql := expression(table, c)) is not None}
        try:
            connection.execute(
                f"INSERT INTO {SCHEMA}.{table.name} ({', '.join(made)}) "
                f"SELECT {', '.join(made.values())} FROM generate_series(1, {rows}) AS n"
            )
        except psycopg.Error as error:
            raise AssertionError(
                f"{table.name} cannot be filled: {error}. Say in TABLES what its rows hold."
            ) from error
    connection.execute("RESET session_replication_role")


@dataclass(frozen=True)
class Read:
    """What one statement read, by its plan."""

    statement: str
    #: Where in our code it was sent.
    sent_from: str
    #: Rows that scans returned or threw away, over all loops.
    rows: int
    pages: int
    returned: int
    plan: Mapping[str, Any]

    def __str__(self) -> str:
        return (
            f"{self.sent_from}: {self.rows:,} rows and {self.pages:,} pages for {self.returned:,} rows\n"
            f"    {' '.join(self.statement.split())[:300]}"
        )


def nodes(plan: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


def judged(statement: str, explained: Mapping[str, Any]) -> Read:
    plan = explained["Plan"]
    rows = 0
    for node in nodes(plan):
        loops = node["Actual Loops"]
        if "Scan" in node["Node Type"] and node.get("Schema") == SCHEMA:
            rows += int(node["Actual Rows"] * loops)
        if any(each.get("Schema") == SCHEMA for each in nodes(node)):
            rows += int(
                loops * sum(node.get(f"Rows Removed by {why}", 0) for why in ("Filter", "Join Filter", "Index Recheck"))
            )
    # What PostgreSQL's own catalogues hold grows with the schema, and not with the company.
    own = "tenure." in statement
    pages = plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] if own else 0
    return Read(statement, _sender(), rows, pages, int(plan["Actual Rows"]), plan)


def _sender() -> str:
    """The innermost place of our own code but the tests."""
    for frame in reversed(traceback.extract_stack()):
        path = Path(frame.filename)
        if path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in {"models", "tasks", "workers"}:
            return f"{path.relative_to(ROOT)}:{frame.lineno}"
    return "elsewhere"


@contextmanager
def watched() -> Iterator[list[Read]]:
    """Every statement that any engine of this process sends meanwhile, with what it read."""
    seen: list[Read] = []

    def explain(_c: object, cursor: Any, statement: str, parameters: Any, _x: object, many: bool) -> None:
        if many or not statement.lstrip().upper().startswith(("SELECT", "WITH", "INSERT", "UPDATE", "DELETE")):
            return
        connection = cursor.connection
        inside = connection.info.transaction_status == TransactionStatus.INTRANS or not connection.autocommit
        begin, end = ("SAVEPOINT seen", "ROLLBACK TO SAVEPOINT seen") if inside else ("BEGIN", "ROLLBACK")
        with connection.cursor() as beside:
            beside.execute(begin)
            try:
                beside.execute("EXPLAIN (ANALYZE, BUFFERS, VERBOSE, FORMAT JSON) " + statement, parameters or None)
                row = beside.fetchone()
            finally:
                beside.execute(end)
        found = row[0]
        seen.append(judged(statement, (json.loads(found) if isinstance(found, str) else found)[0]))

    event.listen(Engine, "before_cursor_execute", explain)
    try:
        yield seen
    finally:
        event.remove(Engine, "before_cursor_execute", explain)


def work_tables() -> list[str]:
    return sorted(m.class_.__tablename__ for m in Base.registry.mappers if issubclass(m.class_, Work))
