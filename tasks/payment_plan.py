"""Planning: every invoice that is due, of an account that pays by itself, becomes an attempt to collect it (B20, B23).

One statement of SQL, which looks at what is open now, at the account's own calendar, and at what became of the attempt
before. Any number of planners may run: unique indexes allow one attempt in flight and one a local day.
"""

from __future__ import annotations

from sqlalchemy import text

from tasks.failpoints import failpoint
from tasks.ports import Ports

#: Attempts planned in one transaction.
PLAN_BATCH = 1_000
#: The days after a first decline on which the same method is tried once more: 8 attempts in 14 days, and no more (B23).
RETRY_DAYS = (0, 1, 3, 5, 7, 9, 11, 13)

#: After a charge, an invoice is never collected again by itself, even if it is open again: somebody gave the money back
#: or took it back. After a hard decline it is only by a new method.
PLAN = text("""
    INSERT INTO tenure.collection_attempts (id, account_id, invoice_id, method_id, number, local_day, currency)
    SELECT tenure.derived_id(substring(uuid_send(item.invoice_id) FOR 6), 'attempt', item.invoice_id::text,
                             (coalesce(latest.number, 0) + 1)::text),
           account.id, item.invoice_id, method.id, coalesce(latest.number, 0) + 1, today, item.currency
      FROM tenure.open_items AS item
      JOIN tenure.accounts AS account ON account.id = item.account_id AND account.status = 'active'
     CROSS JOIN LATERAL (SELECT (now() AT TIME ZONE account.time_zone)::date AS today) AS calendar
      JOIN tenure.payment_methods AS method
        ON method.account_id = account.id AND method.retired_at IS NULL AND method.provider = :provider
      LEFT JOIN LATERAL (
            SELECT * FROM tenure.collection_attempts AS attempt
             WHERE attempt.invoice_id = item.invoice_id ORDER BY number DESC LIMIT 1) AS latest ON true
     WHERE item.open > 0 AND item.invoice_id IS NOT NULL AND item.open > item.disputed
       AND item.due_on <= (now() AT TIME ZONE 'UTC')::date + 1 AND item.due_on <= today
       AND (latest.id IS NULL OR latest.next_attempt_on <= today
            OR latest.outcome = 'declined' AND latest.method_id <> method.id AND latest.local_day < today)
       AND NOT EXISTS (
            SELECT FROM tenure.collection_attempts AS earlier
             WHERE earlier.invoice_id = item.invoice_id AND earlier.method_id = method.id
               AND earlier.outcome = 'declined' AND earlier.local_day < today - CAST(:last_day AS int))
     ORDER BY item.due_on, item.id LIMIT :batch
       -- Of an invoice a reminder of which is just being sent, there is an attempt at the next tick (B12).
       FOR NO KEY UPDATE OF item SKIP LOCKED
        ON CONFLICT DO NOTHING""")


def plan(ports: Ports) -> int:
    """Make an attempt for each invoice that is to be collected today; returns how many."""
    if ports.payments is None:
        return 0
    planned, last = 0, PLAN_BATCH
    values = {"provider": ports.payments.provider, "last_day": RETRY_DAYS[-1], "batch": PLAN_BATCH}
    while last == PLAN_BATCH and not ports.stopping():
        with ports.database.connection() as connection:
            last = connection.execute(PLAN, values).rowcount
            failpoint("payments.plan", "before_commit")
        failpoint("payments.plan", "after_commit")
        planned += last
    return planned
