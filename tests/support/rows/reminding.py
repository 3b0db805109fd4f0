"""Customers who owe, policies by which they are reminded, and what they were sent."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any
from uuid import UUID

from sqlalchemy import text

from models.base.unit_of_work import Database
from tasks.billing.invoice_issue import issue_batch
from tests.support.rows.paying import SELLER

STANDARD: Sequence[Mapping[str, Any]] = (
    {"days": -3, "level": "upcoming"},
    {"days": 3, "level": "first"},
    {"days": 10, "level": "second"},
    {"days": 20, "level": "final", "pay_within": 10},
)

DEBTOR = text("""
    WITH made AS (
        INSERT INTO tenure.accounts (ref, name, currency, time_zone, country, period_start, invoiced_from)
        VALUES (:ref, 'Schuldner ' || :ref, :currency, :time_zone, :country, :today, :today - 400) RETURNING id
    )
    INSERT INTO tenure.contacts (account_id, name, email, language, time_zone, receives_statements)
    SELECT id, 'Zoë ' || :ref, :ref || '-' || n || '@customer.example', 'de', :time_zone, true
      FROM made, generate_series(1, :contacts) AS n""")

CHARGE = text("""
    INSERT INTO tenure.ledger_entries (account_id, kind, currency, amount, description, occurred_at)
    SELECT id, 'charge', :currency, :amount, 'Miete', now() - interval '1 second'
      FROM tenure.accounts WHERE ref = :ref""")


def a_policy(
    database: Database, steps: Sequence[Mapping[str, Any]] = STANDARD, *, name: str = "standard", **options: Any
) -> UUID:
    """A policy, the default one unless it is told otherwise."""
    values = {"is_default": True, **options}
    given = "".join(f", {option} => :{option}" for option in values)
    with database.connection() as connection:
        made: UUID = connection.execute(
            text(f"SELECT tenure.set_reminder_policy(:name, CAST(:steps AS jsonb){given})"),
            {"name": name, "steps": json.dumps(list(steps)), **values},
        ).scalar_one()
        return made


def a_debtor(
    database: Database,
    ref: str = "acme",
    *,
    due_on: date | None,
    amount: int = 10_000,
    currency: str = "EUR",
    time_zone: str = "Europe/Berlin",
    country: str | None = "DE",
    contacts: int = 1,
) -> str:
    """An account with one invoice that is due then; its number."""
    with database.connection() as connection:
        connection.execute(
            DEBTOR,
            {"ref": ref, "currency": currency, "time_zone": time_zone, "country": country, "contacts": contacts,
             "today": due_on or date(2020, 1, 1)},
        )  # fmt: skip
    return an_invoice(database, ref, due_on=due_on, amount=amount, currency=currency)


def an_invoice(
    database: Database, ref: str, *, due_on: date | None, amount: int = 10_000, currency: str = "EUR", charges: int = 1
) -> str:
    """One more invoice of the account; its number."""
    with database.transaction() as session:
        for _ in range(charges):
            session.execute(CHARGE, {"ref": ref, "amount": amount, "currency": currency})
        account = session.scalars(text("SELECT id FROM tenure.accounts WHERE ref = :ref"), {"ref": ref}).one()
        _, (invoice,) = issue_batch(session, SELLER, account)
        session.execute(
            text("UPDATE tenure.open_items SET due_on = :due_on WHERE invoice_id = :invoice"),
            {"due_on": due_on, "invoice": invoice},
        )
        number: str = session.scalars(text("SELECT number FROM tenure.invoices WHERE id = :id"), {"id": invoice}).one()
        return number


def pay(database: Database, ref: str, amount: int, *, kind: str = "payment", currency: str = "EUR") -> None:
    with database.connection() as connection:
        connection.execute(
            text("SELECT tenure.record_entry(:ref, :kind, :currency, :amount, 'Überweisung', now())"),
            {"ref": ref, "kind": kind, "amount": amount, "currency": currency},
        )


def reminded(database: Database, ref: str | None = None) -> list[tuple[str, int, str]]:
    """What counts as reminded of: invoice, step, level, in the order of their making."""
    with database.connection() as connection:
        rows = connection.execute(
            text("""
                SELECT invoice.number, reminder.step, reminder.level
                  FROM tenure.reminders AS reminder JOIN tenure.invoices AS invoice ON invoice.id = invoice_id
                  JOIN tenure.accounts AS account ON account.id = reminder.account_id
                 WHERE reminder.withdrawn_at IS NULL AND (CAST(:ref AS text) IS NULL OR account.ref = :ref)
                 ORDER BY reminder.id"""),
            {"ref": ref},
        )
        return [tuple(row) for row in rows]


def letters(database: Database, **wanted: Any) -> list[Any]:
    """The e-mails of letters, in the order of their making, each with its letter."""
    where = " AND ".join(f"email.{name} = :{name}" for name in wanted) or "true"
    with database.connection() as connection:
        return list(
            connection.execute(
                text(f"""
                    SELECT email.id, email.state, email.message, email.context, email.last_error, email.to_address,
                           letter.id AS letter, letter.local_day, letter.kind, letter.level, letter.withdrawn_at,
                           letter.settled_at
                      FROM tenure.reminder_copies AS copy
                      JOIN tenure.email_messages AS email ON email.id = copy.email_message_id
                      JOIN tenure.reminder_letters AS letter ON letter.id = copy.letter_id
                     WHERE {where} ORDER BY letter.id, email.id"""),
                wanted,
            )
        )


def run(database: Database, sql: str, **values: Any) -> list[Any]:
    with database.connection() as connection:
        result = connection.execute(text(sql), values)
        return list(result) if result.returns_rows else []
