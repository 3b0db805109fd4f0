"""A web session that is over and stays, since a legal hold names its account (S6)."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import TIMESTAMP, Computed, ForeignKey, Index, Text, Uuid
from sqlalchemy.orm import Mapped, mapped_column

from models.base.base import Base, recorded
from models.data_map.map import Category, Personal


class HeldSession(Base):
    """What `tenure.sessions` said of it, without the hash of its secret: nobody can sign in with one of these.

    Written in the transaction that takes the session away (`models/schema/sql/070_sessions.sql`). When no hold names
    the account any more, it goes with the account's purge, or with the next sweep where no termination is under way.
    """

    __tablename__ = "held_sessions"
    __data_map__ = Personal(Category.MACHINE, exported="id account_id contact_id ip user_agent created_at ended_at")
    __table_args__ = (Index(None, "account_id"), Index(None, "contact_id"))

    #: The session's own.
    id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    account_id: Mapped[UUID] = mapped_column(ForeignKey("accounts.id"))
    contact_id: Mapped[UUID | None] = mapped_column(ForeignKey("contacts.id"))
    ip: Mapped[str | None] = mapped_column(Text)
    user_agent: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(
        TIMESTAMP(timezone=True), Computed("uuid_extract_timestamp(id)", persisted=False)
    )
    #: When it was revoked or swept.
    ended_at: Mapped[recorded]
