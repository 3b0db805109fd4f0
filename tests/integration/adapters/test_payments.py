"""The port to a payment provider: one contract, over its own SDK and a server that speaks its protocol (B20, B25).

Another provider's adapter joins by a line in `gateway`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from models.billing.ledger import EntryKind
from models.collection.payment import DeclineReason
from tasks.failures import Permanent, Unavailable
from tasks.ports.payments import NotGenuine, Order, PaymentGateway, Standing, Unanswered
from workers.adapters.payments import stripe
from workers.adapters.payments.stripe import StripeGateway, from_stripe, to_stripe
from workers.local.servers.payments import PaymentProvider

ORDER = Order(key="attempt-1", customer="cus_1", method="pm_1", currency="EUR", amount=1_999, description="INV-000001")
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture
def provider() -> Iterator[PaymentProvider]:
    with PaymentProvider() as made:
        yield made


@pytest.fixture
def gateway(provider: PaymentProvider) -> Iterator[PaymentGateway]:
    made = StripeGateway(provider.secret_key, provider.webhook_secret, provider.address)
    yield made
    made.close()


def test_a_charge_is_made_once_for_a_key(gateway: PaymentGateway, provider: PaymentProvider) -> None:
    payment = gateway.charge(ORDER)
    (charge,) = payment.movements
    assert (payment.standing, payment.key) == (Standing.CHARGED, "attempt-1")
    assert (charge.kind, charge.amount, charge.currency) == (EntryKind.PAYMENT, 1_999, "EUR")
    assert gateway.charge(ORDER) == payment
    assert gateway.find("attempt-1", customer="cus_1", since=LONG_AGO) == payment
    assert gateway.look(payment.id) == payment
    assert provider.charged() == {"attempt-1": 1_999}
    # The key of another amount is refused, and nobody can conclude from that that nothing was charged.
    with pytest.raises(Unanswered):
        gateway.charge(replace(ORDER, amount=2_000))
    assert provider.charged() == {"attempt-1": 1_999}


def test_a_provider_forgets_keys_and_still_knows_the_payment(
    gateway: PaymentGateway, provider: PaymentProvider
) -> None:
    payment = gateway.charge(ORDER)
    provider.ahead = 25 * 3600
    assert gateway.find("attempt-1", customer="cus_1", since=LONG_AGO) == payment
    gateway.charge(ORDER)
    assert provider.charged() == {"attempt-1": 2 * 1_999}, "this is why nobody asks twice without looking"


@pytest.mark.parametrize(("fault", "charged"), [
    ("lose_before", False), ("lose_after", True), ("error_before", False), ("error_after", True),
])  # fmt: skip
def test_silence_says_nothing_and_asking_says_all(
    fault: str, charged: bool, gateway: PaymentGateway, provider: PaymentProvider
) -> None:
    provider.faults.append(fault)
    with pytest.raises(Unanswered):
        gateway.charge(ORDER)
    found = gateway.find("attempt-1", customer="cus_1", since=LONG_AGO)
    assert (found is not None) is charged
    assert gateway.charge(ORDER).standing is Standing.CHARGED
    assert provider.charged() == {"attempt-1": 1_999}


def test_a_slow_answer_is_silence(
    gateway: PaymentGateway, provider: PaymentProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stripe, "TIMEOUT", (1.0, 0.2))
    provider.faults.append("slow")
    with pytest.raises(Unanswered):
        gateway.charge(ORDER)


def test_what_certainly_did_not_happen_is_no_silence(gateway: PaymentGateway, provider: PaymentProvider) -> None:
    provider.faults.append("busy")
    with pytest.raises(Unavailable):
        gateway.charge(ORDER)
    with pytest.raises(Unavailable, match="TENURE_STRIPE_SECRET_KEY"):
        StripeGateway("sk_of_another", None, provider.address).charge(ORDER)
    with pytest.raises(Unavailable, match="reached"):
        StripeGateway(provider.secret_key, None, "http://127.0.0.1:1").charge(ORDER)
    with pytest.raises(Unavailable):
        StripeGateway(provider.secret_key, None, "http://127.0.0.1:1").look("pi_1")
    with pytest.raises(Permanent, match="amount_too_small"):
        gateway.charge(replace(ORDER, amount=0))
    assert provider.charged() == {}


@pytest.mark.parametrize(("code", "reason", "is_final"), [
    ("insufficient_funds", DeclineReason.NOT_ENOUGH_MONEY, False),
    ("generic_decline", DeclineReason.REFUSED, False),
    ("issuer_not_available", DeclineReason.TECHNICAL, False),
    ("a_code_of_next_year", DeclineReason.REFUSED, False),
    ("expired_card", DeclineReason.EXPIRED, True),
    ("stolen_card", DeclineReason.REFUSED, True),
    ("incorrect_number", DeclineReason.WRONG_DETAILS, True),
    ("authentication_required", DeclineReason.CONFIRMATION_NEEDED, True),
])  # fmt: skip
def test_a_decline_has_a_class(
    code: str, reason: DeclineReason, is_final: bool, gateway: PaymentGateway, provider: PaymentProvider
) -> None:
    provider.declines["pm_1"] = code
    payment = gateway.charge(ORDER)
    assert payment.standing is Standing.DECLINED
    assert payment.decline is not None
    assert (payment.decline.reason, payment.decline.code, payment.decline.is_final) == (reason, code, is_final)
    assert payment.movements == ()
    assert gateway.look(payment.id) == payment


def test_money_that_comes_and_goes(gateway: PaymentGateway, provider: PaymentProvider) -> None:
    provider.debits.add("pm_1")
    payment = gateway.charge(ORDER)
    assert payment.standing is Standing.PROCESSING
    provider.complete(payment.id)
    provider.fail_refund(provider.refund(payment.id, 99))
    provider.refund(payment.id, 100)
    provider.close_dispute(provider.dispute(payment.id), won=True)
    found = gateway.look(payment.id)
    assert found is not None
    assert [(each.kind, each.amount) for each in found.movements] == [
        (EntryKind.PAYMENT, 1_999),
        (EntryKind.REFUND, 100),
        (EntryKind.REFUND, 99),
        (EntryKind.PAYMENT, 99),
        (EntryKind.CHARGEBACK, 1_999),
        (EntryKind.PAYMENT, 1_999),
    ]
    now = datetime.now(UTC)
    listed = list(gateway.movements(now - timedelta(hours=1), now + timedelta(hours=1)))
    assert {movement for _, movement in listed} == set(found.movements)
    assert {name for name, _ in listed} == {payment.id}
    assert list(gateway.movements(now + timedelta(hours=1), now + timedelta(hours=2)))[1:] == listed[2:], (
        "what began earlier may end today; a charge cannot"
    )
    assert gateway.look("pi_of_nobody") is None


def test_an_event_is_believed_when_it_is_signed_and_fresh(gateway: PaymentGateway, provider: PaymentProvider) -> None:
    payment = gateway.charge(ORDER)
    name = list(provider.events)[-1]
    body, signature = provider.webhook(name)
    now = datetime.now(UTC)
    event = gateway.read_event(body, signature, received_at=now)
    assert (event.id, event.type, event.payment) == (name, "payment_intent.succeeded", payment.id)
    assert gateway.event(name) == event
    assert gateway.event("evt_of_nobody") is None
    forged = [
        provider.webhook(name, secret="whsec_of_another"),
        (body.replace(b"1999", b"1"), signature),
        (body, ""),
        (body, "nonsense"),
        (b"\xff", signature),
    ]
    for each in forged:
        with pytest.raises(NotGenuine):
            gateway.read_event(*each, received_at=now)
    old = provider.webhook(name, age=400)
    with pytest.raises(NotGenuine, match=r"signed 4\d\d seconds before it came"):
        gateway.read_event(*old, received_at=now)
    # It came in time, and was read late.
    assert gateway.read_event(*old, received_at=now - timedelta(seconds=200)) == event
    with pytest.raises(NotGenuine, match="TENURE_STRIPE_WEBHOOK_SECRET is not set"):
        StripeGateway(provider.secret_key, None, provider.address).read_event(body, signature, received_at=now)


def test_a_list_of_many_pages_is_read_to_its_end(gateway: PaymentGateway, provider: PaymentProvider) -> None:
    for number in range(205):
        provider.answer("POST", "/v1/payment_intents", {
            "amount": "1", "currency": "eur", "customer": "cus_1", "payment_method": "pm_1", "confirm": "true",
            "off_session": "true", "metadata": {"tenure_attempt": f"attempt-{number}"},
        }, None)  # fmt: skip
    found = gateway.find("attempt-0", customer="cus_1", since=LONG_AGO)
    assert found is not None
    assert found.key == "attempt-0"


@pytest.mark.parametrize(("minor", "currency", "theirs"), [
    (1_050, "EUR", 1_050), (1_050, "JPY", 1_050), (10_500, "KWD", 10_500), (50, "ISK", 5_000), (50, "UGX", 5_000),
    (700, "MGA", 7),
])  # fmt: skip
def test_amounts_are_told_as_the_provider_counts(minor: int, currency: str, theirs: int) -> None:
    assert to_stripe(minor, currency) == theirs
    assert from_stripe(theirs, currency) == minor


def test_an_amount_that_the_provider_would_round_is_refused() -> None:
    for minor, currency in ((10_501, "KWD"), (750, "MGA")):
        with pytest.raises(Permanent, match=f"{minor} minor units of {currency}"):
            to_stripe(minor, currency)
