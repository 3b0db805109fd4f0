"""The ledger: what a customer owes and has paid, append-only, one entry a fact (B1)."""

from __future__ import annotations

from datetime import date
from enum import StrEnum
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, Sequence, Text, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import CURRENCY_CHECK, Base, currency_code, minor_units, one_of, recorded, timestamp, uuid7
from models.data_map import Category, Personal

#: Numbers the entries of all accounts; a trigger draws from it while it holds the account's row.
LEDGER_SEQUENCE = Sequence("ledger_sequence", metadata=Base.metadata)


class EntryKind(StrEnum):
    CHARGE = "charge"
    PAYMENT = "payment"
    CREDIT = "credit"
    REFUND = "refund"
    CHARGEBACK = "chargeback"


class LedgerEntry(Base):
    """One fact in an account's ledger.

    `amount` is signed in the sense of what the customer owes: charges, refunds and chargebacks are positive, payments
    and credits negative. `sequence` is given by a trigger while it holds the account's row, so within an account the
    numbers ascend in the order in which the entries were *committed*: "every entry up to number N" never changes
    its meaning afterwards, which is what a statement's cut-off needs (B3). The database refuses UPDATE and DELETE
    except where the purge allows them.
    """

    __tablename__ = "ledger_entries"
    __data_map__ = Personal(
        Category.PLATFORM,
        exported=(
            "id account_id sequence kind currency amount description occurred_at recorded_at due_on external_ref"
        ),
    )
    __table_args__ = (
        CheckConstraint(CURRENCY_CHECK, name="currency"),
        CheckConstraint("CASE WHEN kind IN ('payment', 'credit') THEN amount < 0 ELSE amount > 0 END", name="sign"),
        UniqueConstraint("account_id", "sequence"),
        UniqueConstraint("account_id", "external_ref"),
        Index(None, "account_id", "currency", "occurred_at"),
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
