"""What will be sent if nobody pays and nothing else happens: by the functions that decide what is sent (B19)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from email_templates.catalogue import write_context
from tasks.reminders import book
from tasks.reminders.ladder import Customer, Debt, forecast
from tasks.reminders.letter import message

#: Accounts that are looked at together.
BATCH = 500

OWING = text("""
    SELECT DISTINCT item.account_id
      FROM tenure.open_items AS item JOIN tenure.accounts AS account ON account.id = item.account_id
     WHERE item.open > 0 AND item.invoice_id IS NOT NULL AND account.status = 'active'
       AND (CAST(:ref AS text) IS NULL OR account.ref = :ref) ORDER BY item.account_id""")

OWNER = text("SELECT account_id FROM tenure.invoices WHERE number = :number AND kind = 'invoice'")


@dataclass(frozen=True, slots=True)
class Foreseen:
    """A letter that will leave: when, to whom, and what it will say."""

    at: datetime
    account: str
    message: str
    context: dict[str, Any]


def simulate(session: Session, now: datetime, days: int, *, ref: str | None = None) -> Iterator[Foreseen]:
    """Every letter of the next `days` local days, of one account or of all, customer after customer."""
    owing = session.scalars(OWING, {"ref": ref}).all()
    known = book.policies(session)
    for first in range(0, len(owing), BATCH):
        for customer in book.load(session, owing[first : first + BATCH], now, known=known):
            today = now.astimezone(customer.zone).date()
            for at, letter, then in forecast(customer, now, today + timedelta(days=days)):
                said = message(then, letter)
                yield Foreseen(at, customer.ref, said.name, write_context(said))


def find(session: Session, number: str, now: datetime) -> tuple[Customer, Debt] | None:
    """An invoice and whose it is, as far as something is open of it; None where nothing is, or it is not known."""
    account = session.scalars(OWNER, {"number": number}).one_or_none()
    if account is None:
        return None
    for customer in book.load(session, [account], now):
        for debt in customer.debts:
            if debt.number == number:
                return customer, debt
    return None
