"""The books that P3 and P4 work on: accounts whose last month has closed, each with a contact and so many lines."""

from __future__ import annotations

from benchmarks.servers import Observer

SEED = """
    WITH made AS (
        INSERT INTO tenure.accounts (ref, name, address, country, currency, time_zone, period_start)
        SELECT 'bench-' || n, 'Kunde ' || n || ' GmbH', ARRAY['Gasse ' || n, '1010 Wien'], 'AT', 'EUR',
               'Europe/Vienna', (date_trunc('month', now()) - interval '1 month')::date
          FROM generate_series(1, %(accounts)s) AS n
        RETURNING id, ref, period_start
    ), contacts AS (
        INSERT INTO tenure.contacts (account_id, name, email, language, receives_statements)
        SELECT id, 'Zoë ' || ref, ref || '@customer.example', 'de-AT', true FROM made
    )
    INSERT INTO tenure.ledger_entries (account_id, kind, currency, amount, description, occurred_at)
    SELECT id, CASE WHEN n %% 4 = 0 THEN 'payment' ELSE 'charge' END, 'EUR',
           CASE WHEN n %% 4 = 0 THEN -15000 ELSE 6100 + n END,
           CASE WHEN n %% 4 = 0 THEN 'Überweisung' ELSE 'Teamplan, ' || n || ' Plätze' END,
           period_start::timestamptz + interval '1 day' * (n %% 27 + 1)
      FROM made, generate_series(1, %(lines)s) AS n"""


def fill(observer: Observer, accounts: int, lines: int) -> None:
    """In tables as PostgreSQL's own housekeeping keeps them."""
    observer.connection.execute(SEED, {"accounts": accounts, "lines": lines})
    observer.connection.execute("VACUUM ANALYZE tenure.accounts, tenure.contacts, tenure.ledger_entries")
