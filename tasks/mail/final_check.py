"""The last look before a message leaves: may it still be sent? (B12, E11)

Entered when the mail server has agreed to the recipient, before anything of the message goes out. Every message is
looked at: it may have been taken over or cancelled, or its address suppressed, since it was claimed. A kind of message
may register a look of its own, such as a reminder's at its invoice:

    @final_check(PaymentReminder)
    def still_owed(session: Session, row: EmailMessage) -> None:
        invoice = session.get_one(Invoice, ..., with_for_update=True)
        if invoice.open_amount == 0:
            raise Withdrawn("The invoice was paid before the reminder left.")

Where the message may go but says what is no longer so, the look raises `Outdated` with what is true now: it is rendered
anew and offered again (B13).

What such a look locks stays locked until the message was answered: a payment that comes meanwhile is committed after
the message, or waits. The wait for a lock is bounded; where it is too long, the message is tried again later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from email_templates import catalogue
from email_templates.catalogue.message import Message
from models.mail.email_message import EmailMessage, EmailState
from models.mail.suppression import sentence
from tasks.engine.job import ClaimedRow
from tasks.engine.locks import lock_timeout
from tasks.engine.registry import import_every_module
from tasks.failures import Permanent

Look = Callable[[Session, EmailMessage], None]

#: How long a final check waits for a lock.
FINAL_CHECK_LOCK_TIMEOUT = timedelta(seconds=5)

#: By the name of the message.
_checks: dict[str, Look] = {}


class TakenOver(Exception):
    """The row is no longer ours."""


class Withdrawn(Exception):
    """The message must not go out any more; the text says why, in a sentence without personal data."""

    def __init__(self, why: str, *, state: EmailState = EmailState.CANCELLED) -> None:
        super().__init__(why)
        self.state = state


class Outdated(Exception):
    """The message may go, but not with these words.

    `context` is what it has to say now; `effect`, where given, is recorded in the transaction that keeps that.
    """

    def __init__(self, context: dict[str, Any], effect: Callable[[Connection], None] | None = None) -> None:
        super().__init__("It says what is no longer so.")
        self.context = context
        self.effect = effect


def final_check(message: type[Message]) -> Callable[[Look], Look]:
    """Call the decorated function before each `message` leaves. It reads, locks, and raises `Withdrawn`.

    A message class that says `needs_final_check` is not sent by a process in which no check is registered for it.
    """

    def register(look: Look) -> Look:
        _checks[message.name] = look
        return look

    return register


@contextmanager
def permitted(row: EmailMessage, claimed: ClaimedRow) -> Iterator[None]:
    """Enter only if the message may still go; leave when it was answered. Raises `Withdrawn` or `TakenOver`."""
    look = _checks.get(row.message)
    known = catalogue.MESSAGES.get(row.message)
    if look is None and known is not None and known.needs_final_check:
        import_every_module()
        look = _checks.get(row.message)
        if look is None:
            raise Permanent(f"{row.message} needs a final check, and none is registered: decorate one.")
    session = Session(claimed.ports.database.engine)
    try:
        _look_at(session, row, claimed)
        if look is None:
            # There is nothing to hold on to, and the connection is needed elsewhere.
            session.close()
        else:
            why = "What decides whether it may be sent is locked by another transaction."
            with lock_timeout(session, FINAL_CHECK_LOCK_TIMEOUT, why):
                look(session, row)
        yield
    finally:
        # A look changes nothing, and what was sent is sent, whatever becomes of this connection.
        with suppress(DBAPIError):
            session.close()


def _look_at(session: Session, row: EmailMessage, claimed: ClaimedRow) -> None:
    found = session.execute(
        text("""
            SELECT email.claim_token = :token AND email.state = 'running' AS ours, suppressed.reason
              FROM tenure.email_messages AS email
              LEFT JOIN tenure.suppressions AS suppressed
                ON suppressed.address = lower(email.to_address) AND suppressed.lifted_at IS NULL
             WHERE email.id = :id"""),
        {"id": row.id, "token": claimed.token},
    ).one_or_none()
    if found is None or not found.ours:
        raise TakenOver
    if found.reason:
        raise Withdrawn(sentence(found.reason), state=EmailState.SUPPRESSED)
