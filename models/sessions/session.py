"""A web session: readable for 24 hours from its making, then gone (P9.3, S1, S2)."""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import TIMESTAMP, CheckConstraint, Computed, ForeignKey, Index, LargeBinary, Text
from sqlalchemy.orm import Mapped, mapped_column

from models.base.base import Base, uuid7
from models.data_map.map import Category, Personal

LIFETIME = timedelta(hours=24)


class Session(Base):
    """A session, in the partition of its time: `models/schema/sql/070_sessions.sql` makes, empties and drops those.

    Its id is drawn by the database and says when: nothing else is believed about its age. Readers use the view
    `tenure.live_sessions`, which knows the hour; the table does not. Look-ups name the id, so that they read one
    partition; only revoking by account reads them all.
    """

    __tablename__ = "sessions"
    __data_map__ = Personal(
        Category.MACHINE,
        exported="id account_id contact_id ip user_agent created_at",
        left_out={"secret_sha256": "proves that a cookie is genuine, and says nothing about anybody"},
    )
    __table_args__ = (
        # Of another version an id tells no time, or lands in the wrong partition (RFC 9562).
        CheckConstraint("uuid_extract_version(id) = 7", name="id"),
        CheckConstraint("octet_length(secret_sha256) = 32", name="secret_sha256"),
        Index(None, "account_id"),
        Index(None, "contact_id"),
        {"postgresql_partition_by": "RANGE (id)"},
    )

    id: Mapped[uuid7]
    account_id: Mapped[UUID] = mapped_column(ForeignKey("accounts.id"))
    contact_id: Mapped[UUID | None] = mapped_column(ForeignKey("contacts.id"))
    #: SHA-256 of the secret half of the cookie; the secret itself is nowhere.
    secret_sha256: Mapped[bytes] = mapped_column(LargeBinary)
    ip: Mapped[str | None] = mapped_column(Text)
    user_agent: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(
        TIMESTAMP(timezone=True), Computed("uuid_extract_timestamp(id)", persisted=False)
    )
