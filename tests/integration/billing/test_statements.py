"""Statements from the ledger to the queued mail, in one process over real servers (B1 to B5, B7)."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from threading import Barrier, Event, Thread
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as profile
from hypothesis import strategies as st
from sqlalchemy import insert, select, text

from email_templates.figures.statement import Ageing
from email_templates.language.company import Company
from models.base.unit_of_work import Database
from models.billing.invoice import Invoice
from models.billing.ledger import LedgerEntry
from models.billing.statement import Statement
from models.customers.account import Account, StatementForm
from models.customers.contact import Contact
from models.mail.email_message import EmailMessage
from tasks.billing import invoice_issue, statements
from tasks.billing.statement_plan import plan_batch
from tasks.engine.drain import drain
from tasks.ports.context import Ports
from tests.support.rows import vault
from tests.support.rows.company import a_contact, an_account, an_entry
from tests.support.servers.processes import eventually
from tests.support.time.deadlines import deadline

pytestmark = pytest.mark.clock("2026-11-22 12:00")

COMPANY = Company(name="Halden", address=("Oslo",), email="billing@halden.example", website="halden.example")
#: Local midnights in Berlin of 1 June to 1 October 2026, all of them closed; Berlin is at UTC+2 then.
FIRST = date(2026, 6, 1)
MONTHS = [datetime(2026, month, 1, tzinfo=UTC) - timedelta(hours=2) for month in (6, 7, 8, 9, 10)]


def planned(database: Database) -> int:
    """Close one more period of each account; how many rows that made."""
    with database.transaction() as session:
        return plan_batch(session, COMPANY)[1]


def all_statements(database: Database) -> list[Statement]:
    with database.transaction() as session:
        return list(session.scalars(select(Statement).order_by(Statement.period_start, Statement.currency)))


def shown(database: Database, ids: Sequence[UUID]) -> dict[UUID, statements.ToRender]:
    with database.snapshot() as session:
        return statements.load(session, ids)


def test_a_closed_period_becomes_a_statement_a_document_and_a_mail(database: Database, ports: Ports) -> None:
    with database.transaction() as session:
        account = an_account(session)
        a_contact(session, account)
        an_entry(session, account, 12_000, occurred_at=datetime(2026, 9, 1, tzinfo=UTC))
        an_entry(session, account, 5_000)
        an_entry(session, account, -7_000)

    assert statements.plan(ports)["planned"] == 1
    assert drain(statements.RENDER, ports) == {"rendered": 1}

    with database.transaction() as session:
        statement = session.scalars(select(Statement)).one()
        mail = session.scalars(select(EmailMessage)).one()
    assert (statement.opening, statement.closing, statement.line_count) == (12_000, 10_000, 2)
    assert statement.document_key is not None
    assert vault.content(ports, statement.document_key).startswith(b"%PDF-")
    assert mail.dedupe_key.startswith(f"statement:{statement.id}")
    assert mail.context["closing"] == 10_000


@dataclass
class Fact:
    """An entry as the test knows it: which period it belongs to, and how many were closed when it was recorded."""

    period: int
    closed: int
    currency: str
    amount: int


@dataclass
class History:
    """The books of one account, kept a second time in Python."""

    facts: dict[UUID, Fact] = field(default_factory=dict)
    closed: int = 0


amounts = st.integers(-5_000, 5_000).filter(bool)
moments = st.one_of(
    st.datetimes(datetime(2026, 4, 1), datetime(2026, 11, 15)),  # noqa: DTZ001 - made aware below
    # The boundaries themselves, and one microsecond before them.
    st.sampled_from([each.replace(tzinfo=None) - timedelta(microseconds=n) for each in MONTHS for n in (0, 1)]),
)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("record"), moments, amounts, st.sampled_from(["EUR", "USD", "JPY"])),
        st.tuples(st.just("close")),
    ),
    max_size=25,
)


@profile(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=45,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps)
def test_whatever_is_recorded_in_whatever_order_every_statement_adds_up_and_every_entry_stands_on_one(
    database: Database, script: list[tuple[Any, ...]]
) -> None:
    history = History()
    with database.transaction() as session:
        # Other examples' accounts are frozen, so that a plan is about this one alone.
        session.execute(text("UPDATE tenure.accounts SET status = 'frozen' WHERE status = 'active'"))
        account = an_account(session, period_start=FIRST)
        # Another with the same books, which chose the other form.
        other = an_account(session, period_start=FIRST, statement_form=StatementForm.OPEN_ITEM)
        for step, *values in [*script, *[("close",)] * (len(MONTHS) - 1)]:
            if step == "record":
                occurred_at, amount, currency = values[0].replace(tzinfo=UTC), values[1], values[2]
                entry = an_entry(session, account, amount, currency=currency, occurred_at=occurred_at)
                period = bisect_right(MONTHS, occurred_at) - 1
                history.facts[entry.id] = Fact(period, history.closed, currency, amount)
                an_entry(session, other, amount, currency=currency, occurred_at=occurred_at)
            elif history.closed < len(MONTHS) - 1:
                assert plan_batch(session, COMPANY)[0] == 2
                history.closed += 1
    check(database, account.id, history)
    agree(database, account.id, other.id)


def agree(database: Database, balance_forward: UUID, open_item: UUID) -> None:
    """Both forms say the same (B2). A document of open items that do not age to its ageing cannot be made."""
    made = all_statements(database)
    items = shown(database, [each.id for each in made])
    one, two = (
        [items[each.id].document() for each in made if each.account_id == account]
        for account in (balance_forward, open_item)
    )
    assert len(one) == len(two)
    for plain, itemized in zip(one, two, strict=True):
        assert plain.open_items is None
        assert itemized.open_items is not None
        assert sum(item.open for item in itemized.open_items) == itemized.closing
        same = {"open_items": None, "number": "", "account_name": "", "account_ref": ""}
        assert msgspec.structs.replace(plain, **same) == msgspec.structs.replace(itemized, **same)


def check(database: Database, account_id: UUID, history: History) -> None:
    with database.transaction() as session:
        made = session.scalars(
            select(Statement).where(Statement.account_id == account_id).order_by(Statement.period_start)
        ).all()
        entries = {entry.id: entry for entry in session.scalars(select(LedgerEntry).filter_by(account_id=account_id))}
    items = shown(database, [statement.id for statement in made])
    for currency in ("EUR", "USD", "JPY"):
        balance = sum(
            fact.amount
            for fact in history.facts.values()
            if fact.currency == currency and fact.period < 0 and fact.closed == 0
        )
        by_period = {(each.period_start.month - FIRST.month): each for each in made if each.currency == currency}
        for period in range(len(MONTHS) - 1):
            # On the statement of the period it belongs to, or on the first that was still open when it was recorded.
            lines = [
                (fact.amount, fact.period < period)
                for fact in history.facts.values()
                if fact.currency == currency and max(fact.period, fact.closed) == period
                if not (fact.period < 0 and fact.closed == 0)
            ]
            opening, balance = balance, balance + sum(amount for amount, _ in lines)
            statement = by_period.pop(period, None)
            if statement is None:
                assert (opening, lines) == (0, [])
                continue
            item = items[statement.id]
            assert sorted((line.amount, line.late) for line in item.lines) == sorted(lines)
            assert (statement.opening, statement.closing) == (opening, balance)
            assert statement.line_count == len(lines)
            assert statement.closing == sum(
                entry.amount
                for entry in entries.values()
                if entry.currency == currency
                and entry.sequence <= statement.cutoff
                and entry.occurred_at < statement.closes_at
            )
            # Raises where the document does not add up, or its ageing does not.
            document = item.document()
            assert (document.closing, document.ageing.total) == (balance, balance)
        assert by_period == {}


def test_what_came_in_late_stands_on_the_next_statement_labelled_even_after_an_empty_period(
    database: Database,
) -> None:
    with database.transaction() as session:
        account = an_account(session, period_start=FIRST)
        an_entry(session, account, 100, occurred_at=datetime(2026, 6, 10, tzinfo=UTC))
    assert [planned(database), planned(database)] == [1, 1]
    with database.transaction() as session:
        an_entry(session, account, -100, occurred_at=datetime(2026, 8, 10, tzinfo=UTC), description="in time")
    assert [planned(database), planned(database)] == [1, 0]
    with database.transaction() as session:
        an_entry(session, account, 7, occurred_at=datetime(2026, 9, 10, tzinfo=UTC), description="late")
        an_entry(session, account, 8, occurred_at=datetime(2026, 10, 10, tzinfo=UTC), description="in time")
    planned(database)
    last = all_statements(database)[-1]
    lines = shown(database, [last.id])[last.id].lines
    assert [(line.description, line.late, line.amount) for line in lines] == [("late", True, 7), ("in time", False, 8)]
    assert (last.opening, last.closing) == (0, 15)


def test_a_currency_whose_first_entry_comes_in_late_is_stated_and_not_hidden_in_an_opening_balance(
    database: Database,
) -> None:
    with database.transaction() as session:
        account = an_account(session, period_start=FIRST)
        an_entry(session, account, 100, occurred_at=datetime(2026, 6, 10, tzinfo=UTC))
    planned(database)
    with database.transaction() as session:
        late = {"occurred_at": datetime(2026, 6, 20, tzinfo=UTC), "currency": "USD"}
        an_entry(session, account, 5_000, **late)
    planned(database)
    dollars = next(each for each in all_statements(database) if each.currency == "USD")
    (line,) = shown(database, [dollars.id])[dollars.id].lines
    assert (dollars.opening, dollars.closing, line.amount, line.late) == (0, 5_000, 5_000, True)


def test_currencies_are_never_netted_against_each_other(database: Database) -> None:
    with database.transaction() as session:
        account = an_account(session)
        an_entry(session, account, 5_000, currency="EUR")
        an_entry(session, account, -5_000, currency="USD")
    assert planned(database) == 2
    assert [(each.currency, each.closing) for each in all_statements(database)] == [("EUR", 5_000), ("USD", -5_000)]


def test_an_entry_belongs_to_the_local_day_of_its_account(database: Database) -> None:
    with database.transaction() as session:
        account = an_account(session, time_zone="Pacific/Auckland")
        # Already 1 November in Auckland, still 31 October in Berlin.
        an_entry(session, account, 1, occurred_at=datetime(2026, 10, 31, 11, tzinfo=UTC))
        an_entry(session, account, 2, occurred_at=datetime(2026, 10, 31, 10, 59, 59, 999_999, tzinfo=UTC))
    planned(database)
    (statement,) = all_statements(database)
    assert (statement.closes_at, statement.closing) == (datetime(2026, 10, 31, 11, tzinfo=UTC), 2)


def test_an_empty_period_makes_no_statement_and_is_over_nevertheless(database: Database, ports: Ports) -> None:
    with database.transaction() as session:
        account = an_account(session, period_start=FIRST)
        an_entry(session, account, 100, occurred_at=datetime(2026, 9, 10, tzinfo=UTC))
        an_entry(session, account, -100, occurred_at=datetime(2026, 9, 20, tzinfo=UTC))
    assert statements.plan(ports)["planned"] == 1
    (statement,) = all_statements(database)
    assert (statement.period_start, statement.line_count) == (date(2026, 9, 1), 2)
    with database.transaction() as session:
        assert session.scalars(select(Account.period_start)).one() >= date(2026, 11, 1)


def test_a_balance_that_nobody_moved_is_stated_every_month(database: Database, ports: Ports) -> None:
    with database.transaction() as session:
        an_entry(session, an_account(session, period_start=FIRST), 100, occurred_at=datetime(2026, 6, 10, tzinfo=UTC))
    statements.plan(ports)
    found = all_statements(database)
    assert len(found) >= 5
    assert {(each.closing, each.line_count) for each in found[1:]} == {(100, 0)}


@pytest.mark.parametrize("status", ["frozen", "purged"])
def test_an_account_that_is_not_active_is_not_planned(database: Database, ports: Ports, status: str) -> None:
    with database.transaction() as session:
        account = an_account(session)
        an_entry(session, account, 100)
        account.status = status  # type: ignore[assignment]
    assert statements.plan(ports) == {"accounts": 0, "planned": 0}
    with database.transaction() as session:
        assert session.get_one(Account, account.id).period_start == date(2026, 10, 1)


def test_an_account_that_is_frozen_after_planning_does_not_hold_up_the_statements_of_others(
    database: Database, ports: Ports
) -> None:
    with database.transaction() as session:
        accounts = [an_account(session) for _ in range(3)]
        for account in accounts:
            a_contact(session, account)
            an_entry(session, account, 100)
    statements.plan(ports)
    with database.transaction() as session:
        session.get_one(Account, accounts[0].id).status = "frozen"  # type: ignore[assignment]
    assert drain(statements.RENDER, ports)["rendered"] >= 2


def test_an_account_without_a_contact_for_statements_fails_in_a_sentence_and_the_others_do_not(
    database: Database, ports: Ports
) -> None:
    with database.transaction() as session:
        lonely, other = an_account(session), an_account(session)
        a_contact(session, lonely, receives_statements=False)
        a_contact(session, other)
        for account in (lonely, other):
            an_entry(session, account, 100)
    statements.plan(ports)
    assert drain(statements.RENDER, ports) == {"rendered": 1, "failed": 1}
    with database.transaction() as session:
        failed = session.scalars(select(Statement).where(Statement.state == "failed")).one()
        assert len(session.scalars(select(EmailMessage)).all()) == 1
    assert failed.account_id == lonely.id
    assert failed.last_error == (
        "The account has no contact that receives statements and invoices: "
        "set contacts.receives_statements of one, then retry."
    )


def test_each_contact_that_receives_statements_gets_one_mail(database: Database, ports: Ports) -> None:
    with database.transaction() as session:
        account = an_account(session)
        wanted = {a_contact(session, account).id for _ in range(3)}
        a_contact(session, account, receives_statements=False)
        an_entry(session, account, 100)
    statements.plan(ports)
    drain(statements.RENDER, ports)
    with database.transaction() as session:
        mails = session.scalars(select(EmailMessage)).all()
    assert {mail.contact_id for mail in mails} == wanted
    assert len(mails) == 3


RENDER_ELSEWHERE = """
import os
import sys
from uuid import UUID
from models.base.unit_of_work import Database
from tasks.billing import statements

statement = UUID(sys.argv[1])
with Database(os.environ["TENURE_DATABASE_URL"]).snapshot() as session:
    item = statements.load(session, [statement])[statement]
sys.stdout.buffer.write(item.pdf())
"""


@pytest.mark.parametrize("form", StatementForm)
def test_a_statement_that_is_rendered_again_when_everything_has_changed_is_byte_identical(
    database: Database, ports: Ports, servers: dict[str, str], database_url: str, form: StatementForm
) -> None:
    with database.transaction() as session:
        account = an_account(session, name="Köhler & Söhne", period_start=date(2026, 9, 1), statement_form=form)
        contact = a_contact(session, account)
        for day in range(1, 25):
            an_entry(session, account, day * 100, occurred_at=datetime(2026, 9, day, 12, tzinfo=UTC))
    planned(database)
    drain(statements.RENDER, ports)
    (statement,) = all_statements(database)
    assert statement.document_key is not None
    first = vault.content(ports, statement.document_key)
    assert hashlib.sha256(first).digest() == statement.document_sha256
    assert len(first) == statement.document_bytes

    with database.transaction() as session:
        for day in (5, 10, 15):
            an_entry(session, account, 999, occurred_at=datetime(2026, 9, day, tzinfo=UTC))
        an_entry(session, account, -500)
        moved = session.get_one(Account, account.id)
        moved.name, moved.address, moved.country, moved.ref = "Köhler SE", ["Neue Gasse 2"], "US", "renamed"
        moved.time_zone, moved.billing_day = "Pacific/Auckland", 15
        moved.statement_form = StatementForm.OPEN_ITEM if form == "balance_forward" else StatementForm.BALANCE_FORWARD
        session.get_one(Contact, contact.id).language = "ar-EG"
    renamed = msgspec.structs.replace(ports.letterhead.company, name="Halden Group", address=("Bergen",))
    ports = replace(ports, letterhead=replace(ports.letterhead, company=renamed))
    statements.plan(ports)
    with database.connection() as connection:
        connection.execute(text("UPDATE tenure.statements SET state = 'pending' WHERE id = :id"), {"id": statement.id})
    drain(statements.RENDER, ports)
    assert vault.content(ports, statement.document_key) == first

    elsewhere = subprocess.run(
        [sys.executable, "-c", RENDER_ELSEWHERE, str(statement.id)],
        env=os.environ
        | servers
        | {"TENURE_DATABASE_URL": database_url, "TZ": "Asia/Tokyo", "PYTHONHASHSEED": "7"}
        | {"TENURE_COMPANY_NAME": "Halden Group"},
        capture_output=True,
        check=True,
        timeout=deadline(60),
    ).stdout
    assert elsewhere == first
    with database.transaction() as session:
        # Rendered twice, mailed once.
        mails = session.scalars(select(EmailMessage)).all()
    assert len([mail for mail in mails if str(statement.id) in mail.dedupe_key]) == 1


def test_a_ledger_that_was_changed_past_its_guard_is_found_out(database: Database, ports: Ports) -> None:
    with database.transaction() as session:
        account = an_account(session)
        a_contact(session, account)
        an_entry(session, account, 100)
        an_entry(session, account, 200)
    statements.plan(ports)
    with database.transaction() as session:
        session.execute(text("ALTER TABLE tenure.ledger_entries DISABLE TRIGGER USER"))
        session.execute(text("DELETE FROM tenure.ledger_entries WHERE amount = 100"))
    assert drain(statements.RENDER, ports) == {"rendered": 0, "failed": 1}
    (statement,) = all_statements(database)
    assert statement.last_error is not None
    assert statement.last_error.startswith("The statement was planned with 2 lines, its ledger has 1")


def race(planners: int, database_url: str, ports: Ports) -> list[dict[str, int]]:
    """So many planners that start at once, each with a connection of its own; what each counted."""
    start = Barrier(planners)
    counted: list[dict[str, int]] = []

    def plan() -> None:
        own = Database(database_url, pool_size=1, connect_timeout=30)
        try:
            start.wait(timeout=deadline(60))
            counted.append(statements.plan(replace(ports, database=own)))
        finally:
            own.engine.dispose()

    threads = [Thread(target=plan) for _ in range(planners)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=deadline(60))
    return counted


def test_twenty_racing_planners_make_one_statement_for_each_account_currency_and_period(
    database: Database, database_url: str, ports: Ports
) -> None:
    with database.transaction() as session:
        for _ in range(30):
            account = an_account(session, period_start=date(2026, 8, 1))
            for month in (8, 9, 10):
                for currency in ("EUR", "USD"):
                    occurred_at = datetime(2026, month, 10, tzinfo=UTC)
                    an_entry(session, account, 100, currency=currency, occurred_at=occurred_at)
    counted = race(20, database_url, ports)
    statements.plan(ports)
    found = all_statements(database)
    assert sum(counts["planned"] for counts in counted) <= len(found) == 30 * 2 * 3
    assert len({(each.account_id, each.currency, each.period_start) for each in found}) == len(found)
    for each in found:
        months_before = each.period_start.month - 8
        assert (each.opening, each.closing) == (months_before * 100, months_before * 100 + 100)


#: Days on which the clock changes, in spring and autumn, at midnight and by half an hour; month-ends of a February.
BILLED = [
    ("Europe/Berlin", 25, date(2026, 9, 25)),
    ("Europe/Berlin", 29, date(2026, 2, 28)),
    ("America/New_York", 8, date(2026, 2, 8)),
    ("America/Santiago", 5, date(2026, 8, 5)),
    ("America/Havana", 8, date(2026, 2, 8)),
    ("Africa/Cairo", 24, date(2026, 3, 24)),
    ("Asia/Beirut", 29, date(2026, 2, 28)),
    ("Australia/Lord_Howe", 4, date(2026, 9, 4)),
    ("Pacific/Apia", 31, date(2026, 1, 31)),
    ("Pacific/Kiritimati", 30, date(2026, 1, 30)),
    ("UTC", 31, date(2026, 1, 31)),
]


def test_twenty_planners_over_dst_changes_and_month_ends(database: Database, database_url: str, ports: Ports) -> None:
    """One statement for each account, currency and period; its period is the local one, by Python's own time zones."""
    with database.transaction() as session:
        for zone, day, start in BILLED:
            account = an_account(session, time_zone=zone, billing_day=day, period_start=start)
            # On every local midnight from the first on, and just before it.
            midnights = [begins(start + timedelta(days=number), zone) for number in range(1, 280)]
            entry = {"account_id": account.id, "kind": "charge", "amount": 1, "description": "Day"}
            session.execute(
                insert(LedgerEntry),
                [
                    {**entry, "currency": currency, "occurred_at": midnight - early}
                    for currency, early in (("EUR", timedelta(0)), ("JPY", timedelta(microseconds=1)))
                    for midnight in midnights
                ],
            )
    race(20, database_url, ports)
    statements.plan(ports)
    found = all_statements(database)
    assert len({(each.account_id, each.currency, each.period_start) for each in found}) == len(found)
    by_account: dict[UUID, list[Statement]] = defaultdict(list)
    for each in found:
        if each.currency == "EUR":
            by_account[each.account_id].append(each)
    assert len(by_account) == len(BILLED)
    for each in found:
        zone = each.time_zone
        assert (each.opens_at, each.closes_at) == (begins(each.period_start, zone), begins(each.period_end, zone))
        if each.period_start > min(start for _, _, start in BILLED) and each.opening:
            days = (each.period_end - each.period_start).days
            assert each.line_count <= days
    with database.connection() as connection:
        accounts = connection.execute(
            text("SELECT id, period_start, statement_due_at > now() AS open FROM tenure.accounts")
        )
        standing = {row.id: row for row in accounts}
    starts = Counter((zone, start) for zone, _, start in BILLED)
    assert Counter((rows[0].time_zone, rows[0].period_start) for rows in by_account.values()) == starts
    for account, rows in by_account.items():
        # From the first day to the period that is still open, none is left out.
        assert (rows[-1].period_end, True) == (standing[account].period_start, standing[account].open)
        for before, after in pairwise(rows):
            assert (after.period_start, after.opening) == (before.period_end, before.closing)
            # An entry at each of its midnights, whatever the clock did that day.
            last = after.closing == rows[-1].closing
            assert last or after.line_count == (after.period_end - after.period_start).days


def begins(day: date, zone: str) -> datetime:
    """The first instant of a local day, found by looking at every quarter of an hour around its midnight."""
    about = datetime(day.year, day.month, day.day, tzinfo=UTC)
    steps = (about + timedelta(minutes=15 * number) for number in range(-80, 80))
    local = [(step, step.astimezone(ZoneInfo(zone)).date()) for step in steps]
    return max(step for step, its_day in local if its_day < day) + timedelta(minutes=15)


def test_short_statements_do_not_wait_for_a_long_one(database: Database, ports: Ports) -> None:
    """The long one is due first; a worker that renders short ones does not even claim it."""
    with database.transaction() as session:
        long = an_account(session)
        a_contact(session, long)
        session.execute(
            text("""
                INSERT INTO tenure.ledger_entries (account_id, kind, currency, amount, description, occurred_at)
                SELECT :id, 'charge', 'EUR', n, 'Call ' || n, '2026-10-10' FROM generate_series(1, :count) AS n"""),
            {"id": long.id, "count": statements.LONG * 4},
        )
        for _ in range(3):
            account = an_account(session, period_start=date(2026, 10, 2), billing_day=2)
            a_contact(session, account)
            an_entry(session, account, 100)
    statements.plan(ports)
    assert drain(statements.RENDER, ports) == {"rendered": 3}
    assert {each.state for each in all_statements(database) if each.account_id == long.id} == {"pending"}
    # A lease that is shorter than the rendering is renewed meanwhile: nobody takes the row over.
    renewed = Event()

    def watch() -> None:
        first: datetime | None = None
        while not renewed.is_set():
            with database.connection() as connection:
                until = connection.execute(
                    text("SELECT lease_until FROM tenure.statements WHERE state = 'running'")
                ).scalar_one_or_none()
            if until and first and until > first:
                renewed.set()
            first = first or until

    watcher = Thread(target=watch, daemon=True)
    watcher.start()
    assert drain(statements.RENDER_LONG, replace(ports, lease=timedelta(seconds=0.3))) == {"rendered": 1}
    renewed.wait(timeout=deadline(5))
    assert renewed.is_set()
    (mail,) = (each for each in mails_of(database) if each.account_id == long.id)
    assert mail.context["entries"] == statements.LONG * 4
    assert {each.state for each in all_statements(database)} == {"done"}


def mails_of(database: Database) -> list[EmailMessage]:
    with database.transaction() as session:
        return list(session.scalars(select(EmailMessage)))


def test_a_planner_that_began_before_another_committed_sees_all_that_the_other_did(
    database: Database, ports: Ports
) -> None:
    """The snapshot of a statement that locks rows may be older than the locks: what a planner then would not see, an
    entry and the statement before, would be swallowed by an opening balance."""
    with database.transaction() as session:
        # The first in the order of planning holds the planner up while it is at work.
        session.execute(text("ALTER FUNCTION tenure.period_end RENAME TO real_period_end"))
        session.execute(
            text("""
                CREATE FUNCTION tenure.period_end(start date, billing_day int) RETURNS date LANGUAGE plpgsql AS $$
                BEGIN
                    IF billing_day = 2 AND current_setting('application_name') = 'held up' THEN
                        PERFORM pg_advisory_xact_lock(4711);
                    END IF;
                    RETURN tenure.real_period_end(start, billing_day);
                END $$""")
        )
        an_account(session, period_start=date(2026, 8, 2), billing_day=2, time_zone="Pacific/Kiritimati")
        account = an_account(session, period_start=date(2026, 9, 3), billing_day=3)
        an_entry(session, account, 100, occurred_at=datetime(2026, 9, 10, tzinfo=UTC))
    ready = Event()

    def held_up() -> None:
        with database.transaction() as session:
            session.execute(text("SET LOCAL application_name = 'held up'"))
            ready.set()
            plan_batch(session, COMPANY)

    with database.connection() as holder:
        holder.execute(text("SELECT pg_advisory_xact_lock(4711)"))
        slow = Thread(target=held_up)
        slow.start()
        assert ready.wait(timeout=deadline(30))
        eventually(lambda: waits_for_the_holder(database), "the planner is held up")
        # Meanwhile: another planner plans September, and an entry of September is recorded late.
        for _ in range(2):
            with database.transaction() as session:
                plan_batch(session, COMPANY)
            late = Thread(target=record_late, args=(database, account))
            late.start()
            late.join(timeout=0.5)
    slow.join(timeout=deadline(30))
    late.join(timeout=deadline(30))
    statements.plan(ports)
    found = [each for each in all_statements(database) if each.account_id == account.id]
    items = shown(database, [each.id for each in found])
    for before, after in pairwise(found):
        assert after.opening == before.closing
    with database.transaction() as session:
        recorded = session.scalars(select(LedgerEntry.amount).where(LedgerEntry.account_id == account.id)).all()
    lines = [line.amount for each in found for line in items[each.id].lines]
    assert sorted(lines) == sorted(recorded)


def record_late(database: Database, account: Account) -> None:
    with database.transaction() as session:
        an_entry(session, account, 7, occurred_at=datetime(2026, 9, 20, tzinfo=UTC))


def waits_for_the_holder(database: Database) -> bool:
    with database.connection() as connection:
        return bool(
            connection.execute(
                text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
            ).scalar_one()
        )


def test_planning_again_finds_nothing_and_an_account_that_was_away_for_years_catches_up(
    database: Database, ports: Ports
) -> None:
    with database.transaction() as session:
        account = an_account(session, period_start=date(2023, 1, 31), billing_day=31)
        numbers = random.Random(7)
        for day in range(0, 1_300, 10):
            occurred_at = datetime(2023, 2, 1, tzinfo=UTC) + timedelta(days=day)
            an_entry(session, account, numbers.randint(1, 9_999), occurred_at=occurred_at)
    assert statements.plan(ports)["planned"] >= 44
    assert statements.plan(ports) == {"accounts": 0, "planned": 0}
    found = all_statements(database)
    for before, after in pairwise(found):
        assert (after.period_start, after.opening) == (before.period_end, before.closing)
        assert after.opens_at == before.closes_at


def test_a_stopping_planner_stops_between_batches(database: Database, ports: Ports) -> None:
    with database.transaction() as session:
        an_entry(session, an_account(session, period_start=FIRST), 1)
    asked: list[bool] = []

    def stopping() -> bool:
        asked.append(len(asked) >= 2)
        return asked[-1]

    assert statements.plan(replace(ports, stopping=stopping))["accounts"] == 2


def test_what_is_unpaid_is_aged_by_the_day_it_was_due_latest_first(database: Database, ports: Ports) -> None:
    with database.transaction() as session:
        account = an_account(session)
        # 31 October is the last day: not due, 1 day, 30, 31, 91 days overdue.
        for due_on, amount in [
            (date(2026, 11, 14), 1),
            (date(2026, 10, 30), 20),
            (date(2026, 10, 1), 300),
            (date(2026, 9, 30), 4_000),
            (date(2026, 8, 1), 60_000),
        ]:
            an_entry(session, account, amount, due_on=due_on)
        an_entry(session, account, -59_000)
    statements.plan(ports)
    (statement,) = all_statements(database)
    ageing = shown(database, [statement.id])[statement.id].document().ageing
    assert (ageing.not_due, ageing.days_1_30, ageing.days_31_60, ageing.days_61_90, ageing.over_90) == (
        1,
        320,
        4_000,
        0,
        1_000,
    )


def test_a_payment_that_was_told_its_invoice_leaves_open_what_is_older(database: Database) -> None:
    """And a chargeback opens that invoice again, and no other; what is left of a payment settles the oldest (B9)."""
    with database.transaction() as session:
        account = an_account(session, invoiced_from=date(2026, 8, 1), statement_form=StatementForm.OPEN_ITEM)
        a_contact(session, account)
        invoices = []
        for month, amount in ((8, 1_000), (9, 2_000), (10, 4_000)):
            an_entry(session, account, amount, occurred_at=datetime(2026, month, 2, tzinfo=UTC))
            (number,) = invoice_issue.issue_batch(session, COMPANY, account.id)[1] or [None]
            invoice = session.get_one(Invoice, number)
            invoices.append(invoice)
            session.execute(
                text("UPDATE tenure.open_items SET due_on = :due_on WHERE invoice_id = :id"),
                {"due_on": date(2026, month, 16), "id": invoice.id},
            )
        august, september, october = invoices
        told = an_entry(session, account, -4_000, applies_to=october.id)
        an_entry(session, account, -2_500, applies_to=september.id)
        an_entry(session, account, 4_000, kind="chargeback", reverses=told.id)
        # Recorded before the plan, but of a day after the close: it stands on the next statement, and settles there.
        an_entry(session, account, -500, applies_to=august.id, occurred_at=datetime(2026, 11, 3, tzinfo=UTC))
    planned(database)
    (statement,) = all_statements(database)
    document = shown(database, [statement.id])[statement.id].document()
    assert document.open_items is not None
    assert [(item.description, item.amount, item.open) for item in document.open_items] == [
        (august.number, 1_000, 500),
        (october.number, 4_000, 4_000),
    ]
    # Due on 16 August and 16 October, as of 31 October.
    assert document.ageing == Ageing(days_61_90=500, days_1_30=4_000)
    assert document.ageing.total == document.closing == 4_500


def test_an_account_that_begins_to_be_invoiced_pays_what_it_owed_before(database: Database) -> None:
    """Its old charges stand on no invoice; a payment finds nothing to be allocated to, and yet settles them."""
    with database.transaction() as session:
        account = an_account(session)
        a_contact(session, account)
        an_entry(session, account, 1_000, occurred_at=datetime(2026, 9, 2, tzinfo=UTC))
        account.invoiced_from = date(2026, 10, 1)
        session.flush()
        an_entry(session, account, -600)
        an_entry(session, account, 300)
        invoice_issue.issue_batch(session, COMPANY, account.id)
    planned(database)
    (statement,) = all_statements(database)
    ageing = shown(database, [statement.id])[statement.id].document().ageing
    # The invoice took 300 of the payment, as allocations say, and what was left of it paid for the oldest.
    assert ageing == Ageing(days_31_60=700)


def test_what_is_on_an_invoice_is_due_with_it_and_what_is_not_yet_is_not_due(database: Database) -> None:
    """September is on an invoice that is overdue by the end of October; October's charge is on none yet."""
    with database.transaction() as session:
        terms = {"invoiced_from": date(2026, 9, 1), "payment_terms": 10, "statement_form": StatementForm.OPEN_ITEM}
        account = an_account(session, **terms)
        a_contact(session, account)
        for amount in (3_000, 4_000):
            an_entry(session, account, amount, occurred_at=datetime(2026, 9, 10, tzinfo=UTC))
        numbers = invoice_issue.issue_batch(session, COMPANY)[1]
        invoice = session.scalars(select(Invoice)).one()
        # As if it had been issued when September closed: a person may move the date by which it is to be paid.
        session.execute(text("UPDATE tenure.open_items SET due_on = '2026-10-11' WHERE invoice_id IS NOT NULL"))
        an_entry(session, account, 500)
        an_entry(session, account, -1_000, occurred_at=datetime(2026, 10, 20, tzinfo=UTC))
    assert len(numbers) == 1
    planned(database)
    (statement,) = all_statements(database)
    document = shown(database, [statement.id])[statement.id].document()
    assert document.ageing == Ageing(not_due=500, days_1_30=6_000)
    assert document.open_items is not None
    assert [(item.description, item.due_on, item.amount, item.open) for item in document.open_items] == [
        (invoice.number, date(2026, 10, 11), 7_000, 6_000),
        ("Service", None, 500, 500),
    ]


def test_every_batch_is_planned_for_its_own_accounts(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """PostgreSQL would keep a plan for ten accounts, and take ten times as long with it for thousands."""
    monkeypatch.setattr("tasks.billing.statement_plan.PLAN_BATCH", 1)
    with database.transaction() as session:
        for _ in range(14):
            an_entry(session, an_account(session), 1)
    with database.transaction() as session:
        while plan_batch(session, COMPANY)[0]:
            pass
        prepared = session.execute(
            text("""
                SELECT custom_plans, generic_plans FROM pg_prepared_statements
                 WHERE statement LIKE '%INSERT INTO tenure.statements%'""")
        ).one()
    assert prepared.custom_plans > 5
    assert prepared.generic_plans == 0
