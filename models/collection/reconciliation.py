"""A day of the payment provider, compared with the ledger (B24)."""

from __future__ import annotations

from datetime import date
from typing import Any

from sqlalchemy import CheckConstraint, Index, Integer, Text, UniqueConstraint, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from models.base.base import Base, uuid7
from models.data_map.map import Shared
from models.work.row import Work


class Reconciliation(Work, Base):
    """A work row for each day (UTC) that is over. What the ledger lacked was recorded; what differs after that is kept
    here, and the day is looked at again every night until nothing does.
    """

    __tablename__ = "reconciliations"
    __data_map__ = Shared("figures over all customers, and the provider's ids of what differs")
    __table_args__ = (
        UniqueConstraint("provider", "day"),
        CheckConstraint("jsonb_typeof(differences) = 'array'", name="differences"),
        Index("ix_reconciliations_day", "day", postgresql_where=text("state = 'done'")),
        Index("ix_reconciliations_differing", "day", postgresql_where=text("differences <> '[]'")),
        *Work.indexes("reconciliations"),
    )

    id: Mapped[uuid7]
    provider: Mapped[str] = mapped_column(Text)
    day: Mapped[date]
    #: What the provider did on that day or ended later, and how much of it the ledger had not had.
    movements: Mapped[int | None] = mapped_column(Integer)
    recorded: Mapped[int | None] = mapped_column(Integer)
    #: Sentences, each with the provider's id; none is what it should be.
    differences: Mapped[list[Any] | None] = mapped_column(JSONB)
