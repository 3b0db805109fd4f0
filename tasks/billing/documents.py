"""What all documents share: who gets them, how they are stored and noted, and the mails that carry them."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from email_templates.catalogue.message import Message
from models.customers.contact import Contact
from models.data_map.places import AccountPlace
from models.work.row import Work
from tasks.crypto import age
from tasks.failures import Permanent
from tasks.mail import queue
from tasks.ports.context import Ports
from tasks.storage import sealed_objects


@dataclass(frozen=True, slots=True)
class Recipient:
    contact_id: UUID
    email: str
    language: str


@dataclass(frozen=True, slots=True)
class Stored:
    """A document in the object store: its key, and of the PDF that lies there sealed, hash and bytes."""

    key: str
    sha256: bytes = field(repr=False)
    size: int
    #: Which version of typesetter, template and fonts made it.
    typesetter: str


def recipients(session: Session, accounts: Collection[UUID]) -> dict[UUID, list[Recipient]]:
    """Who gets the documents of each account, the first one first."""
    found: dict[UUID, list[Recipient]] = defaultdict(list)
    for contact in session.execute(
        select(Contact.id, Contact.account_id, Contact.email, Contact.language)
        .where(Contact.account_id.in_(set(accounts)), Contact.receives_statements)
        .order_by(Contact.created_at, Contact.id)
    ):
        found[contact.account_id].append(Recipient(contact.id, contact.email, contact.language))
    return found


def require_recipients(recipients: Sequence[Recipient]) -> None:
    """Raises Permanent if no contact of the account receives statements and invoices."""
    if not recipients:
        raise Permanent(
            "The account has no contact that receives statements and invoices: "
            "set contacts.receives_statements of one, then retry."
        )


def store(ports: Ports, place: AccountPlace, body: bytes, recipient: age.Recipient) -> Stored:
    """Put a PDF, sealed for its account, at a place that its row fixes: made again, it holds the same (B3, B5, T27).

    The row keeps what the PDF is; the sealed file around it is another one each time.
    """
    # Typst and its fonts are loaded by the processes that render, not by every one that imports tasks.
    from email_templates.pdf.typesetter import typesetter  # noqa: PLC0415

    sealed_objects.put(ports.objects, place, body, recipient)
    return Stored(place.key, hashlib.sha256(body).digest(), len(body), typesetter())


def note(session: Session, table: type[Work], stored: Mapping[UUID, Stored]) -> None:
    """Note in the rows of `table` where their documents are."""
    session.execute(
        text(f"""
            UPDATE tenure.{table.__tablename__} AS row
               SET document_key = made.key, document_sha256 = made.sha256, document_bytes = made.size,
                   typesetter = made.typesetter
              FROM unnest(CAST(:ids AS uuid[]), CAST(:keys AS text[]), CAST(:hashes AS bytea[]), CAST(:sizes AS int[]),
                          CAST(:typesetters AS text[])) AS made (id, key, sha256, size, typesetter)
             WHERE row.id = made.id"""),
        {
            "ids": list(stored),
            "keys": [each.key for each in stored.values()],
            "hashes": [each.sha256 for each in stored.values()],
            "sizes": [each.size for each in stored.values()],
            "typesetters": [each.typesetter for each in stored.values()],
        },
    )


@dataclass(frozen=True, slots=True)
class Carried:
    """A document on its way: what the mail says, and what is attached."""

    account_id: UUID
    #: The row of the document: with `reason` and recipient it makes a mail once.
    id: UUID
    context: Message
    key: str
    #: Without its ending.
    name: str


def mails(document: Carried, recipients: Sequence[Recipient], reason: str) -> list[queue.Queued]:
    """The mails that carry a document, one a recipient; for one `reason` they exist once."""
    filename = document.name.replace("/", "-") + ".pdf"
    attachment = {"key": document.key, "filename": filename, "content_type": "application/pdf"}
    return [
        queue.Queued(
            account_id=document.account_id,
            contact_id=recipient.contact_id,
            to_address=recipient.email,
            context=document.context,
            dedupe_key=f"{reason}:{document.id}:{recipient.contact_id}",
            attachments=[attachment],
        )
        for recipient in recipients
    ]
