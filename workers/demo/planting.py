"""Writes a made company into an empty database, in one transaction and with few, large statements."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time
from typing import Any, cast
from uuid import UUID

import psycopg
from sqlalchemy.orm import Session

from email_templates.language.company import Company as Letterhead
from models.base.unit_of_work import Database
from tasks.billing.statement_plan import plan_batch
from workers.demo.books import Entry
from workers.demo.company import EXPIRED_PERCENT, SESSIONS_EACH, Company

_BROWSERS = [
    "Mozilla/5.0 (X11; Linux x86_64; rv:146.0) Gecko/20100101 Firefox/146.0",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 15_6) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.6",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148",
]

#: Ages between 0 and 22 hours, and between 25 hours and four days: none passes 24 hours while the demo runs.
_SESSIONS = """
    INSERT INTO tenure.sessions (id, account_id, contact_id, secret_sha256, ip, user_agent)
    SELECT uuidv7(- interval '1 hour' * CASE WHEN number * 37 %% 100 < %(expired)s THEN 25 + number * 2.3 %% 71
                                              ELSE number * 1.7 %% 22 END),
           account.id,
           (SELECT contact.id FROM tenure.contacts AS contact WHERE contact.account_id = account.id
             ORDER BY contact.email LIMIT 1),
           sha256(convert_to(account.ref || number, 'UTF8')),
           CASE WHEN number %% 3 = 0 THEN '2001:db8::' || to_hex(number * 97 %% 65536)
                ELSE '198.51.100.' || number %% 254 + 1 END,
           (%(browsers)s::text[])[number %% 3 + 1]
      FROM (SELECT id, ref, row_number() OVER (ORDER BY ref) AS place FROM tenure.accounts) AS account,
           LATERAL (SELECT account.place * %(each)s + n AS number FROM generate_series(1, %(each)s) AS n) AS numbers"""


@dataclass(frozen=True, slots=True)
class Planted:
    """How much there is to begin with."""

    accounts: int
    contacts: int
    entries: int
    late_entries: int
    countries: int
    currencies: int
    languages: int
    sessions: int
    expired_sessions: int


def plant(database: Database, company: Company, letterhead: Letterhead) -> Planted:
    """Write all of it, or nothing. The company's clock stands where its last statements were not yet made.

    `letterhead` is who states those before the last.
    """
    with database.transaction() as session:
        connection = _driver(session)
        ids = _accounts(connection, company)
        contacts = _contacts(connection, company, ids)
        entries = [(ids[customer.ref], entry) for customer in company.customers for entry in customer.entries]
        _ledger(connection, [row for row in entries if not row[1].late])
        # What becomes known late does so after a statement: those customers had theirs of the month before already.
        for customer in company.customers:
            if customer.has_late_entries:
                plan_batch(session, letterhead, ids[customer.ref])
        _ledger(connection, [row for row in entries if row[1].late])
        sessions = connection.execute(
            _SESSIONS, {"browsers": _BROWSERS, "expired": EXPIRED_PERCENT, "each": SESSIONS_EACH}
        ).rowcount
        expired = connection.execute(
            "SELECT count(*) FROM tenure.sessions WHERE created_at <= now() - interval '24 hours'"
        ).fetchone()
        connection.execute("ANALYZE tenure.accounts, tenure.contacts, tenure.ledger_entries, tenure.sessions")
    return Planted(
        accounts=len(ids),
        contacts=contacts,
        entries=len(entries),
        late_entries=sum(entry.late for _, entry in entries),
        countries=len({customer.country for customer in company.customers}),
        currencies=len({entry.currency for _, entry in entries}),
        languages=len({person.language[:2] for customer in company.customers for person in customer.people}),
        sessions=sessions,
        expired_sessions=expired[0] if expired else 0,
    )


def _driver(session: Session) -> psycopg.Connection[Any]:
    """psycopg's connection under the session: COPY is its own."""
    return cast("psycopg.Connection[Any]", session.connection().connection.driver_connection)


def _accounts(connection: psycopg.Connection[Any], company: Company) -> dict[str, UUID]:
    columns = "ref, name, address, country, currency, time_zone, billing_day, period_start, created_at"
    _copy(
        connection,
        f"tenure.accounts ({columns})",
        (
            (
                customer.ref,
                customer.name,
                list(customer.address),
                customer.country,
                customer.currency,
                customer.time_zone,
                customer.billing_day,
                customer.first_period,
                datetime.combine(customer.since, time(9, 30), UTC),
            )
            for customer in company.customers
        ),
    )
    ids: dict[str, UUID] = dict(connection.execute("SELECT ref, id FROM tenure.accounts").fetchall())
    _copy(
        connection,
        "tenure.contracts (account_id, plan, starts_on)",
        ((ids[customer.ref], customer.plan, customer.since) for customer in company.customers),
    )
    return ids


def _contacts(connection: psycopg.Connection[Any], company: Company, ids: dict[str, UUID]) -> int:
    rows = [
        (
            ids[customer.ref],
            person.name,
            person.email,
            person.language,
            customer.time_zone,
            person.receives_statements,
        )
        for customer in company.customers
        for person in customer.people
    ]
    _copy(connection, "tenure.contacts (account_id, name, email, language, time_zone, receives_statements)", rows)
    return len(rows)


def _ledger(connection: psycopg.Connection[Any], entries: Sequence[tuple[UUID, Entry]]) -> None:
    """In the order in which they became known: the trigger numbers them as they come (B1)."""
    columns = "account_id, kind, currency, amount, description, occurred_at, recorded_at, due_on, external_ref"
    _copy(
        connection,
        f"tenure.ledger_entries ({columns})",
        (
            (
                account,
                entry.kind,
                entry.currency,
                entry.amount,
                entry.description,
                entry.occurred_at,
                entry.recorded_at,
                entry.due_on,
                entry.external_ref,
            )
            for account, entry in sorted(entries, key=lambda row: row[1].recorded_at)
        ),
    )


def _copy(connection: psycopg.Connection[Any], target: str, rows: Iterable[Sequence[Any]]) -> None:
    with connection.cursor() as cursor, cursor.copy(f"COPY {target} FROM STDIN".encode()) as copy:
        for row in rows:
            copy.write_row(row)
