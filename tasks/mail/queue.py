"""The mail queue: rows that make a message due, each once (E2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID, uuid5

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from email_templates import catalogue
from email_templates.catalogue.message import Message
from models.customers.contact import Contact
from models.mail.email_message import EmailMessage
from tasks.ports.context import Ports

#: The namespace of Message-IDs (RFC 9562, version 5).
MESSAGES = UUID("6f0c3b0e-52a4-4d0f-9a55-2f3f6b0f7c11")


@dataclass(frozen=True, slots=True)
class Queued:
    """A message to be queued. The same dedupe key again is the same message."""

    account_id: UUID
    contact_id: UUID
    to_address: str
    context: Message
    dedupe_key: str
    attachments: Sequence[dict[str, str]] = ()


def queue(session: Session, messages: Sequence[Queued], ports: Ports) -> None:
    """Add rows to the caller's transaction; what was queued before under the same key stays as it is (E2)."""
    if not messages:
        return
    session.execute(
        insert(EmailMessage).on_conflict_do_nothing(index_elements=["dedupe_key"]),
        [
            {
                "account_id": message.account_id,
                "contact_id": message.contact_id,
                "message": message.context.name,
                "to_address": message.to_address,
                "context": catalogue.write_context(message.context),
                "attachments": list(message.attachments),
                "urgent": message.context.urgent,
                "dedupe_key": message.dedupe_key,
                "message_id": message_id(message.dedupe_key, ports),
            }
            for message in messages
        ],
    )


def message_id(dedupe_key: str, ports: Ports) -> str:
    """Derive a Message-ID from what makes a message once: queued again after a failover, it is the same message."""
    return f"{uuid5(MESSAGES, dedupe_key)}@{ports.letterhead.mail_domain}"


def queue_for_contacts(session: Session, account_id: UUID, context: Message, reason: str, ports: Ports) -> None:
    """Queue one message to every contact of an account; `reason` makes it once."""
    contacts = session.scalars(select(Contact).where(Contact.account_id == account_id)).all()
    queue(
        session,
        [
            Queued(
                account_id=account_id,
                contact_id=contact.id,
                to_address=contact.email,
                context=context,
                dedupe_key=f"{reason}:{contact.id}",
            )
            for contact in contacts
        ],
        ports,
    )
