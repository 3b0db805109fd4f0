"""A statement: what an account owed when a period closed (B2 to B5)."""

from __future__ import annotations

from datetime import date
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import Mapped, mapped_column

from models.base.base import CURRENCY_CHECK, Base, currency_code, minor_units, one_of, timestamp, uuid7
from models.customers.account import StatementForm
from models.data_map.map import Category, ObjectPrefix, Personal
from models.work.row import Work


class Statement(Work, Base):
    """One account, currency and period; a work row that is done when its PDF is stored and its mail is queued.

    The lines of a statement are a set that the row defines once and for all: the entries with `sequence <= cutoff`
    that occurred before `closes_at`, less those with `sequence <= opening_cutoff` that occurred before `opens_at`.
    The second set is exactly what the plan before saw (its cut-off and its close, kept in the account even where it
    made no statement), so what came in late stands on the next one, and `opening + lines = closing` holds whatever the
    order of recording was.

    What else the document says is copied into the row in the same statement: names, address, letterhead, what was
    open. So rendering is a function of the row and of ledger entries that never change, and gives the same bytes
    next year, whoever has moved or been renamed meanwhile (B3).
    """

    __tablename__ = "statements"
    __data_map__ = Personal(
        Category.PLATFORM,
        exported=(
            "id account_id currency period_start period_end opens_at closes_at opening_cutoff cutoff opening "
            "closing line_count document_key document_sha256 document_bytes not_due days_1_30 days_31_60 days_61_90 "
            "over_90 unapplied_credit form open_items account_ref account_name address country time_zone language "
            "letterhead typesetter"
        ),
        objects=(ObjectPrefix("statements/{account_id}/", Category.PLATFORM, sealed=True),),
    )
    __table_args__ = (
        UniqueConstraint("account_id", "currency", "period_start"),
        CheckConstraint(CURRENCY_CHECK, name="currency"),
        CheckConstraint("period_end > period_start", name="period"),
        CheckConstraint("opening_cutoff <= cutoff", name="cutoff"),
        # B2, by the database itself.
        CheckConstraint(
            "not_due + days_1_30 + days_31_60 + days_61_90 + over_90 - unapplied_credit = closing", name="ageing"
        ),
        CheckConstraint(
            "least(not_due, days_1_30, days_31_60, days_61_90, over_90, unapplied_credit) >= 0", name="ageing_parts"
        ),
        CheckConstraint("(form = 'open_item') = (open_items IS NOT NULL)", name="open_items"),
        # Long ones have a job of their own, which does not pass over all others.
        Index(
            "ix_statements_long_due",
            "due_at",
            "id",
            postgresql_where=text("state = 'pending' AND crashes = 0 AND line_count > 500"),
        ),
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
    #: How long what is open has been due, on the period's last day (B2).
    not_due: Mapped[minor_units]
    days_1_30: Mapped[minor_units]
    days_31_60: Mapped[minor_units]
    days_61_90: Mapped[minor_units]
    over_90: Mapped[minor_units]
    unapplied_credit: Mapped[minor_units]
    form: Mapped[StatementForm] = mapped_column(one_of(StatementForm, name="form"))
    #: Of the open-item form: a list of `[date, due on, description, amount, still open]`, oldest due first.
    open_items: Mapped[list[Any] | None] = mapped_column(JSONB)
    #: The customer as known when the period was planned.
    account_ref: Mapped[str] = mapped_column(Text)
    account_name: Mapped[str] = mapped_column(Text)
    address: Mapped[list[str]] = mapped_column(ARRAY(Text))
    country: Mapped[str | None] = mapped_column(Text)
    #: Where the account's days begin, and so which day an entry belongs to.
    time_zone: Mapped[str] = mapped_column(Text)
    #: Of the first contact that receives statements; None until there is one.
    language: Mapped[str | None] = mapped_column(Text)
    letterhead: Mapped[bytes] = mapped_column(ForeignKey("letterheads.sha256"))
    document_key: Mapped[str | None] = mapped_column(Text)
    document_sha256: Mapped[bytes | None] = mapped_column(LargeBinary)
    document_bytes: Mapped[int | None] = mapped_column(Integer)
    #: Which version of typesetter, template and fonts made it: another one may make other bytes.
    typesetter: Mapped[str | None] = mapped_column(Text)
