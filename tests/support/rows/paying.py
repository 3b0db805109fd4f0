"""Customers who pay by themselves, with an invoice that is due, and a provider that charges nobody."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from sqlalchemy import text

from email_templates.language.company import Company
from models.base.unit_of_work import Database
from tasks.billing.invoice_issue import issue_batch
from workers.local.servers.payments import PaymentProvider

SELLER = Company(name="Seller AG", address=("Ring 1",), email="office@seller.example", website="seller.example")
PRICE = 12_345

SEED = text("""
    WITH made AS (
        INSERT INTO tenure.accounts (ref, name, currency, time_zone, period_start, invoiced_from, payment_terms)
        SELECT :prefix || n, 'Zahler ' || :prefix || n, :currency, :time_zone, now()::date, now()::date - 1, 0
          FROM generate_series(1, :count) AS n
        RETURNING id, ref
    ), contacts AS (
        INSERT INTO tenure.contacts (account_id, name, email, language, receives_statements)
        SELECT id, 'Zoë ' || ref, ref || '@customer.example', 'de', true FROM made
    ), methods AS (
        INSERT INTO tenure.payment_methods (account_id, provider_customer, provider_method, kind, digits)
        SELECT id, 'cus_' || ref, 'pm_' || ref, 'card', '4242' FROM made
    ), charges AS (
        INSERT INTO tenure.ledger_entries (account_id, kind, currency, amount, description, occurred_at)
        SELECT id, 'charge', :currency, :amount, 'Miete ' || ref, now() - interval '1 second' FROM made
    )
    SELECT id FROM made""")


def payers(
    database: Database,
    count: int = 1,
    *,
    prefix: str = "zahler-",
    time_zone: str = "UTC",
    amount: int = PRICE,
    currency: str = "EUR",
) -> list[UUID]:
    """Accounts with a card each (`pm_zahler-1`) and an invoice that is due today; their ids."""
    values = {"count": count, "prefix": prefix, "time_zone": time_zone, "amount": amount, "currency": currency}
    with database.transaction() as session:
        accounts = list(session.scalars(SEED, values))
        for account in accounts:
            issue_batch(session, SELLER, account)
    return accounts


def attempts(database: Database, **wanted: Any) -> list[Any]:
    """The attempts, in the order of their making."""
    where = " AND ".join(f"{name} = :{name}" for name in wanted) or "true"
    with database.connection() as connection:
        return list(
            connection.execute(
                text(f"SELECT * FROM tenure.collection_attempts WHERE {where} ORDER BY invoice_id, number"), wanted
            )
        )


def entries(database: Database) -> list[tuple[str, int, str]]:
    """What the provider did, as the ledger has it: kind, amount, and the provider's id."""
    with database.connection() as connection:
        rows = connection.execute(
            text("""
                SELECT kind, amount, external_ref FROM tenure.ledger_entries
                 WHERE external_ref LIKE 'stripe:%' ORDER BY external_ref""")
        )
        return [(row.kind, row.amount, row.external_ref.removeprefix("stripe:")) for row in rows]


def mails(database: Database, message: str) -> list[Mapping[str, Any]]:
    with database.connection() as connection:
        return list(
            connection.scalars(
                text("SELECT context FROM tenure.email_messages WHERE message = :message ORDER BY id"),
                {"message": message},
            )
        )


def days_pass(database: Database, days: int) -> None:
    """All that attempts say of time lies so many days further back."""
    with database.connection() as connection:
        connection.execute(
            text("""
                UPDATE tenure.collection_attempts
                   SET local_day = local_day - :days, next_attempt_on = next_attempt_on - :days,
                       asked_at = asked_at - make_interval(days => :days),
                       due_at = due_at - make_interval(days => :days)"""),
            {"days": days},
        )


def is_charged_once(database: Database, provider: PaymentProvider) -> None:
    """For each invoice in euros exactly one charge at the provider, and the ledger says the same as the provider."""
    with database.connection() as connection:
        invoices = connection.execute(
            text("""
                SELECT invoice.id, invoice.total, array_agg(attempt.id::text) AS keys, item.open
                  FROM tenure.invoices AS invoice JOIN tenure.open_items AS item ON item.invoice_id = invoice.id
                  JOIN tenure.collection_attempts AS attempt ON attempt.invoice_id = invoice.id
                 WHERE invoice.currency = 'EUR' GROUP BY invoice.id, invoice.total, item.open""")
        ).all()
    charged = provider.charged()
    for invoice in invoices:
        assert sum(charged.get(key, 0) for key in invoice.keys) == invoice.total, "not one charge for an invoice"
        assert invoice.open == 0
    assert sum(charged.values()) == sum(invoice.total for invoice in invoices)
    succeeded = [charge for charge in provider.charges.values() if charge["status"] == "succeeded"]
    assert entries(database) == sorted(
        [("payment", -charge["amount"], charge["id"]) for charge in succeeded], key=lambda entry: entry[2]
    )
