"""Issuing: every period that has closed becomes an invoice of its charges (B8).

One statement of SQL invoices hundreds of accounts: it takes the charges that are on no invoice yet, works out the tax,
draws the numbers and writes invoices, lines, taxes and the work rows of their documents. A unique index keeps a charge
off a second invoice. Any number of issuers may run: they share the accounts out by row locks, and queue up for the
numbers alone, which a rollback gives back.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from email_templates.language.company import Company
from tasks.billing.statement_plan import FOR_THESE_ACCOUNTS, keep_letterhead
from tasks.engine.failpoints import failpoint
from tasks.ports.context import Ports

#: Accounts invoiced in one transaction, which is how long the others of a series wait for their numbers.
ISSUE_BATCH = 200

#: Locked by a statement of its own: the next one then sees every entry and invoice that was written before.
LOCK_DUE = text("""
    SELECT id FROM tenure.accounts WHERE status = 'active' AND invoice_due_at <= now()
     ORDER BY invoice_due_at LIMIT :batch FOR NO KEY UPDATE SKIP LOCKED""")

#: The same for one account, which is waited for.
LOCK_ONE = text("""
    SELECT id FROM tenure.accounts
     WHERE id = :account AND status = 'active' AND invoiced_from IS NOT NULL FOR NO KEY UPDATE""")

#: One invoice for each account and currency with charges that are on none. Everything is worked out before the counter
#: of the series is touched: from then on all other issuers of the series wait for this transaction's end.
ISSUE = text("""
    WITH due AS (
        SELECT id AS account_id, invoice_series, time_zone, payment_terms, invoiced_from,
               least(invoice_period_start, today) AS period_start,
               CASE WHEN :on_request THEN today
                    ELSE tenure.period_end(invoice_period_start, billing_day) - 1 END AS period_end,
               CASE WHEN :on_request THEN now() ELSE invoice_due_at END AS closes_at,
               today,
               jsonb_build_object('ref', ref, 'name', name, 'address', address, 'country', country,
                                  'tax_id', tax_id) AS buyer,
               coalesce((SELECT language FROM tenure.contacts
                          WHERE account_id = accounts.id AND receives_statements
                          ORDER BY created_at, id LIMIT 1), 'en') AS language
          FROM tenure.accounts, LATERAL (SELECT (now() AT TIME ZONE time_zone)::date AS today) AS now_there
         WHERE id = ANY (:accounts)
    ), charge AS MATERIALIZED (
        SELECT entry.id, entry.account_id, entry.currency, entry.amount, entry.description, entry.tax_category,
               entry.tax_rate, (entry.occurred_at AT TIME ZONE due.time_zone)::date AS occurred_on,
               row_number() OVER (PARTITION BY entry.account_id, entry.currency
                                  ORDER BY entry.occurred_at, entry.sequence) AS position
          FROM due JOIN tenure.ledger_entries AS entry ON entry.account_id = due.account_id
         WHERE entry.kind = 'charge' AND entry.occurred_at < due.closes_at
           AND (entry.occurred_at AT TIME ZONE due.time_zone)::date >= due.invoiced_from
           AND NOT EXISTS (SELECT FROM tenure.invoice_lines WHERE entry_id = entry.id)
    ), tax AS MATERIALIZED (
        -- See models.tax. PostgreSQL rounds a numeric's half away from zero.
        SELECT account_id, currency, tax_category, tax_rate, sum(amount)::bigint AS gross,
               round(sum(amount) * tax_rate / (10000 + tax_rate))::bigint AS tax
          FROM charge GROUP BY account_id, currency, tax_category, tax_rate
    ), draft AS MATERIALIZED (
        -- Of the first charge, which is on no other invoice: issued again after a restore, it is the same invoice.
        SELECT (SELECT tenure.derived_id(substring(uuid_send(first.id) FOR 6), 'invoice', first.id::text)
                  FROM charge AS first
                 WHERE first.account_id = tax.account_id AND first.currency = tax.currency AND position = 1) AS id,
               tax.account_id, tax.currency, sum(gross)::bigint AS total, sum(tax)::bigint AS tax,
               row_number() OVER (PARTITION BY due.invoice_series ORDER BY tax.account_id, tax.currency) AS place
          FROM tax JOIN due USING (account_id) GROUP BY tax.account_id, tax.currency, due.invoice_series
    ), line AS MATERIALIZED (
        SELECT draft.id AS invoice_id, charge.*,
               -- Each line has its share of the taxable base, so that the shares add up.
               (round(sum(charge.amount) OVER lines * (gross - tax.tax) / gross)
                - round((sum(charge.amount) OVER lines - charge.amount) * (gross - tax.tax) / gross))::bigint AS net
          FROM charge JOIN draft USING (account_id, currency)
          JOIN tax USING (account_id, currency, tax_category, tax_rate)
        WINDOW lines AS (PARTITION BY account_id, currency, tax_category, tax_rate ORDER BY position)
    ), wanted AS MATERIALIZED (
        SELECT invoice_series AS name, count(*) AS invoices FROM draft JOIN due USING (account_id)
         WHERE (SELECT count(*) FROM line) > 0 GROUP BY invoice_series
    ), counter AS MATERIALIZED (
        -- In one order, so that batches of several series never wait for each other in a circle.
        SELECT series.name, wanted.invoices FROM wanted
          JOIN tenure.invoice_series AS series ON series.name = wanted.name AND series.kind = 'invoice'
         ORDER BY series.name FOR NO KEY UPDATE OF series
    ), drawn AS (
        UPDATE tenure.invoice_series AS series SET last_number = series.last_number + counter.invoices
          FROM counter WHERE series.name = counter.name AND series.kind = 'invoice'
        RETURNING series.name, series.prefix, series.last_number - counter.invoices AS before
    ), issued AS (
        INSERT INTO tenure.invoices (id, account_id, kind, series, series_number, number, issued_on, period_start,
                                     period_end, payment_terms, due_on, currency, net, tax, total, letterhead, buyer,
                                     language, time_zone)
        SELECT draft.id, draft.account_id, 'invoice', drawn.name, before + place,
               drawn.prefix || lpad((before + place)::text, greatest(6, length((before + place)::text)), '0'),
               today, period_start, period_end, payment_terms, today + payment_terms, draft.currency, total - tax, tax,
               total, :letterhead, buyer, language, time_zone
          FROM draft JOIN due USING (account_id) JOIN drawn ON drawn.name = due.invoice_series
         ORDER BY place
        RETURNING id
    ), lines AS (
        INSERT INTO tenure.invoice_lines (invoice_id, position, entry_id, description, occurred_on, tax_category,
                                          tax_rate, net, gross)
        SELECT invoice_id, position, id, description, occurred_on, tax_category, tax_rate, net, amount FROM line
    ), taxes AS (
        INSERT INTO tenure.invoice_taxes (invoice_id, tax_category, tax_rate, base, tax)
        SELECT draft.id, tax_category, tax_rate, gross - tax.tax, tax.tax
          FROM tax JOIN draft USING (account_id, currency)
    ), documents AS (
        INSERT INTO tenure.invoice_documents (id, invoice_id)
        SELECT tenure.derived_id(substring(uuid_send(id) FOR 6), 'document', id::text), id FROM issued
    ), moved AS (
        UPDATE tenure.accounts AS account SET invoice_period_start = due.period_end + 1
          FROM due WHERE account.id = due.account_id AND NOT :on_request
    )
    SELECT id FROM issued""")


def issue(ports: Ports) -> dict[str, int]:
    """Issue the invoices of all periods that have closed.

    One period of an account at a time, so that an account which was not looked at for months gets an invoice for each.
    """
    counts = {"accounts": 0, "issued": 0}
    while not ports.stopping():
        with ports.database.transaction() as session:
            accounts, invoices = issue_batch(session, ports.letterhead.company)
            failpoint("invoices.issue_due", "before_commit")
        failpoint("invoices.issue_due", "after_commit")
        counts["accounts"] += accounts
        counts["issued"] += len(invoices)
        if not accounts:
            break
    return counts


def issue_batch(session: Session, company: Company, account_id: UUID | None = None) -> tuple[int, list[UUID]]:
    """Invoice one closed period of up to `ISSUE_BATCH` accounts, or what one account was charged until now.

    Returns how many accounts were looked at, and the invoices that were issued.
    """
    if account_id is None:
        accounts: Sequence[UUID] = session.scalars(LOCK_DUE, {"batch": ISSUE_BATCH}).all()
    else:
        accounts = session.scalars(LOCK_ONE, {"account": account_id}).all()
    if not accounts:
        return 0, []
    values = {
        "accounts": list(accounts),
        "letterhead": keep_letterhead(session, company),
        "on_request": account_id is not None,
    }
    session.execute(FOR_THESE_ACCOUNTS)
    return len(accounts), list(session.scalars(ISSUE, values))
