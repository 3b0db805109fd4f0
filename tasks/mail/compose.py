"""A queued e-mail as it goes over the wire: text, HTML, attachments and the headers of an automatic one (E3, E8)."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from email.message import MIMEPart
from email.policy import SMTP
from email.utils import format_datetime
from typing import Final
from urllib.parse import quote

from jinja2 import UndefinedError

from email_templates import catalogue
from email_templates.language.plain_text import cut, one_line, without_links
from email_templates.language.reader import reader
from email_templates.mail.rendering import UNCONFIRMED_LENGTH, render
from models.mail.email_message import EmailMessage
from tasks.failures import Permanent
from tasks.mail.addresses import NotAnAddress, checked
from tasks.mail.headers import attachment_field, mailbox_field, plain_field, text_field
from tasks.mail.wire_check import Meant, Part, require_as_meant
from tasks.ports.mail import Letterhead
from tasks.storage.object_keys import ObjectKeys

#: Characters of a name, and of a file name.
NAME_LENGTH: Final = 150
MEDIA_TYPE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*/[A-Za-z0-9][A-Za-z0-9.+-]*")
#: Bodies are encoded in ASCII: not every server on the way takes 8 bits (RFC 6152), and none may re-code what is
#: signed. Headers too, unless the address itself needs more (RFC 6531).
ASCII: Final = SMTP.clone(cte_type="7bit")


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
    """The message as it goes over the wire. Composed again from the same row, it is the same, byte for byte.

    Raises Permanent for what cannot be sent, and for bytes that a parser would not read as what was meant.
    """
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
    head = _Head()
    head.mailbox("From", shown_name(letterhead.company.name), to_write_to(letterhead.mail_from))
    name = without_links(item.name, UNCONFIRMED_LENGTH) if context.unconfirmed else shown_name(item.name)
    head.mailbox("To", name, to_write_to(row.to_address))
    head.mailbox("Reply-To", "", to_write_to(letterhead.reply_to))
    head.text("Subject", rendered.subject)
    head.plain("Date", format_datetime(row.created_at))
    head.plain("Message-ID", f"<{row.message_id}>")
    head.plain("Auto-Submitted", "auto-generated")
    head.plain("X-Auto-Response-Suppress", "OOF, AutoReply")
    if context.optional:
        _offer_to_unsubscribe(head, row, letterhead)
    head.plain("Content-Language", reader(item.language, item.time_zone).tag)
    head.plain("MIME-Version", "1.0")
    texts = [_text("plain", rendered.text), _text("html", rendered.html)]
    files = [_attachment(described, body) for described, body in attachments]
    media_type, body = _multipart("alternative", f"=_1_{row.id.hex}", [part for part, _ in texts])
    if files:
        alternative = plain_field("Content-Type", media_type) + b"\r\n" + body
        media_type, body = _multipart("mixed", f"=_0_{row.id.hex}", [alternative, *(part for part, _ in files)])
    head.plain("Content-Type", media_type)
    content = b"".join(head.written) + b"\r\n" + body
    require_as_meant(content, Meant(head.meant, [part for _, part in (*texts, *files)]))
    return content


class _Head:
    """Header fields as they are written, and as a reader has to find them."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.meant: list[tuple[str, str]] = []

    def plain(self, name: str, value: str) -> None:
        self.written.append(plain_field(name, value))
        self.meant.append((name, value))

    def text(self, name: str, text: str) -> None:
        self.written.append(text_field(name, text))
        self.meant.append((name, text))

    def mailbox(self, name: str, display_name: str, address: str) -> None:
        self.written.append(mailbox_field(name, display_name, address))
        self.meant.append((name, f"{display_name} <{address}>" if display_name else f"<{address}>"))


def _text(subtype: str, text: str) -> tuple[bytes, Part]:
    """A text in ASCII, encoded where it has to be; Python's `email` writes it, and is given no word of a header."""
    part = MIMEPart(policy=ASCII)
    part.set_content(text, subtype=subtype, charset="utf-8")
    return part.as_bytes(), Part(f"text/{subtype}", None, text.replace("\n", "\r\n").encode())


def _attachment(described: dict[str, str], body: bytes) -> tuple[bytes, Part]:
    media_type, filename = described["content_type"], cut(one_line(described["filename"]), NAME_LENGTH)
    if not MEDIA_TYPE.fullmatch(media_type) or media_type.partition("/")[0] in {"multipart", "message"}:
        raise Permanent("The media type of an attachment is none that can be sent: queue the message anew.")
    written = (
        plain_field("Content-Type", media_type)
        + plain_field("Content-Transfer-Encoding", "base64")
        + attachment_field(filename)
        + b"\r\n"
        + base64.encodebytes(body).replace(b"\n", b"\r\n")
    )
    return written, Part(media_type.lower(), filename, body)


def _multipart(subtype: str, boundary: str, parts: Sequence[bytes]) -> tuple[str, bytes]:
    """The media type of a multipart and its body. No encoded line begins with the boundary's "=_"."""
    between = f"--{boundary}".encode()
    body = b"".join(between + b"\r\n" + part + b"\r\n" for part in parts) + between + b"--\r\n"
    return f'multipart/{subtype}; boundary="{boundary}"', body


def _offer_to_unsubscribe(head: _Head, row: EmailMessage, letterhead: Letterhead) -> None:
    """By mail (RFC 2369), and where the company has a page for it with one click (RFC 8058). It names no person."""
    by_mail = f"<mailto:{quote(letterhead.reply_to, safe='@+')}?subject=unsubscribe%20{row.id}>"
    if letterhead.unsubscribe is None:
        head.plain("List-Unsubscribe", by_mail)
    else:
        head.plain("List-Unsubscribe", f"<{letterhead.unsubscribe}/{row.id}>, {by_mail}")
        head.plain("List-Unsubscribe-Post", "List-Unsubscribe=One-Click")


def shown_name(name: str) -> str:
    """A name as a header shows it: one line, without bidi controls; joiners (ZWJ, ZWNJ) are letters' own and stay."""
    return cut(one_line(name), NAME_LENGTH)


def to_write_to(address: str) -> str:
    """The address as the mail server gets it. Raises Permanent where it is none, or has the form of an encoded word."""
    try:
        found = checked(address)
    except NotAnAddress as error:
        raise Permanent(
            f"The contact's e-mail address is not one. {error} Correct the contact and have the message queued anew: "
            "this one keeps its address."
        ) from None
    if "=?" in found:
        raise Permanent(
            'The contact\'s e-mail address has "=?" in it, which mail programs decode. Correct the contact and have '
            "the message queued anew."
        )
    return found
