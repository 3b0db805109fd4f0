"""What changed in the details of a customer, until it is confirmed to those whom it concerns (P8.1)."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from models.base.base import Base, recorded, uuid7
from models.data_map.map import Category, Personal


class DetailChange(Base):
    """Written by a trigger in the transaction that changed the details, together with the request to confirm it.

    The values before and after are deleted when they were confirmed and the messages about them are forgotten (E12).
    """

    __tablename__ = "detail_changes"
    __data_map__ = Personal(Category.SETUP, exported="id account_id contact_id changes changed_at")
    __table_args__ = (
        CheckConstraint("jsonb_typeof(changes) = 'array'", name="changes"),
        Index(None, "account_id"),
        Index(None, "contact_id"),
        Index(None, "changed_at"),
    )

    id: Mapped[uuid7]
    account_id: Mapped[UUID] = mapped_column(ForeignKey("accounts.id"))
    #: None where the account's own details changed, which all of its contacts are told.
    contact_id: Mapped[UUID | None] = mapped_column(ForeignKey("contacts.id"))
    #: `[{"detail": "email", "before": …, "after": …}]`, named as in the message `details-changed`.
    changes: Mapped[list[dict[str, Any]]] = mapped_column(JSONB)
    changed_at: Mapped[recorded]
