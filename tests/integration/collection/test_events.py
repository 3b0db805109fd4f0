"""Events of the payment provider: any order, any number, forged, stale; and the nightly comparison (B22, B24)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from models.base.unit_of_work import Database
from tasks.client.requests import PaymentsRecordEvent, submit
from tasks.collection import attempts as payments
from tasks.collection import events, reconciliation
from tasks.collection.plan import plan
from tasks.engine.drain import drain
from tasks.ports.context import Ports
from tasks.requests import handle
from tests.integration.conftest import Run
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


def query(database: Database, sql: str, **values: Any) -> list[Any]:
    with database.connection() as connection:
        return list(connection.execute(text(sql), values))


def deliver(database: Database, body: bytes, signature: str) -> None:
    query(database, "SELECT tenure.record_payment_event(:body, :signature)", body=body, signature=signature)


def read(ports: Ports) -> dict[str, int]:
    return drain(events.READ, ports)


def charge(ports: Ports) -> None:
    plan(ports)
    drain(payments.COLLECT, ports)


def at_the_provider(provider: PaymentProvider) -> set[tuple[str, int, str]]:
    """What the ledger has to say, by what the provider has done."""
    expected = {("payment", -each["amount"], each["id"]) for each in provider.charges.values()
                if each["status"] == "succeeded"}  # fmt: skip
    for refund in provider.refunds.values():
        expected.add(("refund", refund["amount"], refund["id"]))
        if refund["status"] == "failed":
            expected.add(("payment", -refund["amount"], f"{refund['id']}:failed"))
    for dispute in provider.disputes.values():
        expected.add(("chargeback", dispute["amount"], dispute["id"]))
        if dispute["status"] == "won":
            expected.add(("payment", -dispute["amount"], f"{dispute['id']}:won"))
    return expected


#: What happens at the provider after a charge, in an order that can happen.
HAPPENINGS = ("refund", "refund", "fail", "dispute", "close", "refund")


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_any_order_and_repetition_of_events_gives_the_same_ledger(
    seed: int, paying: Ports, database: Database, provider: PaymentProvider
) -> None:
    chance = Random(seed)
    for store in (provider.intents, provider.charges, provider.refunds, provider.disputes, provider.events):
        store.clear()
    prefix = f"kunde-{provider.next_number()}-"
    (account,) = payers(database, 1, prefix=prefix)
    provider.debits.add(f"pm_{prefix}1")
    charge(paying)
    (intent,) = provider.intents
    happenings = iter(("complete", *HAPPENINGS))
    delivered: set[str] = set()
    over = False
    while not over or delivered != set(provider.events):
        if not over and chance.random() < 0.5:
            match next(happenings, None):
                case "complete":
                    provider.complete(intent)
                case "refund":
                    provider.refund(intent, 100)
                case "fail":
                    provider.fail_refund(next(iter(provider.refunds)))
                case "dispute":
                    provider.dispute(intent)
                case "close":
                    provider.close_dispute(next(iter(provider.disputes)), won=chance.random() < 0.5)
                case None:
                    over = True
        else:
            name = chance.choice(list(provider.events))
            for age in range(chance.randint(1, 2)):
                deliver(database, *provider.webhook(name, age=age))
            delivered.add(name)
            if chance.random() < 0.5:
                read(paying)
    read(paying)
    found = query(database, """
        SELECT kind, amount, external_ref FROM tenure.ledger_entries
         WHERE account_id = :account AND external_ref LIKE 'stripe:%'""", account=account)  # fmt: skip
    assert {(row.kind, row.amount, row.external_ref.removeprefix("stripe:")) for row in found} == at_the_provider(
        provider
    )
    assert len(found) == len(at_the_provider(provider))
    assert query(database, "SELECT FROM tenure.payment_events WHERE state <> 'done'") == []
    assert [each.outcome for each in attempts(database, account_id=account)] == ["charged"]


def test_an_event_before_our_own_record_ends_the_attempt(
    paying: Ports, database: Database, provider: PaymentProvider
) -> None:
    payers(database)
    provider.faults.append("lose_after")
    charge(paying)
    assert [each.state for each in attempts(database)] == ["unknown"]
    for name in provider.events:
        deliver(database, *provider.webhook(name))
    assert read(paying) == {"read": 2}
    is_charged_once(database, provider)
    assert [(each.state, each.outcome) for each in attempts(database)] == [("done", "charged")]
    assert len(mails(database, "payment-received")) == 1
    payments.take_up(paying)
    assert drain(payments.SETTLE, paying) == {"answered": 0}


def test_an_event_by_its_id_alone(paying: Ports, database: Database, provider: PaymentProvider) -> None:
    """By the queue, where no body may go: it holds a name and an address (P1.3)."""
    payers(database)
    provider.faults.append("lose_after")
    charge(paying)
    name = list(provider.events)[-1]
    with database.transaction() as session:
        for event in (name, name, "evt_made_up"):
            submit(session, PaymentsRecordEvent(event=event))
    assert drain(handle.HANDLE, paying) == {"handled": 3}
    assert read(paying) == {"read": 1, "failed": 1}
    is_charged_once(database, provider)
    (failed,) = query(database, "SELECT last_error FROM tenure.payment_events WHERE state = 'failed'")
    assert failed.last_error.startswith("The provider has no event evt_made_up")


def test_forged_stale_and_foreign_events_are_refused_with_a_reason(
    paying: Ports, database: Database, provider: PaymentProvider
) -> None:
    payers(database)
    charge(paying)
    name = list(provider.events)[-1]
    before = entries(database)
    body, signature = provider.webhook(name)
    deliver(database, *provider.webhook(name, secret="whsec_of_another"))
    deliver(database, *provider.webhook(name, age=400))
    deliver(database, body.replace(b"12345", b"99999"), signature)
    # A payment that the company made at this provider without us, and one whose key is of another installation.
    for number, metadata in enumerate(({}, {"tenure_attempt": "0198c0de-0000-7000-8000-000000000000"})):
        provider.answer("POST", "/v1/payment_intents", {
            "amount": "1", "currency": "eur", "customer": "cus_1", "payment_method": f"pm_{number}", "confirm": "true",
            "off_session": "true", "metadata": metadata,
        }, None)  # fmt: skip
        deliver(database, *provider.webhook(list(provider.events)[-1]))
    assert read(paying)["failed"] == 5
    reasons = [row.last_error for row in query(database, "SELECT last_error FROM tenure.payment_events ORDER BY id")]
    assert [
        next(word for word in ("signature", "seconds before", "none that Tenure", "not here") if word in reason)
        for reason in reasons
    ] == ["signature", "seconds before", "signature", "none that Tenure", "not here"]
    assert entries(database) == before
    kept = query(database, "SELECT body FROM tenure.payment_events WHERE last_error LIKE 'The event is refused%'")
    assert [row.body for row in kept] == [None] * 3, "what a stranger sent is not kept"


def test_of_what_an_event_says_of_a_person_nothing_is_kept(
    paying: Ports, database: Database, provider: PaymentProvider
) -> None:
    payers(database)
    charge(paying)
    for name in provider.events:
        body, signature = provider.webhook(name)
        deliver(database, body, signature)
    assert b"Perla Canaria" in json.dumps(list(provider.events.values())).encode()
    assert query(database, "SELECT FROM tenure.payment_events WHERE convert_from(body, 'UTF8') LIKE '%Perla Canaria%'")
    read(paying)
    for table in ("payment_events", "collection_attempts", "ledger_entries", "email_messages"):
        assert query(database, f"SELECT FROM tenure.{table} AS t WHERE t::text LIKE '%erla%anaria%'") == []
    assert query(database, "SELECT FROM tenure.payment_events WHERE body IS NOT NULL OR signature IS NOT NULL") == []


@pytest.mark.parametrize(("body", "signature", "said"), [
    (b"", "t=1", "1 to 1,000,000 bytes"), (None, "t=1", "1 to 1,000,000 bytes"), (b"x" * 1_000_001, "t=1", "bytes"),
    (b"{}", "", "without its signature"), (b"{}", None, "without its signature"), (b"{}", "x" * 1_001, "signature"),
])  # fmt: skip
def test_what_is_no_delivery_is_told_at_once(body: Any, signature: Any, said: str, database: Database) -> None:
    with pytest.raises(DBAPIError, match=said):
        deliver(database, body, signature)


def test_a_lost_event_is_found_by_the_night(paying: Ports, database: Database, provider: PaymentProvider) -> None:
    payers(database, 3)
    charge(paying)
    first, second, third = provider.intents
    provider.refund(first, 45)
    provider.close_dispute(provider.dispute(second), won=False)
    provider.fail_refund(provider.refund(third, 99))
    days_pass(database, 1)
    assert reconciliation.plan(paying) == 1
    assert reconciliation.plan(paying) == 0
    night_is_over(database)
    assert drain(reconciliation.RECONCILE, paying) == {"reconciled": 1}
    (night,) = query(database, "SELECT * FROM tenure.reconciliations")
    assert (night.movements, night.recorded, night.differences) == (7, 4, [])
    assert set(entries(database)) == at_the_provider(provider)


def night_is_over(database: Database) -> None:
    with database.connection() as connection:
        connection.execute(
            text("UPDATE tenure.reconciliations SET due_at = now(), day = (now() AT TIME ZONE 'UTC')::date")
        )


def test_what_cannot_be_mended_is_told_until_it_is(
    paying: Ports, database: Database, provider: PaymentProvider, tenure: Run
) -> None:
    payers(database, 2)
    charge(paying)
    (lost, kept) = attempts(database)
    # The provider has a charge of which the ledger cannot know, and the ledger one of which the provider does not.
    provider.intents[lost.provider_payment]["metadata"]["tenure_attempt"] = "0198c0de-0000-7000-8000-000000000000"
    provider.refund(lost.provider_payment, 1)
    provider.charges.pop(kept.provider_charge)
    days_pass(database, 1)
    reconciliation.plan(paying)
    night_is_over(database)
    drain(reconciliation.RECONCILE, paying)
    (night,) = query(database, "SELECT * FROM tenure.reconciliations")
    (refund,) = provider.refunds
    assert night.differences == [
        f"{kept.provider_charge} is in the ledger, and the provider has no such thing.",
        f"{refund} of {lost.provider_payment} is not in the ledger.",
    ]
    stripe = {"TENURE_STRIPE_SECRET_KEY": provider.secret_key, "TENURE_STRIPE_API": provider.address}
    told = tenure("payments", "reconcile", **stripe)
    assert told.returncode == 1, told.stderr
    assert "3 charges, refunds and chargebacks" not in told.stdout
    assert "2 differ" in told.stdout
    policy = json.loads(tenure("policy", "--json", **stripe).stdout)
    (payments_kept,) = [each for each in policy if each["clause"].startswith("Payments")]
    assert (payments_kept["verdict"], "1 days differ" in payments_kept["figure"]) == ("broken", True)

    provider.intents[lost.provider_payment]["metadata"]["tenure_attempt"] = str(lost.id)
    provider.charges[kept.provider_charge] = {
        "id": kept.provider_charge,
        "status": "succeeded",
        "amount": PRICE,
        "currency": "eur",
        "created": provider.now(),
        "payment_intent": kept.provider_payment,
        "metadata": {},
    }
    told = tenure("payments", "reconcile", **stripe)
    assert (told.returncode, "0 differ" in told.stdout) == (0, True), told.stdout
    with database.connection() as connection:
        connection.execute(text("UPDATE tenure.reconciliations SET finished_at = now() - interval '21 hours'"))
    reconciliation.plan(paying)
    drain(reconciliation.RECONCILE, paying)
    policy = json.loads(tenure("policy", "--json", **stripe).stdout)
    assert [each["verdict"] for each in policy if each["clause"].startswith("Payments")] == ["kept"]


def test_an_operator_sees_every_attempt(
    paying: Ports, database: Database, provider: PaymentProvider, tenure: Run
) -> None:
    payers(database, 2)
    provider.declines["pm_zahler-1"] = "insufficient_funds"
    provider.faults.extend(["fine", "lose_after"])
    charge(paying)
    shown = tenure("payments", "show", "zahler-1", COLUMNS="160")
    assert shown.returncode == 0
    assert "declined (soft): not enough money (insufficient_funds)" in shown.stdout
    (other,) = json.loads(tenure("payments", "show", "zahler-2", "--json").stdout)
    assert (other["state"], other["amount"]) == ("unknown", PRICE)
    assert tenure("payments", "show", other["number"]).returncode == 0
    assert tenure("payments", "show", "INV-000000").returncode == 2
    refused = tenure("payments", "reconcile")
    assert (refused.returncode, "TENURE_STRIPE_SECRET_KEY" in refused.stderr) == (1, True)
