"""What keeps reminders back, as the web tier or an operator says: pauses, promises, disputes (B17).

Each changes rows in the transaction of its request; the next plan, or the last look at a letter on its way, sees them.
Asked for twice, the second changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from uuid import UUID

import msgspec
from sqlalchemy import text
from sqlalchemy.orm import Session

from models.reminders.reminder import HoldKind, HoldOutcome
from models.work.request import JobRequest
from tasks.client.requests import RemindersDispute, RemindersPause, RemindersPromise, RemindersResume
from tasks.engine.locks import lock_timeout
from tasks.failures import Permanent
from tasks.ports.context import Ports
from tasks.requests.registry import handles

#: Days that somebody may be waited for.
LONGEST_PROMISE = 366

INVOICE = text("""
    SELECT id FROM tenure.invoices WHERE account_id = :account AND number = :number AND kind = 'invoice'""")

END = text("""
    UPDATE tenure.reminder_holds SET ended_at = now(), outcome = :outcome
     WHERE account_id = :account AND invoice_id IS NOT DISTINCT FROM :invoice AND kind = :kind AND ended_at IS NULL""")

END_ALL = text("""
    UPDATE tenure.reminder_holds SET ended_at = now(), outcome = :outcome
     WHERE account_id = :account AND kind = :kind AND ended_at IS NULL""")

#: What `reminders.resume` can end.
ENDABLE = ("pause", "promise", "dispute")

HOLD = text("""
    INSERT INTO tenure.reminder_holds (account_id, invoice_id, kind, until, amount)
    VALUES (:account, :invoice, :kind, :until, :amount)""")

TODAY = text("SELECT (now() AT TIME ZONE time_zone)::date FROM tenure.accounts WHERE id = :account FOR NO KEY UPDATE")

OWED = text("""
    SELECT invoice_id, open - disputed AS owed FROM tenure.open_items
     WHERE account_id = :account AND invoice_id IS NOT NULL AND open > disputed
       AND (CAST(:invoice AS uuid) IS NULL OR invoice_id = :invoice)""")

LINES = text("""
    SELECT line.position, line.gross - coalesce(
               (SELECT sum(gross) FROM tenure.invoice_lines WHERE corrects_id = line.id), 0)::bigint AS remaining
      FROM tenure.invoice_lines AS line WHERE line.invoice_id = :invoice""")

DISPUTE = text("""
    UPDATE tenure.open_items SET disputed = least(CAST(:amount AS bigint), amount) WHERE invoice_id = :invoice""")


@handles(RemindersPause)
def pause(session: Session, account_id: UUID, request_id: UUID, _ports: Ports) -> None:
    """For a request `reminders.pause`."""
    asked = msgspec.convert(session.get_one(JobRequest, request_id).args, RemindersPause)
    set_pause(session, account_id, asked.invoice, asked.until)


@handles(RemindersPromise)
def promise(session: Session, account_id: UUID, request_id: UUID, _ports: Ports) -> None:
    """For a request `reminders.promise`."""
    asked = msgspec.convert(session.get_one(JobRequest, request_id).args, RemindersPromise)
    set_promise(session, account_id, asked.invoice, asked.until)


@handles(RemindersDispute)
def dispute(session: Session, account_id: UUID, request_id: UUID, _ports: Ports) -> None:
    """For a request `reminders.dispute`."""
    asked = msgspec.convert(session.get_one(JobRequest, request_id).args, RemindersDispute)
    set_dispute(session, account_id, asked.invoice, asked.lines)


@handles(RemindersResume)
def resume(session: Session, account_id: UUID, request_id: UUID, _ports: Ports) -> None:
    """For a request `reminders.resume`."""
    asked = msgspec.convert(session.get_one(JobRequest, request_id).args, RemindersResume)
    end_early(session, account_id, asked.invoice, only=asked.only)


def set_pause(session: Session, account: UUID, number: str | None, until: date | None) -> None:
    """Send no reminders of this invoice, or of any of the account, before the day after `until`; None has no end.

    A new pause replaces the old one. Raises Permanent for a day that is past or an unknown invoice, and Transient when
    another transaction holds the account for too long.
    """
    invoice = _invoice(session, account, number) if number else None
    with lock_timeout(session):
        _not_past(session, account, until)
        values = {"account": account, "invoice": invoice, "kind": HoldKind.PAUSE}
        session.execute(END, {**values, "outcome": HoldOutcome.REPLACED})
        session.execute(HOLD, {**values, "until": until, "amount": None})


def set_promise(session: Session, account: UUID, number: str | None, until: date) -> None:
    """Record that what is open of this invoice, or of all of the account, is promised for `until`.

    Raises as `set_pause` does, and Permanent where nothing is open or the day is more than `LONGEST_PROMISE` days away.
    """
    invoice = _invoice(session, account, number) if number else None
    with lock_timeout(session):
        today = _not_past(session, account, until)
        if (until - today).days > LONGEST_PROMISE:
            raise Permanent(
                f"The promise is for {until}: choose a day that is at most {LONGEST_PROMISE} days from now."
            )
        owed = session.execute(OWED, {"account": account, "invoice": invoice}).all()
        if not owed:
            raise Permanent("Nothing is open that could be promised.")
        for row in owed:
            values = {"account": account, "invoice": row.invoice_id, "kind": HoldKind.PROMISE}
            session.execute(END, {**values, "outcome": HoldOutcome.REPLACED})
            session.execute(HOLD, {**values, "until": until, "amount": row.owed})


def set_dispute(session: Session, account: UUID, number: str, lines: str | None) -> None:
    """Record that the customer disputes these lines of the invoice (`1,3`), or all of it. Raises as `set_pause`."""
    invoice = _invoice(session, account, number)
    left = {row.position: row.remaining for row in session.execute(LINES, {"invoice": invoice})}
    amount = sum(left[position] for position in _positions(lines, left, number))
    with lock_timeout(session):
        session.execute(DISPUTE, {"invoice": invoice, "amount": amount})


def end_early(session: Session, account: UUID, number: str | None, *, only: str | None = None) -> None:
    """End the pause, promise and dispute of this invoice, or the pause and promises of the account.

    `only` restricts it to `pause`, `promise` or `dispute`. Nothing to end is no error. Raises Permanent for another
    word, for a dispute without an invoice, and for an unknown invoice; Transient as `set_pause` does.
    """
    if only not in (None, *ENDABLE):
        raise Permanent(f"{only!r} cannot be ended: write {', '.join(ENDABLE)}, or leave it out to end all of them.")
    if only == "dispute" and number is None:
        raise Permanent("A dispute is always of an invoice: give its number.")
    invoice = _invoice(session, account, number) if number else None
    values = {"account": account, "invoice": invoice, "outcome": HoldOutcome.LIFTED}
    with lock_timeout(session):
        _not_past(session, account, None)
        if only in (None, "pause"):
            session.execute(END, {**values, "kind": HoldKind.PAUSE})
        if only in (None, "promise"):
            session.execute(END if invoice else END_ALL, {**values, "kind": HoldKind.PROMISE})
        if invoice and only in (None, "dispute"):
            session.execute(DISPUTE, {"invoice": invoice, "amount": 0})


def _positions(lines: str | None, left: dict[int, int], number: str) -> Sequence[int]:
    if lines is None:
        return list(left)
    try:
        wanted = sorted({int(each) for each in lines.split(",")})
    except ValueError:
        raise Permanent(f"{lines!r} are no lines: write their numbers on the invoice, such as 1,3.") from None
    if unknown := [str(each) for each in wanted if each not in left]:
        raise Permanent(f"The invoice {number} has no line {', '.join(unknown)}.")
    return wanted


def _invoice(session: Session, account: UUID, number: str) -> UUID:
    found = session.scalars(INVOICE, {"account": account, "number": number}).one_or_none()
    if found is None:
        raise Permanent(f"The account has no invoice {number!r}.")
    made: UUID = found
    return made


def _not_past(session: Session, account: UUID, until: date | None) -> date:
    """The account's today, its row held; Permanent where `until` is before it."""
    today: date = session.scalars(TODAY, {"account": account}).one()
    if until is not None and until < today:
        raise Permanent(f"{until} is past: it is {today} there.")
    return today
