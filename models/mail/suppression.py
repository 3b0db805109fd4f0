"""Addresses that are not written to, and why: a hard bounce, a complaint, or a person's decision (E11)."""

from __future__ import annotations

from enum import StrEnum
from uuid import UUID

from sqlalchemy import CheckConstraint, Connection, ForeignKey, Index, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base.base import Base, one_of, recorded, timestamp, uuid7
from models.data_map.map import Category, Personal


class SuppressionReason(StrEnum):
    BOUNCE = "bounce"
    COMPLAINT = "complaint"
    OPERATOR = "operator"


class Suppression(Base):
    """One address for as long as it is suppressed; a lifted one stays as history.

    Addresses are compared in small letters: no provider that matters tells them apart by the case (RFC 5321, 2.4, would
    permit it before the @).
    """

    __tablename__ = "suppressions"
    __data_map__ = Personal(
        Category.PLATFORM,
        exported="id account_id address reason detail email_message_id created_at lifted_at lifted_why",
    )
    __table_args__ = (
        CheckConstraint("address = lower(address)", name="address"),
        CheckConstraint("(lifted_at IS NULL) = (lifted_why IS NULL)", name="lifted"),
        Index("uq_suppressions_address", "address", unique=True, postgresql_where=text("lifted_at IS NULL")),
        Index(None, "account_id"),
        Index(None, "email_message_id"),
    )

    id: Mapped[uuid7]
    #: The customer whose address it is, where it is one's: it ends with the account.
    account_id: Mapped[UUID | None] = mapped_column(ForeignKey("accounts.id"))
    address: Mapped[str] = mapped_column(Text)
    reason: Mapped[SuppressionReason] = mapped_column(one_of(SuppressionReason, name="reason"))
    #: What the provider or the person said.
    detail: Mapped[str | None] = mapped_column(Text)
    #: The message that bounced or was complained of.
    email_message_id: Mapped[UUID | None] = mapped_column(ForeignKey("email_messages.id", ondelete="SET NULL"))
    created_at: Mapped[recorded]
    lifted_at: Mapped[timestamp | None]
    lifted_why: Mapped[str | None] = mapped_column(Text)


def suppress(
    connection: Connection,
    address: str,
    reason: SuppressionReason,
    *,
    detail: str | None = None,
    email_message_id: UUID | None = None,
) -> bool:
    """Write to `address` no more, on any stream, from the next claim on; False where that was so already.

    What waits for it ends as `suppressed`. What is being sent is stopped by the look at the last moment.
    """
    made = connection.execute(
        text("""
            INSERT INTO tenure.suppressions (address, reason, detail, email_message_id, account_id)
            VALUES (lower(:address), :reason, :detail, :message, coalesce(
                (SELECT account_id FROM tenure.email_messages WHERE id = :message),
                (SELECT account_id FROM tenure.contacts WHERE lower(email) = lower(:address) ORDER BY id LIMIT 1)))
            ON CONFLICT (address) WHERE lifted_at IS NULL DO NOTHING"""),
        {"address": address, "reason": reason, "detail": detail, "message": email_message_id},
    ).rowcount
    connection.execute(
        text("""
            UPDATE tenure.email_messages
               SET state = 'suppressed', finished_at = clock_timestamp(), last_error = :why
             WHERE lower(to_address) = lower(:address) AND state = 'pending'"""),
        {"address": address, "why": sentence(reason)},
    )
    return bool(made)


def lift(connection: Connection, address: str, why: str) -> bool:
    """Write to `address` again; what was not sent meanwhile stays as it is until a person retries it."""
    lifted = connection.execute(
        text("""
            UPDATE tenure.suppressions SET lifted_at = clock_timestamp(), lifted_why = :why
             WHERE address = lower(:address) AND lifted_at IS NULL"""),
        {"address": address, "why": why},
    )
    return bool(lifted.rowcount)


def sentence(reason: str) -> str:
    """Why a message to a suppressed address was not sent, without the address."""
    said = {
        SuppressionReason.BOUNCE: "mail to it came back",
        SuppressionReason.COMPLAINT: "its owner complained",
        SuppressionReason.OPERATOR: "an operator asked for it",
    }[SuppressionReason(reason)]
    return f"The address is suppressed, because {said}: correct the contact, or lift it with tenure mail suppressions."
