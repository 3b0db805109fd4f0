"""Letters become rows: what they remind of, and a copy to each contact who gets the bills (B14, B16)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from email_templates.catalogue.reminders import Level, OpenInvoice, PaymentReminder, PromiseBroken
from models.reminders.reminder import LetterKind
from tasks.mail.queue import Queued, queue
from tasks.ports.context import Ports
from tasks.reminders.ladder import Customer, Letter

#: Two letters of one customer, currency and day cannot be, whoever writes them.
WRITE_LETTERS = text("""
    INSERT INTO tenure.reminder_letters (account_id, currency, kind, local_day, level, pay_by, written_at)
    SELECT account_id, currency, kind, local_day, level, pay_by, :now
      FROM jsonb_to_recordset(CAST(:letters AS jsonb))
           AS letter (account_id uuid, currency text, kind text, local_day date, level text, pay_by date)
        ON CONFLICT (account_id, currency, local_day) WHERE withdrawn_at IS NULL DO NOTHING
    RETURNING id, account_id, currency""")

WRITE_REMINDERS = text("""
    INSERT INTO tenure.reminders (account_id, letter_id, invoice_id, step, level, fee)
    SELECT account_id, letter_id, invoice_id, step, level, nullif(fee, 0)
      FROM jsonb_to_recordset(CAST(:reminders AS jsonb))
           AS reminder (account_id uuid, letter_id uuid, invoice_id uuid, step int, level text, fee bigint)
        ON CONFLICT (invoice_id, step) WHERE withdrawn_at IS NULL DO NOTHING""")

END_PROMISES = text("""
    UPDATE tenure.reminder_holds AS hold SET ended_at = :now, outcome = 'broken', letter_id = told.letter_id
      FROM jsonb_to_recordset(CAST(:promises AS jsonb)) AS told (id uuid, letter_id uuid)
     WHERE hold.id = told.id AND hold.ended_at IS NULL""")

RECIPIENTS = text("""
    SELECT id, account_id, email FROM tenure.contacts AS contact
     WHERE account_id = ANY (:accounts) AND receives_statements
       AND NOT EXISTS (SELECT FROM tenure.suppressions WHERE address = lower(contact.email) AND lifted_at IS NULL)
     ORDER BY created_at, id""")

WRITE_COPIES = text("""
    INSERT INTO tenure.reminder_copies (email_message_id, account_id, letter_id)
    SELECT email.id, email.account_id, copy.letter_id
      FROM jsonb_to_recordset(CAST(:copies AS jsonb)) AS copy (dedupe_key text, letter_id uuid)
      JOIN tenure.email_messages AS email USING (dedupe_key)""")


def write(session: Session, letters: Sequence[tuple[Customer, Letter]], now: datetime, ports: Ports) -> int:
    """Write letters, what they remind of, and their copies, in the caller's transaction; returns how many letters."""
    made = {
        (row.account_id, row.currency): row.id
        for row in session.execute(
            WRITE_LETTERS,
            {
                "now": now,
                "letters": json.dumps(
                    [
                        {
                            "account_id": str(customer.account_id),
                            "currency": customer.currency,
                            "kind": letter.kind,
                            "local_day": str(letter.day),
                            "level": letter.level,
                            "pay_by": letter.pay_by and str(letter.pay_by),
                        }
                        for customer, letter in letters
                    ]
                ),
            },
        )
    }
    written = [
        (customer, letter, made[customer.account_id, customer.currency])
        for customer, letter in letters
        if (customer.account_id, customer.currency) in made
    ]
    _write_reminders(session, written)
    _end_promises(session, written, now)
    _queue_copies(session, written, ports)
    return len(written)


def _write_reminders(session: Session, written: Sequence[tuple[Customer, Letter, UUID]]) -> None:
    reminders = [
        {
            "account_id": str(customer.account_id),
            "letter_id": str(letter_id),
            "invoice_id": str(item.debt.invoice_id),
            "step": item.step.number,
            "level": item.level,
            "fee": item.fee,
        }
        for customer, letter, letter_id in written
        for item in letter.items
        if item.step is not None
    ]
    if reminders:
        session.execute(WRITE_REMINDERS, {"reminders": json.dumps(reminders)})


def _end_promises(session: Session, written: Sequence[tuple[Customer, Letter, UUID]], now: datetime) -> None:
    promises = [
        {"id": str(item.debt.promise.id), "letter_id": str(letter_id)}
        for _, letter, letter_id in written
        if letter.kind is LetterKind.PROMISE_BROKEN
        for item in letter.items
        if item.debt.promise
    ]
    if promises:
        session.execute(END_PROMISES, {"promises": json.dumps(promises), "now": now})


def _queue_copies(session: Session, written: Sequence[tuple[Customer, Letter, UUID]], ports: Ports) -> None:
    recipients: dict[UUID, list[tuple[UUID, str]]] = {}
    accounts = {customer.account_id for customer, _, _ in written}
    for row in session.execute(RECIPIENTS, {"accounts": list(accounts)}):
        recipients.setdefault(row.account_id, []).append((row.id, row.email))
    messages: list[Queued] = []
    copies = []
    for customer, letter, letter_id in written:
        context = message(customer, letter)
        for contact_id, email in recipients.get(customer.account_id, ()):
            key = f"reminder:{letter_id}:{contact_id}"
            messages.append(Queued(customer.account_id, contact_id, email, context, key))
            copies.append({"dedupe_key": key, "letter_id": str(letter_id)})
    queue(session, messages, ports)
    if copies:
        session.execute(WRITE_COPIES, {"copies": json.dumps(copies)})


def message(customer: Customer, letter: Letter) -> PaymentReminder | PromiseBroken:
    """The context of its e-mail."""
    invoices = tuple(
        OpenInvoice(number=item.debt.number, due_on=item.debt.due_on, still_open=item.debt.owed)
        for item in letter.items
        if item.debt.due_on
    )
    owed = sum(each.still_open for each in invoices)
    if letter.kind is LetterKind.PROMISE_BROKEN:
        promises = [item.debt.promise for item in letter.items if item.debt.promise]
        promised = sum(promise.amount for promise in promises)
        return PromiseBroken(
            account_name=customer.name,
            account_ref=customer.ref,
            currency=customer.currency,
            promised_for=promises[0].until,
            promised=promised,
            received=max(0, promised - owed),
            invoices=invoices,
        )
    assert letter.level is not None  # noqa: S101 - every reminder has one
    fees = customer.fees + sum(item.fee for item in letter.items)
    return PaymentReminder(
        level=Level(letter.level),
        account_name=customer.name,
        account_ref=customer.ref,
        currency=customer.currency,
        as_of=letter.day,
        invoices=invoices,
        others=sum(item.level is not letter.level for item in letter.items),
        fees=fees,
        total=owed + fees,
        pay_by=letter.pay_by,
    )
