"""Mails for tests: rows in the queue, and the same without a database."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import select, text

from email_templates.catalogue import write_context
from email_templates.catalogue.accounts import AccountSetUp
from email_templates.catalogue.security import SecurityEvent, SecurityNotice
from models.base.unit_of_work import Database
from models.mail.email_message import EmailMessage
from tasks.mail import queue
from tasks.mail.queue import Queued
from tasks.ports.context import Ports
from tests.support.rows import vault
from tests.support.rows.company import a_contact, an_account

NOW = datetime(2020, 10, 1, 12, tzinfo=UTC)


def notice(**values: Any) -> SecurityNotice:
    return SecurityNotice(
        **{"event": SecurityEvent.PASSWORD_CHANGED, "account_name": "Köhler & Söhne", "happened_at": NOW, **values}
    )


def set_up(**values: Any) -> AccountSetUp:
    return AccountSetUp(
        **{
            "account_name": "Köhler & Söhne",
            "account_ref": "C-1",
            "set_up_at": NOW,
            "currency": "EUR",
            "billing_day": 1,
            **values,
        }
    )


def queued(database: Database, ports: Ports, count: int = 1, *, context: Any = None, **values: Any) -> list[UUID]:
    """Mails to one contact, the values of which may be given as `contact`; in the order of their making.

    `carrying`, pairs of a body and what is said of it as an attachment, is stored for the account and attached.
    """
    attachments, carrying = list(values.pop("attachments", ())), values.pop("carrying", ())
    with database.transaction() as session:
        account = an_account(session)
    for number, (body, described) in enumerate(carrying):
        key = f"statements/{account.id}/{number}"
        vault.put(ports, key, body)
        attachments.append({**described, "key": key})
    with database.transaction() as session:
        contact = a_contact(session, account, **values)
        keys = [str(uuid4()) for _ in range(count)]
        queue.queue(
            session,
            [Queued(account.id, contact.id, contact.email, context or set_up(), key, attachments) for key in keys],
            ports,
        )
        ids = {
            row.dedupe_key: row.id
            for row in session.scalars(select(EmailMessage).where(EmailMessage.dedupe_key.in_(keys)))
        }
    return [ids[key] for key in keys]


def row(database: Database, key: UUID) -> EmailMessage:
    with database.transaction() as session:
        return session.get_one(EmailMessage, key)


def due_now(database: Database) -> None:
    with database.connection() as connection:
        connection.execute(
            text("UPDATE tenure.email_messages SET due_at = now() - interval '1 s' WHERE state = 'pending'")
        )


def an_email(**values: Any) -> EmailMessage:
    return EmailMessage(
        **{
            "message": "account-set-up",
            "context": write_context(set_up()),
            "to_address": "a@customer.example",
            "id": UUID(int=7),
            "message_id": "x@tenure.example",
            "created_at": NOW,
            "attachments": [],
            **values,
        }
    )
