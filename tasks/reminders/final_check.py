"""The last look at a reminder: what would be written at this very moment, and only that, may leave (B12, B13).

The account's row and those of the open items are locked first. Payments, credit notes and refunds take the account's;
disputes and changed due dates the item's; pauses and promises the account's, by a trigger; the planning of payments
passes over an item that is held. So each of them is either committed before, and seen here, or comes after the letter.

What decides is the same function that planned the letter, asked as if the letter were not there. An invoice that it
does not name any more, or at another step, is left out; where none is left, or the day or the hours are over, nothing
leaves and the next plan decides anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, text
from sqlalchemy.orm import Session

from email_templates.catalogue import read_context, write_context
from email_templates.catalogue.reminders import PaymentReminder, PromiseBroken
from models.mail.email_message import EmailMessage
from models.reminders.reminder import LetterKind
from tasks.engine.failpoints import failpoint
from tasks.mail.final_check import Outdated, Withdrawn, final_check
from tasks.reminders import book
from tasks.reminders.ladder import Customer, Item, Letter, customer_hindrance, debt_hindrance, decide, reminder
from tasks.reminders.letter import message

LOCK_ACCOUNT = text("SELECT status FROM tenure.accounts WHERE id = :account FOR NO KEY UPDATE")

LOCK_ITEMS = text("""
    SELECT FROM tenure.open_items
     WHERE invoice_id IN (SELECT invoice_id FROM tenure.reminders WHERE letter_id = :letter
                           UNION ALL SELECT invoice_id FROM tenure.reminder_holds WHERE letter_id = :letter)
     ORDER BY id FOR NO KEY UPDATE""")

LETTER = text("""
    SELECT letter.id, letter.kind, letter.local_day, letter.currency, letter.withdrawn_at
      FROM tenure.reminder_copies AS copy JOIN tenure.reminder_letters AS letter ON letter.id = copy.letter_id
     WHERE copy.email_message_id = :email""")

REMINDED = text("""
    SELECT invoice_id, step FROM tenure.reminders WHERE letter_id = :letter AND withdrawn_at IS NULL""")

#: An invoice that a copy left out was not reminded of, unless an earlier copy has named it.
LEAVE_OUT = text("""
    UPDATE tenure.reminders AS reminder SET withdrawn_at = :now
     WHERE letter_id = :letter AND withdrawn_at IS NULL AND invoice_id = ANY (:invoices)
       AND NOT EXISTS (SELECT FROM tenure.reminder_copies AS copy
                         JOIN tenure.email_messages AS email ON email.id = copy.email_message_id
                        WHERE copy.letter_id = reminder.letter_id AND email.id <> :email
                          AND (email.state IN ('done', 'unknown') OR email.committing_at IS NOT NULL))""")


@final_check(PaymentReminder)
def look(session: Session, email: EmailMessage) -> None:
    """Raises Withdrawn where nothing is to be reminded of any more, Outdated where less or other amounts are."""
    account = email.account_id
    if account is None:
        raise Withdrawn("It is written to no account's contact.")
    status = session.scalars(LOCK_ACCOUNT, {"account": account}).one()
    failpoint("reminders.look", "after_account_lock")
    letter = session.execute(LETTER, {"email": email.id}).one_or_none()
    if letter is None or letter.withdrawn_at is not None:
        raise Withdrawn("The letter was withdrawn.")
    session.execute(LOCK_ITEMS, {"letter": letter.id})
    failpoint("reminders.look", "after_lock")
    if status != "active":
        raise Withdrawn(f"The account is {status}: it is not reminded any more.")
    now = book.clock(session)
    customer = _customer(session, account, letter, now)
    planned = {row.invoice_id: row.step for row in session.execute(REMINDED, {"letter": letter.id})}
    _in_time(customer, letter, now)
    wanted = _still_wanted(customer, letter, planned, now)
    said = message(customer, wanted)
    if said != read_context(email.message, email.context):
        left_out = list(planned.keys() - {item.debt.invoice_id for item in wanted.items})
        raise Outdated(write_context(said), _leave_out(letter.id, email.id, left_out, now) if left_out else None)


final_check(PromiseBroken)(look)


def _customer(session: Session, account: UUID, letter: Row[Any], now: datetime) -> Customer:
    for customer in book.load(session, [account], now, but=letter.id):
        if customer.currency == letter.currency:
            return customer
    raise Withdrawn("Everything that it reminds of is settled.")


def _in_time(customer: Customer, letter: Row[Any], now: datetime) -> None:
    today = now.astimezone(customer.zone).date()
    if today != letter.local_day:
        raise Withdrawn(f"It was written for {letter.local_day}, and that day is over there: it is written anew.")


def _still_wanted(customer: Customer, letter: Row[Any], planned: dict[UUID, int], now: datetime) -> Letter:
    """The letter as it would be written now, without what it did not name before."""
    today = now.astimezone(customer.zone).date()
    found = decide(customer, now)
    items: Sequence[Item] = found.items if found and found.kind == letter.kind else ()
    if letter.kind == LetterKind.REMINDER:
        items = [each for each in items if each.step and planned.get(each.debt.invoice_id) == each.step.number]
    if not items:
        raise Withdrawn(_why(customer, planned, today))
    if letter.kind == LetterKind.PROMISE_BROKEN:
        return Letter(LetterKind.PROMISE_BROKEN, today, tuple(items))
    return reminder(customer, today, tuple(items))


def _why(customer: Customer, planned: dict[UUID, int], today: date) -> str:
    """What stands in the way, of the first invoice that it is about."""
    if why := customer_hindrance(customer, today):
        return why
    owed = {debt.invoice_id: debt for debt in customer.debts}
    if planned and not planned.keys() & owed.keys():
        return "Everything that it reminds of is settled."
    for debt in customer.debts:
        if debt.invoice_id in planned and (why := debt_hindrance(customer, debt, today)):
            return why
    return "By the policy and the hours as they are now, it does not go out at this moment."


def _leave_out(letter: UUID, email: UUID, invoices: list[UUID], now: datetime) -> Callable[[Connection], None]:
    def effect(connection: Connection) -> None:
        connection.execute(LEAVE_OUT, {"letter": letter, "email": email, "invoices": invoices, "now": now})

    return effect
