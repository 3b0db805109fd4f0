"""Invoices: issued once, numbered without a gap, never changed, corrected, and settled (B8, B9)."""

from __future__ import annotations

from datetime import UTC, date, datetime
from itertools import pairwise
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import IntegrityError

from email_templates.company import Company
from models import Account, Invoice, InvoiceLine, InvoiceTax, Letterhead
from models.unit_of_work import Database
from tasks import invoices
from tests.company import a_contact, an_account, an_entry

SELLER = Company(name="Seller AG", address=("Ring 1",), email="office@seller.example", website="seller.example")


def an_invoiced_account(session: Any, **values: Any) -> Account:
    account = an_account(session, **{"invoiced_from": date(2026, 10, 1), **values})
    a_contact(session, account)
    return account


def issue(database: Database) -> int:
    """Issue what is due of one closed period of each account; how many invoices that made."""
    with database.transaction() as session:
        return len(invoices.issue_batch(session, SELLER)[1])


def all_invoices(database: Database) -> list[Invoice]:
    with database.transaction() as session:
        return list(session.scalars(select(Invoice).order_by(Invoice.series_number)))


def test_a_closed_period_becomes_an_invoice_of_its_charges(database: Database) -> None:
    with database.transaction() as session:
        account = an_invoiced_account(session, tax_id="DE123456789", country="DE")
        an_entry(session, account, -3_000)
        an_entry(session, account, 5_000)
        an_entry(session, account, 1_190, tax_category="S", tax_rate=1900)
        an_entry(session, account, 1_001, tax_category="S", tax_rate=1900)
        before = an_entry(session, account, 100, occurred_at=datetime(2026, 9, 30, 21, 59, tzinfo=UTC)).id
        after = an_entry(session, account, 100, occurred_at=datetime(2026, 10, 31, 23, tzinfo=UTC)).id

    assert issue(database) == 1
    (invoice,) = all_invoices(database)
    assert (invoice.number, invoice.net, invoice.tax, invoice.total) == ("INV-000001", 6_841, 350, 7_191)
    assert (invoice.period_start, invoice.period_end) == (date(2026, 10, 1), date(2026, 10, 31))
    assert invoice.due_on is not None
    assert (invoice.due_on - invoice.issued_on).days == 14
    assert (invoice.buyer["tax_id"], invoice.language) == ("DE123456789", "de")
    with database.transaction() as session:
        assert session.get_one(Letterhead, invoice.letterhead).content["name"] == "Seller AG"
        lines = session.scalars(select(InvoiceLine).order_by(InvoiceLine.position)).all()
        taxes = session.scalars(select(InvoiceTax).order_by(InvoiceTax.tax_category)).all()
        (open_,) = session.execute(text("SELECT * FROM tenure.open_invoices")).all()
    assert {before, after}.isdisjoint(line.entry_id for line in lines)
    assert [(line.net, line.gross) for line in lines] == [(5_000, 5_000), (1_000, 1_190), (841, 1_001)]
    assert [(tax.tax_category, tax.tax_rate, tax.base, tax.tax) for tax in taxes] == [
        ("O", 0, 5_000, 0),
        ("S", 1_900, 1_841, 350),
    ]
    # What was paid in advance is set off at once.
    assert (open_.total, open_.open, open_.due_on) == (7_191, 4_191, invoice.due_on)

    assert issue(database) == 0


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE tenure.invoices SET total = total",
        "UPDATE tenure.invoices SET reason = 'x' WHERE false",
        "DELETE FROM tenure.invoices",
        "TRUNCATE tenure.invoices CASCADE",
        "UPDATE tenure.invoice_lines SET description = 'x'",
        "DELETE FROM tenure.invoice_lines",
        "TRUNCATE tenure.invoice_lines CASCADE",
        "UPDATE tenure.invoice_taxes SET base = 0",
        "DELETE FROM tenure.invoice_taxes",
        "TRUNCATE tenure.invoice_taxes",
        """INSERT INTO tenure.invoice_lines (invoice_id, position, entry_id, description, occurred_on, tax_category,
                                             tax_rate, net, gross)
           SELECT invoice.id, 2, entry.id, 'x', current_date, 'O', 0, 1, 1
             FROM tenure.invoices AS invoice, tenure.ledger_entries AS entry WHERE entry.amount = 1""",
        "INSERT INTO tenure.invoice_taxes SELECT id, 'Z', 0, 0, 0 FROM tenure.invoices",
        "UPDATE tenure.invoice_series SET last_number = 0 WHERE kind = 'invoice'",
        "DELETE FROM tenure.invoice_series",
        "UPDATE tenure.open_items SET open = 0",
        "DELETE FROM tenure.open_items",
        "UPDATE tenure.allocations SET amount = 1",
        "DELETE FROM tenure.allocations",
    ],
)
def test_an_issued_invoice_and_what_settled_it_never_change(database: Database, change: str) -> None:
    with database.transaction() as session:
        account = an_invoiced_account(session)
        an_entry(session, account, 5_000)
        an_entry(session, account, -1_000)
        an_entry(session, account, 1, occurred_at=datetime(2026, 11, 20, tzinfo=UTC))
    assert issue(database) == 1
    with pytest.raises(IntegrityError) as caught, database.connection() as connection:
        connection.execute(text(change))
    # A sentence, and not the name of a constraint.
    assert " " in str(caught.value.orig.diag.message_primary)  # type: ignore[union-attr]
    assert "constraint" not in str(caught.value.orig.diag.message_primary)  # type: ignore[union-attr]


def test_periods_that_an_outage_left_out_are_caught_up_one_by_one(database: Database) -> None:
    with database.transaction() as session:
        account = an_invoiced_account(session, invoiced_from=date(2026, 7, 15), billing_day=15)
        for month in (7, 8, 10, 11):
            an_entry(session, account, month, occurred_at=datetime(2026, month, 20, 12, tzinfo=UTC))
    while True:
        with database.transaction() as session:
            if not invoices.issue_batch(session, SELLER)[0]:
                break
    made = all_invoices(database)
    # The period with nothing in it has no invoice; the last one is still open.
    assert [(each.period_start, each.period_end, each.total) for each in made] == [
        (date(2026, 7, 15), date(2026, 8, 14), 7),
        (date(2026, 8, 15), date(2026, 9, 14), 8),
        (date(2026, 10, 15), date(2026, 11, 14), 10),
    ]
    assert all(after.series_number == before.series_number + 1 for before, after in pairwise(made))
