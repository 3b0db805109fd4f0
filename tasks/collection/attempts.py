"""Collection: invoices that are due are charged, once each, where the customer lets us (P3.1d, B20, B21, B23).

`payments.plan`, ticked by the clock, makes an attempt for each; `payments.collect` asks the provider for it. Before
that, the amount and the fact that it will be asked are committed. Then the provider is asked whether it knows the
attempt already: its key is derived from invoice and number, and a failover or a restore may have lost it here. A crash
or a lost answer after this point leaves the attempt `unknown`. `payments.settle` asks the provider what became of
those, and of payments that take days. Only where the provider has never heard of a key is it asked again, with the same
key, which it would charge once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import structlog
from celery import shared_task
from sqlalchemy import Connection, text
from sqlalchemy.orm import Session

from models.collection.payment import AttemptOutcome, CollectionAttempt
from models.work.row import LONGEST_WAIT
from tasks.collection.outcome import not_made, record_payment
from tasks.collection.plan import plan
from tasks.engine.failpoints import failpoint
from tasks.engine.job import AlreadyEnded, ClaimedRow, Job
from tasks.engine.task import Tick, tick
from tasks.failures import Unavailable
from tasks.ports.context import Ports, current, provider_is_configured
from tasks.ports.payments import Order, Payment, PaymentGateway, Unanswered

log = structlog.get_logger()

#: The provider keeps idempotency keys for 24 hours: until an hour before that, asking again cannot charge again.
KEY_IS_SAFE = timedelta(hours=23)
#: After that long no request of ours can still be on its way, and what the provider does not know was never asked.
NEVER_ARRIVED = timedelta(hours=25)

#: Only where it is still wanted, and of what is open now; the amount never changes afterwards (B21).
MARK = text("""
    UPDATE tenure.collection_attempts AS attempt
       SET asked_at = clock_timestamp(), amount = item.open - item.disputed,
           local_day = (now() AT TIME ZONE account.time_zone)::date
      FROM tenure.open_items AS item JOIN tenure.accounts AS account ON account.id = item.account_id,
           tenure.payment_methods AS method
     WHERE attempt.id = :id AND attempt.claim_token = :token AND attempt.state = 'running'
       AND item.invoice_id = attempt.invoice_id AND item.open > item.disputed AND account.status = 'active'
       AND method.id = attempt.method_id AND method.retired_at IS NULL
    RETURNING attempt.amount""")

#: Attempts of which the provider is to be asked: due again for the settling, which looks for `asked_at`.
TAKE_UP = text("""
    UPDATE tenure.collection_attempts
       SET state = 'pending', finished_at = NULL, claim_token = NULL, claimed_by = NULL,
           attempts = CASE WHEN state = 'unknown' THEN attempts ELSE 0 END
     WHERE id = ANY (ARRAY(
            SELECT id FROM tenure.collection_attempts WHERE state = 'unknown' AND due_at <= now()
             UNION ALL
            SELECT id FROM tenure.collection_attempts
             WHERE outcome = 'processing' AND state = 'done' AND due_at <= now()))
       AND (state = 'unknown' OR state = 'done' AND outcome = 'processing')""")


@dataclass(frozen=True, slots=True)
class ToCollect:
    """An attempt, and what the provider is to be told. `amount` and `asked_at` are None until it is marked."""

    customer: str
    method: str
    currency: str
    invoice_number: str
    amount: int | None
    asked_at: datetime | None
    #: How long ago that was, by the database's clock.
    age: timedelta | None
    #: Whether at least that much is still open, and the method in use.
    wanted: bool
    #: A moment before which the invoice cannot have been charged, by any copy of the database.
    issued_at: datetime


def load(session: Session, ids: Sequence[UUID]) -> dict[UUID, ToCollect]:
    rows = session.execute(
        text("""
            SELECT attempt.id, method.provider_customer, method.provider_method, attempt.currency, invoice.number,
                   attempt.amount, attempt.asked_at, now() - attempt.asked_at AS age,
                   account.status = 'active' AND method.retired_at IS NULL
                       AND item.open - item.disputed >= coalesce(attempt.amount, 1) AS wanted,
                   (invoice.issued_on - 7)::timestamp AT TIME ZONE 'UTC' AS issued_at
              FROM tenure.collection_attempts AS attempt
              JOIN tenure.payment_methods AS method ON method.id = attempt.method_id
              JOIN tenure.invoices AS invoice ON invoice.id = attempt.invoice_id
              JOIN tenure.accounts AS account ON account.id = attempt.account_id
              JOIN tenure.open_items AS item ON item.invoice_id = attempt.invoice_id
             WHERE attempt.id = ANY (:ids)"""),
        {"ids": list(ids)},
    )
    return {row.id: ToCollect(*row[1:]) for row in rows}


def collect(item: ToCollect, claimed: ClaimedRow) -> Payment | AttemptOutcome:
    """Charge what is open; returns what the provider answered, or that there was nothing to charge."""
    gateway = configured(claimed.ports)
    failpoint("payments.collect", "before_mark")
    with claimed.ports.database.connection() as connection:
        amount = connection.execute(MARK, {"id": claimed.id, "token": claimed.token}).scalar_one_or_none()
        if amount is None and not _is_ours(connection, claimed):
            raise AlreadyEnded
    if amount is None:
        return AttemptOutcome.NOT_NEEDED
    failpoint("payments.collect", "after_mark")
    # The database may be a promoted copy or a restored backup that lost this attempt, and the provider may have
    # forgotten its key meanwhile.
    try:
        found = gateway.find(str(claimed.id), customer=item.customer, since=item.issued_at)
    except Unavailable:
        _update(claimed, "asked_at = NULL, amount = NULL")
        raise
    if found is not None:
        log.warning("payment.found", row=str(claimed.id), payment=found.id)
        return found
    return _charge(gateway, item, amount, claimed)


def settle(item: ToCollect, claimed: ClaimedRow) -> Payment | AttemptOutcome:
    """Ask the provider what became of an attempt (B21)."""
    gateway = configured(claimed.ports)
    assert item.asked_at is not None and item.age is not None and item.amount is not None  # noqa: S101 - `where`
    found = gateway.find(str(claimed.id), customer=item.customer, since=item.asked_at)
    failpoint("payments.settle", "after_find")
    if found is not None:
        return found
    if item.age > NEVER_ARRIVED:
        return AttemptOutcome.NOT_MADE
    if item.wanted and item.age < KEY_IS_SAFE:
        # Should the first request come late, it finds the answer to this one under its key.
        return _charge(gateway, item, item.amount, claimed)
    _leave_unknown(claimed, "The provider does not know it yet, and it is not wanted any more.")
    raise AlreadyEnded


def _charge(gateway: PaymentGateway, item: ToCollect, amount: int, claimed: ClaimedRow) -> Payment:
    order = Order(
        key=str(claimed.id),
        customer=item.customer,
        method=item.method,
        currency=item.currency,
        amount=amount,
        description=item.invoice_number,
    )
    try:
        payment = gateway.charge(order)
    except Unanswered as silence:
        _leave_unknown(claimed, f"The provider's answer was lost ({silence}): it may have charged, and will be asked.")
        log.warning("payment.unknown", row=str(claimed.id), reason=str(silence))
        raise AlreadyEnded from None
    except Unavailable:
        if item.asked_at is None:
            _update(claimed, "asked_at = NULL, amount = NULL")
        raise
    failpoint("payments.charge", "after_answer")
    return payment


def configured(ports: Ports) -> PaymentGateway:
    """The provider; Unavailable where there is none."""
    if ports.payments is None:
        raise Unavailable("No payment provider is configured: set TENURE_STRIPE_SECRET_KEY.")
    return ports.payments


def _is_ours(connection: Connection, claimed: ClaimedRow) -> bool:
    found = connection.execute(
        text("SELECT count(*) FROM tenure.collection_attempts WHERE id = :id AND claim_token = :token"),
        {"id": claimed.id, "token": claimed.token},
    )
    return bool(found.scalar_one())


def _leave_unknown(claimed: ClaimedRow, why: str) -> None:
    _update(
        claimed,
        """state = 'unknown', lease_until = NULL, finished_at = clock_timestamp(), last_error = :why,
           due_at = clock_timestamp() + least(make_interval(secs => 2 ^ least(attempts, 20)), :longest)""",
        why=why,
        longest=LONGEST_WAIT,
    )


def _update(claimed: ClaimedRow, changes: str, **values: Any) -> None:
    with claimed.ports.database.connection() as connection:
        connection.execute(
            text(f"""
                UPDATE tenure.collection_attempts SET {changes}
                 WHERE id = :id AND claim_token = :token AND state = 'running'"""),
            {"id": claimed.id, "token": claimed.token, **values},
        )


def record(session: Session, results: Mapping[UUID, Payment | AttemptOutcome], ports: Ports) -> None:
    for attempt_id, result in results.items():
        if isinstance(result, Payment):
            record_payment(session, attempt_id, result, ports)
        else:
            not_made(session, attempt_id, result)


def _job(task: str, act: Any, where: str) -> Job[ToCollect, Payment | AttemptOutcome]:
    # Each answer is recorded before the next is asked for.
    return Job(
        task, CollectionAttempt, load, act, record, done="answered", batch=20, record_every=1, where=where,
        wakes=("emails.send_urgent", "emails.send"),
    )  # fmt: skip


COLLECT = _job("payments.collect", collect, "asked_at IS NULL")
SETTLE = _job("payments.settle", settle, "asked_at IS NOT NULL")


def take_up(ports: Ports) -> int:
    """Make unknown attempts, and those that the provider still works on, due for the settling; returns how many."""
    with ports.database.connection() as connection:
        return connection.execute(TAKE_UP).rowcount


@shared_task(name="payments.plan", base=Tick)
def plan_attempts() -> dict[str, int]:
    ports = current()
    planned = plan(ports)
    if planned:
        ports.wake(COLLECT.task)
    return {"planned": planned}


collect_due = tick(COLLECT, only_if=provider_is_configured)


settle_unknown = tick(SETTLE, only_if=provider_is_configured, first=take_up)
