"""What a customer's people did and from where: machine data and usage (P2.1a)."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import ForeignKey, PrimaryKeyConstraint, Text, Uuid, text
from sqlalchemy.dialects.postgresql import INET, JSONB
from sqlalchemy.orm import Mapped, mapped_column

from models.base.base import Base, recorded
from models.data_map.map import Category, Personal


class UsageEvent(Base):
    """One thing that was done; written in batches by `tasks/client/usage.py`, never changed, kept as long as the
    contract.

    The table grows to hundreds of millions of rows. It is partitioned by month (`models/schema/sql/110_usage.sql`), so
    that indexes stay small and what is written lies together. The primary key begins with the account: it serves the
    export (an account's events in their order), the purge (keyset batches) and the foreign key alike, and is the only
    index. `contact_id` is no foreign key: to delete one contact PostgreSQL would look through all events, or maintain
    an index that nothing else reads.
    """

    __tablename__ = "usage_events"
    __data_map__ = Personal(
        Category.MACHINE,
        exported=(
            "id account_id contact_id occurred_at action ip location browser operating_system referral_source details"
        ),
    )
    __table_args__ = (
        PrimaryKeyConstraint("account_id", "occurred_at", "id"),
        {"postgresql_partition_by": "RANGE (occurred_at)"},
    )

    #: Drawn by whoever saw the event: written twice, it is kept once.
    id: Mapped[UUID] = mapped_column(Uuid, server_default=text("uuidv7()"))
    account_id: Mapped[UUID] = mapped_column(ForeignKey("accounts.id"))
    contact_id: Mapped[UUID | None] = mapped_column(Uuid)
    occurred_at: Mapped[recorded]
    #: What was used: `invoice.viewed`, `report.exported`.
    action: Mapped[str] = mapped_column(Text)
    ip: Mapped[str | None] = mapped_column(INET)
    location: Mapped[str | None] = mapped_column(Text)
    browser: Mapped[str | None] = mapped_column(Text)
    operating_system: Mapped[str | None] = mapped_column(Text)
    referral_source: Mapped[str | None] = mapped_column(Text)
    details: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default=text("'{}'"))
