"""Messages about invoices that are due (P3.1d): one a customer, currency and day, over all of them (B16)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from enum import StrEnum
from typing import Self

import msgspec

from email_templates.catalogue.message import Message, Part, check_amounts, check_sum


class OpenInvoice(Part, frozen=True, kw_only=True):
    """An invoice and what is open of it when the message is sent (B13), without fees."""

    number: str
    due_on: date
    still_open: int


class Level(StrEnum):
    """How far a ladder of reminders has come (B11); a ladder may have several steps of one level."""

    #: Before the due date.
    UPCOMING = "upcoming"
    FIRST = "first"
    SECOND = "second"
    #: Only after an earlier level was accepted (B14).
    FINAL = "final"


class PaymentReminder(Message, frozen=True, kw_only=True):
    """What is open, as of `as_of`, and by when we ask for it. Never a threat: what the contract and the law say."""

    name = "payment-reminder"
    promise = "P3.1d"
    why_not_marketing = "It reminds the customer of their own open invoices."
    needs_final_check = True

    level: Level
    account_name: str
    account_ref: str
    currency: str
    as_of: date
    invoices: tuple[OpenInvoice, ...]
    #: How many of these are here for the sake of one letter, and have not come as far as `level` (B16).
    others: int = 0
    #: All reminder fees that were agreed and are open.
    fees: int = 0
    total: int
    #: The day by which we ask to be paid; needed by `final`.
    pay_by: date | None = None

    def __post_init__(self) -> None:
        what = f"The payment reminder for {self.account_ref!r}"
        if not self.invoices:
            raise ValueError(f"{what} names no invoice.")
        if self.level is Level.FINAL and self.pay_by is None:
            raise ValueError(f"{what} is the final one and says no day by which to pay: give pay_by.")
        check_amounts(what, fees=self.fees)
        if not 0 <= self.others < len(self.invoices):
            raise ValueError(f"{what} says that {self.others} of {len(self.invoices)} invoices are others.")
        for invoice in self.invoices:
            if invoice.still_open <= 0:
                raise ValueError(f"{what} names invoice {invoice.number!r}, of which nothing is open.")
        opened = sum(invoice.still_open for invoice in self.invoices)
        check_sum(what, opened + self.fees, self.total, "the open amounts and fees make the total")

    @classmethod
    def examples(cls) -> Mapping[str, Self]:
        several = cls(
            level=Level.SECOND,
            account_name="Köhler & Söhne GmbH",
            account_ref="C-10417",
            currency="EUR",
            as_of=date(2026, 3, 10),
            invoices=(
                OpenInvoice(number="INV-2026-00388", due_on=date(2026, 1, 30), still_open=30_000),
                OpenInvoice(number="INV-2026-00417", due_on=date(2026, 2, 15), still_open=113_950),
                OpenInvoice(number="INV-2026-00431", due_on=date(2026, 3, 9), still_open=4_900),
            ),
            others=1,
            fees=1_000,
            total=149_850,
            pay_by=date(2026, 3, 24),
        )
        one = {"invoices": several.invoices[1:2], "others": 0, "fees": 0, "total": 113_950}
        return {
            "": several,
            "upcoming": msgspec.structs.replace(
                several, level=Level.UPCOMING, as_of=date(2026, 2, 12), pay_by=None, **one
            ),
            "first": msgspec.structs.replace(several, level=Level.FIRST, as_of=date(2026, 2, 18), pay_by=None, **one),
            "final": msgspec.structs.replace(
                several, level=Level.FINAL, as_of=date(2026, 4, 1), pay_by=date(2026, 4, 15)
            ),
        }


class PromiseBroken(Message, frozen=True, kw_only=True):
    """A payment that was agreed for a day did not arrive in full; reminders go on where they stopped (B17)."""

    name = "promise-broken"
    promise = "P3.1d"
    why_not_marketing = "It says that a payment which the customer had agreed to did not arrive."
    needs_final_check = True

    account_name: str
    account_ref: str
    currency: str
    promised_for: date
    promised: int
    received: int = 0
    invoices: tuple[OpenInvoice, ...]

    def __post_init__(self) -> None:
        what = f"The message about the promise of {self.account_ref!r}"
        if not 0 <= self.received < self.promised:
            raise ValueError(f"{what} says that {self.received} of {self.promised} arrived, so nothing was broken.")
        if not self.invoices:
            raise ValueError(f"{what} names no invoice.")

    @classmethod
    def examples(cls) -> Mapping[str, Self]:
        invoices = PaymentReminder.examples()[""].invoices[:2]
        partly = cls(
            account_name="Köhler & Söhne GmbH",
            account_ref="C-10417",
            currency="EUR",
            promised_for=date(2026, 3, 20),
            promised=193_950,
            received=50_000,
            invoices=invoices,
        )
        return {"": partly, "nothing": msgspec.structs.replace(partly, promised=143_950, received=0)}
