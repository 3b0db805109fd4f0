"""Messages about payments that arrived or did not (P3.1d)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from enum import StrEnum
from typing import Self

import msgspec

from email_templates.catalogue.message import Message, Part, check_amounts, check_sum


class Method(StrEnum):
    CARD = "card"
    DIRECT_DEBIT = "direct_debit"
    TRANSFER = "transfer"


class Allocation(Part, frozen=True, kw_only=True):
    """What a payment settled of one invoice, and what is open of it afterwards (B9)."""

    invoice_number: str
    amount: int
    still_open: int = 0


class PaymentReceived(Message, frozen=True, kw_only=True):
    """A payment arrived: the receipt (B23). What no invoice needed is kept as credit (B9)."""

    name = "payment-received"
    promise = "P3.1d"
    why_not_marketing = "It is the receipt for a payment that the customer made."

    account_name: str
    account_ref: str
    currency: str
    received_on: date
    amount: int
    method: Method
    method_digits: str = ""
    reference: str = ""
    allocations: tuple[Allocation, ...] = ()
    kept: int = 0

    def __post_init__(self) -> None:
        what = f"The receipt for {self.account_ref!r}"
        check_amounts(what, amount=self.amount, kept=self.kept)
        settled = sum(allocation.amount for allocation in self.allocations)
        check_sum(what, settled + self.kept, self.amount, "what was settled and what is kept make the payment")

    @classmethod
    def examples(cls) -> Mapping[str, Self]:
        return {
            "": cls(
                account_name="Köhler & Söhne GmbH",
                account_ref="C-10417",
                currency="EUR",
                received_on=date(2026, 2, 12),
                amount=150_000,
                method=Method.TRANSFER,
                reference="INV-2026-00417",
                allocations=(
                    Allocation(invoice_number="INV-2026-00388", amount=45_000),
                    Allocation(invoice_number="INV-2026-00417", amount=100_000, still_open=28_950),
                ),
                kept=5_000,
            ),
            "card": cls(
                account_name="Luís Gonçalves Engenharia",
                account_ref="C-20931",
                currency="USD",
                received_on=date(2026, 2, 12),
                amount=4_900,
                method=Method.CARD,
                method_digits="4242",
                allocations=(Allocation(invoice_number="INV-2026-00502", amount=4_900),),
            ),
        }


class FailureReason(StrEnum):
    """The class of a reason, which can be told; not the provider's own words (B23)."""

    NOT_ENOUGH_MONEY = "not_enough_money"
    EXPIRED = "expired"
    #: The number, name or mandate is not right.
    WRONG_DETAILS = "wrong_details"
    #: The customer has to confirm it with their bank (SCA).
    CONFIRMATION_NEEDED = "confirmation_needed"
    REFUSED = "refused"
    #: Nothing that the customer could mend.
    TECHNICAL = "technical"


class PaymentFailed(Message, frozen=True, kw_only=True):
    """A payment could not be collected: the reason's class, and when it is tried again (B23)."""

    name = "payment-failed"
    promise = "P3.1d"
    why_not_marketing = "It says that a payment for the customer's own invoice failed and what happens next."
    urgent = True

    account_name: str
    account_ref: str
    invoice_number: str
    currency: str
    amount: int
    tried_on: date
    reason: FailureReason
    method: Method
    method_digits: str = ""
    #: None: it is not tried again.
    next_attempt_on: date | None = None

    def __post_init__(self) -> None:
        check_amounts(f"The failed payment of invoice {self.invoice_number!r}", amount=self.amount)
        if self.next_attempt_on and self.next_attempt_on <= self.tried_on:
            raise ValueError(
                f"The next attempt on {self.next_attempt_on} is not after the one on {self.tried_on}: "
                "there is one attempt a day at the most."
            )

    @classmethod
    def examples(cls) -> Mapping[str, Self]:
        again = cls(
            account_name="Luís Gonçalves Engenharia",
            account_ref="C-20931",
            invoice_number="INV-2026-00502",
            currency="EUR",
            amount=4_900,
            tried_on=date(2026, 2, 13),
            reason=FailureReason.NOT_ENOUGH_MONEY,
            method=Method.CARD,
            method_digits="4242",
            next_attempt_on=date(2026, 2, 16),
        )
        last = {
            reason.value.replace("_", "-"): msgspec.structs.replace(again, reason=reason, next_attempt_on=None)
            for reason in (FailureReason.EXPIRED, FailureReason.CONFIRMATION_NEEDED, FailureReason.REFUSED)
        }
        debit = {"method": Method.DIRECT_DEBIT, "method_digits": "3201"}
        return {
            "": again,
            **last,
            "wrong-details": msgspec.structs.replace(
                again, reason=FailureReason.WRONG_DETAILS, next_attempt_on=None, **debit
            ),
            "technical": msgspec.structs.replace(again, reason=FailureReason.TECHNICAL, **debit),
        }
