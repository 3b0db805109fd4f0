"""What a provider says of a payment becomes ledger entries, the attempt's outcome, and mail: all or nothing (B22, B23).

Whoever learns of a payment first records it here: the worker that asked for it, the settling of an unknown one, an
event, the nightly reconciliation. Each movement of money is one ledger entry, by the provider's id; entries are only
added, and an outcome never goes back. So it does not matter who comes, how often, and in which order.
"""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Row, select, text
from sqlalchemy.orm import Session

from email_templates.catalogue.message import Message
from email_templates.catalogue.payments import Allocation, FailureReason, Method, PaymentFailed, PaymentReceived
from models.billing.ledger import EntryKind
from models.collection.payment import AttemptOutcome, DeclineReason
from models.customers.account import AccountStatus
from models.customers.contact import Contact
from tasks.collection.plan import RETRY_DAYS
from tasks.customers.details import ask_after_failed_payment
from tasks.failures import Permanent
from tasks.mail import queue
from tasks.ports.context import Ports
from tasks.ports.payments import Decline, Movement, Payment, Standing

#: How long a payment that takes its time is left alone before the provider is asked for it again.
PROCESSING_WAIT = timedelta(days=1)

#: Reasons to think that what is recorded of the customer is out of date (E14). A lack of money is none.
STALE_DETAILS = frozenset({DeclineReason.EXPIRED, DeclineReason.WRONG_DETAILS})

#: What the customer finds in its statement.
DESCRIPTIONS = {
    EntryKind.PAYMENT: "Payment for invoice {number}",
    EntryKind.REFUND: "Refund of the payment for invoice {number}",
    EntryKind.CHARGEBACK: "Chargeback of the payment for invoice {number}",
}
RETURNED = "Returned to us, for invoice {number}"

ATTEMPT = text("""
    SELECT attempt.id, attempt.account_id, attempt.invoice_id, attempt.method_id, attempt.outcome, attempt.amount,
           attempt.currency, invoice.number, account.name, account.ref, account.status, account.time_zone,
           method.kind, method.digits, (now() AT TIME ZONE account.time_zone)::date AS today,
           (attempt.asked_at AT TIME ZONE account.time_zone)::date AS tried_on
      FROM tenure.collection_attempts AS attempt
      JOIN tenure.accounts AS account ON account.id = attempt.account_id
      JOIN tenure.invoices AS invoice ON invoice.id = attempt.invoice_id
      JOIN tenure.payment_methods AS method ON method.id = attempt.method_id
     WHERE attempt.id = :id FOR UPDATE OF attempt""")

KNOWN = text("""
    SELECT external_ref FROM tenure.ledger_entries WHERE account_id = :account AND external_ref = ANY (:refs)""")

ENTER = text("""
    INSERT INTO tenure.ledger_entries (
           account_id, kind, currency, amount, description, occurred_at, external_ref, applies_to, reverses)
    VALUES (:account, :kind, :currency, :amount, :description, :occurred_at, :ref, :applies_to,
           (SELECT id FROM tenure.ledger_entries
             WHERE account_id = :account AND external_ref = :reverses AND kind = 'payment'))
        ON CONFLICT ON CONSTRAINT uq_ledger_entries_account_id_external_ref DO NOTHING RETURNING id""")

END = text("""
    UPDATE tenure.collection_attempts
       SET state = 'done', outcome = :outcome, finished_at = coalesce(finished_at, clock_timestamp()),
           lease_until = NULL, last_error = NULL, due_at = clock_timestamp() + :wait,
           provider_payment = coalesce(:payment, provider_payment),
           provider_charge = coalesce(:charge, provider_charge),
           decline_reason = :reason, decline_code = :code, decline_is_final = :is_final, next_attempt_on = :next
     WHERE id = :id""")

SETTLED_BY = text("""
    SELECT invoice.number, sum(allocation.amount)::bigint AS amount, debit.open
      FROM tenure.open_items AS credit
      JOIN tenure.allocations AS allocation ON allocation.credit_id = credit.id
      JOIN tenure.open_items AS debit ON debit.id = allocation.debit_id
      JOIN tenure.invoices AS invoice ON invoice.id = debit.invoice_id
     WHERE credit.entry_id = :entry GROUP BY invoice.number, debit.open, debit.due_on HAVING sum(allocation.amount) > 0
     ORDER BY debit.due_on, invoice.number""")

DECLINES = text("""
    SELECT count(*) AS tries, min(local_day) AS first_day FROM tenure.collection_attempts
     WHERE invoice_id = :invoice AND method_id = :method AND (outcome = 'declined' OR id = :id)""")

RETIRE = text("UPDATE tenure.payment_methods SET retired_at = now() WHERE id = :id AND retired_at IS NULL")


def record_payment(session: Session, attempt_id: UUID, payment: Payment, ports: Ports) -> int:
    """Record what is not recorded yet, in the caller's transaction; returns how many ledger entries were added."""
    attempt = session.execute(ATTEMPT, {"id": attempt_id}).one()
    entries = _enter(session, attempt, payment, ports)
    charge = next((each for each in payment.movements if each.kind is EntryKind.PAYMENT), None)
    match payment.standing:
        case Standing.CHARGED if attempt.outcome != AttemptOutcome.CHARGED and charge is not None:
            _end(session, attempt, AttemptOutcome.CHARGED, payment, charge=charge.id)
            if entry := entries.get(charge.id):
                _tell(session, attempt, _receipt(session, attempt, charge, entry), f"payment:{charge.id}", ports)
        case Standing.DECLINED if attempt.outcome in {None, AttemptOutcome.PROCESSING} and payment.decline is not None:
            _declined(session, attempt, payment, payment.decline, ports)
        case Standing.PROCESSING if attempt.outcome in {None, AttemptOutcome.PROCESSING}:
            _end(session, attempt, AttemptOutcome.PROCESSING, payment, wait=PROCESSING_WAIT)
        case Standing.CANCELLED if attempt.outcome in {None, AttemptOutcome.PROCESSING}:
            not_made(session, attempt_id, AttemptOutcome.NOT_MADE, payment)
        case _:
            pass
    return len(entries)


def not_made(session: Session, attempt_id: UUID, outcome: AttemptOutcome, payment: Payment | None = None) -> None:
    """Record that nothing was or will be charged; if something is open tomorrow, there is another attempt."""
    attempt = session.execute(ATTEMPT, {"id": attempt_id}).one()
    _end(session, attempt, outcome, payment, next_attempt_on=attempt.today + timedelta(days=1))


def _enter(session: Session, attempt: Row[Any], payment: Payment, ports: Ports) -> dict[str, UUID]:
    """Write the ledger entries that are missing; returns those, by the provider's id."""
    assert ports.payments is not None  # noqa: S101 - whoever knows a payment has asked a provider
    prefix = ports.payments.provider
    charge = next((each.id for each in payment.movements if each.kind is EntryKind.PAYMENT), None)
    known = set(
        session.scalars(KNOWN, {"account": attempt.account_id, "refs": [f"{prefix}:{m.id}" for m in payment.movements]})
    )
    made: dict[str, UUID] = {}
    for movement in payment.movements:
        if f"{prefix}:{movement.id}" in known:
            continue
        if attempt.status != AccountStatus.ACTIVE:
            raise Permanent(
                f"The account is {attempt.status}, and its ledger takes no more entries: what the provider did "
                f"({movement.kind} {movement.id}) has to be settled by hand."
            )
        is_payment = movement.kind is EntryKind.PAYMENT
        description = DESCRIPTIONS[movement.kind] if not is_payment or movement.id == charge else RETURNED
        entry = session.execute(
            ENTER,
            {
                "account": attempt.account_id,
                "kind": movement.kind,
                "currency": movement.currency,
                "amount": -movement.amount if is_payment else movement.amount,
                "description": description.format(number=attempt.number),
                "occurred_at": movement.occurred_at,
                "ref": f"{prefix}:{movement.id}",
                "applies_to": attempt.invoice_id if is_payment else None,
                "reverses": None if is_payment else f"{prefix}:{charge}",
            },
        ).scalar_one_or_none()
        if entry is not None:
            made[movement.id] = entry
    return made


def _declined(session: Session, attempt: Row[Any], payment: Payment, decline: Decline, ports: Ports) -> None:
    again = None if decline.is_final else _next_day(session, attempt)
    _end(session, attempt, AttemptOutcome.DECLINED, payment, decline=decline, next_attempt_on=again)
    if decline.is_final and decline.reason is not DeclineReason.CONFIRMATION_NEEDED:
        session.execute(RETIRE, {"id": attempt.method_id})
    context = PaymentFailed(
        account_name=attempt.name,
        account_ref=attempt.ref,
        invoice_number=attempt.number,
        currency=attempt.currency,
        amount=attempt.amount,
        tried_on=attempt.tried_on,
        reason=FailureReason(decline.reason),
        method=Method(attempt.kind),
        method_digits=attempt.digits,
        next_attempt_on=again,
    )
    _tell(session, attempt, context, f"payment-failed:{attempt.id}", ports)
    if decline.reason in STALE_DETAILS and attempt.status == AccountStatus.ACTIVE:
        ask_after_failed_payment(session, attempt.account_id, ports)


def _next_day(session: Session, attempt: Row[Any]) -> date | None:
    """When the same method is tried once more (B23); None when it was the last time."""
    values = {"invoice": attempt.invoice_id, "method": attempt.method_id, "id": attempt.id}
    declines = session.execute(DECLINES, values).one()
    if declines.tries >= len(RETRY_DAYS):
        return None
    first: date = declines.first_day
    planned = first + timedelta(days=RETRY_DAYS[declines.tries])
    following: date = max(planned, attempt.tried_on + timedelta(days=1), attempt.today)
    return following if following <= first + timedelta(days=RETRY_DAYS[-1]) else None


def _end(
    session: Session,
    attempt: Row[Any],
    outcome: AttemptOutcome,
    payment: Payment | None,
    *,
    charge: str | None = None,
    decline: Decline | None = None,
    next_attempt_on: date | None = None,
    wait: timedelta = timedelta(0),
) -> None:
    session.execute(
        END,
        {
            "id": attempt.id,
            "outcome": outcome,
            "payment": payment and payment.id,
            "charge": charge,
            "reason": decline and decline.reason,
            "code": decline and decline.code[:100],
            "is_final": decline and decline.is_final,
            "next": next_attempt_on,
            "wait": wait,
        },
    )


def _receipt(session: Session, attempt: Row[Any], charge: Movement, entry: UUID) -> PaymentReceived:
    settled = tuple(
        Allocation(invoice_number=row.number, amount=row.amount, still_open=row.open)
        for row in session.execute(SETTLED_BY, {"entry": entry})
    )
    return PaymentReceived(
        account_name=attempt.name,
        account_ref=attempt.ref,
        currency=charge.currency,
        received_on=attempt.today,
        amount=charge.amount,
        method=Method(attempt.kind),
        method_digits=attempt.digits,
        allocations=settled,
        kept=charge.amount - sum(each.amount for each in settled),
    )


def _tell(session: Session, attempt: Row[Any], context: Message, reason: str, ports: Ports) -> None:
    """Queue a message to those of the account who get its bills; once for one reason."""
    contacts = session.scalars(
        select(Contact).where(Contact.account_id == attempt.account_id, Contact.receives_statements)
    ).all()
    messages = [
        queue.Queued(
            account_id=attempt.account_id,
            contact_id=contact.id,
            to_address=contact.email,
            context=context,
            dedupe_key=f"{reason}:{contact.id}",
        )
        for contact in contacts
    ]
    queue.queue(session, messages, ports)
