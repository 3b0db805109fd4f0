"""What is set off against what: every payment, credit, refund, chargeback and invoice, in any order (B9)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given
from hypothesis import settings as profile
from hypothesis import strategies as st
from sqlalchemy import select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from email_templates.language.company import Company
from models.base.money import Money
from models.base.unit_of_work import Database
from models.billing.invoice import Invoice
from models.billing.ledger import EntryKind, LedgerEntry
from models.billing.statement import Statement
from models.customers.account import Account, StatementForm
from tasks.billing import credit_notes, invoice_issue, statement_plan
from tests.support.rows.company import an_account, an_entry

pytestmark = pytest.mark.clock("2026-11-22 12:00")

SELLER = Company(name="Seller AG", address=("Ring 1",), email="office@seller.example", website="seller.example")
START = datetime(2026, 10, 2, 12, tzinfo=UTC)


def issue(session: Session, account: Account) -> list[Invoice]:
    """Invoice at once what the account was charged."""
    made = invoice_issue.issue_batch(session, SELLER, account.id)[1]
    return list(session.scalars(select(Invoice).where(Invoice.id.in_(made)).order_by(Invoice.currency)))


def invoice_of(session: Session, account: Account, amount: int, **values: Any) -> Invoice:
    an_entry(session, account, amount, **values)
    (made,) = issue(session, account)
    return made


def open_of(session: Session, account: Account) -> dict[str, int]:
    """What is open, by invoice number or by the kind of the ledger entry."""
    rows = session.execute(
        text("""
            SELECT coalesce(invoice.number, entry.kind || ' ' || entry.sequence) AS what, item.open
              FROM tenure.open_items AS item
              LEFT JOIN tenure.invoices AS invoice ON invoice.id = invoice_id
              LEFT JOIN tenure.ledger_entries AS entry ON entry.id = entry_id
             WHERE item.account_id = :account AND item.open > 0"""),
        {"account": account.id},
    )
    return {row.what: row.open for row in rows}


def invoiced(session: Session, **values: Any) -> Account:
    return an_account(session, **{"invoiced_from": date(2026, 10, 1), **values})


def put_off(session: Session, invoice: Invoice, due_on: date) -> None:
    session.execute(
        text("UPDATE tenure.open_items SET due_on = :due_on WHERE invoice_id = :id"),
        {"due_on": due_on, "id": invoice.id},
    )


def test_what_has_been_due_longest_is_settled_first_and_the_rest_is_credit(database: Database) -> None:
    with database.transaction() as session:
        account = invoiced(session)
        first, second, third = (invoice_of(session, account, amount) for amount in (1_000, 2_000, 4_000))
        put_off(session, first, date(2030, 1, 1))

        an_entry(session, account, -2_500)
        assert open_of(session, account) == {first.number: 1_000, third.number: 3_500}
        an_entry(session, account, -5_000)
        assert open_of(session, account) == {"payment 5": 500}
        # Credit is used at once.
        fourth = invoice_of(session, account, 700)
        assert open_of(session, account) == {fourth.number: 200}
        assert second.total == 2_000


def test_a_payment_goes_where_it_was_told_and_what_is_left_of_it_to_the_others(database: Database) -> None:
    with database.transaction() as session:
        account = invoiced(session)
        first, second = (invoice_of(session, account, amount) for amount in (1_000, 2_000))
        an_entry(session, account, -2_300, applies_to=second.id)
        assert open_of(session, account) == {first.number: 700}


def test_nothing_is_set_off_across_currencies(database: Database) -> None:
    with database.transaction() as session:
        account = invoiced(session)
        an_entry(session, account, 1_000)
        an_entry(session, account, 1_000, currency="JPY")
        euro, yen = issue(session, account)
        an_entry(session, account, -5_000, currency="USD")
        an_entry(session, account, -400, currency="JPY")
        assert open_of(session, account) == {euro.number: 1_000, yen.number: 600, "payment 3": 5_000}


def test_what_is_charged_back_is_open_again(database: Database) -> None:
    with database.transaction() as session:
        account = invoiced(session)
        first, second = (invoice_of(session, account, amount) for amount in (1_000, 2_000))
        paid = an_entry(session, account, -1_500)
        an_entry(session, account, -1_500)
        assert open_of(session, account) == {}
        # Of the first payment, although another came later: what was due last is open first.
        an_entry(session, account, 1_200, kind="chargeback", reverses=paid.id)
        assert open_of(session, account) == {first.number: 700, second.number: 500}
        an_entry(session, account, -1_200)
        assert open_of(session, account) == {}


def test_a_refund_is_paid_from_credit_first_then_from_the_latest_payment_and_then_it_is_owed(
    database: Database,
) -> None:
    with database.transaction() as session:
        account = invoiced(session)
        first = invoice_of(session, account, 1_000)
        an_entry(session, account, -1_300)
        an_entry(session, account, 200, kind="refund")
        assert open_of(session, account) == {"payment 2": 100}
        an_entry(session, account, 400, kind="refund")
        assert open_of(session, account) == {first.number: 300}
        an_entry(session, account, 900, kind="refund")
        assert open_of(session, account) == {first.number: 1_000, "refund 5": 200}
        # What was given back too much has been due since, and longer than the invoice.
        an_entry(session, account, -200)
        assert open_of(session, account) == {first.number: 1_000}


def test_a_credit_note_settles_its_invoice_and_what_was_paid_already_becomes_credit(database: Database) -> None:
    with database.transaction() as session:
        account = invoiced(session)
        first, second = (invoice_of(session, account, amount) for amount in (1_000, 2_000))
        an_entry(session, account, -1_400)
        assert open_of(session, account) == {second.number: 1_600}
        credit_notes.credit(session, SELLER, first.id)
        # The first was paid: its credit settles the second.
        assert open_of(session, account) == {second.number: 600}
        states = session.execute(text("SELECT number, state, credited FROM tenure.invoice_balances ORDER BY number"))
        assert [tuple(row) for row in states] == [
            (first.number, "void", 1_000),
            (second.number, "partly_settled", 0),
        ]


def test_an_account_that_is_not_invoiced_has_no_open_items(database: Database) -> None:
    with database.transaction() as session:
        account = an_account(session)
        an_entry(session, account, 1_000)
        an_entry(session, account, -500)
        assert open_of(session, account) == {}
        assert invoice_issue.issue_batch(session, SELLER, account.id) == (0, [])


def credit_of(session: Session, account: Account, amount: int, invoice: Invoice) -> None:
    session.execute(
        text("SELECT tenure.record_entry(:ref, 'credit', 'EUR', :amount, 'Goodwill', applies_to => :number)"),
        {"ref": account.ref, "amount": amount, "number": invoice.number},
    )


def test_a_credit_larger_than_its_invoice_is_refused_and_nothing_changes(database: Database) -> None:
    with database.transaction() as session:
        account = invoiced(session)
        invoice = invoice_of(session, account, 1_000)
        for too_much, fine, left in ((1_001, 400, 600), (601, 600, 0)):
            with pytest.raises(IntegrityError, match=f"the credit of {too_much} is more than"), session.begin_nested():
                credit_of(session, account, too_much, invoice)
            credit_of(session, account, fine, invoice)
            assert open_of(session, account) == ({invoice.number: left} if left else {})
        with pytest.raises(IntegrityError, match="more than the 0 that earlier credits"), session.begin_nested():
            credit_of(session, account, 1, invoice)


def test_a_credit_of_an_invoice_that_is_paid_is_credit_on_the_account(database: Database) -> None:
    with database.transaction() as session:
        account = invoiced(session)
        invoice = invoice_of(session, account, 1_000)
        an_entry(session, account, -1_000, applies_to=invoice.id)
        credit_of(session, account, 1_000, invoice)
        assert sum(open_of(session, account).values()) == 1_000


@pytest.mark.parametrize("mistake", ["another account's", "another currency's", "a credit note", "no payment"])
def test_what_a_payment_or_chargeback_cannot_be_about_is_refused(database: Database, mistake: str) -> None:
    with database.transaction() as session:
        account, other = invoiced(session), invoiced(session)
        invoice = invoice_of(session, account, 1_000)
        values: dict[str, Any] = {"applies_to": invoice.id}
        match mistake:
            case "another account's":
                account = other
            case "another currency's":
                values["currency"] = "USD"
            case "a credit note":
                credit_notes.credit(session, SELLER, invoice.id)
                values["applies_to"] = session.scalars(select(Invoice.id).filter_by(kind="credit_note")).one()
            case _:
                charge = session.scalars(select(LedgerEntry.id).filter_by(amount=1_000)).one()
                values = {"kind": "refund", "reverses": charge}
        amount = 500 if "reverses" in values else -500
        with pytest.raises(IntegrityError, match=r"that this account (does not have|has not made) in"):
            an_entry(session, account, amount, **values)


# Any script of entries, invoices and credit notes.

amounts = st.integers(1, 3_000)
currencies = st.sampled_from(["EUR", "EUR", "JPY"])
which = st.none() | st.integers(0, 5)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("charge"), currencies, amounts),
        st.tuples(st.just("invoice"), currencies, amounts),
        st.tuples(st.just("invoice"), currencies, amounts),
        st.tuples(st.just("put off"), st.integers(0, 5), st.integers(0, 60)),
        st.tuples(st.sampled_from(["payment", "payment", "payment", "credit"]), currencies, amounts, which),
        st.tuples(st.sampled_from(["refund", "chargeback"]), currencies, amounts, which),
        st.tuples(st.just("credit note"), st.integers(0, 5), amounts),
    ),
    min_size=12,
    max_size=18,
)


def play(session: Session, script: Sequence[tuple[Any, ...]], *, checked: bool) -> Account:
    """Write the script into a new account's books; `checked`, look at the invariants after each step."""
    account = invoiced(session, statement_form=StatementForm.OPEN_ITEM)
    for number, (step, *values) in enumerate(script):
        issued = list(
            session.scalars(
                select(Invoice).filter_by(account_id=account.id, kind="invoice").order_by(Invoice.series_number)
            )
        )
        if step == "invoice":
            record(session, account, values, issued, {"kind": "charge", "occurred_at": START})
            issue(session, account)
        elif step == "put off" and issued:
            put_off(session, issued[values[0] % len(issued)], date(2026, 12, 1) + timedelta(days=values[1]))
        elif step == "credit note" and issued:
            invoice = issued[values[0] % len(issued)]
            try:
                credit_notes.credit(session, SELLER, invoice.id, amount=Money(values[1], invoice.currency))
            except credit_notes.CreditRefused:
                event("a credit note was refused")
        elif step in set(EntryKind):
            about = {"kind": step, "occurred_at": START + timedelta(hours=number)}
            record(session, account, values, issued, about)
        if checked:
            check(session, account)
    return account


def record(session: Session, account: Account, values: list[Any], issued: list[Invoice], about: dict[str, Any]) -> None:
    currency, amount = values[:2]
    told = values[2] if len(values) > 2 else None
    if about["kind"] in {"payment", "credit"}:
        amount = -amount
        candidates = [invoice.id for invoice in issued if invoice.currency == currency]
        if told is not None and candidates:
            about["applies_to"] = candidates[told % len(candidates)]
    elif told is not None and about["kind"] != "charge":
        paid = session.scalars(
            select(LedgerEntry.id)
            .filter_by(account_id=account.id, kind="payment", currency=currency)
            .order_by(LedgerEntry.sequence)
        ).all()
        if paid:
            about["reverses"] = paid[told % len(paid)]
    entry = an_entry(session, account, amount, currency=currency, **about)
    if amount < 0 and "applies_to" not in about:
        oldest_first(session, entry)


def oldest_first(session: Session, entry: LedgerEntry) -> None:
    """While something older is open, a payment that was told nothing settles nothing younger."""
    wrong = session.execute(
        text("""
            SELECT count(*) FROM tenure.allocations AS allocation
              JOIN tenure.open_items AS credit ON credit.id = credit_id AND credit.entry_id = :entry
              JOIN tenure.open_items AS settled ON settled.id = debit_id
              JOIN tenure.open_items AS left_open ON left_open.account_id = settled.account_id
               AND left_open.currency = settled.currency AND left_open.side = 'debit' AND left_open.open > 0
             WHERE left_open.due_on < settled.due_on"""),
        {"entry": entry.id},
    ).scalar_one()
    assert wrong == 0


INVARIANTS = text("""
    SELECT used.currency,
           coalesce((SELECT sum(amount) FROM tenure.ledger_entries AS entry
                      WHERE entry.account_id = :account AND entry.currency = used.currency), 0) AS balance,
           coalesce((SELECT sum(amount) FROM tenure.ledger_entries AS entry
                      WHERE entry.account_id = :account AND entry.currency = used.currency AND kind = 'charge'
                        AND NOT EXISTS (SELECT FROM tenure.invoice_lines WHERE entry_id = entry.id)), 0) AS uninvoiced,
           coalesce(sum(open) FILTER (WHERE side = 'debit'), 0) AS debits,
           coalesce(sum(open) FILTER (WHERE side = 'credit'), 0) AS credits,
           bool_and(item.open = item.amount - coalesce(
               (SELECT sum(allocation.amount) FROM tenure.allocations AS allocation
                 WHERE item.id IN (credit_id, debit_id)), 0)) AS sums_agree
      FROM unnest(ARRAY['EUR', 'JPY']) AS used (currency)
      LEFT JOIN tenure.open_items AS item ON item.account_id = :account AND item.currency = used.currency
     GROUP BY used.currency""")


def check(session: Session, account: Account) -> None:
    for row in session.execute(INVARIANTS, {"account": account.id}):
        assert row.balance == row.debits + row.uninvoiced - row.credits, row
        assert row.debits == 0 or row.credits == 0, row
        assert row.sums_agree is not False, row
    strays = session.execute(
        text("""
            SELECT count(*) FROM tenure.allocations AS allocation
              JOIN tenure.open_items AS credit ON credit.id = credit_id
              JOIN tenure.open_items AS debit ON debit.id = debit_id
             WHERE allocation.account_id = :account
               AND ((credit.account_id, credit.currency, debit.account_id, debit.currency)
                    IS DISTINCT FROM (:account, debit.currency, credit.account_id, credit.currency)
                    OR credit.side <> 'credit' OR debit.side <> 'debit')"""),
        {"account": account.id},
    ).scalar_one()
    assert strays == 0


def allocations(session: Session, account: Account) -> list[tuple[Any, ...]]:
    """Each decision, with items named by their place, which is the same in every run of a script."""
    rows = session.execute(
        text("""
            WITH place AS (
                SELECT item.id, rank() OVER (ORDER BY item.sequence, item.invoice_id IS NULL, item.currency) AS place
                  FROM tenure.open_items AS item WHERE item.account_id = :account)
            SELECT credit.place, debit.place, amount, sequence FROM tenure.allocations
              JOIN place AS credit ON credit.id = credit_id JOIN place AS debit ON debit.id = debit_id
             WHERE account_id = :account ORDER BY allocations.id"""),
        {"account": account.id},
    )
    return [tuple(row) for row in rows]


def stated(session: Session, account: Account) -> None:
    """A statement that closes now ages exactly what is open, and what credit is left pays for what comes next (B2)."""
    # Credit notes are of this very moment, so the period closes a little later.
    session.execute(
        text("UPDATE tenure.accounts SET statement_due_at = now() + interval '1 h' WHERE id = :id"), {"id": account.id}
    )
    values = {"accounts": [account.id], "letterhead": statement_plan.keep_letterhead(session, SELLER)}
    session.execute(statement_plan.PLAN, values)
    statements = session.scalars(select(Statement).filter_by(account_id=account.id)).all()
    standing = {row.currency: row for row in session.execute(INVARIANTS, {"account": account.id})}
    assert {each.currency for each in statements} == {row.currency for row in standing.values() if row.sums_agree}
    for statement in statements:
        row = standing[statement.currency]
        assert statement.closing == row.balance
        assert statement.open_items is not None
        open_now = {
            (what, amount)
            for what, amount, currency in session.execute(
                text("""
                    SELECT coalesce(invoice.number, entry.description), item.open, item.currency
                      FROM tenure.open_items AS item
                      LEFT JOIN tenure.invoices AS invoice ON invoice.id = invoice_id
                      LEFT JOIN tenure.ledger_entries AS entry ON entry.id = entry_id
                     WHERE item.account_id = :account AND item.open > 0 AND item.side = 'debit'"""),
                {"account": account.id},
            )
            if currency == statement.currency
        }
        due = {(what, left) for _, due_on, what, _, left in statement.open_items if due_on and left > 0}
        if row.debits:
            assert due == open_now
            assert statement.closing == row.debits + row.uninvoiced
            assert sum(left for _, due_on, _, _, left in statement.open_items if not due_on) == row.uninvoiced
        else:
            assert due == open_now == set()
            assert statement.unapplied_credit == max(0, row.credits - row.uninvoiced)


@profile(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=20,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps)
def test_whatever_happens_nothing_is_lost_and_the_same_books_give_the_same_allocations(
    database: Database, script: list[tuple[Any, ...]]
) -> None:
    with database.transaction() as session:
        script = [("invoice", "EUR", 2_000), ("invoice", "EUR", 500), *script]
        first, second = play(session, script, checked=True), play(session, script, checked=False)
        assert allocations(session, first) == allocations(session, second)
        stated(session, first)
        event(f"{min(len(allocations(session, first)) // 4 * 4, 12)} allocations or more")
        session.rollback()
