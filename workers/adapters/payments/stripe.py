"""Payments by Stripe, over Stripe's own SDK (B20). Importing it takes long: that waits for the first use.

A charge is a PaymentIntent that is made and confirmed by one request with our idempotency key, the customer not being
there (`off_session`). Our key is in its metadata, too, which are kept for ever; idempotency keys are kept for a day.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeVar

from models.billing.ledger import EntryKind
from models.collection.payment import DeclineReason
from tasks.failures import Permanent, Unavailable
from tasks.ports.payments import Decline, Event, Movement, NotGenuine, Order, Payment, Standing, Unanswered

if TYPE_CHECKING:
    from stripe import RequestsClient, StripeClient

Value = TypeVar("Value")

#: The metadata that says which attempt of ours a PaymentIntent is.
KEY: Final = "tenure_attempt"
#: Seconds to connect, and for any one answer.
TIMEOUT: Final = (5.0, 30.0)
#: Seconds that a webhook's signature is taken for fresh, as Stripe's own libraries do.
TOLERANCE: Final = 300
#: Our clock and Stripe's may differ.
CLOCKS: Final = timedelta(hours=1)
#: A dispute may be won, a refund may fail, so long after it began: movements of these are looked for that far back.
DISPUTES_LAST: Final = timedelta(days=120)
#: Where Stripe's minor unit is not that of ISO 4217: the power of ten between them (docs.stripe.com/currencies).
SHIFT: Final[Mapping[str, int]] = MappingProxyType({"ISK": 2, "UGX": 2, "MGA": -2})
#: The account holds nothing smaller than these of a currency with three decimals.
THREE_DECIMALS: Final = frozenset({"BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"})

#: docs.stripe.com/declines/codes: what a code says to the customer. One that is not here is `refused`.
REASONS: Final[Mapping[str, DeclineReason]] = MappingProxyType(
    dict.fromkeys(
        ["insufficient_funds", "card_velocity_exceeded", "withdrawal_count_limit_exceeded"],
        DeclineReason.NOT_ENOUGH_MONEY,
    )
    | dict.fromkeys(["expired_card", "invalid_expiry_month", "invalid_expiry_year"], DeclineReason.EXPIRED)
    | dict.fromkeys(
        ["incorrect_number", "invalid_number", "invalid_account", "incorrect_cvc", "invalid_cvc", "incorrect_zip",
         "incorrect_address", "new_account_information_available", "account_closed", "no_account",
         "invalid_account_number", "bank_account_closed", "payment_method_not_available", "mandate_invalid"],
        DeclineReason.WRONG_DETAILS,
    )
    | dict.fromkeys(
        ["authentication_required", "authentication_not_handled", "payment_intent_authentication_failure",
         "offline_pin_required", "online_or_offline_pin_required", "approve_with_id"],
        DeclineReason.CONFIRMATION_NEEDED,
    )
    | dict.fromkeys(
        ["processing_error", "issuer_not_available", "reenter_transaction", "try_again_later",
         "bank_account_unverified", "payment_method_provider_timeout"],
        DeclineReason.TECHNICAL,
    )
)  # fmt: skip
#: After these nothing is tried again with the same method. Beside them: `advice_code` `do_not_try_again`.
FINAL: Final = frozenset({
    "account_closed", "authentication_not_handled", "authentication_required", "bank_account_closed",
    "card_not_supported", "currency_not_supported", "debit_not_authorized", "do_not_try_again", "expired_card",
    "fraudulent", "incorrect_address", "incorrect_cvc", "incorrect_number", "incorrect_zip", "invalid_account",
    "invalid_account_number", "invalid_cvc", "invalid_expiry_month", "invalid_expiry_year", "invalid_number",
    "lost_card", "mandate_invalid", "merchant_blacklist", "new_account_information_available", "no_account",
    "not_permitted", "offline_pin_required", "online_or_offline_pin_required",
    "payment_intent_authentication_failure", "pickup_card", "restricted_card",
    "revocation_of_all_authorizations", "revocation_of_authorization", "security_violation",
    "service_not_allowed", "stolen_card", "stop_payment_order", "testmode_decline", "transaction_not_allowed",
})  # fmt: skip
#: A dispute that has taken money; an inquiry (`warning_…`) has not.
TAKEN: Final = frozenset({"needs_response", "under_review", "lost", "won"})


class StripeGateway:
    """One account at Stripe. `api` is where its API is, for tests and proxies."""

    provider = "stripe"

    def __init__(self, secret_key: str, webhook_secret: str | None, api: str) -> None:
        self._secret_key = secret_key
        self._webhook_secret = webhook_secret
        self._api = api
        self._made: StripeClient | None = None
        self._http: RequestsClient | None = None

    @property
    def client(self) -> StripeClient:
        if self._made is None:
            import stripe  # noqa: PLC0415 - half a second and more

            # It would tell Stripe of this machine and of how long requests took (P3.1f).
            stripe.enable_telemetry = False
            self._http = stripe.RequestsClient(timeout=TIMEOUT)
            self._made = stripe.StripeClient(
                self._secret_key,
                base_addresses={"api": self._api},
                # Who may try again decides the row, which knows what was asked before.
                max_network_retries=0,
                http_client=self._http,
            )
        return self._made

    def charge(self, order: Order) -> Payment:
        import stripe  # noqa: PLC0415

        try:
            intent = self.client.v1.payment_intents.create(
                {
                    "amount": to_stripe(order.amount, order.currency),
                    "currency": order.currency.lower(),
                    "customer": order.customer,
                    "payment_method": order.method,
                    "confirm": True,
                    "off_session": True,
                    "description": order.description,
                    "metadata": {KEY: order.key},
                    "expand": ["latest_charge"],
                },
                {"idempotency_key": order.key},
            )
        except stripe.CardError as error:
            declined = error.error and error.error.payment_intent
            if declined is None:
                raise Permanent(f"Stripe declined without saying what ({error.code}).") from None
            return _payment(declined.to_dict())
        except (stripe.APIConnectionError, stripe.APIError, stripe.IdempotencyError) as error:
            if _never_left(error):
                raise Unavailable("Stripe cannot be reached.") from None
            raise Unanswered(_said(error)) from None
        except stripe.StripeError as error:
            raise _failure(error) from None
        return _payment(intent.to_dict())

    def find(self, key: str, *, customer: str, since: datetime) -> Payment | None:
        def search() -> Payment | None:
            # Not by search, which may not yet know what was written a minute ago.
            created = {"gte": int((since - CLOCKS).timestamp())}
            intents = self.client.v1.payment_intents
            for intent in _all(intents, customer=customer, created=created, expand=["data.latest_charge"]):
                if (intent.get("metadata") or {}).get(KEY) == key:
                    return _payment(intent, *self._later(intent["id"]))
            return None

        return _asked(search)

    def look(self, payment: str) -> Payment | None:
        def retrieve() -> Payment:
            intent = self.client.v1.payment_intents.retrieve(payment, {"expand": ["latest_charge"]})
            return _payment(intent.to_dict(), *self._later(payment))

        found: Payment | None = _asked(retrieve, missing=None)
        return found

    def _later(self, payment: str) -> Iterator[Movement]:
        """What moved after the charge."""
        for refund in _all(self.client.v1.refunds, payment_intent=payment):
            yield from _refund(refund)
        for dispute in _all(self.client.v1.disputes, payment_intent=payment):
            yield from _dispute(dispute)

    def movements(self, since: datetime, until: datetime) -> Iterator[tuple[str, Movement]]:
        created = {"gte": int(since.timestamp()), "lt": int(until.timestamp())}
        later = created | {"gte": int((since - DISPUTES_LAST).timestamp())}

        def read() -> Iterator[tuple[str, Movement]]:
            for charge in _all(self.client.v1.charges, created=created):
                if charge.get("payment_intent") and charge["status"] == "succeeded":
                    yield charge["payment_intent"], _charge(charge)
            for refund in _all(self.client.v1.refunds, created=later):
                for movement in _refund(refund):
                    if refund.get("payment_intent"):
                        yield refund["payment_intent"], movement
            for dispute in _all(self.client.v1.disputes, created=later):
                for movement in _dispute(dispute):
                    if dispute.get("payment_intent"):
                        yield dispute["payment_intent"], movement

        found: list[tuple[str, Movement]] = _asked(lambda: list(read()))
        return iter(found)

    def read_event(self, body: bytes, signature: str, *, received_at: datetime) -> Event:
        import stripe  # noqa: PLC0415

        if self._webhook_secret is None:
            raise NotGenuine("TENURE_STRIPE_WEBHOOK_SECRET is not set, so that no event can be told from a forged one.")
        try:
            content = body.decode()
            # Not by its tolerance, which is of the moment of reading: after an outage of ours all would be stale.
            stripe.WebhookSignature.verify_header(content, signature, self._webhook_secret, None)
            signed_at = next(int(part[2:]) for part in signature.split(",") if part.startswith("t="))
            event = _event(json.loads(content))
        except stripe.SignatureVerificationError:
            raise NotGenuine("Its signature is not that of TENURE_STRIPE_WEBHOOK_SECRET.") from None
        except (ValueError, KeyError, TypeError):
            raise NotGenuine("Its body is no event.") from None
        age = received_at.timestamp() - signed_at
        if age > TOLERANCE:
            raise NotGenuine(f"It was signed {age:.0f} seconds before it came, and {TOLERANCE} are allowed.")
        return event

    def event(self, event: str) -> Event | None:
        found: Event | None = _asked(lambda: _event(self.client.v1.events.retrieve(event).to_dict()), missing=None)
        return found

    def forget(self, customer: str) -> bool:
        # What was deleted is there no more, as what never was.
        deleted = _asked(lambda: self.client.v1.customers.delete(customer).to_dict(), missing={})
        return bool(deleted.get("deleted"))

    def close(self) -> None:
        if self._http is not None:
            self._http.close()  # type: ignore[no-untyped-call]
        self._made = self._http = None


def _all(service: Any, **wanted: Any) -> Iterator[dict[str, Any]]:
    """Every object of a list, page after page, as plain data."""
    for each in service.list({"limit": 100, **wanted}).auto_paging_iter():
        yield each.to_dict()


def to_stripe(minor: int, currency: str) -> int:
    """An amount as Stripe counts it; Permanent where Stripe cannot hold it."""
    shift = SHIFT.get(currency, 0)
    amount: int = minor * 10 ** max(shift, 0)
    amount, lost = divmod(amount, 10 ** max(-shift, 0))
    if lost or (currency in THREE_DECIMALS and amount % 10):
        raise Permanent(f"Stripe cannot collect {minor} minor units of {currency}: it rounds to ten of them or more.")
    return amount


def from_stripe(amount: int, currency: str) -> int:
    """The same backwards, in minor units of ISO 4217."""
    shift = SHIFT.get(currency, 0)
    minor: int = amount * 10 ** max(-shift, 0) // 10 ** max(shift, 0)
    return minor


def _payment(intent: dict[str, Any], *later: Movement) -> Payment:
    status, error = intent["status"], intent.get("last_payment_error")
    charge = intent.get("latest_charge")
    movements = (_charge(charge), *later) if isinstance(charge, dict) and charge["status"] == "succeeded" else later
    decline = None
    if status == "succeeded":
        standing = Standing.CHARGED
    elif status == "processing":
        standing = Standing.PROCESSING
    elif status == "canceled":
        standing = Standing.CANCELLED
    elif status in {"requires_payment_method", "requires_action"}:
        standing = Standing.DECLINED
        decline = _decline(error or {"code": "authentication_required"})
    else:
        raise Permanent(f"The PaymentIntent {intent['id']} is {status}, which a charge of ours never is.")
    return Payment(intent["id"], (intent.get("metadata") or {}).get(KEY), standing, tuple(movements), decline)


def _decline(error: Mapping[str, Any]) -> Decline:
    code = str(error.get("decline_code") or error.get("code") or "unknown")
    final = code in FINAL or error.get("advice_code") == "do_not_try_again"
    return Decline(REASONS.get(code, DeclineReason.REFUSED), code, final)


def _charge(data: Mapping[str, Any]) -> Movement:
    return _movement(EntryKind.PAYMENT, data["id"], data)


def _refund(data: Mapping[str, Any]) -> Iterator[Movement]:
    if data["status"] in {"succeeded", "failed"}:
        yield _movement(EntryKind.REFUND, data["id"], data)
    if data["status"] == "failed":
        yield _movement(EntryKind.PAYMENT, f"{data['id']}:failed", data)


def _dispute(data: Mapping[str, Any]) -> Iterator[Movement]:
    if data["status"] in TAKEN:
        yield _movement(EntryKind.CHARGEBACK, data["id"], data)
    if data["status"] == "won":
        yield _movement(EntryKind.PAYMENT, f"{data['id']}:won", data)


def _movement(kind: EntryKind, name: str, data: Mapping[str, Any]) -> Movement:
    currency = data["currency"].upper()
    amount = from_stripe(data["amount"], currency)
    return Movement(kind, name, currency, amount, datetime.fromtimestamp(data["created"], UTC))


def _event(data: Mapping[str, Any]) -> Event:
    about = data["data"]["object"]
    payment = about["id"] if about.get("object") == "payment_intent" else about.get("payment_intent")
    return Event(str(data["id"]), str(data["type"]), payment if isinstance(payment, str) else None)


_RAISE: Any = object()


def _asked(ask: Callable[[], Value], *, missing: Any = _RAISE) -> Value | Any:
    """Ask for what is; nothing is changed by asking, so whatever goes wrong, it may be asked again."""
    import stripe  # noqa: PLC0415

    try:
        return ask()
    except stripe.InvalidRequestError as error:
        if error.code == "resource_missing" and missing is not _RAISE:
            return missing
        raise _failure(error) from None
    except stripe.StripeError as error:
        raise _failure(error) from None


def _failure(error: Any) -> Permanent | Unavailable:
    """What a refusal means: with our key or at this time for nobody, or for this request."""
    import stripe  # noqa: PLC0415

    if isinstance(error, stripe.AuthenticationError | stripe.PermissionError):
        return Unavailable("Stripe refuses the key: check TENURE_STRIPE_SECRET_KEY and what it may do.")
    if isinstance(error, stripe.InvalidRequestError):
        return Permanent(f"Stripe cannot do this ({_said(error)}).")
    return Unavailable(f"Stripe did not answer ({_said(error)}).")


def _never_left(error: Any) -> bool:
    """Whether there was no connection by which the request could have left."""
    from requests.exceptions import ConnectionError, ConnectTimeout  # noqa: A004, PLC0415
    from urllib3.exceptions import MaxRetryError, NewConnectionError  # noqa: PLC0415

    cause = error.__cause__
    if isinstance(cause, ConnectTimeout):
        return True
    reason = cause.args[0] if isinstance(cause, ConnectionError) and cause.args else None
    return isinstance(reason, MaxRetryError) and isinstance(reason.reason, NewConnectionError)


def _said(error: Any) -> str:
    """Kind, code and parameter: Stripe's own sentence may quote what was sent."""
    said = [type(error).__name__, error.http_status, error.code, getattr(error, "param", None)]
    return ", ".join(str(each) for each in said if each)
