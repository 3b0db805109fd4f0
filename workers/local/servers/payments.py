"""A payment provider that charges nobody: it speaks Stripe's HTTP interface as far as Stripe's SDK uses it here (B25).

    with PaymentProvider() as provider:
        StripeGateway(provider.secret_key, provider.webhook_secret, provider.address)

It can lose replies before and after charging, answer late or with an error, decline, take days, give money back, and
make events, which whoever runs it delivers as often and in whatever order it likes. What it charged is in `charges`.
"""

from __future__ import annotations

import hmac
import json
import re
import signal
import sys
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

#: How long the answer to an idempotency key is kept: Stripe promises 24 hours at the least.
KEYS_KEPT: Final = 24 * 60 * 60
#: What may go wrong with one request; a test puts them into `PaymentProvider.faults` in the order in which they happen.
FAULTS: Final = ("lose_before", "lose_after", "error_before", "error_after", "busy", "slow", "fine")
#: A card that is declined wherever it comes from; the name is Stripe's own, of its test mode.
DECLINED_CARD: Final = "pm_card_visa_chargeDeclinedInsufficientFunds"
#: What can be asked for of each path, as Stripe names it: anything else is an error, as there.
_CREATE: Final = frozenset(
    "amount currency customer payment_method confirm off_session description metadata expand".split()  # noqa: SIM905
)
_LIST: Final = frozenset("customer payment_intent created limit starting_after expand".split())  # noqa: SIM905

Object = dict[str, Any]


class _Refused(Exception):
    """An answer that is an error: status, and the error object's fields."""

    def __init__(self, status: int, **error: Any) -> None:
        super().__init__(status)
        self.status, self.error = status, error


class PaymentProvider:
    """One provider with one account, in threads of this process."""

    secret_key = "sk_test_of_the_local_provider"  # noqa: S105 - of a provider that charges nobody
    webhook_secret = "whsec_of_the_local_provider"  # noqa: S105

    def __init__(self) -> None:
        self.intents: dict[str, Object] = {}
        self.charges: dict[str, Object] = {}
        self.refunds: dict[str, Object] = {}
        self.disputes: dict[str, Object] = {}
        self.events: dict[str, Object] = {}
        #: What goes wrong with the next requests to change something, one after the other.
        self.faults: deque[str] = deque()
        #: Payment methods that are declined: `{"pm_1": "insufficient_funds"}`.
        self.declines: dict[str, str] = {DECLINED_CARD: "insufficient_funds"}
        #: Payment methods that take their time, as direct debits do.
        self.debits: set[str] = set()
        #: Customers that were deleted; every other one that is named is there.
        self.forgotten: set[str] = set()
        #: How many of the next lists of charges are refused.
        self.refused_lists = 0
        #: Requests by method and path, for tests that count them.
        self.requests: list[tuple[str, str]] = []
        #: Seconds by which this provider's clock is ahead.
        self.ahead = 0.0
        #: Seconds that a `slow` answer takes.
        self.slowness = 2.0
        self._numbers = count(1)
        self._keys: dict[str, tuple[float, Mapping[str, Any], tuple[int, Object]]] = {}
        self._lock = threading.RLock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> PaymentProvider:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def now(self) -> int:
        return int(time.time() + self.ahead)

    def next_number(self) -> int:
        """A number that this provider has not used."""
        return next(self._numbers)

    def charged(self) -> dict[str, int]:
        """How much was charged under each of our keys; a key that was charged twice has the sum."""
        found: dict[str, int] = defaultdict(int)
        with self._lock:
            for charge in self.charges.values():
                if charge["status"] == "succeeded":
                    found[charge["metadata"].get("tenure_attempt", charge["id"])] += charge["amount"]
        return dict(found)

    # What happens at a provider by itself.

    def complete(self, intent: str, *, declined: str | None = None) -> None:
        """A direct debit comes to its end."""
        with self._lock:
            self._settle(self.intents[intent], declined)

    def refund(self, intent: str, amount: int) -> str:
        with self._lock:
            refund = self._object("re", object="refund", payment_intent=intent, status="succeeded", amount=amount,
                                  currency=self.intents[intent]["currency"])  # fmt: skip
            self.refunds[refund["id"]] = refund
            self._tell("refund.created", refund)
            return str(refund["id"])

    def fail_refund(self, refund: str) -> None:
        with self._lock:
            self.refunds[refund]["status"] = "failed"
            self._tell("refund.failed", self.refunds[refund])

    def dispute(self, intent: str) -> str:
        with self._lock:
            about = self.intents[intent]
            dispute = self._object("du", object="dispute", payment_intent=intent, status="needs_response",
                                   amount=about["amount"], currency=about["currency"])  # fmt: skip
            self.disputes[dispute["id"]] = dispute
            self._tell("charge.dispute.created", dispute)
            return str(dispute["id"])

    def close_dispute(self, dispute: str, *, won: bool) -> None:
        with self._lock:
            self.disputes[dispute]["status"] = "won" if won else "lost"
            self._tell("charge.dispute.closed", self.disputes[dispute])

    def webhook(self, event: str, *, secret: str | None = None, age: float = 0) -> tuple[bytes, str]:
        """Body and signature header of a delivery of this event, signed `age` seconds ago."""
        body = json.dumps(self.events[event]).encode()
        signed_at = int(time.time() - age)
        mac = hmac.new((secret or self.webhook_secret).encode(), f"{signed_at}.".encode() + body, sha256)
        return body, f"t={signed_at},v1={mac.hexdigest()}"

    # What Stripe's SDK asks for.

    def answer(self, method: str, path: str, values: Object, key: str | None) -> tuple[int, Object]:
        try:
            if (method, path) == ("POST", "/v1/payment_intents"):
                return self._once(key, values, self._create)
            if method == "GET":
                return 200, self._get(path, values)
            if method == "DELETE" and path.startswith("/v1/customers/"):
                return 200, self._forget(path.rpartition("/")[2])
            raise _Refused(404, type="invalid_request_error", message=f"There is no {method} {path}.")
        except _Refused as refused:
            return refused.status, {"error": refused.error}

    def _once(self, key: str | None, values: Object, act: Callable[[Object], Object]) -> tuple[int, Object]:
        with self._lock:
            kept = self._keys.get(key) if key else None
            if kept and kept[0] > self.now() - KEYS_KEPT:
                if kept[1] != values:
                    raise _Refused(400, type="idempotency_error", message="This key was used with other parameters.")
                return kept[2]
            try:
                answer: tuple[int, Object] = (200, act(values))
            except _Refused as refused:
                answer = (refused.status, {"error": refused.error})
            if key:
                self._keys[key] = (self.now(), values, answer)
            return answer

    def _forget(self, customer: str) -> Object:
        with self._lock:
            if customer in self.forgotten:
                raise _Refused(404, type="invalid_request_error", code="resource_missing", param="id")
            self.forgotten.add(customer)
            return {"id": customer, "object": "customer", "deleted": True}

    def _create(self, values: Object) -> Object:
        if unknown := set(values) - _CREATE:
            raise _bad(sorted(unknown)[0], "parameter_unknown")
        for name in ("amount", "currency", "customer", "payment_method"):
            if not values.get(name):
                raise _bad(name, "parameter_missing")
        if values.get("confirm") != "true" or values.get("off_session") != "true":
            raise _bad("confirm", "parameter_missing")
        if values["customer"] in self.forgotten:
            raise _bad("customer", "resource_missing")
        if int(values["amount"]) < 1:
            raise _bad("amount", "amount_too_small")
        intent = self._object(
            "pi",
            object="payment_intent",
            amount=int(values["amount"]),
            currency=values["currency"],
            customer=values["customer"],
            payment_method=values["payment_method"],
            description=values.get("description"),
            metadata=values.get("metadata", {}),
            status="processing",
            latest_charge=None,
            last_payment_error=None,
        )
        self.intents[intent["id"]] = intent
        if values["payment_method"] in self.debits:
            self._tell("payment_intent.processing", intent)
        else:
            self._settle(intent, self.declines.get(values["payment_method"]))
        if intent["last_payment_error"]:
            raise _Refused(402, **intent["last_payment_error"], payment_intent=self._shown(intent, ()))
        return self._shown(intent, values.get("expand", ()))

    def _settle(self, intent: Object, declined: str | None) -> None:
        charge = self._object(
            "ch",
            object="charge",
            amount=intent["amount"],
            currency=intent["currency"],
            customer=intent["customer"],
            payment_intent=intent["id"],
            metadata=intent["metadata"],
            status="failed" if declined else "succeeded",
            # Stripe's events hold such things of a person: none of it may come further than the body itself.
            billing_details={"name": "Perla Canaria", "email": "perla.canaria@customer.example"},
        )
        self.charges[charge["id"]] = charge
        intent["latest_charge"] = charge["id"]
        if declined:
            intent["status"] = "requires_payment_method"
            intent["last_payment_error"] = {
                "type": "card_error",
                "code": "card_declined",
                "decline_code": declined,
                "message": "Your card was declined.",
            }
            self._tell("payment_intent.payment_failed", intent)
        else:
            intent["status"], intent["last_payment_error"] = "succeeded", None
            self._tell("charge.succeeded", charge)
            self._tell("payment_intent.succeeded", intent)

    def _get(self, path: str, values: Object) -> Object:
        stores = {
            "payment_intents": self.intents,
            "charges": self.charges,
            "refunds": self.refunds,
            "disputes": self.disputes,
            "events": self.events,
        }
        _, _, name, *one = path.split("/")
        if name not in stores or len(one) > 1:
            raise _Refused(404, type="invalid_request_error", message=f"There is no {path}.")
        with self._lock:
            if one:
                if one[0] not in stores[name]:
                    raise _Refused(404, type="invalid_request_error", code="resource_missing", param="id")
                return self._shown(stores[name][one[0]], values.get("expand", ()))
            return self._page(list(stores[name].values()), path, values)

    def _page(self, found: list[Object], path: str, values: Object) -> Object:
        if path == "/v1/charges" and self.refused_lists:
            self.refused_lists -= 1
            raise _bad("created", "parameter_invalid")
        if unknown := set(values) - _LIST:
            raise _bad(sorted(unknown)[0], "parameter_unknown")
        created = values.get("created", {})
        wanted = [
            each
            for each in reversed(found)
            if all(each.get(name) == values[name] for name in ("customer", "payment_intent") if name in values)
            and int(created.get("gte", 0)) <= each["created"] < int(created.get("lt", 1 << 60))
        ]
        if "starting_after" in values:
            wanted = wanted[[each["id"] for each in wanted].index(values["starting_after"]) + 1 :]
        limit = int(values.get("limit", 10))
        expand = [each.removeprefix("data.") for each in values.get("expand", ())]
        page = [self._shown(each, expand) for each in wanted[:limit]]
        return {"object": "list", "url": path, "has_more": len(wanted) > limit, "data": page}

    def _shown(self, thing: Object, expand: Any) -> Object:
        shown = json.loads(json.dumps(thing))
        if "latest_charge" in expand and shown.get("latest_charge"):
            shown["latest_charge"] = json.loads(json.dumps(self.charges[shown["latest_charge"]]))
        return dict(shown)

    def _object(self, prefix: str, **fields: Any) -> Object:
        return {"id": f"{prefix}_{self.next_number():06d}", "created": self.now(), "livemode": False, **fields}

    def _tell(self, kind: str, about: Object) -> None:
        event = self._object("evt", object="event", type=kind, data={"object": json.loads(json.dumps(about))})
        self.events[event["id"]] = event

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        provider = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # An answer is two writes: the second would wait for the first one's acknowledgement.
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                self._serve("GET", parts.path, parts.query)

            def do_POST(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                self._serve("POST", urlsplit(self.path).path, self.rfile.read(length).decode())

            def do_DELETE(self) -> None:
                self._serve("DELETE", urlsplit(self.path).path, "")

            def _serve(self, method: str, path: str, encoded: str) -> None:
                provider.requests.append((method, path))
                if self.headers.get("Authorization") != f"Bearer {provider.secret_key}":
                    return self._send(401, {"error": {"type": "invalid_request_error", "message": "No such key."}})
                fault = provider.faults.popleft() if method != "GET" and provider.faults else "fine"
                if fault == "lose_before":
                    return self._hang_up()
                if fault in {"error_before", "busy"}:
                    status = 429 if fault == "busy" else 500
                    return self._send(status, {"error": {"type": "api_error", "message": "Something went wrong."}})
                answer = provider.answer(method, path, decode(encoded), self.headers.get("Idempotency-Key"))
                if fault == "lose_after":
                    return self._hang_up()
                if fault == "error_after":
                    return self._send(502, {"error": {"type": "api_error", "message": "Something went wrong."}})
                if fault == "slow":
                    time.sleep(provider.slowness)
                return self._send(*answer)

            def _hang_up(self) -> None:
                self.close_connection = True
                self.connection.close()

            def _send(self, status: int, content: Object) -> None:
                body = json.dumps(content).encode()
                try:
                    self.send_response(status)
                    self.send_header("Content-Type", "application/json")
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                except OSError:
                    # Whoever asked is no more.
                    self.close_connection = True

            def finish(self) -> None:
                try:
                    super().finish()
                except (OSError, ValueError):
                    self.close_connection = True

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                """Nothing: the tests look at what was done."""

        return Handler


def main() -> None:
    """One provider as a process, until SIGTERM; it says its address, and has the faults that the arguments name."""
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    with PaymentProvider() as provider:
        provider.faults.extend(sys.argv[1:])
        sys.stdout.write(f"{provider.address}\n")
        sys.stdout.flush()
        stopped.wait()


def decode(encoded: str) -> Object:
    """Form fields as Stripe nests them: `metadata[key]=1`, `created[gte]=2`, `expand[0]=latest_charge`."""
    values: Object = {}
    for name, value in parse_qsl(encoded, keep_blank_values=True):
        outer, *inner = re.findall(r"[^\[\]]+", name)
        if not inner:
            values[outer] = value
        elif inner[0].isdigit():
            values.setdefault(outer, []).append(value)
        else:
            values.setdefault(outer, {})[inner[0]] = value
    return values


def _bad(parameter: str, code: str) -> _Refused:
    return _Refused(400, type="invalid_request_error", code=code, param=parameter, message=f"{parameter}: {code}")


if __name__ == "__main__":
    main()
