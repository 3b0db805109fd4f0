"""The figures of a statement, as the PDF, the HTML and the text show them (B2, B6).

All amounts are integers of minor units (ISO 4217) in the sense of what the customer owes: charges are positive,
payments and credits negative.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable

import msgspec


class Ageing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long the open charges have been due, in minor units; none is negative.

    `unapplied_credit` is what was paid and is not yet set against a charge: it is given as a positive amount and
    lowers the total.
    """

    not_due: int = 0
    days_1_30: int = 0
    days_31_60: int = 0
    days_61_90: int = 0
    over_90: int = 0
    unapplied_credit: int = 0

    def __post_init__(self) -> None:
        for field in self.__struct_fields__:
            if getattr(self, field) < 0:
                raise ValueError(
                    f"The ageing's {field} is {getattr(self, field)}, and no part of an ageing is negative: "
                    "credit that is not used yet is given as a positive unapplied_credit."
                )

    @property
    def overdue(self) -> int:
        return self.days_1_30 + self.days_31_60 + self.days_61_90 + self.over_90

    @property
    def total(self) -> int:
        return self.not_due + self.overdue - self.unapplied_credit


class Line(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One ledger entry. `late`: it belongs to a period that was already closed when it was recorded (B3)."""

    date: dt.date
    description: str
    amount: int
    late: bool = False
    kind: str = "charge"


class OpenItem(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An invoice or charge that is not wholly paid, or a payment that is not wholly used.

    Without `due_on` it is not due: it is not on an invoice yet, or no terms were agreed.
    """

    date: dt.date
    due_on: dt.date | None = None
    description: str
    amount: int
    #: What is left of `amount`, with its sign.
    open: int


class StatementDocument(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A whole statement. `period_end` is its last day, inclusive. One that does not add up cannot be made (B1, B2)."""

    number: str
    account_name: str
    account_ref: str
    currency: str
    period_start: dt.date
    period_end: dt.date
    issued_on: dt.date
    opening: int
    closing: int
    ageing: Ageing
    lines: tuple[Line, ...] = ()
    address: tuple[str, ...] = ()
    #: ISO 3166-1 alpha-2, where known.
    country: str | None = None
    #: Of a statement in open-item form; None in balance-forward form.
    open_items: tuple[OpenItem, ...] | None = None

    def __post_init__(self) -> None:
        check_sums(
            self.number,
            opening=self.opening,
            movements=sum(line.amount for line in self.lines),
            closing=self.closing,
            ageing=self.ageing,
        )
        if self.open_items is not None and (found := age(self.open_items, self.period_end)) != self.ageing:
            raise ValueError(
                f"Statement {self.number!r} does not add up: its open items make {found}, "
                f"and its ageing is {self.ageing}."
            )

    @property
    def charges(self) -> int:
        """All that raised the balance: charges, refunds, chargebacks."""
        return sum(line.amount for line in self.lines if line.amount > 0)

    @property
    def payments(self) -> int:
        """All that lowered the balance: payments and credits; zero or negative."""
        return sum(line.amount for line in self.lines if line.amount < 0)

    @property
    def late_lines(self) -> int:
        return sum(line.late for line in self.lines)


def age(items: Iterable[OpenItem], as_of: dt.date) -> Ageing:
    """Sort what is open by the days since it was due, on the local day `as_of` (B2); unused credit is apart."""
    buckets = [0, 0, 0, 0, 0]
    credit = 0
    for item in items:
        days = (as_of - item.due_on).days if item.due_on else 0
        if item.open < 0:
            credit -= item.open
        else:
            buckets[0 if days <= 0 else min((days - 1) // 30 + 1, 4)] += item.open
    not_due, days_1_30, days_31_60, days_61_90, over_90 = buckets
    return Ageing(
        not_due=not_due,
        days_1_30=days_1_30,
        days_31_60=days_31_60,
        days_61_90=days_61_90,
        over_90=over_90,
        unapplied_credit=credit,
    )


def check_sums(number: str, *, opening: int, movements: int, closing: int, ageing: Ageing) -> None:
    """ValueError unless opening + movements = closing = ageing, exactly (B1, B2)."""
    if opening + movements != closing:
        raise ValueError(
            f"Statement {number!r} does not add up: opening {opening} and movements {movements} make "
            f"{opening + movements}, and its closing balance is {closing}."
        )
    if ageing.total != closing:
        raise ValueError(
            f"Statement {number!r} does not add up: its ageing makes {ageing.total}, "
            f"and its closing balance is {closing}."
        )
