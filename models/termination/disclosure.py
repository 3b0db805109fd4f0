"""Disclosures that a law requires: asked for by one person, approved by two others, logged for good (P4, T29).

    SELECT tenure.ask_disclosure(account_ref, reference, legal_basis, asked_by)     -- the disclosure's id
    SELECT tenure.note_disclosure(disclosure, 'approved', by)                       -- how many have approved it

Both tables only grow (`models/schema/sql/210_disclosures.sql`). Nobody approves what he asked for, nor twice, and a
record is made only of what two have approved and nobody has refused.
"""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, LargeBinary, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base.base import Base, recorded, uuid7
from models.data_map.map import Ignored


class Disclosure(Base):
    """One demand to disclose an account's data."""

    __tablename__ = "disclosures"
    __data_map__ = Ignored(
        "which case the law made the company disclose data for: the company's own record, which names no customer and "
        "is not for the customer to see while the case is open"
    )
    __table_args__ = (
        CheckConstraint("length(reference) BETWEEN 1 AND 200", name="reference"),
        CheckConstraint("length(legal_basis) BETWEEN 1 AND 2000", name="legal_basis"),
        CheckConstraint("length(asked_by) BETWEEN 1 AND 200", name="asked_by"),
        Index(None, "account_id"),
    )

    id: Mapped[uuid7]
    account_id: Mapped[UUID] = mapped_column(ForeignKey("accounts.id"))
    #: The case, as a court or an authority calls it.
    reference: Mapped[str] = mapped_column(Text)
    #: The law that requires it.
    legal_basis: Mapped[str] = mapped_column(Text)
    #: Who of the company asked for it, by a login name or the like.
    asked_by: Mapped[str] = mapped_column(Text)
    asked_at: Mapped[recorded]


class DisclosureEvent(Base):
    """What was done about a disclosure, by whom."""

    __tablename__ = "disclosure_events"
    __data_map__ = Ignored("who of the company did what about a disclosure, and nothing about a customer")
    __table_args__ = (
        CheckConstraint("action IN ('approved', 'refused', 'made')", name="action"),
        CheckConstraint("(action = 'made') = (manifest_sha256 IS NOT NULL)", name="made"),
        CheckConstraint("length(person) BETWEEN 1 AND 200", name="person"),
        Index(None, "disclosure_id"),
        Index("ix_disclosure_events_made", "at", postgresql_where=text("action = 'made'")),
        Index(
            "uq_disclosure_events_approved",
            "disclosure_id",
            "person",
            unique=True,
            postgresql_where=text("action = 'approved'"),
        ),
    )

    id: Mapped[uuid7]
    disclosure_id: Mapped[UUID] = mapped_column(ForeignKey("disclosures.id"))
    action: Mapped[str] = mapped_column(Text)
    person: Mapped[str] = mapped_column(Text)
    at: Mapped[recorded]
    #: Of the record that was made.
    manifest_sha256: Mapped[bytes | None] = mapped_column(LargeBinary)
