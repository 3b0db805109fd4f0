"""Events of the payment provider: each says which payment to look at, and no more (B22).

They come with body and signature by `tenure.record_payment_event`, which the relay hears of, or by the event's id in a
request `payments.record_event`. Whichever it is, the payment is then read from the provider as it is now, and recorded.
So an event that comes late, twice or before the one that it follows leads to the same ledger; a forged one, had it the
right signature, could make us look at a payment, and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from uuid import UUID

from sqlalchemy import select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from models.collection.payment import CollectionAttempt
from models.collection.payment_event import PaymentEvent
from models.work.request import JobRequest
from tasks.client.requests import PaymentsRecordEvent
from tasks.collection.attempts import configured
from tasks.collection.outcome import record_payment
from tasks.engine.failpoints import failpoint
from tasks.engine.job import DAYS, ClaimedRow, Job
from tasks.engine.task import tick
from tasks.failures import Permanent
from tasks.ports.context import Ports, provider_is_configured
from tasks.ports.payments import Event, NotGenuine, Payment, PaymentGateway
from tasks.requests.registry import handles_without_account


@dataclass(frozen=True, slots=True)
class Delivered:
    """What came in: a body with its signature, or an event's id."""

    body: bytes | None
    signature: str | None
    event: str | None
    received_at: datetime


@dataclass(frozen=True, slots=True)
class Seen:
    """What the event is about, and how that payment is now; None where it is about no payment."""

    event: Event
    payment: Payment | None


@handles_without_account(PaymentsRecordEvent)
def receive(session: Session, request_id: UUID, _ports: Ports) -> None:
    """For a request `payments.record_event`: the event will be asked for from the provider."""
    event = session.scalars(select(JobRequest.args["event"].astext).where(JobRequest.id == request_id)).one()
    session.execute(
        insert(PaymentEvent)
        .values(event=event, delivery=sha256(event.encode()).digest())
        .on_conflict_do_nothing(index_elements=["delivery"])
    )


def load(session: Session, ids: Sequence[UUID]) -> dict[UUID, Delivered]:
    rows = session.execute(
        select(
            PaymentEvent.id, PaymentEvent.body, PaymentEvent.signature, PaymentEvent.event, PaymentEvent.created_at
        ).where(PaymentEvent.id.in_(ids))
    )
    return {row.id: Delivered(*row[1:]) for row in rows}


def read(item: Delivered, claimed: ClaimedRow) -> Seen:
    """Find out which payment it is about, and ask the provider how that is."""
    gateway = configured(claimed.ports)
    event = _genuine(item, gateway, claimed)
    if event.payment is None:
        return Seen(event, None)
    payment = gateway.look(event.payment)
    failpoint("payments.read_events", "after_look")
    if payment is None or payment.key is None:
        raise Permanent(
            f"The event {event.id} is about the payment {event.payment}, which is none that Tenure asked for: let the "
            "web tier pass on events of payments with the metadata tenure_attempt."
        )
    return Seen(event, payment)


def _genuine(item: Delivered, gateway: PaymentGateway, claimed: ClaimedRow) -> Event:
    if item.body is not None and item.signature is not None:
        try:
            return gateway.read_event(item.body, item.signature, received_at=item.received_at)
        except NotGenuine as error:
            with claimed.ports.database.connection() as connection:
                connection.execute(FORGET, {"id": claimed.id})
            raise Permanent(f"The event is refused: {error}") from None
    event = gateway.event(item.event) if item.event is not None else None
    if event is None:
        raise Permanent(
            f"The provider has no event {item.event or 'without an id'}: it was made up, or is older than the provider "
            "keeps events. What it was about is found by the nightly reconciliation."
        )
    return event


#: Whatever somebody sent who is not the provider is not kept.
FORGET = text("UPDATE tenure.payment_events SET body = NULL, signature = NULL WHERE id = :id")


def record(session: Session, results: Mapping[UUID, Seen], ports: Ports) -> None:
    for row, seen in results.items():
        account = None
        if seen.payment is not None:
            found = attempt_of(session, seen.payment)
            if found is None:
                raise Permanent(
                    f"The payment {seen.payment.id} has the key of an attempt that is not here: was a backup restored, "
                    "or does another installation use this provider's account?"
                )
            attempt, account = found
            record_payment(session, attempt, seen.payment, ports)
        session.execute(
            update(PaymentEvent)
            .where(PaymentEvent.id == row)
            .values(
                body=None,
                signature=None,
                event=seen.event.id,
                event_type=seen.event.type[:200],
                payment=seen.event.payment,
                account_id=account,
            )
        )


def attempt_of(session: Session, payment: Payment) -> tuple[UUID, UUID] | None:
    """The attempt that a payment is, and its account; None where there is none."""
    try:
        key = UUID(payment.key)
    except (TypeError, ValueError):
        return None
    row = session.execute(
        select(CollectionAttempt.id, CollectionAttempt.account_id).where(CollectionAttempt.id == key)
    ).one_or_none()
    return (row.id, row.account_id) if row else None


READ = Job(
    "payments.read_events", PaymentEvent, load, read, record, done="read", batch=20, record_every=1,
    wakes=("emails.send_urgent", "emails.send"), retries=DAYS,
)  # fmt: skip


read_events = tick(READ, only_if=provider_is_configured)
