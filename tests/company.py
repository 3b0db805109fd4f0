"""Customers for tests: short calls that make rows, with defaults that a test overrides where it matters."""

from __future__ import annotations

from datetime import UTC, date, datetime
from itertools import count
from typing import Any

from sqlalchemy.orm import Session

from models.billing.ledger import EntryKind, LedgerEntry
from models.customers.account import Account
from models.customers.contact import Contact

_numbers = count(1)


def an_account(session: Session, **values: Any) -> Account:
    """An account in Berlin whose open period began on 1 October 2026."""
    number = next(_numbers)
    account = Account(
        **{
            "ref": f"customer-{number}",
            "name": f"Customer {number}",
            "currency": "EUR",
            "time_zone": "Europe/Berlin",
            "period_start": date(2026, 10, 1),
            "address": ["Straße 1", "10115 Berlin"],
            **values,
        }
    )
    session.add(account)
    session.flush()
    return account


def a_contact(session: Session, account: Account, **values: Any) -> Contact:
    number = next(_numbers)
    contact = Contact(
        **{
            "account_id": account.id,
            "name": "Luís Gonçalves",
            "email": f"contact-{number}@customer.example",
            "language": "de",
            "time_zone": "Europe/Berlin",
            "receives_statements": True,
            **values,
        }
    )
    session.add(contact)
    session.flush()
    return contact


def an_entry(session: Session, account: Account, amount: int, **values: Any) -> LedgerEntry:
    """A charge, or a payment where `amount` (minor units) is negative, on 10 October 2026."""
    entry = LedgerEntry(
        **{
            "account_id": account.id,
            "kind": EntryKind.CHARGE if amount > 0 else EntryKind.PAYMENT,
            "currency": "EUR",
            "amount": amount,
            "description": "Service" if amount > 0 else "Payment, thank you",
            "occurred_at": datetime(2026, 10, 10, 12, tzinfo=UTC),
            **values,
        }
    )
    session.add(entry)
    session.flush()
    return entry
