"""E-mail: rows become messages, once (P3.1e, E2, E3, E8, E10).

Whoever has a reason to write queues a row in the transaction that made the reason. `emails.send` and
`emails.send_urgent`, woken by the relay and the clock, send what is due. Just before the mail server is told that a
message is complete, `committing_at` is committed; a crash before it is repeated, a crash after it leaves the row
`unknown`, because nobody can tell (E10).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.errors import MessageError
from email.headerregistry import Address
from email.message import EmailMessage as MIMEMessage
from email.policy import SMTP, SMTPUTF8
from email.utils import format_datetime
from typing import Any
from uuid import UUID, uuid4

import structlog
from celery import shared_task
from jinja2 import UndefinedError
from sqlalchemy import select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from email_templates import catalogue
from email_templates.catalogue.accounts import AccountSetUp
from email_templates.catalogue.message import Message
from email_templates.plain_text import cut
from email_templates.reader import reader
from email_templates.rendering import render
from models.account import Account
from models.contact import Contact
from models.email_message import EmailMessage
from tasks.drain import Held, Job, Settled, drain
from tasks.failpoints import failpoint
from tasks.failures import Failure, Permanent
from tasks.job import Tick
from tasks.ports import Ambiguous, Envelope, Letterhead, Ports, current

log = structlog.get_logger()

#: RFC 5321, 4.5.3.1.3: a path has 256 octets, two of them its brackets.
ADDRESS_LENGTH = 254
#: A name without spaces cannot be folded, and a line has 998 octets (RFC 5322, 2.1.1).
NAME_LENGTH = 150


@dataclass(frozen=True, slots=True)
class Queued:
    """A message to be queued. The same dedupe key again is the same message."""

    account_id: UUID
    contact_id: UUID
    to_address: str
    context: Message
    dedupe_key: str
    attachments: Sequence[dict[str, str]] = ()


@dataclass(frozen=True, slots=True)
class ToSend:
    row: EmailMessage
    name: str
    language: str
    time_zone: str


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
                "message_id": f"{uuid4()}@{ports.letterhead.mail_domain}",
            }
            for message in messages
        ],
    )


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


def send_account_set_up(session: Session, account_id: UUID, _request_id: UUID, ports: Ports) -> None:
    """For a request `emails.send_account_set_up`: welcome each contact, once ever."""
    account = session.get_one(Account, account_id)
    context = AccountSetUp(
        account_name=account.name,
        account_ref=account.ref,
        set_up_at=account.created_at,
        currency=account.currency,
        billing_day=account.billing_day,
    )
    queue_for_contacts(session, account_id, context, f"account-set-up:{account_id}", ports)


def load(session: Session, ids: Sequence[UUID]) -> dict[UUID, ToSend]:
    rows = session.execute(
        select(EmailMessage, Contact)
        .join(Contact, Contact.id == EmailMessage.contact_id)
        .where(EmailMessage.id.in_(ids))
    )
    return {row.id: ToSend(row, contact.name, contact.language, contact.time_zone) for row, contact in rows}


def compose(item: ToSend, letterhead: Letterhead, attachments: Sequence[tuple[dict[str, str], bytes]]) -> bytes:
    """The message as it goes over the wire: text, HTML and attachments, with the headers of an automatic one (E8)."""
    row = item.row
    try:
        context = catalogue.read_context(row.message, row.context)
        rendered = render(
            context,
            language=item.language,
            time_zone=item.time_zone,
            company=letterhead.company,
            recipient_name=item.name,
        )
    except (catalogue.UnknownMessage, ValueError) as error:
        raise Permanent(str(error)) from error
    except UndefinedError as error:
        raise Permanent(f'A template of "{row.message}" shows what nobody gives it: {error.message}.') from error
    # Headers are encoded in ASCII, unless the address itself needs more (RFC 6531).
    mail = MIMEMessage(policy=SMTP if row.to_address.isascii() else SMTPUTF8)
    mail["From"] = Address(letterhead.company.name, addr_spec=letterhead.mail_from)
    mail["To"] = recipient(item.name, row.to_address)
    mail["Reply-To"] = letterhead.reply_to
    mail["Subject"] = rendered.subject
    mail["Date"] = format_datetime(row.created_at)
    mail["Message-ID"] = f"<{row.message_id}>"
    mail["Auto-Submitted"] = "auto-generated"
    mail["X-Auto-Response-Suppress"] = "OOF, AutoReply"
    mail.set_content(rendered.text)
    mail.add_alternative(rendered.html, subtype="html")
    for described, body in attachments:
        maintype, _, subtype = described["content_type"].partition("/")
        mail.add_attachment(body, maintype=maintype, subtype=subtype, filename=described["filename"])
    # Set at the end: `add_alternative` moves what is called Content-... into the first part.
    mail["Content-Language"] = reader(item.language, item.time_zone).tag
    return mail.as_bytes()


def recipient(name: str, address: str) -> Address:
    """The To header. An address that is none, or a name with control characters, ends here and not in a header (E3)."""
    try:
        if len(address) > ADDRESS_LENGTH or not address.isprintable() or any(c.isspace() for c in address):
            raise ValueError
        # The parser knows the form, but not yet that names before the @ may be of any script (RFC 6531).
        parsed = Address(addr_spec="".join(c if c.isascii() else "x" for c in address))
        if not address.isascii():
            parsed = Address(username=address.rpartition("@")[0], domain=parsed.domain and address.rpartition("@")[2])
        # Comments and the like would make the header differ from the envelope.
        if not parsed.domain or parsed.addr_spec != address:
            raise ValueError
        shown = " ".join("".join(c if c.isprintable() else " " for c in name).split())
        return Address(cut(shown, NAME_LENGTH), username=parsed.username, domain=parsed.domain)
    except (ValueError, IndexError, MessageError) as error:
        raise Permanent("The contact's e-mail address is not one: correct it, then retry.") from error


def send(item: ToSend, held: Held) -> str:
    """Send one message; returns the server's answer."""
    ports = held.ports
    attachments = [(described, ports.objects.get(described["key"])) for described in item.row.attachments]
    envelope = Envelope(
        sender=ports.letterhead.mail_from,
        recipient=item.row.to_address,
        content=compose(item, ports.letterhead, attachments),
    )
    marked = False

    def before_commit() -> None:
        nonlocal marked
        failpoint("emails", "before_mark")
        with ports.database.connection() as connection:
            marked = _mark(connection, held, "committing_at = clock_timestamp()")
        if not marked:
            raise TakenOver
        failpoint("emails", "after_mark")

    failpoint("emails", "before_offer")
    try:
        answer = ports.mailer.send(envelope, before_commit=before_commit)
    except TakenOver:
        # The lease ran out before the dot: whoever holds the row now sends it.
        raise Settled from None
    except Failure:
        if marked:
            # The server refused after all, and said so: certain again.
            with ports.database.connection() as connection:
                _mark(connection, held, "committing_at = NULL")
        raise
    except Exception as error:
        if not marked:
            raise
        # Past the mark, whatever else went wrong, the message may be out: silence, or a bug of ours.
        ambiguity = str(error) if isinstance(error, Ambiguous) else type(error).__name__
        with ports.database.connection() as connection:
            _mark(
                connection,
                held,
                "state = 'unknown', lease_until = NULL, finished_at = clock_timestamp(), last_error = :why",
                why=f"The mail server's answer to the message was lost ({ambiguity}): it may have been accepted.",
            )
        log.warning("email.unknown", row=str(held.id), reason=ambiguity)
        raise Settled from None
    failpoint("emails", "after_answer")
    return answer


class TakenOver(Exception):
    """The row is no longer ours."""


def _mark(connection: Any, held: Held, changes: str, **values: str) -> bool:
    marked = connection.execute(
        text(f"""
            UPDATE tenure.email_messages SET {changes}
             WHERE id = :id AND claim_token = :token AND state = 'running'"""),
        {"id": held.id, "token": held.token, **values},
    )
    return bool(marked.rowcount)


def record(session: Session, results: Mapping[UUID, str], _ports: Ports) -> None:
    for row, answer in results.items():
        session.execute(update(EmailMessage).where(EmailMessage.id == row).values(accepted_as=answer[:500]))


def _job(task: str, where: str) -> Job[ToSend, str]:
    # Each message is recorded before the next is sent: a crash leaves at most one that nobody can tell of.
    return Job(task, EmailMessage, load, send, record, done="sent", batch=50, record_every=1, where=where)


SEND_URGENT = _job("emails.send_urgent", "urgent")
SEND = _job("emails.send", "NOT urgent")


@shared_task(name=SEND_URGENT.task, base=Tick)
def send_urgent() -> dict[str, int]:
    return drain(SEND_URGENT, current())


@shared_task(name=SEND.task, base=Tick)
def send_bulk() -> dict[str, int]:
    return drain(SEND, current())
