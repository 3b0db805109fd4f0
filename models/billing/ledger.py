"""The ledger: what a customer owes and has paid, append-only, one entry a fact (B1)."""

from __future__ import annotations

from datetime import date
from enum import StrEnum
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, Integer, Text, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column, validates

from models.base.base import CURRENCY_CHECK, Base, currency_code, minor_units, one_of, recorded, timestamp, uuid7
from models.base.money import whole
from models.base.tax import TAX_CHECK, TaxCategory
from models.data_map.map import Category, Personal


class EntryKind(StrEnum):
    CHARGE = "charge"
    PAYMENT = "payment"
    CREDIT = "credit"
    REFUND = "refund"
    CHARGEBACK = "chargeback"


class LedgerEntry(Base):
    """One fact in an account's ledger.

    `amount` is signed in the sense of what the customer owes: charges, refunds and chargebacks are positive, payments
    and credits negative. `sequence` is given by a trigger while it holds the account's row: an account's entries are
    numbered 1, 2, 3 ... without a gap, in the order in which they were *committed*. So "every entry up to number N"
    never changes its meaning afterwards, which is what a statement's cut-off needs (B3), and an entry that was removed
    behind the database's back shows as a gap. The database refuses UPDATE and DELETE except where the purge allows
    them, and entries of an account that is not active.
    """

    __tablename__ = "ledger_entries"
    __data_map__ = Personal(
        Category.PLATFORM,
        exported=(
            "id account_id sequence kind currency amount description occurred_at recorded_at due_on external_ref "
            "tax_category tax_rate applies_to reverses"
        ),
    )
    __table_args__ = (
        CheckConstraint(CURRENCY_CHECK, name="currency"),
        CheckConstraint("CASE WHEN kind IN ('payment', 'credit') THEN amount < 0 ELSE amount > 0 END", name="sign"),
        CheckConstraint(TAX_CHECK, name="tax"),
        CheckConstraint("applies_to IS NULL OR kind IN ('payment', 'credit')", name="applies_to"),
        CheckConstraint("reverses IS NULL OR kind IN ('refund', 'chargeback')", name="reverses"),
        UniqueConstraint("account_id", "sequence"),
        UniqueConstraint("account_id", "external_ref"),
        Index(None, "account_id", "currency", "occurred_at"),
        Index("ix_ledger_entries_applies_to", "applies_to", postgresql_where=text("applies_to IS NOT NULL")),
        Index("ix_ledger_entries_reverses", "reverses", postgresql_where=text("reverses IS NOT NULL")),
    )

    id: Mapped[uuid7]
    account_id: Mapped[UUID] = mapped_column(ForeignKey("accounts.id"))
    sequence: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    kind: Mapped[EntryKind] = mapped_column(one_of(EntryKind, name="kind"))
    currency: Mapped[currency_code]
    amount: Mapped[minor_units]
    description: Mapped[str] = mapped_column(Text)
    #: When it happened, which may be in a month that is already closed; `recorded_at` is when we learned of it.
    occurred_at: Mapped[timestamp]
    recorded_at: Mapped[recorded]
    #: The customer's local day by which a charge is to be paid; without one it is due when it occurred.
    due_on: Mapped[date | None]
    #: The application's own key of this fact: written twice, it is refused.
    external_ref: Mapped[str | None] = mapped_column(Text)
    #: What kind of tax a charge's amount contains, and its rate in basis points: 1900 is 19 %.
    tax_category: Mapped[TaxCategory] = mapped_column(
        one_of(TaxCategory, name="tax_category"), server_default=TaxCategory.OUTSIDE
    )
    tax_rate: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    #: The invoice that a payment or credit is for, where that was said; else the one that has been due longest (B9).
    applies_to: Mapped[UUID | None] = mapped_column(ForeignKey("invoices.id"))
    #: The payment that a refund or chargeback takes back, where that was said; else the latest.
    reverses: Mapped[UUID | None] = mapped_column(ForeignKey("ledger_entries.id"))

    @validates("amount")
    def _whole(self, _name: str, amount: int) -> int:
        """MoneyError for what is no whole number: PostgreSQL would round it on its way in."""
        return whole(amount)
