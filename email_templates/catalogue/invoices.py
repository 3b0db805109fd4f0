"""Messages about invoices and credit notes (P3.1d). Their PDF is attached."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Self

import msgspec

from email_templates.catalogue.message import Message, Part, check_amounts, check_sum
from email_templates.catalogue.payments import Method


class Tax(Part, frozen=True, kw_only=True):
    """One tax of an invoice. `rate` is in basis points: 2000 is 20 %."""

    name: str
    rate: int
    amount: int


class InvoiceIssued(Message, frozen=True, kw_only=True):
    """An invoice was issued (B8). `to_pay` is its total less what credit or a payment in advance settled."""

    name = "invoice-issued"
    promise = "P3.1d"
    why_not_marketing = "It is the invoice for what the customer has ordered."

    invoice_number: str
    account_name: str
    account_ref: str
    currency: str
    issued_on: date
    #: None where it was agreed that there is no date; such an invoice is never reminded (B18).
    due_on: date | None
    net: int
    taxes: tuple[Tax, ...] = ()
    total: int
    settled: int = 0
    to_pay: int
    period_start: date | None = None
    period_end: date | None = None
    #: When we collect it ourselves, and how.
    collected_on: date | None = None
    method: Method | None = None
    #: The last digits of the card or account.
    method_digits: str = ""

    def __post_init__(self) -> None:
        what = f"Invoice {self.invoice_number!r}"
        check_sum(what, self.net + sum(tax.amount for tax in self.taxes), self.total, "net and tax make the total")
        check_sum(what, self.to_pay + self.settled, self.total, "what is settled and what is to pay make the total")
        check_amounts(what, to_pay=self.to_pay, settled=self.settled)

    @classmethod
    def examples(cls) -> Mapping[str, Self]:
        by_transfer = cls(
            invoice_number="INV-2026-00417",
            account_name="Köhler & Söhne GmbH",
            account_ref="C-10417",
            currency="EUR",
            issued_on=date(2026, 2, 1),
            due_on=date(2026, 2, 15),
            net=107_458,
            taxes=(Tax(name="VAT", rate=2_000, amount=21_492),),
            total=128_950,
            settled=15_000,
            to_pay=113_950,
            period_start=date(2026, 1, 1),
            period_end=date(2026, 1, 31),
        )
        return {
            "": by_transfer,
            "collected": msgspec.structs.replace(
                by_transfer,
                settled=0,
                to_pay=128_950,
                collected_on=date(2026, 2, 13),
                method=Method.DIRECT_DEBIT,
                method_digits="3201",
            ),
            "settled": msgspec.structs.replace(by_transfer, settled=128_950, to_pay=0),
            "no-due-date": msgspec.structs.replace(
                by_transfer, currency="JPY", due_on=None, taxes=(), total=107_458, settled=0, to_pay=107_458
            ),
        }


class InvoiceCredited(Message, frozen=True, kw_only=True):
    """A credit note corrects an invoice (B8): `credited` is what it takes off, gross.

    `refunded` of it is paid back and `kept` is set against what comes next; the rest lowers what is open.
    """

    name = "invoice-credited"
    promise = "P3.1d"
    why_not_marketing = "It is the correction of an invoice that the customer has received."

    credit_note_number: str
    invoice_number: str
    account_name: str
    account_ref: str
    currency: str
    issued_on: date
    invoice_total: int
    credited: int
    #: What is still open of the invoice now.
    still_open: int
    refunded: int = 0
    kept: int = 0
    #: An operator's own words.
    reason: str = ""

    def __post_init__(self) -> None:
        what = f"Credit note {self.credit_note_number!r}"
        check_amounts(what, still_open=self.still_open, refunded=self.refunded, kept=self.kept)
        if not 0 < self.credited <= self.invoice_total:
            raise ValueError(
                f"{what} credits {self.credited} of {self.invoice_total}: it is more than 0 and at most that."
            )
        if self.refunded + self.kept > self.credited:
            raise ValueError(f"{what} gives back more than the {self.credited} that it credits.")

    @classmethod
    def examples(cls) -> Mapping[str, Self]:
        partly = cls(
            credit_note_number="CN-2026-00031",
            invoice_number="INV-2026-00417",
            account_name="Köhler & Söhne GmbH",
            account_ref="C-10417",
            currency="EUR",
            issued_on=date(2026, 2, 9),
            invoice_total=128_950,
            credited=30_000,
            still_open=98_950,
            reason="Two seats were billed after they had been given back on 10 January.",
        )
        return {
            "": partly,
            "given-back": msgspec.structs.replace(
                partly, credited=128_950, still_open=0, refunded=98_950, kept=30_000, reason=""
            ),
        }
