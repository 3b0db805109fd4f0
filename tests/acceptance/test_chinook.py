"""A shop's own database, as it came: 59 customers in 24 countries, 412 invoices, compared to the cent (B1, B2, B6).

Each invoice becomes a charge. Customers pay the day after, so that an invoice of a month's last day is carried into
the next statement; one customer pays nothing for five years, and so gets a statement of every month that rolls forward.
"""

from __future__ import annotations

import io
import os
import re
from email.message import EmailMessage as MIMEMessage
from html import unescape
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
from pypdf import PdfReader
from sqlalchemy import select

from email_templates.pdf.invoice import render_invoice
from models.base.unit_of_work import Database
from models.billing.invoice import InvoiceDocument
from tasks.billing import invoice_issue, invoices
from tasks.ports.context import Ports
from tests.acceptance.outcome import Outcome
from tests.support.servers.processes import Processes, measured

pytestmark = pytest.mark.clock("2026-11-22 12:00")

FILE = Path(__file__).parents[3] / "shared" / "data" / "chinook.sql"

#: Country, ISO code, time zone, language.
COUNTRIES = """
    Argentina AR America/Argentina/Buenos_Aires es-AR | Australia AU Australia/Sydney en-AU
    Austria AT Europe/Vienna de-AT | Belgium BE Europe/Brussels fr-BE | Brazil BR America/Sao_Paulo pt-BR
    Canada CA America/Toronto en-CA | Chile CL America/Santiago es-CL | Czech_Republic CZ Europe/Prague cs
    Denmark DK Europe/Copenhagen da | Finland FI Europe/Helsinki fi | France FR Europe/Paris fr
    Germany DE Europe/Berlin de | Hungary HU Europe/Budapest hu | India IN Asia/Kolkata en-IN
    Ireland IE Europe/Dublin en-IE | Italy IT Europe/Rome it | Netherlands NL Europe/Amsterdam nl
    Norway NO Europe/Oslo nb | Poland PL Europe/Warsaw pl | Portugal PT Europe/Lisbon pt
    Spain ES Europe/Madrid es | Sweden SE Europe/Stockholm sv | United_Kingdom GB Europe/London en-GB
    USA US America/New_York en-US
"""
#: The customer who does not pay: Luís Gonçalves.
DEBTOR = 1

LOAD = """
    CREATE TEMPORARY TABLE place (country text PRIMARY KEY, code text, zone text, language text);
    INSERT INTO place SELECT replace(part[1], '_', ' '), part[2], part[3], part[4]
      FROM regexp_split_to_table(%(countries)s, '\\s*[|\\n]\\s*') AS line, regexp_split_to_array(line, ' ') AS part;

    INSERT INTO tenure.accounts (ref, name, address, country, currency, time_zone, period_start)
    SELECT 'chinook-' || customer_id, coalesce(company, first_name || ' ' || last_name),
           array_remove(ARRAY[address, concat_ws(' ', postal_code, city), state, customer.country], NULL),
           code, 'USD', zone,
           (SELECT date_trunc('month', min(invoice_date))::date FROM chinook.invoice)
      FROM chinook.customer JOIN place USING (country);

    INSERT INTO tenure.contacts (account_id, name, email, language, time_zone, receives_statements)
    SELECT id, first_name || ' ' || last_name, email, language, zone, true
      FROM chinook.customer JOIN tenure.accounts ON ref = 'chinook-' || customer_id
      JOIN place ON place.country = customer.country;

    -- Chinook's dates have no zone: noon where the customer lives. A numeric's cents are exact.
    INSERT INTO tenure.ledger_entries (account_id, kind, currency, amount, description, occurred_at, external_ref)
    SELECT id, 'charge', 'USD', (total * 100)::bigint, 'Invoice ' || invoice_id,
           (invoice_date + interval '12 hours') AT TIME ZONE time_zone, 'invoice-' || invoice_id
      FROM chinook.invoice JOIN tenure.accounts ON ref = 'chinook-' || customer_id WHERE total <> 0;

    INSERT INTO tenure.ledger_entries (account_id, kind, currency, amount, description, occurred_at, external_ref)
    SELECT id, 'payment', 'USD', -(total * 100)::bigint, 'Card payment of invoice ' || invoice_id,
           (CASE WHEN customer_id = %(debtor)s THEN date '2026-01-15' ELSE invoice_date + interval '1 day' END
            + interval '12 hours') AT TIME ZONE time_zone, 'payment-' || invoice_id
      FROM chinook.invoice JOIN tenure.accounts ON ref = 'chinook-' || customer_id WHERE total <> 0"""

#: What each customer owes month by month, from Chinook's tables alone.
EXPECTED = """
    SELECT 'chinook-' || customer_id AS ref, month::date,
           coalesce(sum(amount) FILTER (WHERE day < month), 0) AS opening,
           coalesce(sum(amount) FILTER (WHERE day >= month AND amount > 0), 0) AS charges,
           coalesce(sum(amount) FILTER (WHERE day >= month AND amount < 0), 0) AS payments,
           sum(amount) AS closing, count(*) FILTER (WHERE day >= month) AS lines
      FROM generate_series(date '2021-01-01', date '2026-01-01', interval '1 month') AS month
      JOIN LATERAL (
            SELECT customer_id, invoice_date AS day, total AS amount FROM chinook.invoice
             UNION ALL
            SELECT customer_id, CASE WHEN customer_id = %(debtor)s THEN date '2026-01-15'
                                     ELSE invoice_date + interval '1 day' END, -total FROM chinook.invoice
           ) AS entry ON day < month + interval '1 month'
     GROUP BY customer_id, month
    HAVING coalesce(sum(amount) FILTER (WHERE day < month), 0) <> 0 OR count(*) FILTER (WHERE day >= month) > 0"""

STATED = """
    SELECT ref, statements.period_start AS month, opening / 100.0 AS opening,
           (context ->> 'charges')::int / 100.0 AS charges,
           (context ->> 'payments')::int / 100.0 AS payments, closing / 100.0 AS closing, line_count AS lines
      FROM tenure.statements JOIN tenure.accounts ON accounts.id = statements.account_id
      JOIN tenure.email_messages ON dedupe_key LIKE 'statement:' || statements.id || ':%'"""


@pytest.fixture
def chinook(database_url: str) -> psycopg.Connection[Any]:
    """The shop's tables in a schema of their own, beside ours, and its customers and invoices in ours."""
    if not FILE.exists():
        missing = f"{FILE} is not there: it holds the Chinook sample database"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    connection = psycopg.connect(database_url, autocommit=True, cursor_factory=psycopg.ClientCursor)
    connection.execute("CREATE SCHEMA chinook; SET search_path TO chinook")
    connection.execute(FILE.read_text(encoding="utf-8"))
    connection.execute("SET search_path TO DEFAULT")
    connection.execute(LOAD, {"countries": COUNTRIES.strip(), "debtor": DEBTOR})
    return connection


def shows(text: str, amount: int) -> bool:
    """Whether an amount of cents is there, in whichever way its reader's country writes it."""
    return re.search(rf"(?<!\d){abs(amount) // 100}[.,]{abs(amount) % 100:02}(?!\d)", text) is not None


def utf8(header: object) -> str:
    """A header that is UTF-8 as it stands (RFC 6532), which Python reads as bytes in disguise; others unchanged."""
    return str(header).encode("utf-8", "surrogateescape").decode()


def parts(message: MIMEMessage) -> dict[str, str]:
    plain, html = message.get_body(("plain",)), message.get_body(("html",))
    assert plain is not None
    assert html is not None
    (attachment,) = message.iter_attachments()
    pdf = PdfReader(io.BytesIO(attachment.get_content()))
    pages = "\n".join(page.extract_text() for page in pdf.pages)
    return {"text": plain.get_content(), "HTML": html.get_content(), "PDF": pages}


def test_every_total_is_the_shops_own_to_the_cent(
    chinook: psycopg.Connection[Any], processes: Processes, outcome: Outcome, broker: redis.Redis
) -> None:
    entered = "(SELECT sum(amount) FROM tenure.ledger_entries WHERE kind = 'charge')"
    counted = f"SELECT (SELECT count(*) FROM tenure.accounts), {entered}"
    shop = "SELECT (SELECT count(*) FROM chinook.customer), (SELECT sum(total) * 100 FROM chinook.invoice)"
    assert chinook.execute(counted).fetchone() == chinook.execute(shop).fetchone()

    expected = sorted(chinook.execute(EXPECTED, {"debtor": DEBTOR}).fetchall())
    broker.config_resetstat()
    processes.relay()
    processes.beat()
    processes.worker()
    outcome.await_statements(len(expected), seconds=200)
    outcome.is_whole(len(expected))

    assert sorted(chinook.execute(STATED).fetchall()) == expected
    messages_sent = broker.info("commandstats")["cmdstat_lpush"]["calls"]
    measured(f"{len(expected)} statements of Chinook's customers agree; {messages_sent} task messages were sent")
    assert messages_sent < len(expected) / 2

    # Each customer's statements roll forward, over months without one too, and end where the shop's books do.
    rolls = chinook.execute(f"SELECT ref, opening, closing FROM ({STATED}) AS s ORDER BY ref, month").fetchall()
    assert len({ref for ref, _, _ in rolls}) == 59
    for (before, _, closing), (after, opening, _) in pairwise(rolls):
        assert opening == (closing if before == after else 0), (before, after)
    assert {closing for ref, _, closing in rolls if ref == "chinook-1"} > {0}
    assert {ref: closing for ref, _, closing in rolls} == dict.fromkeys((ref for ref, _, _ in rolls), 0)

    rows = chinook.execute("""
        SELECT message_id, accounts.name, contacts.name, to_address, context, statements.period_start
          FROM tenure.email_messages JOIN tenure.contacts ON contacts.id = contact_id
          JOIN tenure.accounts ON accounts.id = email_messages.account_id
          JOIN tenure.statements ON dedupe_key LIKE 'statement:' || statements.id || ':%'""").fetchall()
    messages = {str(message["Message-ID"]).strip("<>"): message for message in outcome.messages()}
    assert messages.keys() == {row[0] for row in rows}
    seen = set()
    for message_id, account, contact, address, context, month in rows:
        message = messages[message_id]
        (recipient,) = message["To"].addresses
        assert (utf8(recipient.display_name), utf8(recipient.addr_spec)) == (contact, address)
        # Reading every PDF takes long: all of the debtor's last year, and one of each other customer.
        if account in seen and not (contact == "Luís Gonçalves" and month.year == 2025):
            continue
        seen.add(account)
        assert account[:50] in utf8(message["Subject"])
        for name, text in parts(message).items():
            assert account in re.sub(r"\s+", " ", unescape(text)), (name, account)
            for figure in ("opening", "charges", "payments", "closing"):
                assert shows(text, context[figure]), (name, account, figure, context[figure])
    assert len(seen) == 59
    names = {row[2] for row in rows}
    assert {"Luís Gonçalves", "Leonie Köhler", "František Wichterlová", "Bjørn Hansen", "João Fernandes"} <= names
    assert {"Leonie Köhler", "Embraer - Empresa Brasileira de Aeronáutica S.A."} <= seen


#: The same customers once more, with each line of the shop's invoices as a charge; a German one's contain tax.
LINES = """
    INSERT INTO tenure.accounts (ref, name, address, country, currency, time_zone, invoiced_from)
    SELECT 'lines-' || substr(ref, 9), name, address, country, currency, time_zone, period_start FROM tenure.accounts;

    INSERT INTO tenure.contacts (account_id, name, email, language, receives_statements)
    SELECT lines.id, contact.name, contact.email, contact.language, true
      FROM tenure.accounts AS lines JOIN tenure.accounts AS shop ON shop.ref = 'chinook-' || substr(lines.ref, 7)
      JOIN tenure.contacts AS contact ON contact.account_id = shop.id;

    INSERT INTO tenure.ledger_entries (account_id, kind, currency, amount, description, occurred_at, external_ref,
                                       tax_category, tax_rate)
    SELECT account.id, 'charge', 'USD', (line.unit_price * line.quantity * 100)::bigint, track.name,
           (invoice_date + interval '12 hours') AT TIME ZONE time_zone, 'line-' || invoice_line_id,
           CASE country WHEN 'DE' THEN 'S' ELSE 'O' END, CASE country WHEN 'DE' THEN 1900 ELSE 0 END
      FROM chinook.invoice_line AS line JOIN chinook.invoice USING (invoice_id) JOIN chinook.track USING (track_id)
      JOIN tenure.accounts AS account ON ref = 'lines-' || customer_id"""

#: What the shop invoiced to each customer in each month, from its own tables alone.
INVOICED = """
    SELECT 'lines-' || customer_id AS ref, date_trunc('month', invoice_date)::date AS month,
           (sum(total) * 100)::bigint AS total,
           (SELECT count(*) FROM chinook.invoice_line
             WHERE invoice_id = ANY (array_agg(invoice.invoice_id))) AS lines
      FROM chinook.invoice GROUP BY 1, 2 ORDER BY 1, 2"""


def test_invoices_of_the_shops_lines_have_the_shops_totals(
    chinook: psycopg.Connection[Any], database: Database, ports: Ports
) -> None:
    chinook.execute(LINES)
    expected = chinook.execute(INVOICED).fetchall()
    counts = invoice_issue.issue(ports)
    assert counts["issued"] == len(expected)
    found = chinook.execute("""
        SELECT ref, invoice.period_start, invoice.total, count(*)
          FROM tenure.invoices AS invoice JOIN tenure.accounts AS account ON account.id = account_id
          JOIN tenure.invoice_lines AS line ON line.invoice_id = invoice.id
         GROUP BY ref, invoice.id ORDER BY ref, invoice.period_start""").fetchall()
    assert found == expected
    shop = chinook.execute("SELECT (sum(total) * 100)::bigint FROM chinook.invoice").fetchone()
    assert chinook.execute("SELECT sum(total)::bigint FROM tenure.invoices").fetchone() == shop
    measured(f"{len(found)} invoices of {sum(row[3] for row in found)} lines have Chinook's totals")
    assert issued_again(ports) == 0

    # As they leave: every one adds up, and of each country one is read back from its document.
    with database.snapshot() as session:
        documents = invoices.load(session, session.scalars(select(InvoiceDocument.id)).all())
    of_country = {item.invoice.buyer["country"]: item for item in documents.values()}
    assert {item.document().total for item in documents.values()} == {row[2] for row in expected}
    assert len(of_country) == 24
    german = of_country["DE"].document()
    assert german.tax == round(german.total * 19 / 119)
    for item in list(of_country.values())[::6]:
        body = render_invoice(item.document(), company=item.company, language=item.invoice.language)
        text = "\n".join(page.extract_text() for page in PdfReader(io.BytesIO(body)).pages)
        assert shows(text, item.invoice.total), (item.invoice.number, text)
        assert item.invoice.number in text


def issued_again(ports: Ports) -> int:
    return invoice_issue.issue(ports)["issued"]
