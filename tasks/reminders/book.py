"""Customers as the database knows them, in sets, for `tasks.reminders.ladder` to decide about (B11 to B18)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import structlog
from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from models.reminders.policy import ReminderLevel
from tasks.reminders.ladder import Customer, Debt, Policy, Promise, Step

log = structlog.get_logger()

#: Read once by whoever decides, and passed down.
CLOCK = text("SELECT now()")

POLICIES = text("""
    SELECT policy.id, policy.name, policy.is_default, policy.grace_days, policy.minimum_gap_days, policy.opens_at,
           policy.closes_at, step.number, step.days, step.level, step.fee, step.fee_currency, step.pay_within
      FROM tenure.reminder_policies AS policy
      LEFT JOIN tenure.reminder_steps AS step ON step.policy_id = policy.id ORDER BY policy.id, step.number""")

#: Works out from which day each item may need a reminder: that of its next step, or the day after a promise; never, if
#: it had its last one. Whatever that stands on resets it (`models/schema/sql/215_looks.sql`), so it is done once a
#: change.
REST = text("""
    WITH looked AS (
        SELECT item.id, item.due_on, item.invoice_id, item.account_id, item.open > item.disputed AS owed,
               account.reminder_policy_id
          FROM tenure.open_items AS item
          JOIN tenure.accounts AS account ON account.id = item.account_id AND account.status = 'active'
         WHERE item.remind_from = DATE '0001-01-01' AND item.open > 0 AND item.invoice_id IS NOT NULL
         LIMIT :batch FOR NO KEY UPDATE OF item SKIP LOCKED)
    UPDATE tenure.open_items AS item
       SET remind_from = CASE WHEN owed THEN least(
               (SELECT looked.due_on + min(step.days + CASE WHEN step.days > 0 THEN policy.grace_days ELSE 0 END)
                  FROM tenure.reminder_policies AS policy
                  JOIN tenure.reminder_steps AS step ON step.policy_id = policy.id
                 WHERE CASE WHEN looked.reminder_policy_id IS NULL THEN policy.is_default
                            ELSE policy.id = looked.reminder_policy_id END
                   AND step.number > coalesce((SELECT max(reminder.step) FROM tenure.reminders AS reminder
                                                WHERE reminder.invoice_id = looked.invoice_id
                                                  AND reminder.withdrawn_at IS NULL), 0)),
               (SELECT min(hold.until) + 1 FROM tenure.reminder_holds AS hold
                 WHERE hold.invoice_id = looked.invoice_id AND hold.account_id = looked.account_id
                   AND hold.kind = 'promise' AND hold.ended_at IS NULL)) END
      FROM looked WHERE item.id = looked.id""")

#: Accounts that may have to be written to now: a superset, which leaves business days, gaps and holds to the ladder.
CANDIDATES = text("""
    WITH policy AS MATERIALIZED (
        SELECT id, is_default, opens_at, closes_at, grace_days FROM tenure.reminder_policies
    ), step AS MATERIALIZED (
        SELECT step.policy_id, step.number, step.days + CASE WHEN days > 0 THEN grace_days ELSE 0 END AS days
          FROM tenure.reminder_steps AS step JOIN policy ON policy.id = step.policy_id
    )
    SELECT DISTINCT account.id
      FROM tenure.open_items AS item
      JOIN tenure.accounts AS account ON account.id = item.account_id AND account.status = 'active'
      JOIN policy ON CASE WHEN account.reminder_policy_id IS NULL THEN policy.is_default
                          ELSE policy.id = account.reminder_policy_id END
     CROSS JOIN LATERAL (SELECT CAST(:now AS timestamptz) AT TIME ZONE account.time_zone AS wall) AS there
     WHERE item.open > 0 AND item.invoice_id IS NOT NULL AND item.open > item.disputed
       AND item.remind_from <= (CAST(:now AS timestamptz) AT TIME ZONE 'UTC')::date + 1
       AND there.wall::time >= policy.opens_at AND there.wall::time < policy.closes_at
       AND (EXISTS (SELECT FROM step
                     WHERE step.policy_id = policy.id AND item.due_on + step.days <= there.wall::date
                       AND step.number > coalesce((SELECT max(reminder.step) FROM tenure.reminders AS reminder
                                                    WHERE reminder.invoice_id = item.invoice_id
                                                      AND reminder.withdrawn_at IS NULL), 0))
            OR EXISTS (SELECT FROM tenure.reminder_holds AS hold
                        WHERE hold.invoice_id = item.invoice_id AND hold.account_id = item.account_id
                          AND hold.kind = 'promise' AND hold.ended_at IS NULL AND hold.until < there.wall::date))""")

CUSTOMERS = text("""
    SELECT account.id, account.ref, account.name, account.time_zone, account.country, account.reminder_policy_id,
           EXISTS (SELECT FROM tenure.contacts AS contact
                    WHERE contact.account_id = account.id AND contact.receives_statements
                      AND NOT EXISTS (SELECT FROM tenure.suppressions
                                       WHERE address = lower(contact.email) AND lifted_at IS NULL)) AS reachable,
           pause.id IS NOT NULL AS paused, pause.until AS paused_until
      FROM tenure.accounts AS account
      LEFT JOIN tenure.reminder_holds AS pause
        ON pause.account_id = account.id AND pause.invoice_id IS NULL
           AND pause.kind = 'pause' AND pause.ended_at IS NULL
     WHERE account.id = ANY (:accounts) AND account.status = 'active'""")

#: A payment counts as under way while an attempt is, and while another one is to be made; and of an invoice that was
#: not tried yet, until a day after it is due, by which time it has been (B12, B23).
DEBTS = text("""
    SELECT item.account_id, item.currency, item.invoice_id, invoice.number, item.due_on, item.open,
           least(item.disputed, item.open) AS disputed, coalesce(had.step, 0) AS had,
           coalesce(had.warned, false) AS warned, coalesce(had.warning, false) AS warning, had.reminded_on,
           resumed.resumed_on,
           pause.id IS NOT NULL AS paused, pause.until AS paused_until,
           promise.id AS promise, promise.until AS promised_until, promise.amount AS promised,
           CASE WHEN latest.id IS NULL
                THEN method.id IS NOT NULL AND item.due_on >= there.today - 1
                ELSE latest.state IN ('pending', 'running', 'unknown', 'failed')
                     OR latest.outcome = 'processing'
                     OR method.id IS NOT NULL AND latest.next_attempt_on >= there.today - 1
                     OR latest.outcome = 'declined' AND latest.method_id <> method.id
                        AND latest.local_day >= there.today - 1
           END IS TRUE AS collecting
      FROM tenure.open_items AS item
      JOIN tenure.invoices AS invoice ON invoice.id = item.invoice_id
      JOIN tenure.accounts AS account ON account.id = item.account_id
     CROSS JOIN LATERAL (SELECT (CAST(:now AS timestamptz) AT TIME ZONE account.time_zone)::date AS today) AS there
      LEFT JOIN LATERAL (
            SELECT max(reminder.step) AS step, max(letter.local_day) AS reminded_on,
                   bool_or(reminder.level <> 'upcoming' AND tenure.is_reminder_accepted(letter.id)) AS warned,
                   bool_or(reminder.level <> 'upcoming' AND tenure.is_reminder_under_way(letter.id)) AS warning
              FROM tenure.reminders AS reminder JOIN tenure.reminder_letters AS letter ON letter.id = reminder.letter_id
             WHERE reminder.invoice_id = item.invoice_id AND reminder.withdrawn_at IS NULL
               AND reminder.letter_id IS DISTINCT FROM CAST(:but AS uuid)) AS had ON true
      LEFT JOIN tenure.reminder_holds AS pause
        ON pause.invoice_id = item.invoice_id AND pause.kind = 'pause' AND pause.ended_at IS NULL
      LEFT JOIN tenure.reminder_holds AS promise
        ON promise.invoice_id = item.invoice_id AND promise.kind = 'promise'
           AND (promise.ended_at IS NULL OR promise.letter_id = CAST(:but AS uuid))
     CROSS JOIN LATERAL (
            -- When holds that were ended were over: a pause with its day at the latest, a promise when told as broken.
            SELECT max(CASE WHEN hold.kind = 'promise' THEN (hold.ended_at AT TIME ZONE account.time_zone)::date
                            ELSE least(hold.until + 1, (hold.ended_at AT TIME ZONE account.time_zone)::date) END)
                       AS resumed_on
              FROM tenure.reminder_holds AS hold
             WHERE hold.account_id = item.account_id AND (hold.invoice_id IS NULL OR hold.invoice_id = item.invoice_id)
               AND hold.outcome IN ('lifted', 'broken')
               AND hold.letter_id IS DISTINCT FROM CAST(:but AS uuid)) AS resumed
      LEFT JOIN tenure.payment_methods AS method ON method.account_id = item.account_id AND method.retired_at IS NULL
      LEFT JOIN LATERAL (
            SELECT * FROM tenure.collection_attempts AS attempt
             WHERE attempt.invoice_id = item.invoice_id ORDER BY number DESC LIMIT 1) AS latest ON true
     WHERE item.account_id = ANY (:accounts) AND item.open > 0 AND item.invoice_id IS NOT NULL
     ORDER BY item.account_id, item.currency, item.due_on NULLS LAST, invoice.number""")

LETTERS = text("""
    SELECT letter.account_id, letter.currency, max(letter.local_day) AS last_letter_on,
           bool_or(letter.settled_at IS NULL AND tenure.is_reminder_under_way(letter.id)) AS under_way
      FROM tenure.reminder_letters AS letter
     WHERE letter.account_id = ANY (:accounts) AND letter.withdrawn_at IS NULL
       AND letter.id IS DISTINCT FROM CAST(:but AS uuid)
     GROUP BY letter.account_id, letter.currency""")

#: What the invoice of the next period will take up is not asked for twice.
FEES = text("""
    SELECT reminder.account_id, letter.currency, sum(reminder.fee)::bigint AS fees
      FROM tenure.reminders AS reminder
      JOIN tenure.reminder_letters AS letter ON letter.id = reminder.letter_id
     WHERE reminder.account_id = ANY (:accounts) AND reminder.fee IS NOT NULL AND reminder.withdrawn_at IS NULL
       AND (reminder.fee_entry_id IS NOT NULL OR EXISTS (
            SELECT FROM tenure.reminder_copies AS copy
              JOIN tenure.email_messages AS email ON email.id = copy.email_message_id
             WHERE copy.letter_id = letter.id AND email.state = 'done'))
       AND letter.id IS DISTINCT FROM CAST(:but AS uuid)
       AND NOT EXISTS (SELECT FROM tenure.invoice_lines WHERE entry_id = reminder.fee_entry_id)
     GROUP BY reminder.account_id, letter.currency""")


@dataclass(frozen=True, slots=True)
class Policies:
    by_id: dict[UUID, Policy]
    default: Policy | None

    def of(self, policy_id: UUID | None) -> Policy | None:
        return self.default if policy_id is None else self.by_id[policy_id]


def clock(session: Session) -> datetime:
    """What time it is for everything that one transaction decides: the database's."""
    now: datetime = session.scalars(CLOCK).one()
    return now


def policies(session: Session) -> Policies:
    """All of them: a company has a handful."""
    found: dict[UUID, list[Row[Any]]] = {}
    for row in session.execute(POLICIES):
        found.setdefault(row.id, []).append(row)
    made = {key: _policy(rows) for key, rows in found.items()}
    default = next((key for key, rows in found.items() if rows[0].is_default), None)
    return Policies(made, made[default] if default else None)


def _policy(rows: Sequence[Row[Any]]) -> Policy:
    first = rows[0]
    return Policy(
        name=first.name,
        steps=tuple(
            Step(row.number, row.days, ReminderLevel(row.level), row.fee, row.fee_currency, row.pay_within)
            for row in rows
            if row.number is not None
        ),
        grace_days=first.grace_days,
        minimum_gap_days=first.minimum_gap_days,
        opens_at=first.opens_at,
        closes_at=first.closes_at,
    )


def load(
    session: Session, accounts: Iterable[UUID], now: datetime, *, but: UUID | None = None, known: Policies | None = None
) -> list[Customer]:
    """The customers among these accounts that are active and owe something, one for each currency.

    `but` is a letter that is to be thought away, because it is the one that is being looked at.
    """
    values = {"accounts": list(accounts), "now": now, "but": but}
    known = known or policies(session)
    owners = {row.id: row for row in session.execute(CUSTOMERS, values)}
    letters = {(row.account_id, row.currency): row for row in session.execute(LETTERS, values)}
    fees = {(row.account_id, row.currency): row.fees for row in session.execute(FEES, values)}
    debts: dict[tuple[UUID, str], list[Debt]] = {}
    for row in session.execute(DEBTS, values):
        debts.setdefault((row.account_id, row.currency), []).append(_debt(row))
    customers = []
    for (account_id, currency), owed in debts.items():
        owner = owners.get(account_id)
        if owner is None:
            continue
        lives_in = zone(owner.time_zone)
        if lives_in is None:
            log.warning("reminders.no_such_zone", account=str(account_id))
            continue
        last = letters.get((account_id, currency))
        customers.append(
            Customer(
                account_id=account_id,
                ref=owner.ref,
                name=owner.name,
                currency=currency,
                zone=lives_in,
                country=owner.country,
                policy=known.of(owner.reminder_policy_id),
                debts=tuple(owed),
                reachable=owner.reachable,
                paused=owner.paused,
                paused_until=owner.paused_until,
                last_letter_on=last.last_letter_on if last else None,
                under_way=bool(last and last.under_way),
                fees=fees.get((account_id, currency), 0),
            )
        )
    return customers


def _debt(row: Row[Any]) -> Debt:
    return Debt(
        invoice_id=row.invoice_id,
        number=row.number,
        due_on=row.due_on,
        open=row.open,
        disputed=row.disputed,
        had=row.had,
        warned=row.warned,
        warning=row.warning,
        reminded_on=row.reminded_on,
        resumed_on=row.resumed_on,
        paused=row.paused,
        paused_until=row.paused_until,
        promise=Promise(row.promise, row.promised_until, row.promised) if row.promise else None,
        collecting=row.collecting,
    )


@lru_cache(maxsize=1024)
def zone(name: str) -> ZoneInfo | None:
    """None for what PostgreSQL takes for a time zone and nobody else does, such as `UTC+3`."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        return None
