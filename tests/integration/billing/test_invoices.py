"""Invoices: issued once, numbered without a gap, never changed, corrected, and settled (B8, B9)."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, date, datetime
from itertools import pairwise
from threading import Barrier
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as profile
from hypothesis import strategies as st
from pypdf import PdfReader
from sqlalchemy import select, text
from sqlalchemy.exc import IntegrityError

from email_templates.language.company import Company
from models.base.money import Money
from models.base.tax import included
from models.base.unit_of_work import Database
from models.billing.invoice import Invoice, InvoiceDocument, InvoiceLine, InvoiceTax
from models.billing.letterhead import Letterhead
from models.customers.account import Account
from models.mail.email_message import EmailMessage
from models.work.request import JobRequest
from tasks.billing import credit_notes, invoice_issue, invoices
from tasks.client.requests import InvoicesIssue, InvoicesSend, InvoicesVoid, Request, submit
from tasks.engine.drain import drain
from tasks.engine.job import ClaimedRow
from tasks.ports.context import Ports
from tasks.requests import handle
from tests.support.rows import vault
from tests.support.rows.company import a_contact, an_account, an_entry
from tests.support.time.deadlines import deadline

pytestmark = pytest.mark.clock("2026-11-22 12:00")

SELLER = Company(name="Seller AG", address=("Ring 1",), email="office@seller.example", website="seller.example")


def an_invoiced_account(session: Any, **values: Any) -> Account:
    account = an_account(session, **{"invoiced_from": date(2026, 10, 1), **values})
    a_contact(session, account)
    return account


def issue(database: Database) -> int:
    """Issue what is due of one closed period of each account; how many invoices that made."""
    with database.transaction() as session:
        return len(invoice_issue.issue_batch(session, SELLER)[1])


def all_invoices(database: Database) -> list[Invoice]:
    with database.transaction() as session:
        return list(session.scalars(select(Invoice).order_by(Invoice.series_number)))


def test_a_closed_period_becomes_an_invoice_of_its_charges(database: Database) -> None:
    """With its tax lines and the buyer's tax number (B10)."""
    with database.transaction() as session:
        account = an_invoiced_account(session, tax_id="DE123456789", country="DE")
        an_entry(session, account, -3_000)
        an_entry(session, account, 5_000)
        an_entry(session, account, 1_190, tax_category="S", tax_rate=1900)
        an_entry(session, account, 1_001, tax_category="S", tax_rate=1900)
        before = an_entry(session, account, 100, occurred_at=datetime(2026, 9, 30, 21, 59, tzinfo=UTC)).id
        after = an_entry(session, account, 100, occurred_at=datetime(2026, 10, 31, 23, tzinfo=UTC)).id

    assert issue(database) == 1
    (invoice,) = all_invoices(database)
    assert (invoice.number, invoice.net, invoice.tax, invoice.total) == ("INV-000001", 6_841, 350, 7_191)
    assert (invoice.period_start, invoice.period_end) == (date(2026, 10, 1), date(2026, 10, 31))
    assert invoice.due_on is not None
    assert (invoice.due_on - invoice.issued_on).days == 14
    assert (invoice.buyer["tax_id"], invoice.language) == ("DE123456789", "de")
    with database.transaction() as session:
        assert session.get_one(Letterhead, invoice.letterhead).content["name"] == "Seller AG"
        lines = session.scalars(select(InvoiceLine).order_by(InvoiceLine.position)).all()
        taxes = session.scalars(select(InvoiceTax).order_by(InvoiceTax.tax_category)).all()
        (open_,) = session.execute(text("SELECT * FROM tenure.open_invoices")).all()
    assert {before, after}.isdisjoint(line.entry_id for line in lines)
    assert [(line.net, line.gross) for line in lines] == [(5_000, 5_000), (1_000, 1_190), (841, 1_001)]
    assert [(tax.tax_category, tax.tax_rate, tax.base, tax.tax) for tax in taxes] == [
        ("O", 0, 5_000, 0),
        ("S", 1_900, 1_841, 350),
    ]
    # What was paid in advance is set off at once.
    assert (open_.total, open_.open, open_.due_on) == (7_191, 4_191, invoice.due_on)

    assert issue(database) == 0


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE tenure.invoices SET total = total",
        "UPDATE tenure.invoices SET reason = 'x' WHERE false",
        "DELETE FROM tenure.invoices",
        "TRUNCATE tenure.invoices CASCADE",
        "UPDATE tenure.invoice_lines SET description = 'x'",
        "DELETE FROM tenure.invoice_lines",
        "TRUNCATE tenure.invoice_lines CASCADE",
        "UPDATE tenure.invoice_taxes SET base = 0",
        "DELETE FROM tenure.invoice_taxes",
        "TRUNCATE tenure.invoice_taxes",
        """INSERT INTO tenure.invoice_lines (invoice_id, position, entry_id, description, occurred_on, tax_category,
                                             tax_rate, net, gross)
           SELECT invoice.id, 2, entry.id, 'x', now()::date, 'O', 0, 1, 1
             FROM tenure.invoices AS invoice, tenure.ledger_entries AS entry WHERE entry.amount = 1""",
        "INSERT INTO tenure.invoice_taxes SELECT id, 'Z', 0, 0, 0 FROM tenure.invoices",
        "UPDATE tenure.invoice_series SET last_number = 0 WHERE kind = 'invoice'",
        "DELETE FROM tenure.invoice_series",
        "UPDATE tenure.open_items SET open = 0",
        "DELETE FROM tenure.open_items",
        "UPDATE tenure.allocations SET amount = 1",
        "DELETE FROM tenure.allocations",
    ],
)
def test_an_issued_invoice_and_what_settled_it_never_change(database: Database, change: str) -> None:
    with database.transaction() as session:
        account = an_invoiced_account(session)
        an_entry(session, account, 5_000)
        an_entry(session, account, -1_000)
        an_entry(session, account, 1, occurred_at=datetime(2026, 11, 20, tzinfo=UTC))
    assert issue(database) == 1
    with pytest.raises(IntegrityError) as caught, database.connection() as connection:
        connection.execute(text(change))
    # A sentence, and not the name of a constraint.
    assert " " in str(caught.value.orig.diag.message_primary)  # type: ignore[union-attr]
    assert "constraint" not in str(caught.value.orig.diag.message_primary)  # type: ignore[union-attr]


def test_periods_that_an_outage_left_out_are_caught_up_one_by_one(database: Database) -> None:
    with database.transaction() as session:
        account = an_invoiced_account(session, invoiced_from=date(2026, 7, 15), billing_day=15)
        for month in (7, 8, 10, 11):
            an_entry(session, account, month, occurred_at=datetime(2026, month, 20, 12, tzinfo=UTC))
    while True:
        with database.transaction() as session:
            if not invoice_issue.issue_batch(session, SELLER)[0]:
                break
    made = all_invoices(database)
    # The period with nothing in it has no invoice; the last one is still open.
    assert [(each.period_start, each.period_end, each.total) for each in made] == [
        (date(2026, 7, 15), date(2026, 8, 14), 7),
        (date(2026, 8, 15), date(2026, 9, 14), 8),
        (date(2026, 10, 15), date(2026, 11, 14), 10),
    ]
    assert all(after.series_number == before.series_number + 1 for before, after in pairwise(made))


def concurrently(count: int, work: Callable[[int], None]) -> None:
    """Run `work(0)` to `work(count - 1)` at once, each in a thread of its own; raise what one raised."""
    with ThreadPoolExecutor(count) as pool:
        list(pool.map(work, range(count)))


def test_numbers_have_no_gap_under_fifty_issuers_of_whom_some_roll_back(database_url: str) -> None:
    """Every third issuer changes its mind after its numbers were drawn, and tries again later (B8)."""
    database = Database(database_url, pool_size=60)
    with database.transaction() as session:
        series = ["main", "main", "branch"]
        session.execute(
            text(
                "INSERT INTO tenure.invoice_series VALUES ('branch', 'invoice', 'B-'), ('branch', 'credit_note', 'BC-')"
            )
        )
        accounts = [an_invoiced_account(session, invoice_series=series[number % 3]) for number in range(50)]
        for account in accounts:
            an_entry(session, account, 1_000)
            an_entry(session, account, 1_000, currency="JPY")
        ids = [account.id for account in accounts]
    start = Barrier(50)
    rolled_back: list[UUID] = []

    def issue_one(number: int) -> None:
        start.wait(timeout=deadline(60))
        if number % 3 == 0:
            with pytest.raises(RuntimeError), database.transaction() as session:
                rolled_back.extend(invoice_issue.issue_batch(session, SELLER, ids[number])[1])
                raise RuntimeError
        with database.transaction() as session:
            invoice_issue.issue_batch(session, SELLER, ids[number])
        if number % 10 == 1:
            # Whoever issues what is due takes what others have left.
            issue(database)

    concurrently(50, issue_one)
    while issue(database):
        pass
    with database.connection() as connection:
        found = connection.execute(
            text("""
                SELECT series, array_agg(series_number ORDER BY series_number) AS numbers,
                       count(DISTINCT number) AS names, (SELECT last_number FROM tenure.invoice_series
                        WHERE name = series AND invoice_series.kind = 'invoice') AS last
                  FROM tenure.invoices GROUP BY series""")
        ).all()
        lines = connection.execute(text("SELECT count(*) FROM tenure.invoice_lines")).scalar_one()
    database.engine.dispose()
    assert rolled_back
    assert {row.series: row.last for row in found} == {"main": 68, "branch": 32}
    for row in found:
        assert row.numbers == list(range(1, row.last + 1)), row.series
        assert row.names == row.last
    assert lines == 100


def test_twenty_credit_notes_at_once_never_take_back_more_than_there_was(database_url: str) -> None:
    database = Database(database_url, pool_size=20)
    with database.transaction() as session:
        account = an_invoiced_account(session)
        for rate in (1900, 700, 700):
            an_entry(session, account, 1_003, tax_category="S", tax_rate=rate)
    assert issue(database) == 1
    (invoice,) = all_invoices(database)
    start = Barrier(20)
    refused: list[str] = []

    def credit(number: int) -> None:
        start.wait(timeout=deadline(60))
        try:
            with database.transaction() as session:
                credit_notes.credit(session, SELLER, invoice.id, amount=Money(200 + number, "EUR"))
        except credit_notes.CreditRefused as error:
            refused.append(str(error))

    concurrently(20, credit)
    assert refused
    with database.transaction() as session:
        credit_notes.credit(session, SELLER, invoice.id, reason="The rest.")
    with database.transaction() as session:
        with pytest.raises(credit_notes.CreditRefused, match="nothing is left of INV-000001"):
            credit_notes.credit(session, SELLER, invoice.id)
        notes = session.scalars(select(Invoice).filter_by(kind="credit_note").order_by(Invoice.series_number)).all()
        taxes = session.execute(
            text("""
                SELECT tax_category, tax_rate, sum(base) FILTER (WHERE corrects_id IS NULL) AS base,
                       sum(base) FILTER (WHERE corrects_id IS NOT NULL) AS base_back,
                       sum(invoice_taxes.tax) FILTER (WHERE corrects_id IS NULL) AS tax,
                       sum(invoice_taxes.tax) FILTER (WHERE corrects_id IS NOT NULL) AS tax_back
                  FROM tenure.invoice_taxes JOIN tenure.invoices ON invoices.id = invoice_id GROUP BY 1, 2""")
        ).all()
        credited = session.execute(
            text("SELECT sum(amount) FROM tenure.ledger_entries WHERE kind = 'credit'")
        ).scalar_one()
    database.engine.dispose()
    assert [note.number for note in notes] == [f"CN-{number:06}" for number in range(1, len(notes) + 1)]
    assert sum(note.total for note in notes) == invoice.total == -credited
    # All of it together is the invoice's own tax to the cent, however it was cut up.
    assert len(taxes) == 2
    assert all((row.base, row.tax) == (row.base_back, row.tax_back) for row in taxes)


def test_a_credit_note_that_is_written_past_our_code_is_refused_too(database: Database) -> None:
    with database.transaction() as session:
        an_entry(session, an_invoiced_account(session), 1_000)
    assert issue(database) == 1
    beyond = text("""
        WITH note AS (
            INSERT INTO tenure.invoices (account_id, kind, series, series_number, number, corrects_id, issued_on,
                                         currency, net, tax, total, letterhead, buyer, language, time_zone)
            SELECT account_id, 'credit_note', 'main', 1, 'CN-000001', id, issued_on, currency, 1001, 0, 1001,
                   letterhead, buyer, language, time_zone FROM tenure.invoices RETURNING id
        ), taxes AS (
            INSERT INTO tenure.invoice_taxes SELECT id, 'O', 0, 1001, 0 FROM note
        )
        INSERT INTO tenure.invoice_lines (invoice_id, position, corrects_id, description, occurred_on, tax_category,
                                          tax_rate, net, gross)
        SELECT note.id, 1, line.id, '', occurred_on, 'O', 0, 1001, 1001 FROM note, tenure.invoice_lines AS line""")
    with pytest.raises(IntegrityError) as caught, database.connection() as connection:
        connection.execute(beyond)
    assert caught.value.orig.diag.message_primary == (  # type: ignore[union-attr]
        "credit note CN-000001 takes back 1001 minor units, more than is left of its invoice"
    )
    assert [invoice.kind for invoice in all_invoices(database)] == ["invoice"]


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"amount": Money(1_001, "EUR")}, "10.01 EUR is more than what is left of INV-000001: 10.00 EUR."),
        (
            {"amount": Money(401, "EUR"), "positions": [1]},
            "4.01 EUR is more than what is left of these lines: 4.00 EUR.",
        ),
        ({"amount": Money(1, "USD")}, "INV-000001 is in EUR: credit a positive amount of that, not 0.01 USD."),
        ({"amount": Money(-1, "EUR")}, "INV-000001 is in EUR: credit a positive amount of that, not -0.01 EUR."),
        ({"positions": [1, 3]}, "INV-000001 has 2 lines, and no line 3."),
    ],
)
def test_a_credit_note_that_cannot_be_is_refused_in_a_sentence_and_leaves_nothing(
    database: Database, asked: dict[str, Any], sentence: str
) -> None:
    with database.transaction() as session:
        account = an_invoiced_account(session)
        an_entry(session, account, 400)
        an_entry(session, account, 600)
    assert issue(database) == 1
    (invoice,) = all_invoices(database)
    with database.transaction() as session, pytest.raises(credit_notes.CreditRefused) as caught:
        credit_notes.credit(session, SELLER, invoice.id, **asked)
    assert str(caught.value) == sentence
    assert len(all_invoices(database)) == 1
    with database.transaction() as session:
        assert session.execute(text("SELECT sum(last_number) FROM tenure.invoice_series")).scalar_one() == 1


@profile(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    st.lists(
        st.tuples(st.integers(1, 10**10), st.sampled_from([("S", 1900), ("S", 700), ("S", 1), ("Z", 0), ("AE", 0)])),
        min_size=1,
        max_size=12,
    ),
    st.lists(st.integers(1, 10**10), max_size=4),
)
def test_lines_and_taxes_make_the_total_whatever_is_charged_and_credited(
    database: Database, charges: list[tuple[int, tuple[str, int]]], credited: list[int]
) -> None:
    """The database checks the sums; this, that SQL and Python round alike and nothing that is right is refused."""
    with database.transaction() as session:
        account = an_invoiced_account(session)
        for amount, (category, rate) in charges:
            an_entry(session, account, amount, tax_category=category, tax_rate=rate)
        (made,) = invoice_issue.issue_batch(session, SELLER, account.id)[1]
        invoice = session.get_one(Invoice, made)
        assert invoice.total == sum(amount for amount, _ in charges)
        for tax in session.scalars(select(InvoiceTax).filter_by(invoice_id=made)):
            gross = sum(amount for amount, kind in charges if kind == (tax.tax_category, tax.tax_rate))
            assert (tax.base, tax.tax) == (gross - included(gross, tax.tax_rate), included(gross, tax.tax_rate))
        left = invoice.total
        for amount in credited:
            if amount <= left:
                credit_notes.credit(session, SELLER, made, amount=Money(amount, "EUR"))
                left -= amount
        if left:
            credit_notes.credit(session, SELLER, made)
        sums = session.execute(
            text("SELECT sum(net), sum(tax) FROM tenure.invoices WHERE corrects_id = :id"), {"id": made}
        ).one()
        assert tuple(sums) == (invoice.net, invoice.tax)
        session.rollback()


def rendered_documents(database: Database) -> dict[str, Any]:
    with database.connection() as connection:
        rows = connection.execute(
            text("""
                SELECT number, state, last_error, document_key, document_sha256, typesetter
                  FROM tenure.invoice_documents JOIN tenure.invoices ON invoices.id = invoice_id""")
        )
        return {row.number: row for row in rows}


def pdf_text(body: bytes) -> str:
    return "\n".join(page.extract_text() for page in PdfReader(io.BytesIO(body)).pages)


def test_an_invoice_and_its_credit_note_become_documents_and_mails_with_the_same_figures(
    database: Database, ports: Ports
) -> None:
    with database.transaction() as session:
        account = an_invoiced_account(session, name="Köhler & Söhne GmbH")
        an_entry(session, account, -20_000)
        an_entry(session, account, 119_000, tax_category="S", tax_rate=1900, description="Business plan")
        an_entry(session, account, 5_000, tax_category="Z", description="Books")
    assert invoice_issue.issue(ports) == {"accounts": 1, "issued": 1}
    (invoice,) = all_invoices(database)
    with database.transaction() as session:
        credit_notes.credit(
            session, SELLER, invoice.id, amount=Money(110_000, "EUR"), positions=[1], reason="Too much."
        )
    assert drain(invoices.RENDER, ports) == {"rendered": 2}

    documents = rendered_documents(database)
    with database.transaction() as session:
        mails = {mail.message: mail for mail in session.scalars(select(EmailMessage))}
    issued, credited = mails["invoice-issued"].context, mails["invoice-credited"].context
    assert (issued["total"], issued["settled"], issued["to_pay"], issued["net"]) == (124_000, 20_000, 104_000, 105_000)
    assert issued["taxes"] == [{"name": "VAT", "rate": 1900, "amount": 19_000}]
    assert (credited["credited"], credited["still_open"], credited["kept"]) == (110_000, 0, 6_000)
    assert (credited["invoice_number"], credited["reason"]) == ("INV-000001", "Too much.")
    for number, message, figures in (
        ("INV-000001", "invoice-issued", ("1.240,00", "1.040,00", "190,00", "Business plan")),
        ("CN-000001", "invoice-credited", ("1.100,00", "175,63", "INV-000001")),
    ):
        document = documents[number]
        body = vault.content(ports, document.document_key)
        assert hashlib.sha256(body).digest() == document.document_sha256
        assert document.typesetter
        assert mails[message].attachments == [
            {"key": document.document_key, "filename": f"{number}.pdf", "content_type": "application/pdf"}
        ]
        shown = pdf_text(body)
        assert [figure for figure in figures if figure not in shown] == [], shown


def test_a_document_made_again_years_later_is_the_same_bytes(database: Database, ports: Ports) -> None:
    """Whatever customer, contact and company are called by then, and whatever was paid (B3)."""
    with database.transaction() as session:
        account = an_invoiced_account(session)
        an_entry(session, account, -100)
        an_entry(session, account, 5_000)
        account_id = account.id
    invoice_issue.issue(ports)
    drain(invoices.RENDER, ports)
    (before,) = rendered_documents(database).values()
    body = vault.content(ports, before.document_key)
    with database.transaction() as session:
        account = session.get_one(Account, account_id)
        account.name, account.address, account.time_zone = "Renamed", [], "Asia/Tokyo"
        paid = an_entry(session, account, -4_900)
        an_entry(session, account, 5_000, kind="chargeback", reverses=paid.id)
        session.execute(text("UPDATE tenure.contacts SET language = 'fr', time_zone = 'Asia/Tokyo'"))
        (item,) = invoices.load(session, session.scalars(select(InvoiceDocument.id)).all()).values()
    moved = replace(ports.letterhead, company=SELLER)
    again = invoices.render(item, ClaimedRow(replace(ports, letterhead=moved), item.invoice.id, item.invoice.id))
    assert vault.content(ports, again.stored.key) == body
    assert again.stored.key == before.document_key


def test_an_invoice_that_nobody_is_to_get_waits_for_a_contact(database: Database, ports: Ports) -> None:
    with database.transaction() as session:
        an_entry(session, an_account(session, invoiced_from=date(2026, 10, 1)), 5_000)
    invoice_issue.issue(ports)
    assert drain(invoices.RENDER, ports) == {"rendered": 0, "failed": 1}
    (document,) = rendered_documents(database).values()
    assert "set contacts.receives_statements of one, then retry" in document.last_error


def test_what_the_web_tier_asks_for(database: Database, ports: Ports) -> None:
    def ask(*requests: Request) -> list[str | None]:
        with database.transaction() as session:
            ids = [submit(session, request) for request in requests]
        drain(handle.HANDLE, ports)
        drain(invoices.RENDER, ports)
        with database.transaction() as session:
            return [session.get_one(JobRequest, made).last_error for made in ids]

    def mails() -> list[str]:
        with database.transaction() as session:
            return sorted(session.scalars(select(EmailMessage.message)))

    with database.transaction() as session:
        account = an_invoiced_account(session, invoiced_from=date(2026, 11, 20))
        other, elsewhere = an_invoiced_account(session), an_account(session)
        an_entry(session, account, 5_000, occurred_at=datetime(2026, 11, 21, tzinfo=UTC))
        an_entry(session, account, 700, occurred_at=datetime(2026, 11, 22, tzinfo=UTC), currency="JPY")
        an_entry(session, account, 5_000, occurred_at=datetime(2100, 1, 1, tzinfo=UTC))
        ref, other_ref, elsewhere_ref = account.ref, other.ref, elsewhere.ref

    assert ask(InvoicesIssue(account=ref), InvoicesIssue(account=ref)) == [None, None]
    made = all_invoices(database)
    assert [(each.currency, each.total) for each in made] == [("EUR", 5_000), ("JPY", 700)]
    assert mails() == ["invoice-issued"] * 2
    assert ask(InvoicesSend(account=ref, invoice=made[1].number)) == [None]
    assert mails() == ["invoice-issued"] * 3
    assert ask(InvoicesVoid(account=ref, invoice=made[0].number)) == [None]
    assert mails() == ["invoice-credited"] + ["invoice-issued"] * 3
    errors = ask(
        InvoicesVoid(account=ref, invoice=made[0].number),
        InvoicesSend(account=other_ref, invoice=made[1].number),
        InvoicesIssue(account=elsewhere_ref),
    )
    assert errors == [
        "The credit note was not issued: nothing is left of INV-000001: it was credited before.",
        "The account has no invoice of that number.",
        "The account is not invoiced by Tenure: set accounts.invoiced_from, then retry.",
    ]
    assert len(all_invoices(database)) == 3
