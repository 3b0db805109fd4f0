"""Mail about a termination: to those who were contacts when the account was frozen, whatever becomes of their rows.

Whom to write to is copied into the termination at the freeze. The messages belong to the termination and to no account,
so the fence does not refuse them, no export lists them, and the last of them can be sent when the contacts are gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from email_templates import catalogue
from email_templates.catalogue.message import Message
from models.customers.account import Account
from models.customers.contact import Contact
from models.mail.email_message import EmailMessage
from models.termination.termination import Termination
from tasks.mail import queue
from tasks.ports.context import Ports

#: The first time that the mail server accepted a message of this occasion which did not come back.
_ACCEPTED = text("""
    SELECT min(email.finished_at) FROM tenure.email_messages AS email
     WHERE email.termination_id = :termination AND starts_with(email.dedupe_key, :occasion) AND email.state = 'done'
       AND NOT EXISTS (SELECT FROM tenure.delivery_events
                        WHERE email_message_id = email.id AND kind IN ('bounced', 'rejected'))""")
_CAME_BACK = text("""
    SELECT DISTINCT email.to_address FROM tenure.email_messages AS email
      JOIN tenure.delivery_events AS event ON event.email_message_id = email.id AND event.kind = 'bounced'
     WHERE email.termination_id = :termination""")

#: What makes each mail about a termination one; with the termination's id and the occasion.
REASON = "termination:{}:{}"


@dataclass(frozen=True, slots=True)
class Correspondent:
    """Somebody to write to about a termination."""

    name: str
    email: str
    language: str
    time_zone: str


def kept(session: Session, account_id: UUID) -> dict[str, Any]:
    """What `Termination.correspondence` holds, from the account as it is now."""
    account = session.get_one(Account, account_id)
    contacts = session.scalars(select(Contact).where(Contact.account_id == account_id).order_by(Contact.created_at))
    return {
        "account_name": account.name,
        "account_ref": account.ref,
        "contacts": [
            {"name": each.name, "email": each.email, "language": each.language, "time_zone": each.time_zone}
            for each in contacts
        ],
    }


def correspondents(session: Session, termination: Termination) -> list[Correspondent]:
    """Those to write to, without those whose mail about the termination came back."""
    came_back = set(session.scalars(_CAME_BACK, {"termination": termination.id}))
    contacts = (termination.correspondence or {}).get("contacts", ())
    return [Correspondent(**each) for each in contacts if each["email"] not in came_back]


def queue_mail(
    session: Session,
    termination: Termination,
    messages: Sequence[tuple[Correspondent, Message]],
    occasion: str,
    ports: Ports,
) -> None:
    """Queue a message to each of these, once for an occasion such as `purged` or `remind:2`."""
    if not messages:
        return
    session.execute(
        insert(EmailMessage).on_conflict_do_nothing(index_elements=["dedupe_key"]),
        [
            {
                "termination_id": termination.id,
                "recipient": {"name": to.name, "language": to.language, "time_zone": to.time_zone},
                "message": context.name,
                "to_address": to.email,
                "context": catalogue.write_context(context),
                "urgent": context.urgent,
                "dedupe_key": (key := f"{REASON.format(termination.id, occasion)}:{number}"),
                "message_id": queue.message_id(key, ports),
            }
            for number, (to, context) in enumerate(messages)
        ],
    )


def accepted_at(session: Session, termination_id: UUID, occasion: str) -> datetime | None:
    """When the mail server first accepted a message of this occasion that did not come back; None where it did not."""
    values = {"termination": termination_id, "occasion": REASON.format(termination_id, occasion) + ":"}
    accepted: datetime | None = session.execute(_ACCEPTED, values).scalar_one()
    return accepted
