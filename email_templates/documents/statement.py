"""The figures of a statement, as the PDF, the HTML and the text show them (B2, B6).

All amounts are integers of minor units (ISO 4217) in the sense of what the customer owes: charges are positive,
payments and credits negative.
"""

from __future__ import annotations

from datetime import date

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

    date: date
    description: str
    amount: int
    late: bool = False
    kind: str = "charge"


class StatementDocument(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A whole statement. `period_end` is its last day, inclusive. One that does not add up cannot be made (B1, B2)."""

    number: str
    account_name: str
    account_ref: str
    currency: str
    period_start: date
    period_end: date
    issued_on: date
    opening: int
    closing: int
    ageing: Ageing
    lines: tuple[Line, ...] = ()
    address: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_sums(
            self.number,
            opening=self.opening,
            movements=sum(line.amount for line in self.lines),
            closing=self.closing,
            ageing=self.ageing,
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
