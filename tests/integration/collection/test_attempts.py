"""Collection: planned by the account's calendar, asked for once, recorded whole (B20, B21, B23)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from threading import Barrier, Thread
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from email_templates.catalogue.payments import FailureReason, Method
from models.base.unit_of_work import Database
from models.collection.payment import CollectionAttempt, DeclineReason, MethodKind
from models.customers.account import Account
from models.work import row as work
from tasks.collection import attempts as payments
from tasks.collection.plan import plan
from tasks.engine.drain import drain
from tasks.ports.context import Ports
from tests.support.rows.company import a_contact
from tests.support.rows.paying import PRICE, attempts, days_pass, entries, is_charged_once, mails, payers
from workers.adapters.payments.stripe import StripeGateway
from workers.local.servers.payments import PaymentProvider


@pytest.fixture
def provider() -> Iterator[PaymentProvider]:
    with PaymentProvider() as made:
        yield made


@pytest.fixture
def paying(ports: Ports, provider: PaymentProvider) -> Iterator[Ports]:
    gateway = StripeGateway(provider.secret_key, provider.webhook_secret, provider.address)
    yield replace(ports, payments=gateway)
    gateway.close()


def execute(database: Database, sql: str, **values: Any) -> None:
    with database.connection() as connection:
        connection.execute(text(sql), values)


def collect(ports: Ports) -> dict[str, int]:
    plan(ports)
    return drain(payments.COLLECT, ports)


def settle(ports: Ports) -> dict[str, int]:
    execute(ports.database, "UPDATE tenure.collection_attempts SET due_at = now() WHERE state = 'unknown'")
    payments.take_up(ports)
    return drain(payments.SETTLE, ports)


def test_an_invoice_that_is_due_is_charged_once_and_receipted(
    paying: Ports, database: Database, provider: PaymentProvider
) -> None:
    payers(database, 3)
    assert plan(paying) == 3
    assert plan(paying) == 0
    assert drain(payments.COLLECT, paying) == {"answered": 3}
    is_charged_once(database, provider)
    assert {(each.state, each.outcome, each.amount) for each in attempts(database)} == {("done", "charged", PRICE)}
    receipts = mails(database, "payment-received")
    assert [receipt["allocations"][0]["amount"] for receipt in receipts] == [PRICE] * 3
    assert {receipt["kept"] for receipt in receipts} == {0}
    assert collect(paying) == {"answered": 0}
    days_pass(database, 1)
    assert collect(paying) == {"answered": 0}
    is_charged_once(database, provider)


@pytest.mark.parametrize("error", [ZeroDivisionError("bug"), MemoryError()], ids=repr)
def test_an_error_while_an_answer_is_recorded_charges_nobody_twice(
    paying: Ports, database: Database, provider: PaymentProvider, error: Exception
) -> None:
    """The provider is asked what became of it, under the same key, before anything else is done."""
    payers(database, 2)
    plan(paying)

    def fail(*_: object) -> None:
        raise error

    drain(replace(payments.COLLECT, record=fail), paying)
    assert {each.outcome for each in attempts(database)} == {None}
    for _ in range(3):
        execute(database, "UPDATE tenure.collection_attempts SET due_at = now() WHERE state = 'pending'")
        collect(paying)
        settle(paying)
    is_charged_once(database, provider)
    assert {each.outcome for each in attempts(database)} == {"charged"}


def test_nothing_is_collected_that_is_not_wanted(paying: Ports, database: Database, provider: PaymentProvider) -> None:
    names = ["later", "disputed", "paid", "without-method", "frozen", "no-due-date"]
    ids = {name: payers(database, 1, prefix=name)[0] for name in names}
    due = "UPDATE tenure.open_items SET due_on = :due WHERE account_id = :id"
    with database.connection() as connection:
        tomorrow = connection.execute(text("SELECT now()::date + 1")).scalar_one()
    execute(database, due, due=tomorrow, id=ids["later"])
    execute(database, due, due=None, id=ids["no-due-date"])
    execute(database, "UPDATE tenure.open_items SET disputed = amount WHERE account_id = :id", id=ids["disputed"])
    execute(database, "UPDATE tenure.payment_methods SET retired_at = now() WHERE account_id = :id",
            id=ids["without-method"])  # fmt: skip
    execute(database, "SELECT tenure.record_entry('paid1', 'payment', 'EUR', :price, 'By transfer')", price=PRICE)
    execute(database, "UPDATE tenure.accounts SET status = 'frozen' WHERE id = :id", id=ids["frozen"])
    assert collect(paying) == {"answered": 0}
    assert attempts(database) == []
    assert provider.requests == []


def test_what_changed_since_the_planning_counts(paying: Ports, database: Database, provider: PaymentProvider) -> None:
    paid, partly, disputed = payers(database, 3)
    assert plan(paying) == 3
    execute(database, "SELECT tenure.record_entry('zahler-1', 'payment', 'EUR', :price, 'By transfer')", price=PRICE)
    execute(database, "SELECT tenure.record_entry('zahler-2', 'payment', 'EUR', 345, 'By transfer')")
    execute(database, "UPDATE tenure.open_items SET disputed = 45 WHERE account_id = :id AND invoice_id IS NOT NULL",
            id=disputed)  # fmt: skip
    drain(payments.COLLECT, paying)
    outcomes = {each.account_id: (each.outcome, each.amount) for each in attempts(database)}
    assert outcomes == {paid: ("not_needed", None), partly: ("charged", 12_000), disputed: ("charged", 12_300)}
    assert sorted(provider.charged().values()) == [12_000, 12_300]


def test_the_due_day_is_the_customers_own(paying: Ports, database: Database) -> None:
    """Pago Pago is 11 hours behind UTC, Kiritimati 14 ahead: their local days overlap for no more than an hour."""
    payers(database, 1, prefix="west-", time_zone="Pacific/Pago_Pago")
    payers(database, 1, prefix="east-", time_zone="Pacific/Kiritimati")
    plan(paying)
    with database.connection() as connection:
        rows = connection.execute(
            text("""
                SELECT ref, local_day = (now() AT TIME ZONE time_zone)::date AS is_today FROM tenure.accounts
                  JOIN tenure.collection_attempts ON account_id = accounts.id""")
        ).all()
    assert {(row.ref, row.is_today) for row in rows} == {("west-1", True), ("east-1", True)}


@pytest.mark.parametrize("fault", ["lose_before", "lose_after", "error_before", "error_after"])
def test_a_lost_answer_is_unknown_and_asked_for_before_anything_else(
    fault: str, paying: Ports, database: Database, provider: PaymentProvider
) -> None:
    payers(database)
    provider.faults.extend([fault, fault])
    assert collect(paying) == {"answered": 0, "settled": 1}
    (attempt,) = attempts(database)
    assert (attempt.state, attempt.outcome, attempt.amount) == ("unknown", None, PRICE)
    assert collect(paying) == {"answered": 0}, "unknown is in flight: nothing else is planned or asked"
    provider.requests.clear()
    settle(paying)
    assert provider.requests[0] == ("GET", "/v1/payment_intents"), "first it is asked"
    provider.faults.clear()
    settle(paying)
    is_charged_once(database, provider)
    assert len(mails(database, "payment-received")) == 1


def test_a_key_that_the_provider_forgot_is_never_used_again(
    paying: Ports, database: Database, provider: PaymentProvider
) -> None:
    payers(database)
    provider.faults.append("lose_before")
    collect(paying)
    execute(database, "UPDATE tenure.collection_attempts SET asked_at = asked_at - interval '23 hours 30 minutes'")
    settle(paying)
    assert [each.state for each in attempts(database)] == ["unknown"], "too late to ask with it, too early to tell"
    execute(database, "UPDATE tenure.collection_attempts SET asked_at = asked_at - interval '2 hours'")
    settle(paying)
    assert [each.outcome for each in attempts(database)] == ["not_made"]
    assert provider.charged() == {}
    days_pass(database, 1)
    collect(paying)
    is_charged_once(database, provider)
    assert [each.outcome for each in attempts(database)] == ["not_made", "charged"]


def test_an_unknown_charge_that_is_not_wanted_any_more_is_not_repeated(
    paying: Ports, database: Database, provider: PaymentProvider
) -> None:
    payers(database)
    provider.faults.append("lose_before")
    collect(paying)
    execute(database, "SELECT tenure.record_entry('zahler-1', 'payment', 'EUR', :price, 'By transfer')", price=PRICE)
    settle(paying)
    assert [each.state for each in attempts(database)] == ["unknown"]
    assert provider.charged() == {}


def test_a_provider_that_is_away_costs_nobody_an_attempt(
    paying: Ports, database: Database, provider: PaymentProvider
) -> None:
    payers(database, 2)
    provider.faults.extend(["busy", "busy"])
    assert collect(paying)["handed_back"] == 2
    assert [(each.state, each.attempts, each.asked_at) for each in attempts(database)] == [("pending", 0, None)] * 2
    execute(database, "UPDATE tenure.collection_attempts SET due_at = now()")
    assert drain(payments.COLLECT, paying) == {"answered": 2}
    is_charged_once(database, provider)


def test_soft_declines_are_tried_eight_times_in_fourteen_days_once_a_day(
    paying: Ports, database: Database, provider: PaymentProvider
) -> None:
    payers(database)
    provider.declines["pm_zahler-1"] = "insufficient_funds"
    days = []
    for day in range(20):
        if collect(paying)["answered"]:
            days.append(day)
        assert collect(paying) == {"answered": 0}, "one a day"
        days_pass(database, 1)
    assert days == [0, 1, 3, 5, 7, 9, 11, 13]
    failed = mails(database, "payment-failed")
    assert [mail["reason"] for mail in failed] == ["not_enough_money"] * 8
    assert [mail["next_attempt_on"] is not None for mail in failed] == [True] * 7 + [False]
    assert [each.decline_code for each in attempts(database)] == ["insufficient_funds"] * 8
    assert entries(database) == []


def test_no_attempt_is_made_up_for_after_the_fourteen_days(
    paying: Ports, database: Database, provider: PaymentProvider
) -> None:
    payers(database)
    provider.declines["pm_zahler-1"] = "insufficient_funds"
    collect(paying)
    days_pass(database, 13)
    assert collect(paying) == {"answered": 1}
    days_pass(database, 1)
    assert collect(paying) == {"answered": 0}


def test_a_hard_decline_ends_it_until_there_is_another_method(
    paying: Ports, database: Database, provider: PaymentProvider
) -> None:
    (account,) = payers(database)
    provider.declines["pm_zahler-1"] = "stolen_card"
    collect(paying)
    (failed,) = mails(database, "payment-failed")
    assert (failed["reason"], failed["next_attempt_on"]) == ("refused", None)
    for _ in range(3):
        days_pass(database, 1)
        assert collect(paying) == {"answered": 0}
    method = """
        INSERT INTO tenure.payment_methods (account_id, provider_customer, provider_method, kind)
        VALUES (:id, 'cus_zahler-1', :method, 'card')"""
    execute(database, method, id=account, method="pm_new")
    assert collect(paying) == {"answered": 1}
    is_charged_once(database, provider)


@pytest.mark.parametrize("code", ["expired_card", "incorrect_number"])
def test_a_payment_that_fails_for_its_details_asks_once_a_year_whether_they_are_right(
    paying: Ports, database: Database, provider: PaymentProvider, code: str
) -> None:
    (account,) = payers(database)
    with database.transaction() as session:
        for name, values in {"eve": {}, "bob": {"receives_statements": False}}.items():
            a_contact(session, session.get_one(Account, account), email=f"{name}@customer.example", **values)
        # Who declined what one can do without is not asked, and the next one is.
        session.execute(text("UPDATE tenure.contacts SET optional_mail = false WHERE email LIKE 'zahler-1@%'"))
    method = """
        INSERT INTO tenure.payment_methods (account_id, provider_customer, provider_method, kind)
        VALUES (:id, 'cus_zahler-1', :method, 'card')"""
    for number in (1, 2):
        provider.declines["pm_zahler-1" if number == 1 else f"pm_{number}"] = code
        if number > 1:
            execute(database, method, id=account, method=f"pm_{number}")
        assert collect(paying) == {"answered": 1}
        days_pass(database, 1)
    assert len(mails(database, "payment-failed")) == 2 * 2
    assert asked(database) == [("eve@customer.example", "payment_failed", None)]
    # A year later eve may be asked again, and by then nobody else was.
    execute(database, "UPDATE tenure.contacts SET details_checked_at = details_checked_at - interval '366 days'")
    execute(database, "UPDATE tenure.contacts SET created_at = created_at - interval '366 days'")
    provider.declines["pm_3"] = code
    execute(database, method, id=account, method="pm_3")
    assert collect(paying) == {"answered": 1}
    assert asked(database) == [("eve@customer.example", "payment_failed", None)] * 2


def test_a_lack_of_money_says_nothing_of_the_details(
    paying: Ports, database: Database, provider: PaymentProvider
) -> None:
    payers(database)
    provider.declines["pm_zahler-1"] = "insufficient_funds"
    assert collect(paying) == {"answered": 1}
    assert len(mails(database, "payment-failed")) == 1
    assert asked(database) == []


def asked(database: Database) -> list[tuple[str, str, str | None]]:
    """Whom a details check was queued to, why, and the address that it names as unreachable."""
    with database.connection() as connection:
        rows = connection.execute(
            text("""
                SELECT to_address, context ->> 'reason', context ->> 'unreachable' FROM tenure.email_messages
                 WHERE message = 'details-check' ORDER BY id""")
        )
        return [tuple(row) for row in rows]


def test_a_payment_that_the_customer_must_confirm_leaves_the_card_in_use(
    paying: Ports, database: Database, provider: PaymentProvider
) -> None:
    payers(database)
    provider.declines["pm_zahler-1"] = "authentication_required"
    collect(paying)
    (failed,) = mails(database, "payment-failed")
    assert (failed["reason"], failed["next_attempt_on"]) == ("confirmation_needed", None)
    with database.connection() as connection:
        assert connection.execute(text("SELECT retired_at FROM tenure.payment_methods")).scalar_one() is None
    days_pass(database, 1)
    assert collect(paying) == {"answered": 0}


def test_a_direct_debit_is_in_flight_until_its_end(
    paying: Ports, database: Database, provider: PaymentProvider
) -> None:
    payers(database, 2)
    provider.debits.update({"pm_zahler-1", "pm_zahler-2"})
    collect(paying)
    assert [(each.state, each.outcome) for each in attempts(database)] == [("done", "processing")] * 2
    assert entries(database) == []
    first, second = provider.intents
    days_pass(database, 1)
    assert collect(paying) == {"answered": 0}
    assert settle(paying) == {"answered": 2}
    assert settle(paying) == {"answered": 0}, "it is asked for once a day"
    provider.complete(first)
    provider.complete(second, declined="insufficient_funds")
    days_pass(database, 1)
    assert settle(paying) == {"answered": 2}
    assert sorted(each.outcome for each in attempts(database)) == ["charged", "declined"]
    assert len(entries(database)) == len(mails(database, "payment-received")) == 1
    assert len(mails(database, "payment-failed")) == 1


def test_what_was_given_back_is_not_collected_again(
    paying: Ports, database: Database, provider: PaymentProvider
) -> None:
    payers(database)
    collect(paying)
    (attempt,) = attempts(database)
    execute(database, """
        INSERT INTO tenure.ledger_entries (account_id, kind, currency, amount, description, occurred_at)
        VALUES (:id, 'refund', 'EUR', 100, 'Goodwill', now())""", id=attempt.account_id)  # fmt: skip
    days_pass(database, 3)
    assert collect(paying) == {"answered": 0}
    assert sum(provider.charged().values()) == PRICE


def test_a_zombie_that_wakes_after_its_lease_charges_nobody_twice(
    paying: Ports, database: Database, provider: PaymentProvider
) -> None:
    payers(database)
    plan(paying)
    with database.connection() as connection:
        claimed = work.claim(connection, CollectionAttempt, 1, worker="zombie|1|1", lease=timedelta(seconds=-1))
    with database.transaction() as session:
        item = payments.load(session, claimed.ids)[claimed.ids[0]]
    marked = "UPDATE tenure.collection_attempts SET asked_at = clock_timestamp(), amount = :price"
    execute(database, marked, price=PRICE)
    with database.connection() as connection:
        assert work.rescue(connection, CollectionAttempt) == 1
    assert [each.state for each in attempts(database)] == ["unknown"]
    settle(paying)
    held = payments.ClaimedRow(paying, claimed.ids[0], claimed.token)
    with pytest.raises(payments.AlreadyEnded):
        payments.collect(item, held)
    is_charged_once(database, provider)


def test_racing_planners_make_one_attempt(paying: Ports, database: Database) -> None:
    payers(database, 5)
    together = Barrier(8)

    def race() -> None:
        together.wait()
        plan(paying)

    threads = [Thread(target=race) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(attempts(database)) == 5


def test_the_database_refuses_a_second_attempt_and_a_cards_number(paying: Ports, database: Database) -> None:
    payers(database)
    plan(paying)
    again = """
        INSERT INTO tenure.collection_attempts (account_id, invoice_id, method_id, number, local_day, currency)
        SELECT account_id, invoice_id, method_id, 2, local_day + 1, currency FROM tenure.collection_attempts"""
    for state in ("pending", "unknown", "failed"):
        execute(database, "UPDATE tenure.collection_attempts SET state = :state", state=state)
        with pytest.raises(IntegrityError, match="in_flight"):
            execute(database, again)
    execute(database, "UPDATE tenure.collection_attempts SET state = 'done', outcome = 'processing'")
    with pytest.raises(IntegrityError, match="in_flight"):
        execute(database, again)
    for field, value in {"provider_method": "4242424242424242", "digits": "42424242"}.items():
        with pytest.raises(IntegrityError, match="ck_payment_methods"):
            execute(database, f"UPDATE tenure.payment_methods SET {field} = :value", value=value)


def test_without_a_provider_nothing_is_collected_and_nothing_breaks(ports: Ports, database: Database) -> None:
    payers(database)
    assert plan(ports) == 0
    assert attempts(database) == []


def test_the_message_knows_every_reason_and_kind() -> None:
    assert {each.value for each in DeclineReason} == {each.value for each in FailureReason}
    assert {each.value for each in MethodKind} <= {each.value for each in Method}
