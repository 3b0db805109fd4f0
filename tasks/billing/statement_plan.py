"""Planning: every account, currency and period that has closed becomes a row (B3, B4, B7).

One statement of SQL plans thousands of accounts. It reads the ledger up to a sequence number, adds it up, ages what is
open as invoices and payments were set off against each other (B9), and copies into the row what the document will say
of customer and company, so that rendering needs nothing that can change. Any number of planners may run: they share the
accounts out by row locks, and a unique index would refuse a second row.
"""

from __future__ import annotations

import hashlib
from uuid import UUID

import msgspec
from sqlalchemy import text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from email_templates.language.company import Company
from models.billing.letterhead import Letterhead
from tasks.engine.failpoints import failpoint
from tasks.ports.context import Ports

#: Accounts planned in one transaction.
PLAN_BATCH = 5_000

#: Locked by a statement of its own: the next one then sees all that those did who held these locks before, a statement
#: planned by another planner and an entry just committed, which one taken before the locks might not.
LOCK_DUE = text("""
    SELECT id FROM tenure.accounts WHERE status = 'active' AND statement_due_at <= now()
     ORDER BY statement_due_at LIMIT :batch FOR NO KEY UPDATE SKIP LOCKED""")

#: The same for one account, which is waited for: somebody asked for its statement.
LOCK_ONE = text("""
    SELECT id FROM tenure.accounts WHERE id = :account AND status = 'active' AND statement_due_at <= now()
       FOR NO KEY UPDATE""")

#: After ten batches PostgreSQL would keep one plan of a statement for any number of accounts, which is one for ten of
#: them: for thousands it takes ten times as long.
FOR_THESE_ACCOUNTS = text("SET LOCAL plan_cache_mode = force_custom_plan")

PLAN = text("""
    WITH due AS (
        -- A period opens where the plan before it closed; the first one with its own first day. What the plan before
        -- could see, it has stated, even if that came to nothing; the first one takes all that is older for history.
        SELECT id, period_start, tenure.period_end(period_start, billing_day) AS period_end,
               coalesce(stated_until, tenure.day_begins(period_start, time_zone)) AS opens_at,
               greatest(statement_due_at, stated_until) AS closes_at,
               coalesce(stated_cutoff, cutoff) AS opening_cutoff, cutoff,
               ref, name, address, country, time_zone, statement_form, invoiced_from
          FROM tenure.accounts,
               LATERAL (SELECT coalesce(max(sequence), 0) AS cutoff
                          FROM tenure.ledger_entries WHERE account_id = accounts.id) AS seen
         WHERE id = ANY (:accounts)
    ), entries AS (
        -- Account by account through an index, whatever the planner thinks of the sizes (OFFSET 0): of a ledger of
        -- millions, a batch needs thousands. What Tenure is going to invoice is not due yet; all else says itself.
        SELECT due.id AS account_id, currency, amount, sequence, entry.id, entry.description, day, line.invoice_id,
               CASE WHEN kind = 'charge' AND day >= invoiced_from THEN NULL ELSE coalesce(due_on, day) END AS due_on,
               sequence <= opening_cutoff AND occurred_at < opens_at AS stated
          FROM due
         CROSS JOIN LATERAL (
               SELECT *, (occurred_at AT TIME ZONE due.time_zone)::date AS day FROM tenure.ledger_entries
                WHERE account_id = due.id AND occurred_at < due.closes_at OFFSET 0) AS entry
          LEFT JOIN tenure.invoice_lines AS line ON invoiced_from IS NOT NULL AND line.entry_id = entry.id
    ), figures AS (
        SELECT account_id, currency, coalesce(sum(amount) FILTER (WHERE stated), 0)::bigint AS opening,
               count(*) FILTER (WHERE NOT stated) AS line_count, sum(amount)::bigint AS closing
          FROM entries GROUP BY account_id, currency
    ), items AS (
        -- What is on an invoice is due with it; all else is an item by itself.
        SELECT account_id, currency, id, day, due_on, description, sequence, amount, amount AS item_amount
          FROM entries WHERE invoice_id IS NULL
        UNION ALL
        SELECT entries.account_id, entries.currency, invoice.id, min(day), invoiced.due_on, number,
               max(entries.sequence), sum(entries.amount)::bigint, total
          FROM entries
          JOIN tenure.invoices AS invoice ON invoice.id = entries.invoice_id
          JOIN tenure.open_items AS invoiced ON invoiced.invoice_id = invoice.id
         GROUP BY entries.account_id, entries.currency, invoice.id, invoiced.id
    ), settled AS (
        -- What was set off, of what this statement shows both sides of (B9).
        SELECT side.id, sum(side.amount)::bigint AS amount
          FROM due
          JOIN tenure.allocations AS allocation ON allocation.account_id = due.id AND allocation.sequence <= due.cutoff
          JOIN tenure.open_items AS credit ON credit.id = allocation.credit_id
          JOIN items AS paying ON paying.id = credit.entry_id
          JOIN tenure.open_items AS debit ON debit.id = allocation.debit_id
          JOIN items AS paid ON paid.id = coalesce(debit.invoice_id, debit.entry_id)
         CROSS JOIN LATERAL (VALUES (paying.id, allocation.amount), (paid.id, -allocation.amount)) AS side (id, amount)
         WHERE due.invoiced_from IS NOT NULL
         GROUP BY side.id
    ), owed AS MATERIALIZED (
        -- Of what was not set off, payments and credits settle what was due first. So what is open are the latest due
        -- amounts, back until they make up the balance; of a balance in the customer's favour, the latest payments and
        -- credits.
        SELECT account_id, currency, day, due_on, description, sequence, item_amount, remaining, closing,
               (sum(abs(remaining)) OVER (PARTITION BY account_id, currency
                                          ORDER BY due_on DESC NULLS FIRST, sequence DESC))::bigint AS running
          FROM items
          LEFT JOIN settled USING (id)
         CROSS JOIN LATERAL (SELECT items.amount + coalesce(settled.amount, 0) AS remaining) AS net
          JOIN figures USING (account_id, currency)
         WHERE sign(remaining) = sign(closing)
    ), open_items AS MATERIALIZED (
        SELECT account_id, currency, day, due_on, description, sequence, item_amount, statement_form,
               coalesce(period_end - 1 - due_on, 0) AS late,
               CASE WHEN closing > 0 THEN least(remaining, closing - running + remaining)
                    ELSE greatest(remaining, closing + running + remaining) END AS open
          FROM owed JOIN due ON due.id = account_id
         WHERE running - abs(remaining) < abs(closing)
    ), ageing AS (
        SELECT account_id, currency,
               sum(open) FILTER (WHERE open > 0 AND late <= 0) AS not_due,
               sum(open) FILTER (WHERE open > 0 AND late BETWEEN 1 AND 30) AS days_1_30,
               sum(open) FILTER (WHERE open > 0 AND late BETWEEN 31 AND 60) AS days_31_60,
               sum(open) FILTER (WHERE open > 0 AND late BETWEEN 61 AND 90) AS days_61_90,
               sum(open) FILTER (WHERE open > 0 AND late > 90) AS over_90,
               -sum(open) FILTER (WHERE open < 0) AS unapplied_credit,
               jsonb_agg(jsonb_build_array(day, due_on, description, item_amount, open)
                         ORDER BY due_on NULLS LAST, sequence) FILTER (WHERE statement_form = 'open_item') AS items
          FROM open_items GROUP BY account_id, currency
    ), first_contact AS (
        SELECT DISTINCT ON (account_id) account_id, language FROM tenure.contacts
         WHERE account_id = ANY (:accounts) AND receives_statements ORDER BY account_id, created_at, id
    ), planned AS (
        INSERT INTO tenure.statements (
               id, account_id, currency, period_start, period_end, opens_at, closes_at, opening_cutoff, cutoff,
               opening, closing, line_count, not_due, days_1_30, days_31_60, days_61_90, over_90, unapplied_credit,
               form, open_items, account_ref, account_name, address, country, time_zone, language, letterhead)
        SELECT tenure.derived_id(substring(int8send(extract(epoch FROM period_end)::bigint * 1000) FROM 3), 'statement',
                                 figures.account_id::text, currency, period_start::text),
               figures.account_id, currency, period_start, period_end, opens_at, closes_at, opening_cutoff, cutoff,
               opening, closing, line_count, coalesce(not_due, 0), coalesce(days_1_30, 0), coalesce(days_31_60, 0),
               coalesce(days_61_90, 0), coalesce(over_90, 0), coalesce(unapplied_credit, 0),
               statement_form, CASE statement_form WHEN 'open_item' THEN coalesce(items, '[]') END,
               ref, name, address, country, time_zone,
               language, :letterhead
          FROM figures JOIN due ON due.id = figures.account_id LEFT JOIN ageing USING (account_id, currency)
          LEFT JOIN first_contact USING (account_id)
         WHERE opening <> 0 OR line_count > 0
            ON CONFLICT (account_id, currency, period_start) DO NOTHING
        RETURNING id
    ), moved AS (
        UPDATE tenure.accounts AS account
           SET period_start = due.period_end, stated_until = due.closes_at, stated_cutoff = due.cutoff
          FROM due WHERE account.id = due.id AND account.id = ANY (:accounts)
        RETURNING account.id
    )
    SELECT (SELECT count(*) FROM moved) AS accounts, (SELECT count(*) FROM planned) AS statements""")


def plan(ports: Ports, *, account_id: UUID | None = None) -> dict[str, int]:
    """Make a row for every account, currency and period that has closed; of one account, or of all.

    One period of an account at a time, so that an account which was not looked at for months catches up.
    """
    counts = {"accounts": 0, "planned": 0}
    while not ports.stopping():
        with ports.database.transaction() as session:
            accounts, statements = plan_batch(session, ports.letterhead.company, account_id)
            failpoint("statements.plan", "before_commit")
        failpoint("statements.plan", "after_commit")
        counts["accounts"] += accounts
        counts["planned"] += statements
        if not accounts:
            break
    return counts


def plan_batch(session: Session, company: Company, account_id: UUID | None = None) -> tuple[int, int]:
    """Plan one closed period of up to `PLAN_BATCH` accounts; returns how many accounts moved on and rows were made."""
    if account_id is None:
        accounts = session.scalars(LOCK_DUE, {"batch": PLAN_BATCH}).all()
    else:
        accounts = session.scalars(LOCK_ONE, {"account": account_id}).all()
    if not accounts:
        return 0, 0
    session.execute(FOR_THESE_ACCOUNTS)
    row = session.execute(PLAN, {"accounts": list(accounts), "letterhead": keep_letterhead(session, company)}).one()
    return row.accounts, row.statements


def keep_letterhead(session: Session, company: Company) -> bytes:
    """See to it that the company as it is now is among the letterheads; returns the name of this version."""
    content = msgspec.json.encode(company, order="sorted")
    name = hashlib.sha256(content).digest()
    session.execute(
        insert(Letterhead).values(sha256=name, content=msgspec.json.decode(content)).on_conflict_do_nothing()
    )
    return name
