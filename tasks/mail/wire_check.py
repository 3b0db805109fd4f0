"""Check the finished bytes of a mail against what was meant, before a server is offered them (E3).

`tasks/mail/headers.py` and `tasks/mail/compose.py` write; Python's `email` reads here, and shares no code with them.
Whatever a name or a subject holds, the mail that leaves has the headers, the recipient, the subject and the parts that
were meant, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from email import message_from_bytes
from email.errors import MessageError
from email.header import decode_header
from email.message import Message
from email.policy import compat32
from typing import Final

import structlog

from tasks.failures import Permanent

log = structlog.get_logger()

#: Octets of a line without its end (RFC 5322, 2.1.1).
LONGEST_LINE: Final = 998


@dataclass(frozen=True, slots=True)
class Part:
    """One leaf of the tree: its media type, its file name if it is an attachment, and its decoded content."""

    media_type: str
    filename: str | None
    content: bytes


@dataclass(frozen=True, slots=True)
class Meant:
    """What a reader has to find: the fields in their order, decoded, and the leaves in theirs."""

    fields: Sequence[tuple[str, str]]
    parts: Sequence[Part]


def require_lines(content: bytes) -> None:
    """Raise Permanent for a bare CR or LF, a NUL, or a line too long: servers disagree about where these end a mail."""
    whole = content.count(b"\r\n")
    if content.count(b"\r") != whole or content.count(b"\n") != whole or b"\0" in content:
        raise Permanent("The message has a line break of half a CRLF, or a NUL, and was not sent: report this.")
    if max(map(len, content.split(b"\r\n"))) > LONGEST_LINE:
        raise Permanent(f"The message has a line of more than {LONGEST_LINE} octets, and was not sent: report this.")


def require_as_meant(content: bytes, meant: Meant) -> None:
    """Raise Permanent, naming what differs, if `content` does not read as what was meant."""
    require_lines(content)
    differs = _difference(content, meant)
    if differs is not None:
        log.error("email.not_as_meant", differs=differs)
        raise Permanent(f"The message would not read as it was meant ({differs}), and was not sent: report this.")


def _difference(content: bytes, meant: Meant) -> str | None:
    read = message_from_bytes(content, policy=compat32)
    found = [(name, _unfolded(value)) for name, value in read.raw_items()]
    if [name for name, _ in found] != [name for name, _ in meant.fields]:
        return "its headers"
    for (name, value), (_, wanted) in zip(found, meant.fields, strict=True):
        if _decoded(value) != wanted:
            return f"its header {name}"
    leaves = list(_leaves(read))
    if len(leaves) != len(meant.parts):
        return "the number of its parts"
    for number, (leaf, part) in enumerate(zip(leaves, meant.parts, strict=True), start=1):
        what = _difference_of(leaf, part)
        if what is not None:
            return f"the {what} of part {number}"
    return None


def _difference_of(leaf: Message, part: Part) -> str | None:
    if leaf.get_content_type() != part.media_type:
        return "type"
    if leaf.defects or leaf.get_payload(decode=True) != part.content:
        return "content"
    return None if _filename(leaf) == part.filename else "file name"


def _leaves(message: Message) -> Iterator[Message]:
    for part in message.walk():
        if part.defects and part.is_multipart():
            return
        if not part.is_multipart():
            yield part


def _unfolded(value: str) -> str:
    return value.replace("\r\n", "").encode("ascii", "surrogateescape").decode("utf-8", "replace").strip(" ")


def _decoded(value: str) -> str:
    """The value with its encoded words decoded, once."""
    if "=?" not in value:
        return value
    # Of a mailbox the address comes after the name's encoded words, and is never one.
    name, bracket, rest = value.partition(" <")
    try:
        pieces = decode_header(name)
    except (MessageError, ValueError):
        return value
    text = "".join(
        piece if isinstance(piece, str) else piece.decode(charset or "ascii", "replace") for piece, charset in pieces
    )
    return f"{text}{bracket}{rest}"


def _filename(part: Message) -> str | None:
    found = part.get_param("filename", None, "content-disposition")
    if isinstance(found, tuple):
        return found[2].encode("latin-1", "replace").decode("utf-8", "replace") if found[0] is None else _rfc2231(found)
    return found if isinstance(found, str) else None


def _rfc2231(found: tuple[str | None, str | None, str]) -> str:
    charset, _, value = found
    return value.encode("latin-1", "surrogateescape").decode(charset or "ascii", "replace")
