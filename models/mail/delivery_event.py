"""What a mail provider told of a message after it had accepted it (E11)."""

from __future__ import annotations

from enum import StrEnum
from uuid import UUID

from sqlalchemy import ForeignKey, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from models.base.base import Base, one_of, recorded, timestamp, uuid7
from models.data_map.map import Category, Personal


class DeliveryKind(StrEnum):
    """`sent`: the provider has the message, nothing more. `bounced` is for good, `deferred` is not."""

    SENT = "sent"
    DELIVERED = "delivered"
    DEFERRED = "deferred"
    BOUNCED = "bounced"
    COMPLAINED = "complained"
    REJECTED = "rejected"


class DeliveryEvent(Base):
    """One event; told again, it is the same row. Events may come in any order: none of them undoes another."""

    __tablename__ = "delivery_events"
    __data_map__ = Personal(
        Category.PLATFORM,
        exported="id email_message_id kind occurred_at detail recorded_at",
        paths=("email_message_id = tenure.email_messages.id > account_id = account.id",),
    )
    __table_args__ = (UniqueConstraint("email_message_id", "kind", "occurred_at"),)

    id: Mapped[uuid7]
    email_message_id: Mapped[UUID] = mapped_column(ForeignKey("email_messages.id", ondelete="CASCADE"))
    kind: Mapped[DeliveryKind] = mapped_column(one_of(DeliveryKind, name="kind"))
    #: By the provider's clock.
    occurred_at: Mapped[timestamp]
    #: The provider's class of it, such as `General` or `5.1.1`; no free text, which may quote an address.
    detail: Mapped[str | None] = mapped_column(Text)
    recorded_at: Mapped[recorded]
