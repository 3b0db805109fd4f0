"""A statement: what an account owed when a period closed (B2 to B5)."""

from __future__ import annotations

from datetime import date
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Integer, LargeBinary, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from models.base import CURRENCY_CHECK, Base, currency_code, minor_units, timestamp, uuid7
from models.work import Work


class Statement(Work, Base):
    """One account, currency and period; a work row that is done when its PDF is stored and its mail is queued.

    The lines of a statement are a set that the row defines once and for all: the entries with `sequence <= cutoff`
    that occurred before `closes_at`, less those with `sequence <= opening_cutoff` that occurred before `opens_at`.
    The second set is exactly what the plan before saw (its cut-off and its close, kept in the account even where it
    made no statement), so what came in late stands on the next one, and `opening + lines = closing` holds whatever the
    order of recording was.
    """

    __tablename__ = "statements"
    __table_args__ = (
        UniqueConstraint("account_id", "currency", "period_start"),
        CheckConstraint(CURRENCY_CHECK, name="currency"),
        CheckConstraint("period_end > period_start", name="period"),
        CheckConstraint("opening_cutoff <= cutoff", name="cutoff"),
        *Work.indexes("statements"),
    )

    id: Mapped[uuid7]
    account_id: Mapped[UUID] = mapped_column(ForeignKey("accounts.id"))
    currency: Mapped[currency_code]
    #: First local day, and the first local day after the period.
    period_start: Mapped[date]
    period_end: Mapped[date]
    #: The same two as instants, fixed when the statement was planned.
    opens_at: Mapped[timestamp]
    closes_at: Mapped[timestamp]
    #: Ledger sequence numbers (B3).
    opening_cutoff: Mapped[int] = mapped_column(BigInteger)
    cutoff: Mapped[int] = mapped_column(BigInteger)
    opening: Mapped[minor_units]
    closing: Mapped[minor_units]
    line_count: Mapped[int] = mapped_column(Integer)
    document_key: Mapped[str | None] = mapped_column(Text)
    document_sha256: Mapped[bytes | None] = mapped_column(LargeBinary)
    document_bytes: Mapped[int | None] = mapped_column(Integer)
