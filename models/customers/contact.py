"""A person at a customer, and how to write to them (P2.1b, P3.1a-c)."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import ForeignKey, Index, Text, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base.base import Base, recorded, timestamp, uuid7
from models.data_map.map import Category, Personal


class Contact(Base):
    __tablename__ = "contacts"
    __data_map__ = Personal(
        Category.SETUP,
        exported="id account_id name email language time_zone receives_statements optional_mail details_checked_at "
        "created_at",
    )
    __table_args__ = (
        UniqueConstraint("account_id", "email"),
        # Whose details were not asked after for the longest time.
        # Who does not want to be asked is not passed over at every look.
        Index(
            "ix_contacts_details_checked",
            text("coalesce(details_checked_at, created_at)"),
            postgresql_where=text("optional_mail"),
        ),
        # Which languages and zones there are, of however many contacts (P3.1a-c).
        Index(None, "language"),
        Index(None, "time_zone"),
    )

    id: Mapped[uuid7]
    account_id: Mapped[UUID] = mapped_column(ForeignKey("accounts.id"))
    name: Mapped[str] = mapped_column(Text)
    email: Mapped[str] = mapped_column(Text)
    #: A BCP 47 tag, such as `de-AT`.
    language: Mapped[str] = mapped_column(Text, server_default="en")
    #: An IANA name: dates and times in messages are this person's own.
    time_zone: Mapped[str] = mapped_column(Text, server_default="UTC")
    receives_statements: Mapped[bool] = mapped_column(server_default=text("false"))
    #: Whether messages that one can do without are sent to this person (RFC 8058).
    optional_mail: Mapped[bool] = mapped_column(server_default=text("true"))
    #: When this person was last asked whether the recorded details are right (P8.1, E14).
    details_checked_at: Mapped[timestamp | None]
    created_at: Mapped[recorded]
