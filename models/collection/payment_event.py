"""What the payment provider told of its own accord, as the web tier passed it on (B22)."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, LargeBinary, Text
from sqlalchemy.orm import Mapped, mapped_column

from models.base.base import Base, uuid7
from models.data_map.map import Category, Personal
from models.work.row import Work


class PaymentEvent(Work, Base):
    """A work row that is done when the payment that it is about was looked at and recorded.

    It came with body and signature (`tenure.record_payment_event`), or by the event's id alone (the request
    `payments.record_event`). Nothing that it says is believed but which payment to look at, so order and repetition
    do not matter. The body holds what the provider knows of a person: it never is in a message, and goes as soon as
    it was read.
    """

    __tablename__ = "payment_events"
    kept = timedelta(days=90)
    #: What it tells is recorded before the account's ledger is closed.
    stoppable = "false"
    under_way = "state IN ('pending', 'running')"
    __data_map__ = Personal(
        Category.PLATFORM,
        exported="id account_id provider event event_type payment",
        left_out={
            "delivery": "a hash, so that the same delivery is kept once",
            "body": "as the provider sent it, until it was read a moment later",
            "signature": "the provider's signature of the body",
        },
    )
    __table_args__ = (
        CheckConstraint("(body IS NULL) = (signature IS NULL)", name="signature"),
        Index("ix_payment_events_account_id", "account_id"),
        *Work.indexes("payment_events"),
    )

    id: Mapped[uuid7]
    #: Whose payment it is about; None until it was read, and where it is about none of ours.
    account_id: Mapped[UUID | None] = mapped_column(ForeignKey("accounts.id"))
    provider: Mapped[str] = mapped_column(Text, server_default="stripe")
    #: SHA-256 of body and signature, or of the event's id.
    delivery: Mapped[bytes] = mapped_column(LargeBinary, unique=True)
    body: Mapped[bytes | None] = mapped_column(LargeBinary)
    signature: Mapped[str | None] = mapped_column(Text)
    #: The provider's ids of the event (`evt_…`) and the payment (`pi_…`).
    event: Mapped[str | None] = mapped_column(Text)
    event_type: Mapped[str | None] = mapped_column(Text)
    payment: Mapped[str | None] = mapped_column(Text)
