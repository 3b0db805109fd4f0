"""Planning: whoever is to be reminded at this moment gets a letter, and nothing is planned ahead (B14 to B18).

A question, not a schedule: what is due, open and not yet reminded of is asked for at each tick, so that a changed due
date, a payment or an outage needs no planning anew. Candidates are found in one statement; accounts are locked, looked
at by `tasks.reminders.ladder` and written to in batches. Any number of planners may run: they share the accounts by row
locks, and unique indexes allow one letter a day and one reminder of an invoice at a step, ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from celery import shared_task
from sqlalchemy import text
from sqlalchemy.orm import Session

from models.work.counter import count
from tasks.engine.failpoints import failpoint
from tasks.engine.task import Tick
from tasks.ports.context import Ports, current
from tasks.reminders import book
from tasks.reminders.ladder import decide
from tasks.reminders.letter import write

TASK = "reminders.plan"
#: Accounts looked at in one transaction, whose ledgers wait for it.
BATCH = 200
#: Open items whose next look is worked out in one transaction.
REST_BATCH = 1_000

#: Accounts that somebody writes to at this moment are looked at by the next tick.
LOCK = text("""
    SELECT id FROM tenure.accounts WHERE id = ANY (:accounts) AND status = 'active'
     ORDER BY id FOR NO KEY UPDATE SKIP LOCKED""")

#: Letters of which nothing left and nothing will: their days and steps are free again, broken promises untold. Here and
#: below those of an account whose contract is over stay as they are: one of them would stop the planning for all (T9).
WITHDRAW = text("""
    WITH void AS (
        UPDATE tenure.reminder_letters AS letter SET withdrawn_at = :now, settled_at = :now
         WHERE letter.settled_at IS NULL
           AND letter.account_id IN (SELECT id FROM tenure.accounts WHERE status = 'active')
           AND NOT EXISTS (SELECT FROM tenure.reminder_copies AS copy
                             JOIN tenure.email_messages AS email ON email.id = copy.email_message_id
                            WHERE copy.letter_id = letter.id AND email.state <> 'cancelled')
        RETURNING letter.id
    ), reminders AS (
        UPDATE tenure.reminders AS reminder SET withdrawn_at = :now
          FROM void WHERE reminder.letter_id = void.id AND reminder.withdrawn_at IS NULL
    ), promises AS (
        UPDATE tenure.reminder_holds AS hold SET ended_at = NULL, outcome = NULL, letter_id = NULL
          FROM void
         WHERE hold.letter_id = void.id
           AND NOT EXISTS (SELECT FROM tenure.reminder_holds AS newer
                            WHERE newer.invoice_id = hold.invoice_id AND newer.kind = 'promise'
                              AND newer.ended_at IS NULL)
    )
    SELECT count(*) FROM void""")

#: A fee is charged when its letter was accepted, once: by the reminder's id.
CHARGE = text("""
    WITH agreed AS MATERIALIZED (
        SELECT reminder.id, reminder.account_id, letter.currency, reminder.fee, invoice.number
          FROM tenure.reminder_letters AS letter
          JOIN tenure.reminders AS reminder ON reminder.letter_id = letter.id
          JOIN tenure.invoices AS invoice ON invoice.id = reminder.invoice_id
         WHERE letter.settled_at IS NULL AND reminder.fee IS NOT NULL AND reminder.fee_entry_id IS NULL
           AND reminder.withdrawn_at IS NULL
           AND EXISTS (SELECT FROM tenure.reminder_copies AS copy
                         JOIN tenure.email_messages AS email ON email.id = copy.email_message_id
                        WHERE copy.letter_id = letter.id AND email.state = 'done')
         LIMIT :batch
    ), free AS MATERIALIZED (
        SELECT id FROM tenure.accounts WHERE id IN (SELECT account_id FROM agreed) AND status = 'active'
         ORDER BY id FOR NO KEY UPDATE SKIP LOCKED
    ), charged AS (
        INSERT INTO tenure.ledger_entries (account_id, kind, currency, amount, description, occurred_at, external_ref)
        SELECT agreed.account_id, 'charge', agreed.currency, agreed.fee, 'Reminder fee for invoice ' || agreed.number,
               :now, 'reminder-fee:' || agreed.id
          FROM agreed JOIN free ON free.id = agreed.account_id ORDER BY agreed.account_id, agreed.id
            ON CONFLICT ON CONSTRAINT uq_ledger_entries_account_id_external_ref DO NOTHING
        RETURNING id, external_ref
    )
    UPDATE tenure.reminders AS reminder SET fee_entry_id = charged.id
      FROM charged WHERE charged.external_ref = 'reminder-fee:' || reminder.id""")

#: Letters whose copies are all at their end for good, and whose fees are charged: nothing will look at them again.
SETTLE = text("""
    UPDATE tenure.reminder_letters AS letter SET settled_at = :now
     WHERE letter.settled_at IS NULL
       AND letter.account_id IN (SELECT id FROM tenure.accounts WHERE status = 'active')
       AND NOT EXISTS (SELECT FROM tenure.reminder_copies AS copy
                         JOIN tenure.email_messages AS email ON email.id = copy.email_message_id
                        WHERE copy.letter_id = letter.id AND email.state NOT IN ('done', 'cancelled'))
       AND NOT EXISTS (SELECT FROM tenure.reminders AS reminder
                        WHERE reminder.letter_id = letter.id AND reminder.fee IS NOT NULL
                          AND reminder.fee_entry_id IS NULL AND reminder.withdrawn_at IS NULL)""")

#: A promise of which nothing is open any more was kept, whenever the money came.
KEPT = text("""
    UPDATE tenure.reminder_holds AS hold SET ended_at = :now, outcome = 'kept'
      FROM tenure.open_items AS item
     WHERE hold.kind = 'promise' AND hold.ended_at IS NULL AND item.invoice_id = hold.invoice_id AND item.open = 0
       AND hold.account_id IN (SELECT id FROM tenure.accounts WHERE status = 'active')""")


def plan(ports: Ports) -> dict[str, int]:
    """Settle what became of earlier letters, and write those that are due now; returns how many of each."""
    counts = settle(ports)
    rest(ports)
    with ports.database.snapshot() as session:
        now = book.clock(session)
        candidates = session.scalars(book.CANDIDATES, {"now": now}).all()
        known = book.policies(session)
    planned = 0
    for first in range(0, len(candidates), BATCH):
        if ports.stopping():
            break
        with ports.database.transaction() as session:
            written = _write(session, candidates[first : first + BATCH], known, now, ports)
            count(session.connection(), TASK, "planned", written)
            failpoint("reminders.plan", "before_commit")
        failpoint("reminders.plan", "after_commit")
        planned += written
    return {"planned": planned} | {name: value for name, value in counts.items() if value}


def rest(ports: Ports) -> None:
    """Work out when each item that changed is to be looked at next."""
    last = REST_BATCH
    while last == REST_BATCH and not ports.stopping():
        with ports.database.connection() as connection:
            last = connection.execute(book.REST, {"batch": REST_BATCH}).rowcount


def settle(ports: Ports) -> dict[str, int]:
    """What became of letters: withdrawn ones free their days and steps, accepted ones cost their fees."""
    with ports.database.transaction() as session:
        now = book.clock(session)
        withdrawn = int(session.scalars(WITHDRAW, {"now": now}).one())
        session.execute(KEPT, {"now": now})
        count(session.connection(), TASK, "withdrawn", withdrawn)
        failpoint("reminders.plan", "before_settle_commit")
    fees, last = 0, BATCH
    while last == BATCH and not ports.stopping():
        with ports.database.connection() as connection:
            last = connection.execute(CHARGE, {"now": now, "batch": BATCH}).rowcount
            count(connection, TASK, "fees", last)
            failpoint("reminders.plan", "before_charge_commit")
        fees += last
    with ports.database.connection() as connection:
        connection.execute(SETTLE, {"now": now})
    failpoint("reminders.plan", "after_settle")
    return {"withdrawn": withdrawn, "fees": fees}


def _write(session: Session, accounts: Sequence[UUID], known: book.Policies, now: datetime, ports: Ports) -> int:
    locked = session.scalars(LOCK, {"accounts": list(accounts)}).all()
    if not locked:
        return 0
    letters = [
        (customer, letter)
        for customer in book.load(session, locked, now, known=known)
        if (letter := decide(customer, now)) is not None
    ]
    return write(session, letters, now, ports) if letters else 0


@shared_task(name=TASK, base=Tick)
def plan_reminders() -> dict[str, int]:
    ports = current()
    counts = plan(ports)
    if counts["planned"]:
        ports.wake("emails.send")
    return counts
