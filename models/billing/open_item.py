"""What is open between a customer and the company: item by item, and what was set off against what (B9).

Why rows and not a sum over the ledger: a payment that has settled an invoice keeps settling it, whatever is issued,
credited or charged back later, and everyone can see which payment paid which invoice. So each decision is an
`Allocation`, which is never changed; taking one back is another, negative one. An `OpenItem` is their sum, kept by a
trigger in the same transaction, so that "what is open, and since when" is an index scan.
"""

from __future__ import annotations

from datetime import date
from enum import StrEnum
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base.base import CURRENCY_CHECK, Base, currency_code, minor_units, one_of, recorded, uuid7
from models.data_map.map import Category, Personal


class Side(StrEnum):
    """Whose turn it is: a debit is what the customer is to pay, a credit what it has paid or was given."""

    DEBIT = "debit"
    CREDIT = "credit"


class OpenItem(Base):
    """An invoice, refund or chargeback (debit), or a payment or credit (credit), and how much of it is still open.

    Only of accounts that Tenure invoices (`accounts.invoiced_from`). Of an account and currency, never are items of
    both sides open: what could be set off, is. With that, and charges that are not on an invoice yet,

        open debits + charges not invoiced - open credits = balance.

    Written by triggers alone (`models/schema/sql/090_open_items.sql`), but for `due_on` and `disputed`, which a person
    may set.
    """

    __tablename__ = "open_items"
    __data_map__ = Personal(
        Category.PLATFORM,
        exported="id account_id currency side invoice_id entry_id due_on sequence amount open credited disputed",
        left_out=dict.fromkeys(("collect_from", "remind_from"), "when the platform looks at it next"),
    )
    __table_args__ = (
        CheckConstraint(CURRENCY_CHECK, name="currency"),
        CheckConstraint("num_nonnulls(invoice_id, entry_id) = 1", name="origin"),
        CheckConstraint("open BETWEEN 0 AND amount", name="open"),
        CheckConstraint("credited BETWEEN 0 AND amount", name="credited"),
        CheckConstraint("disputed BETWEEN 0 AND amount", name="disputed"),
        Index(None, "account_id"),
        Index("ix_open_items_open", "account_id", "currency", "side", postgresql_where=text("open > 0")),
        Index("ix_open_items_collect", "collect_from", postgresql_where=text("open > 0 AND invoice_id IS NOT NULL")),
        Index("ix_open_items_remind", "remind_from", postgresql_where=text("open > 0 AND invoice_id IS NOT NULL")),
    )

    id: Mapped[uuid7]
    account_id: Mapped[UUID] = mapped_column(ForeignKey("accounts.id"))
    currency: Mapped[currency_code]
    side: Mapped[Side] = mapped_column(one_of(Side, name="side"))
    invoice_id: Mapped[UUID | None] = mapped_column(ForeignKey("invoices.id"), unique=True)
    entry_id: Mapped[UUID | None] = mapped_column(ForeignKey("ledger_entries.id"), unique=True)
    #: Of an invoice its due date, which may be put off here; of a refund or chargeback the day it occurred.
    due_on: Mapped[date | None]
    #: The number of the account's last ledger entry at that moment.
    sequence: Mapped[int] = mapped_column(BigInteger)
    amount: Mapped[minor_units]
    open: Mapped[minor_units]
    #: How much of an invoice credit notes have taken back.
    credited: Mapped[minor_units] = mapped_column(server_default=text("0"))
    #: How much of an invoice the customer disputes: that part is not reminded (B17).
    disputed: Mapped[minor_units] = mapped_column(server_default=text("0"))
    #: The first local day on which an attempt to collect it, or a reminder, may be due; None where only a change of
    #: something else can make it so (`models/schema/sql/215_looks.sql`). The first day of the calendar means "not known
    #: yet".
    collect_from: Mapped[date | None] = mapped_column(server_default=text("'0001-01-01'"))
    remind_from: Mapped[date | None] = mapped_column(server_default=text("'0001-01-01'"))


class Allocation(Base):
    """So much of a credit was set off against a debit; a negative amount takes that back. Append-only."""

    __tablename__ = "allocations"
    __data_map__ = Personal(Category.PLATFORM, exported="id account_id credit_id debit_id amount sequence recorded_at")
    __table_args__ = (
        CheckConstraint("amount <> 0", name="amount"),
        Index(None, "credit_id"),
        Index(None, "debit_id"),
        Index(None, "account_id"),
    )

    id: Mapped[uuid7]
    account_id: Mapped[UUID] = mapped_column(ForeignKey("accounts.id"))
    credit_id: Mapped[UUID] = mapped_column(ForeignKey("open_items.id"))
    debit_id: Mapped[UUID] = mapped_column(ForeignKey("open_items.id"))
    amount: Mapped[minor_units]
    #: The number of the account's last ledger entry at that moment: what was open as of a statement's cut-off is the
    #: amounts less the allocations up to it.
    sequence: Mapped[int] = mapped_column(BigInteger)
    recorded_at: Mapped[recorded]
