"""The figures of an invoice or a credit note, as the PDF shows them (B6, B8).

All amounts are positive integers of minor units (ISO 4217) in both: a credit note's are what it gives back.
"""

from __future__ import annotations

import datetime as dt
from enum import StrEnum

import msgspec


class DocumentKind(StrEnum):
    INVOICE = "invoice"
    CREDIT_NOTE = "credit_note"


class Buyer(msgspec.Struct, frozen=True, kw_only=True):
    """The customer on the day of issue. `country` is ISO 3166-1 alpha-2, where known."""

    name: str
    ref: str
    address: tuple[str, ...] = ()
    country: str | None = None
    tax_id: str | None = None


class InvoiceLine(msgspec.Struct, frozen=True, kw_only=True):
    """What was supplied, without and with tax; `tax_rate` is in basis points: 1900 is 19 %."""

    date: dt.date
    description: str
    net: int
    gross: int
    tax_rate: int = 0
    #: UNTDID 5305, as EN 16931 uses it: S standard, Z zero, E exempt, AE reverse charge, O outside the scope of tax.
    tax_category: str = "O"


class InvoiceTax(msgspec.Struct, frozen=True, kw_only=True):
    """The tax of one category and rate (EN 16931, BG-23)."""

    base: int
    tax: int
    tax_rate: int = 0
    tax_category: str = "O"


class InvoiceDocument(msgspec.Struct, frozen=True, kw_only=True):
    """A whole invoice or credit note; `period_end` is inclusive. One that does not add up cannot be made."""

    kind: DocumentKind = DocumentKind.INVOICE
    number: str
    issued_on: dt.date
    currency: str
    buyer: Buyer
    lines: tuple[InvoiceLine, ...]
    taxes: tuple[InvoiceTax, ...]
    net: int
    tax: int
    total: int
    due_on: dt.date | None = None
    #: Days from issue to due date, where any were agreed.
    payment_terms: int | None = None
    period_start: dt.date | None = None
    period_end: dt.date | None = None
    #: What credit of the customer's has settled already on the day of issue.
    settled: int = 0
    #: Of a credit note: the number of the invoice that it corrects, and why.
    corrects: str | None = None
    reason: str | None = None

    def __post_init__(self) -> None:
        for name, parts, whole in (
            ("lines without tax", sum(line.net for line in self.lines), self.net),
            ("lines with tax", sum(line.gross for line in self.lines), self.total),
            ("taxable bases", sum(tax.base for tax in self.taxes), self.net),
            ("taxes", sum(tax.tax for tax in self.taxes), self.tax),
            ("net and tax", self.net + self.tax, self.total),
        ):
            if parts != whole:
                raise ValueError(f"Invoice {self.number!r} does not add up: its {name} make {parts}, and not {whole}.")
        if not 0 <= self.settled <= self.total:
            raise ValueError(
                f"Invoice {self.number!r} does not add up: {self.settled} of its total {self.total} were settled."
            )

    @property
    def due(self) -> int:
        """What is left to pay."""
        return self.total - self.settled
