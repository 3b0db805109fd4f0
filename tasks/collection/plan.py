"""Planning: every invoice that is due, of an account that pays by itself, becomes an attempt to collect it (B20, B23).

One statement of SQL, which looks at what is open now, at the account's own calendar, and at what became of the attempt
before. Any number of planners may run: unique indexes allow one attempt in flight and one a local day.
"""

from __future__ import annotations

from sqlalchemy import text

from tasks.engine.failpoints import failpoint
from tasks.ports.context import Ports

#: Items looked at in one transaction.
PLAN_BATCH = 1_000
#: The days after a first decline on which the same method is tried once more: 8 attempts in 14 days, and no more (B23).
RETRY_DAYS = (0, 1, 3, 5, 7, 9, 11, 13)

#: Items that rest, of accounts that have a new means of payment which they were not tried with. A trigger brings back
#: those that nobody holds at that moment; here are the others.
NEW_METHODS = text("""
    UPDATE tenure.open_items SET collect_from = DATE '0001-01-01'
     WHERE id = ANY (ARRAY(
        SELECT item.id
          FROM tenure.payment_methods AS method
          JOIN tenure.accounts AS account ON account.id = method.account_id AND account.status = 'active'
          JOIN tenure.open_items AS item
            ON item.account_id = method.account_id AND item.open > 0 AND item.invoice_id IS NOT NULL
         WHERE method.created_at > now() - interval '7 days' AND method.retired_at IS NULL
           AND item.collect_from IS NULL AND item.open > item.disputed
           AND NOT EXISTS (SELECT FROM tenure.collection_attempts AS attempt
                            WHERE attempt.invoice_id = item.invoice_id
                              AND (attempt.method_id = method.id OR attempt.outcome = 'charged'))
           FOR NO KEY UPDATE OF item SKIP LOCKED))""")

#: An item that is looked at gets an attempt or rests: until a day, or until a trigger of
#: `models/schema/sql/215_looks.sql`
#: brings it back. So those that will never be collected are not looked at again.
#:
#: After a charge, an invoice is never collected again by itself, even if it is open again: somebody gave the money back
#: or took it back. After a hard decline it is only by a new method.
PLAN = text("""
    WITH looked AS MATERIALIZED (
    SELECT item.id, account.id AS account_id, item.invoice_id, method.id AS method_id, today, item.currency,
           coalesce(latest.number, 0) + 1 AS number, latest.next_attempt_on,
           CASE WHEN latest.outcome = 'declined' AND latest.method_id <> method.id THEN latest.local_day + 1 END
               AS other_method_on,
           (item.open > item.disputed AND item.due_on <= today AND method.id IS NOT NULL
            AND (latest.id IS NULL OR latest.next_attempt_on <= today
                 OR latest.outcome = 'declined' AND latest.method_id <> method.id AND latest.local_day < today)
            AND NOT EXISTS (
                SELECT FROM tenure.collection_attempts AS earlier
                 WHERE earlier.invoice_id = item.invoice_id AND earlier.method_id = method.id
                   AND earlier.outcome = 'declined' AND earlier.local_day < today - CAST(:last_day AS int)))
               IS TRUE AS wanted,
           item.due_on
      FROM tenure.open_items AS item
      JOIN tenure.accounts AS account ON account.id = item.account_id AND account.status = 'active'
     CROSS JOIN LATERAL (SELECT (now() AT TIME ZONE account.time_zone)::date AS today) AS calendar
      LEFT JOIN tenure.payment_methods AS method ON method.account_id = account.id AND method.retired_at IS NULL
      LEFT JOIN LATERAL (
            SELECT * FROM tenure.collection_attempts AS attempt
             WHERE attempt.invoice_id = item.invoice_id ORDER BY number DESC LIMIT 1) AS latest ON true
     WHERE item.open > 0 AND item.invoice_id IS NOT NULL
       AND item.collect_from <= (now() AT TIME ZONE 'UTC')::date + 1 AND item.collect_from <= today
       -- The methods of another provider come back with its settings.
       AND (method.id IS NULL OR method.provider = :provider)
     ORDER BY item.collect_from, item.id LIMIT :batch
       -- Of an invoice a reminder of which is just being sent, there is an attempt at the next tick (B12).
       FOR NO KEY UPDATE OF item SKIP LOCKED
    ), planned AS (
    INSERT INTO tenure.collection_attempts (id, account_id, invoice_id, method_id, number, local_day, currency)
    SELECT tenure.derived_id(substring(uuid_send(invoice_id) FOR 6), 'attempt', invoice_id::text, number::text),
           account_id, invoice_id, method_id, number, today, currency FROM looked WHERE wanted ORDER BY due_on, id
        ON CONFLICT DO NOTHING RETURNING id
    ), rested AS (
    UPDATE tenure.open_items AS item
       SET collect_from = CASE WHEN NOT wanted THEN (
               SELECT min(day) FROM unnest(ARRAY[next_attempt_on, other_method_on, looked.due_on]) AS day
                WHERE day > today) END
      FROM looked WHERE item.id = looked.id
    )
    SELECT (SELECT count(*) FROM looked) AS looked, (SELECT count(*) FROM planned) AS planned""")


def plan(ports: Ports) -> int:
    """Make an attempt for each invoice that is to be collected today; returns how many."""
    if ports.payments is None:
        return 0
    planned, last = 0, PLAN_BATCH
    values = {"provider": ports.payments.provider, "last_day": RETRY_DAYS[-1], "batch": PLAN_BATCH}
    with ports.database.connection() as connection:
        connection.execute(NEW_METHODS)
    while last == PLAN_BATCH and not ports.stopping():
        with ports.database.connection() as connection:
            last, made = connection.execute(PLAN, values).one()
            failpoint("payments.plan", "before_commit")
        failpoint("payments.plan", "after_commit")
        planned += made
    return planned
