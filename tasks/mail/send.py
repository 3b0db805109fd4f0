"""E-mail: rows become messages, once (P3.1e, E2, E9, E10, E11).

Whoever has a reason to write queues a row in the transaction that made the reason. `emails.send` and
`emails.send_urgent`, woken by the relay and the clock, send what is due. At the last moment each looks whether the
message may still go; then `committing_at` is committed, and only then the content leaves. A crash before that is
repeated, a crash after it leaves the row `unknown`, because nobody can tell (E10).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from typing import NoReturn
from uuid import UUID

import structlog
from sqlalchemy import Connection, func, select, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from email_templates import catalogue
from email_templates.catalogue.accounts import AccountSetUp
from models.base.unit_of_work import is_outage
from models.customers.account import Account
from models.customers.contact import Contact
from models.mail.email_message import EmailMessage, EmailState
from models.mail.suppression import Suppression, sentence
from models.work.row import Retries
from tasks.client.requests import EmailsSendAccountSetUp
from tasks.engine.failpoints import failpoint
from tasks.engine.job import AlreadyEnded, ClaimedRow, Job
from tasks.engine.task import tick
from tasks.failures import Failure, Permanent, Transient
from tasks.mail.compose import ToSend, compose, to_write_to
from tasks.mail.final_check import Outdated, TakenOver, Withdrawn, permitted
from tasks.mail.queue import queue_for_contacts
from tasks.ports.context import Ports
from tasks.ports.mail import Ambiguous, Envelope, Receipt
from tasks.requests.registry import handles
from tasks.storage import sealed_objects
from tasks.storage.object_keys import ObjectKeys, object_keys

log = structlog.get_logger()

#: How often a message is rendered anew because what it is about changed while it was offered (B13).
RENDERINGS = 3
#: A server's answer is kept for a person to find the message in its log.
ANSWER_LENGTH = 500


@dataclass(frozen=True, slots=True)
class Sent:
    """What a row keeps of its sending."""

    receipt: Receipt
    content_sha256: bytes


@handles(EmailsSendAccountSetUp)
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
        select(EmailMessage, Contact, Suppression.reason)
        .outerjoin(Contact, Contact.id == EmailMessage.contact_id)
        .outerjoin(
            Suppression,
            (Suppression.address == func.lower(EmailMessage.to_address)) & Suppression.lifted_at.is_(None),
        )
        .where(EmailMessage.id.in_(ids))
    ).all()
    carrying = [row.account_id for row, _, _ in rows if row.attachments and row.account_id is not None]
    keys = object_keys(session, carrying) if carrying else ObjectKeys((), {})
    return {row.id: _to_send(row, contact, reason, keys) for row, contact, reason in rows}


def _to_send(row: EmailMessage, contact: Contact | None, suppressed: str | None, keys: ObjectKeys) -> ToSend:
    if contact is not None:
        return ToSend(row, contact.name, contact.language, contact.time_zone, contact.optional_mail, suppressed, keys)
    # About a termination: it has its recipient with it, and carries nothing.
    whom = row.recipient or {}
    return ToSend(row, whom.get("name", ""), whom.get("language", "en"), whom.get("time_zone", "UTC"), True, suppressed)


def send(item: ToSend, claimed: ClaimedRow) -> Sent:
    """Send one message; returns what the transport said."""
    ports = claimed.ports
    if item.suppressed:
        _settle(claimed, EmailState.SUPPRESSED, sentence(item.suppressed))
    known = catalogue.MESSAGES.get(item.row.message)
    if known is not None and known.optional and not item.optional_mail:
        _settle(claimed, EmailState.CANCELLED, "The recipient unsubscribed from what one can do without (RFC 8058).")
    attachments = _attachments(item, ports)
    for _ in range(RENDERINGS):
        try:
            return _offer(item, attachments, claimed)
        except Outdated as outdated:
            _renew(item.row, outdated, claimed)
    raise Transient(f"What it is about changed {RENDERINGS} times while it was offered to the mail server.")


def _attachments(item: ToSend, ports: Ports) -> list[tuple[dict[str, str], bytes]]:
    """What the message carries, opened. Raises as `ObjectKeys.identity` and `sealed_objects.get`: nothing has left."""
    row = item.row
    if not row.attachments:
        return []
    if row.account_id is None:
        raise Permanent("The message carries a document and belongs to no account, so no key opens it: queue it anew.")
    identity = item.keys.identity(row.account_id, ports.keyring)
    return [(each, sealed_objects.get(ports.objects, each["key"], identity)) for each in row.attachments]


def _offer(item: ToSend, attachments: Sequence[tuple[dict[str, str], bytes]], claimed: ClaimedRow) -> Sent:
    """Hand one message over as it reads now; raises Outdated where that is no longer so, and nothing has left."""
    ports = claimed.ports
    content = compose(item, ports.letterhead, attachments)
    envelope = Envelope(
        sender=ports.letterhead.mail_from,
        recipient=to_write_to(item.row.to_address),
        content=content,
        reference=str(claimed.id),
    )
    marked = False

    def before_commit() -> None:
        nonlocal marked
        failpoint("emails", "before_mark")
        marked = _mark(claimed)
        if not marked:
            raise TakenOver
        failpoint("emails", "after_mark")

    failpoint("emails", "before_offer")
    try:
        receipt = ports.mailer.send(envelope, permit=lambda: permitted(item.row, claimed), before_commit=before_commit)
    except TakenOver:
        # The lease ran out before the content left, or a person cancelled it: the row is another's business now.
        raise AlreadyEnded from None
    except Withdrawn as withdrawn:
        _settle(claimed, withdrawn.state, str(withdrawn))
    except Failure:
        if marked:
            # The server refused after all, and said so: certain again.
            with ports.database.connection() as connection:
                _change(connection, claimed, "committing_at = NULL")
        raise
    except Exception as error:
        if not marked:
            raise
        # Past the mark, whatever else went wrong, the message may be out: silence, or a bug of ours.
        ambiguity = str(error) if isinstance(error, Ambiguous) else type(error).__name__
        log.warning("email.unknown", row=str(claimed.id), reason=ambiguity)
        _settle(
            claimed,
            EmailState.UNKNOWN,
            f"The mail server's answer to the message was lost ({ambiguity}): it may have been accepted.",
        )
    failpoint("emails", "after_answer")
    return Sent(receipt, sha256(envelope.content).digest())


def _renew(row: EmailMessage, outdated: Outdated, claimed: ClaimedRow) -> None:
    """Keep what the message has to say now, if the row is ours."""
    with claimed.ports.database.connection() as connection:
        if not _change(connection, claimed, "context = CAST(:context AS jsonb)", context=json.dumps(outdated.context)):
            raise AlreadyEnded
        if outdated.effect is not None:
            outdated.effect(connection)
    failpoint("emails.renew", "after_commit")
    row.context = outdated.context


def _mark(claimed: ClaimedRow) -> bool:
    """Commit that the content may be out from now on; False where the row is no longer ours.

    Where the answer to that COMMIT is lost, the same is asked once more: nothing has left yet, and the mark set twice
    is the mark (W3).
    """
    for last in (False, True):
        try:
            with claimed.ports.database.connection() as connection:
                return _change(connection, claimed, "committing_at = clock_timestamp()")
        except DBAPIError as error:
            if last or not is_outage(error):
                raise
            log.warning("email.mark_unanswered", row=str(claimed.id))
    raise AssertionError


def _settle(claimed: ClaimedRow, state: EmailState, why: str) -> NoReturn:
    """Put the row into its last state, if it is ours."""
    with claimed.ports.database.connection() as connection:
        _change(
            connection,
            claimed,
            "state = :state, lease_until = NULL, finished_at = clock_timestamp(), last_error = :why",
            state=state,
            why=why,
        )
    raise AlreadyEnded


def _change(connection: Connection, claimed: ClaimedRow, changes: str, **values: str) -> bool:
    changed = connection.execute(
        text(f"""
            UPDATE tenure.email_messages SET {changes}
             WHERE id = :id AND claim_token = :token AND state = 'running'"""),
        {"id": claimed.id, "token": claimed.token, **values},
    )
    return bool(changed.rowcount)


def record(session: Session, results: Mapping[UUID, Sent], _ports: Ports) -> None:
    for row, sent in results.items():
        session.execute(
            update(EmailMessage)
            .where(EmailMessage.id == row)
            .values(
                accepted_by=sent.receipt.transport,
                accepted_as=sent.receipt.answer.replace("\0", "")[:ANSWER_LENGTH],
                content_sha256=sent.content_sha256,
            )
        )


#: Greylisting lasts for hours and a full mailbox for a day: a sender goes on for 4 to 5 days (RFC 5321, 4.5.4.1).
PATIENT = Retries(first=timedelta(seconds=30), longest=timedelta(hours=4), lasting=timedelta(days=4, hours=12))
#: What a server accepted is recorded when PostgreSQL is back within this time, which is shorter than a lease.
RECORD_FOR = timedelta(seconds=45)
#: The limit of all mail together, such as a provider's rate (W7, E9): `tenure work limit emails --rate 14`.
ALL_MAIL = "emails"


def _job(task: str, where: str, yields_to: Sequence[str]) -> Job[ToSend, Sent]:
    # Each message is recorded before the next is sent: a crash leaves at most one that nobody can tell of.
    return Job(
        task,
        EmailMessage,
        load,
        send,
        record,
        done="sent",
        batch=50,
        record_every=1,
        where=where,
        yields_to=yields_to,
        limits=(ALL_MAIL,),
        retries=PATIENT,
        record_for=RECORD_FOR,
    )


SEND_URGENT = _job("emails.send_urgent", "urgent", ())
SEND = _job("emails.send", "NOT urgent", ("requests.handle", "emails.send_urgent"))


send_urgent = tick(SEND_URGENT)


send_bulk = tick(SEND)
