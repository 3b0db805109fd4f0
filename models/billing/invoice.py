"""Invoices and the credit notes that correct them: documents with a number, which never change (B8, B10)."""

from __future__ import annotations

from datetime import date
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    SmallInteger,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from models.base.base import CURRENCY_CHECK, Base, currency_code, minor_units, one_of, timestamp, uuid7
from models.base.tax import TAX_CHECK, TaxCategory
from models.data_map.map import Category, ObjectPrefix, Personal, Shared
from models.work.row import Work


class InvoiceKind(StrEnum):
    """UNTDID 1001: 380 and 381."""

    INVOICE = "invoice"
    CREDIT_NOTE = "credit_note"


class InvoiceSeries(Base):
    """A counter of numbers without gaps: drawn in the transaction that issues, and given back when that rolls back.

    A series is two rows, one for invoices and one for the credit notes that correct them. `main` is always there;
    another one, for another legal entity or another year, is two rows more, named by `accounts.invoice_series`.
    """

    __tablename__ = "invoice_series"
    __data_map__ = Shared("the company's own counters")
    __table_args__ = (CheckConstraint("prefix ~ '^[A-Za-z0-9./_-]{1,20}$'", name="prefix"),)

    name: Mapped[str] = mapped_column(Text, primary_key=True)
    kind: Mapped[InvoiceKind] = mapped_column(one_of(InvoiceKind, name="kind"), primary_key=True)
    #: What stands before the number, such as `INV-`.
    prefix: Mapped[str] = mapped_column(Text, unique=True)
    last_number: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))


class Invoice(Base):
    """An invoice, or a credit note that takes back part of one. The database refuses every change to it.

    Amounts are positive minor units in both: a credit note's are what it gives back. Seller and buyer stand in it as
    they were on the day of issue. What is open of an invoice changes: see `models.billing.open_item`.
    The database checks, at COMMIT, that lines and taxes make the total exactly, and that credit notes take back no
    more than there was.
    """

    __tablename__ = "invoices"
    __data_map__ = Personal(
        Category.PLATFORM,
        exported=(
            "id account_id kind series series_number number corrects_id reason issued_on issued_at period_start "
            "period_end payment_terms due_on currency net tax total letterhead buyer language time_zone"
        ),
        objects=(ObjectPrefix("invoices/{account_id}/", Category.PLATFORM, sealed=True),),
    )
    __table_args__ = (
        CheckConstraint(CURRENCY_CHECK, name="currency"),
        CheckConstraint("total = net + tax AND total > 0 AND tax >= 0 AND net >= 0", name="total"),
        CheckConstraint("(kind = 'credit_note') = (corrects_id IS NOT NULL)", name="corrects"),
        CheckConstraint("(kind = 'invoice') = (period_start IS NOT NULL AND period_end IS NOT NULL)", name="period"),
        CheckConstraint("due_on >= issued_on", name="due_on"),
        ForeignKeyConstraint(["series", "kind"], ["invoice_series.name", "invoice_series.kind"]),
        UniqueConstraint("series", "kind", "series_number"),
        Index(None, "account_id", "issued_on"),
        Index("ix_invoices_corrects_id", "corrects_id", postgresql_where=text("corrects_id IS NOT NULL")),
    )

    id: Mapped[uuid7]
    account_id: Mapped[UUID] = mapped_column(ForeignKey("accounts.id"))
    kind: Mapped[InvoiceKind] = mapped_column(one_of(InvoiceKind, name="kind"))
    series: Mapped[str] = mapped_column(Text)
    series_number: Mapped[int] = mapped_column(BigInteger)
    number: Mapped[str] = mapped_column(Text, unique=True)
    #: The invoice that a credit note corrects, and why.
    corrects_id: Mapped[UUID | None] = mapped_column(ForeignKey("invoices.id"))
    reason: Mapped[str | None] = mapped_column(Text)
    #: A local day of the account, as are the others.
    issued_on: Mapped[date]
    issued_at: Mapped[timestamp] = mapped_column(server_default=text("clock_timestamp()"))
    #: The first and the last day of what is invoiced.
    period_start: Mapped[date | None]
    period_end: Mapped[date | None]
    #: Days from issue to due date; both are None where it was agreed that there is none (B18).
    payment_terms: Mapped[int | None] = mapped_column(SmallInteger)
    due_on: Mapped[date | None]
    currency: Mapped[currency_code]
    net: Mapped[minor_units]
    tax: Mapped[minor_units]
    total: Mapped[minor_units]
    #: The company as its settings had it, and the customer as its account had it, when this was issued.
    letterhead: Mapped[bytes] = mapped_column(ForeignKey("letterheads.sha256"))
    buyer: Mapped[dict[str, Any]] = mapped_column(JSONB)
    #: In which language and time zone it is written, whenever it is rendered.
    language: Mapped[str] = mapped_column(Text)
    time_zone: Mapped[str] = mapped_column(Text)


class InvoiceLine(Base):
    """One line: of an invoice, a charge of the ledger; of a credit note, what it gives back of a line.

    A charge stands on one invoice at the most, whoever issues, by a unique index.
    """

    __tablename__ = "invoice_lines"
    __data_map__ = Personal(
        Category.PLATFORM,
        exported="id invoice_id position entry_id corrects_id description occurred_on tax_category tax_rate net gross",
        paths=("invoice_id = tenure.invoices.id > account_id = account.id",),
    )
    __table_args__ = (
        UniqueConstraint("invoice_id", "position"),
        CheckConstraint("(entry_id IS NULL) <> (corrects_id IS NULL)", name="origin"),
        CheckConstraint("gross > 0 AND net BETWEEN 0 AND gross", name="gross"),
        CheckConstraint(TAX_CHECK, name="tax"),
        Index("ix_invoice_lines_corrects_id", "corrects_id", postgresql_where=text("corrects_id IS NOT NULL")),
    )

    id: Mapped[uuid7]
    invoice_id: Mapped[UUID] = mapped_column(ForeignKey("invoices.id"))
    #: From 1.
    position: Mapped[int] = mapped_column(Integer)
    entry_id: Mapped[UUID | None] = mapped_column(ForeignKey("ledger_entries.id"), unique=True)
    corrects_id: Mapped[UUID | None] = mapped_column(ForeignKey("invoice_lines.id"))
    description: Mapped[str] = mapped_column(Text)
    #: The account's local day on which the charge occurred.
    occurred_on: Mapped[date]
    tax_category: Mapped[TaxCategory] = mapped_column(one_of(TaxCategory, name="tax_category"))
    tax_rate: Mapped[int] = mapped_column(Integer)
    #: Without and with tax.
    net: Mapped[minor_units]
    gross: Mapped[minor_units]


class InvoiceTax(Base):
    """The tax of one category and rate: taxable base and tax (EN 16931, BG-23). See `models.base.tax` for rounding."""

    __tablename__ = "invoice_taxes"
    __data_map__ = Personal(
        Category.PLATFORM,
        exported="invoice_id tax_category tax_rate base tax",
        paths=("invoice_id = tenure.invoices.id > account_id = account.id",),
    )
    __table_args__ = (
        CheckConstraint("base >= 0 AND tax >= 0", name="amounts"),
        CheckConstraint(TAX_CHECK, name="tax"),
    )

    invoice_id: Mapped[UUID] = mapped_column(ForeignKey("invoices.id"), primary_key=True)
    tax_category: Mapped[TaxCategory] = mapped_column(one_of(TaxCategory, name="tax_category"), primary_key=True)
    tax_rate: Mapped[int] = mapped_column(Integer, primary_key=True)
    base: Mapped[minor_units]
    tax: Mapped[minor_units]


class InvoiceDocument(Work, Base):
    """The PDF of an invoice or credit note and its mail: a work row, since the invoice itself never changes."""

    __tablename__ = "invoice_documents"
    __data_map__ = Personal(
        Category.PLATFORM,
        exported="id invoice_id document_key document_sha256 document_bytes typesetter",
        paths=("invoice_id = tenure.invoices.id > account_id = account.id",),
    )
    __table_args__ = Work.indexes("invoice_documents")

    id: Mapped[uuid7]
    invoice_id: Mapped[UUID] = mapped_column(ForeignKey("invoices.id"), unique=True)
    document_key: Mapped[str | None] = mapped_column(Text)
    document_sha256: Mapped[bytes | None] = mapped_column(LargeBinary)
    document_bytes: Mapped[int | None] = mapped_column(Integer)
    #: Which version of typesetter, template and fonts made it.
    typesetter: Mapped[str | None] = mapped_column(Text)
