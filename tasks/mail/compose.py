"""A queued e-mail as it goes over the wire: text, HTML, attachments and the headers of an automatic one (E3, E8)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from email.errors import MessageError
from email.headerregistry import Address
from email.message import EmailMessage as MIMEMessage
from email.policy import SMTP, SMTPUTF8
from email.utils import format_datetime

from jinja2 import UndefinedError

from email_templates import catalogue
from email_templates.language.plain_text import cut
from email_templates.language.reader import reader
from email_templates.mail.rendering import render
from models.mail.email_message import EmailMessage
from tasks.failures import Permanent
from tasks.mail.addresses import NotAnAddress, checked
from tasks.ports.context import Letterhead
from tasks.storage.object_keys import ObjectKeys

#: A name without spaces cannot be folded, and a line has 998 octets (RFC 5322, 2.1.1).
NAME_LENGTH = 150
#: Bodies are encoded in ASCII: not every server on the way takes 8 bits (RFC 6152), and none may re-code what is
#: signed. Headers too, unless the address itself needs more (RFC 6531).
ASCII_HEADERS = SMTP.clone(cte_type="7bit")
UTF8_HEADERS = SMTPUTF8.clone(cte_type="7bit")


@dataclass(frozen=True, slots=True)
class ToSend:
    row: EmailMessage
    name: str
    language: str
    time_zone: str
    #: Whether the recipient takes what one can do without.
    optional_mail: bool = True
    #: Why the address was not to be written to when the row was claimed; None where it is.
    suppressed: str | None = None
    #: What opens the documents that it carries: those of its batch (T27).
    keys: ObjectKeys = field(default_factory=lambda: ObjectKeys((), {}))


def compose(item: ToSend, letterhead: Letterhead, attachments: Sequence[tuple[dict[str, str], bytes]]) -> bytes:
    """The message as it goes over the wire. Composed again from the same row, it is the same, byte for byte."""
    row = item.row
    if row.forgotten_at is not None:
        raise Permanent("The data of this message were deleted, as it was long ago (E12): queue it anew.")
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
    to = recipient(item.name, row.to_address)
    mail = MIMEMessage(policy=ASCII_HEADERS if to.addr_spec.isascii() else UTF8_HEADERS)
    mail["From"] = Address(letterhead.company.name, addr_spec=letterhead.mail_from)
    mail["To"] = to
    mail["Reply-To"] = letterhead.reply_to
    mail["Subject"] = rendered.subject
    mail["Date"] = format_datetime(row.created_at)
    mail["Message-ID"] = f"<{row.message_id}>"
    mail["Auto-Submitted"] = "auto-generated"
    mail["X-Auto-Response-Suppress"] = "OOF, AutoReply"
    if context.optional:
        _offer_to_unsubscribe(mail, row, letterhead)
    mail.set_content(rendered.text)
    mail.add_alternative(rendered.html, subtype="html")
    for described, body in attachments:
        maintype, _, subtype = described["content_type"].partition("/")
        mail.add_attachment(body, maintype=maintype, subtype=subtype, filename=described["filename"])
    # Set at the end: `add_alternative` moves what is called Content-... into the first part.
    mail["Content-Language"] = reader(item.language, item.time_zone).tag
    for number, part in enumerate(part for part in mail.walk() if part.is_multipart()):
        part.set_boundary(f"=_{number}_{row.id.hex}")
    return mail.as_bytes()


def _offer_to_unsubscribe(mail: MIMEMessage, row: EmailMessage, letterhead: Letterhead) -> None:
    """By mail (RFC 2369), and where the company has a page for it with one click (RFC 8058). It names no person."""
    by_mail = f"<mailto:{letterhead.reply_to}?subject=unsubscribe%20{row.id}>"
    if letterhead.unsubscribe is None:
        mail["List-Unsubscribe"] = by_mail
    else:
        mail["List-Unsubscribe"] = f"<{letterhead.unsubscribe}/{row.id}>, {by_mail}"
        mail["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"


def recipient(name: str, address: str) -> Address:
    """The To header. An address that is none, or a name with control characters, ends here and not in a header (E3)."""
    username, _, domain = to_write_to(address).rpartition("@")
    shown = " ".join("".join(c if c.isprintable() else " " for c in name).split())
    try:
        return Address(cut(shown, NAME_LENGTH), username=username, domain=domain)
    except (ValueError, IndexError, MessageError) as error:
        raise Permanent("The contact's name and e-mail address make no header: correct them, then retry.") from error


def to_write_to(address: str) -> str:
    """The address as the mail server gets it. Raises Permanent where it is none."""
    try:
        return checked(address)
    except NotAnAddress as error:
        raise Permanent(
            f"The contact's e-mail address is not one. {error} Correct the contact and have the message queued anew: "
            "this one keeps its address."
        ) from None
