"""A contract: as long as one runs, the customer's data lives (P6.1)."""

from __future__ import annotations

from datetime import date
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, Text
from sqlalchemy.orm import Mapped, mapped_column

from models.base.base import Base, recorded, uuid7
from models.data_map.map import Category, Personal


class Contract(Base):
    __tablename__ = "contracts"
    __data_map__ = Personal(Category.SETUP, exported="id account_id plan starts_on ends_on created_at")
    __table_args__ = (
        CheckConstraint("ends_on IS NULL OR ends_on >= starts_on", name="ends_after_it_starts"),
        Index(None, "account_id"),
    )

    id: Mapped[uuid7]
    account_id: Mapped[UUID] = mapped_column(ForeignKey("accounts.id"))
    plan: Mapped[str] = mapped_column(Text)
    starts_on: Mapped[date]
    ends_on: Mapped[date | None]
    created_at: Mapped[recorded]
