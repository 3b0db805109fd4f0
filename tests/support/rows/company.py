"""Customers for tests: short calls that make rows, with defaults that a test overrides where it matters."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import count
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import text
from sqlalchemy.orm import Session

from models.billing.ledger import EntryKind, LedgerEntry
from models.customers.account import Account
from models.customers.contact import Contact

_numbers = count(1)


def last_month(session: Session, time_zone: str = "Europe/Berlin") -> date:
    """Return the first day of the month before this one, by the database's clock and in that time zone."""
    now: datetime = session.execute(text("SELECT now()")).scalar_one()
    return (now.astimezone(ZoneInfo(time_zone)).date().replace(day=1) - timedelta(days=1)).replace(day=1)


def an_account(session: Session, **values: Any) -> Account:
    """An account in Berlin whose open period is the month before this one: one period of it has closed."""
    time_zone = values.get("time_zone", "Europe/Berlin")
    if "period_start" not in values:
        values["period_start"] = last_month(session, time_zone)
    number = next(_numbers)
    account = Account(
        **{
            "ref": f"customer-{number}",
            "name": f"Customer {number}",
            "currency": "EUR",
            "time_zone": time_zone,
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
    """A charge, or a payment where `amount` (minor units) is negative, on the tenth of last month."""
    if "occurred_at" not in values:
        tenth = last_month(session, account.time_zone) + timedelta(days=9)
        values["occurred_at"] = datetime(tenth.year, tenth.month, tenth.day, 12, tzinfo=UTC)
    entry = LedgerEntry(
        **{
            "account_id": account.id,
            "kind": EntryKind.CHARGE if amount > 0 else EntryKind.PAYMENT,
            "currency": "EUR",
            "amount": amount,
            "description": "Service" if amount > 0 else "Payment, thank you",
            **values,
        }
    )
    session.add(entry)
    session.flush()
    return entry
