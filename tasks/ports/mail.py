"""The mail transport: an envelope goes out, a receipt comes back."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from email_templates.language.company import Company
from tasks.ports.durations import Terms as Terms  # noqa: PLC0414 - whoever takes ports takes them from here


@dataclass(frozen=True, slots=True)
class Envelope:
    """One message to one recipient: addresses for the transport, and the message as it goes over the wire."""

    sender: str
    recipient: str
    content: bytes
    #: Our own name for the message, which a provider quotes in what it tells of it later.
    reference: str = ""


@dataclass(frozen=True, slots=True)
class Receipt:
    """Who took a message over, and what it said: of SMTP the answer, of an API the name that it gave the message."""

    transport: str
    answer: str


#: Asked at the last moment whether a message may go; what it locks stays locked until the message is settled.
Permit = Callable[[], AbstractContextManager[None]]


class Mailer(Protocol):
    def send(self, envelope: Envelope, *, permit: Permit, before_commit: Callable[[], None]) -> Receipt:
        """Hand the message over, and return what was said to it.

        `permit` is entered when the server has agreed to the recipient and before anything of the message leaves: with
        SMTP after RCPT and before DATA, with an API before the call. What it raises stops the sending, and the
        connection stays. It is left when the message was answered, refused or given up (B12).

        `before_commit` is called within it, just before the content leaves. What it raises stops the sending too.

        A failure before that call is certain and raises `Unavailable`, `Transient` (4xx) or `Permanent` (5xx); after
        it, a refusal is as certain, but silence raises `Ambiguous` (E10). No transport sends again by itself.
        """

    def close(self) -> None:
        """Hang up politely; the next `send` connects again."""


class Ambiguous(Exception):
    """The message was handed over, and no answer came: it may or may not have been accepted (E10)."""


@dataclass(frozen=True, slots=True)
class Letterhead:
    """How the company signs: what templates show, and what mail headers need."""

    company: Company
    mail_from: str
    reply_to: str
    mail_domain: str
    #: The page below which each message has its own to unsubscribe by one click; None where there is none.
    unsubscribe: str | None = None
