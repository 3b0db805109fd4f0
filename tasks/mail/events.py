"""What mail providers tell of messages, as requests from the web tier (E10, E11).

Events come late, twice, and in any order. Each is a row that only its own kind, message and time make, and what follows
from it follows from its being there: a bounce suppresses whether a delivery was told of before or after. An event of a
message that we do not know fails with its reason and waits for a person.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from uuid import UUID

import msgspec
from sqlalchemy import or_, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from models.customers.account import Account, AccountStatus
from models.customers.contact import Contact
from models.mail.delivery_event import DeliveryEvent, DeliveryKind
from models.mail.email_message import EmailMessage
from models.mail.suppression import SuppressionReason, suppress
from models.work.request import JobRequest
from tasks.client.requests import EmailsRecordEvent, EmailsUnsubscribe
from tasks.engine.registry import import_every_module
from tasks.failures import Permanent
from tasks.ports.context import Ports
from tasks.requests.registry import handles_without_account

FollowUp = Callable[[Session, UUID, str, Ports], object]

SUPPRESSING = {
    DeliveryKind.BOUNCED: SuppressionReason.BOUNCE,
    DeliveryKind.COMPLAINED: SuppressionReason.COMPLAINT,
}

#: What follows when an address of an account is suppressed for the first time.
_follow_ups: list[FollowUp] = []


def when_suppressed(follow_up: FollowUp) -> FollowUp:
    """Call the decorated function with account and address when a bounce or complaint first suppresses the address.

    It runs in the transaction that records the event.
    """
    _follow_ups.append(follow_up)
    return follow_up


@handles_without_account(EmailsRecordEvent)
def record_event(session: Session, request_id: UUID, ports: Ports) -> None:
    """For a request `emails.record_event`."""
    told = msgspec.convert(session.get_one(JobRequest, request_id).args, EmailsRecordEvent)
    kind, occurred_at = _understood(told)
    message = _find(session, told.message)
    if message.account_id is not None and _is_over(session, message.account_id):
        # Nothing is written for the account any more, and nobody is left who would do something about it.
        return
    new = session.execute(
        insert(DeliveryEvent)
        .values(email_message_id=message.id, kind=kind, occurred_at=occurred_at, detail=told.detail)
        .on_conflict_do_nothing()
        .returning(DeliveryEvent.id)
    ).scalar_one_or_none()
    if new is None:
        return
    settle_by_events(session, message.id)
    reason = SUPPRESSING.get(kind)
    # Of a message that was forgotten the address is gone; its contact was told of long ago. One about a termination has
    # no account: its address would stay when all else of that is deleted, and its own steps see that it came back.
    if reason is None or message.forgotten_at is not None or message.account_id is None:
        return
    first = suppress(session.connection(), message.to_address, reason, detail=told.detail, email_message_id=message.id)
    if first:
        import_every_module()
        for follow_up in _follow_ups:
            follow_up(session, message.account_id, message.to_address, ports)


def _is_over(session: Session, account_id: UUID) -> bool:
    return session.get_one(Account, account_id).status is not AccountStatus.ACTIVE


def settle_by_events(session: Session, message_id: UUID | None = None) -> int:
    """Whatever a provider tells of a message, it has it: an `unknown` one is known then, and no copy follows (E10)."""
    settled = session.connection().execute(
        text("""
            UPDATE tenure.email_messages AS email
               SET state = 'done', finished_at = coalesce(finished_at, clock_timestamp()), last_error = NULL
             WHERE (state = 'unknown' OR state = 'pending' AND sent_again_at IS NOT NULL)
               AND (CAST(:id AS uuid) IS NULL OR id = :id)
               AND EXISTS (SELECT FROM tenure.delivery_events WHERE email_message_id = email.id)"""),
        {"id": message_id},
    )
    return settled.rowcount


@handles_without_account(EmailsUnsubscribe)
def unsubscribe(session: Session, request_id: UUID, _ports: Ports) -> None:
    """For a request `emails.unsubscribe`: the contact gets no more of what one can do without (RFC 8058)."""
    asked = msgspec.convert(session.get_one(JobRequest, request_id).args, EmailsUnsubscribe)
    message = _find(session, str(asked.message))
    if message.account_id is not None and not _is_over(session, message.account_id):
        session.get_one(Contact, message.contact_id).optional_mail = False


def _understood(told: EmailsRecordEvent) -> tuple[DeliveryKind, datetime]:
    try:
        kind = DeliveryKind(told.event)
        occurred_at = msgspec.convert(told.occurred_at, datetime)
    except (ValueError, msgspec.ValidationError):
        kinds = ", ".join(DeliveryKind)
        raise Permanent(f"The event is none of {kinds}, or its time is not one of ISO 8601 with a zone.") from None
    if occurred_at.tzinfo is None:
        raise Permanent("The event's time has no zone: write it as 2026-01-31T12:00:00Z.")
    return kind, occurred_at


def _find(session: Session, name: str) -> EmailMessage:
    """By our own name for it (the tag), its Message-ID, or what the provider calls it."""
    try:
        known = [EmailMessage.id == UUID(name)]
    except ValueError:
        known = [EmailMessage.message_id == name, EmailMessage.accepted_as == name]
    found = session.scalars(select(EmailMessage).where(or_(*known)).with_for_update()).first()
    if found is None:
        raise Permanent("No message is known by the name that the event gives: it is another installation's, or gone.")
    return found
