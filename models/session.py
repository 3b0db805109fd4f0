"""A web session: readable for 24 hours from its making, then gone (P9.3, S2)."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from sqlalchemy import ForeignKey, Index, LargeBinary, Text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, recorded, uuid7
from models.data_map import Category, Personal

LIFETIME = timedelta(hours=24)


class Session(Base):
    """What the sweep removes. Readers use the view `tenure.live_sessions`, which knows the hour; the table does not."""

    __tablename__ = "sessions"
    __data_map__ = Personal(
        Category.MACHINE,
        exported="id account_id contact_id ip user_agent created_at",
        left_out={"secret_sha256": "proves that a cookie is genuine, and says nothing about anybody"},
    )
    __table_args__ = (Index(None, "created_at"), Index(None, "account_id"), Index(None, "contact_id"))

    id: Mapped[uuid7]
    account_id: Mapped[UUID] = mapped_column(ForeignKey("accounts.id"))
    contact_id: Mapped[UUID | None] = mapped_column(ForeignKey("contacts.id"))
    #: SHA-256 of the secret half of the cookie; the secret itself is nowhere.
    secret_sha256: Mapped[bytes] = mapped_column(LargeBinary)
    ip: Mapped[str | None] = mapped_column(Text)
    user_agent: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[recorded]
